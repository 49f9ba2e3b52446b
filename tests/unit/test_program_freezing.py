"""Frozen programs: a hash for each question, and an error that names what was changed."""

import json
from pathlib import Path

import pytest

import command_line
from command_line import Said
from rubrica.core.errors import DataError, UsageError
from rubrica.program.program import freeze, frozen_of, load_program, program_hash, question_hash, questions

CONSTITUTION = "name: tea-law\nprinciples:\n- {id: p, title: P, clauses: [{id: c, text: Be calm.}]}\n"
TEA = """\
# what we agreed on in May
name: tea
constitution: tea-law
principles:
  - id: p
    title: P
    dimensions:
      - id: p.d
        title: D
        questions:
          - {id: a, kind: gate, clause: c, text: "Is it calm?"}   # the one that matters
          - {id: b, kind: graded, clause: c, text: "How kind is it?"}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "tea-law.yaml").write_text(CONSTITUTION)
    (tmp_path / "tea.yaml").write_text(TEA)
    return tmp_path


def run(capsys, *argv: str) -> Said:
    return command_line.run(capsys, "program", *argv)


def frozen(place: Path, capsys) -> Path:
    path = place / "tea.lock.yaml"
    assert run(capsys, "freeze", str(place / "tea.yaml"), "-o", str(path), "--by", "the board")[0] == 0
    return path


def test_a_frozen_file_is_the_file_with_its_comments_and_a_block(place, capsys):
    path = frozen(place, capsys)
    text = path.read_text()
    assert text.startswith(TEA) and text[len(TEA) :].startswith("frozen:\n  program: ")
    program = load_program(path)
    assert program == load_program(place / "tea.yaml")
    block = frozen_of(path)
    assert (block.program, block.by) == (program_hash(program), "the board")
    assert block.questions == {q.id: question_hash(q) for _, _, q in questions(program)}
    assert frozen_of(place / "tea.yaml") is None
    code, out, _ = run(capsys, "show", str(path))
    assert code == 0 and f"frozen {block.at} the board" in " ".join(out.split())
    assert json.loads(run(capsys, "show", str(path), "--json")[1])["frozen"]["by"] == "the board"
    assert run(capsys, "lint", str(path))[0] == 0
    assert run(capsys, "diff", str(path), str(place / "tea.yaml"))[1].startswith(
        "0 added, 0 removed, 0 changed"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "How kind is it?",
            "How kind is he?",
            "tea.lock.yaml:12: was frozen, and since then question 'b' was changed",
        ),
        ("kind: gate", "kind: graded", "question 'a' was changed"),
        ("{id: b,", "{id: z,", "question 'z' was added"),
        (
            '          - {id: b, kind: graded, clause: c, text: "How kind is it?"}\n',
            "",
            "question 'b' was removed",
        ),
        ("title: D", "title: E", "its ids, clauses, titles, tree or pooling were changed"),
        (
            "constitution: tea-law\n",
            "constitution: tea-law\npooling: {grades: mean}\n",
            "tree or pooling were changed",
        ),
        ("frozen:\n  program: ", "frozen:\n  program: 0", "tree or pooling were changed"),
    ],
)
def test_a_change_is_an_error_that_names_it(place, capsys, old, new, said):
    path = frozen(place, capsys)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError) as refused:
        load_program(path)
    assert said in str(refused.value) and "remove the block 'frozen' and freeze it anew" in str(refused.value)
    for command in (["show", str(path)], ["lint", str(path)], ["diff", str(path), str(place / "tea.yaml")]):
        code, _, err = run(capsys, *command)
        assert code == 2 and said.partition(": ")[0] in err


def test_a_changed_constitution_is_an_error_and_a_missing_one_is_not(place, capsys):
    path = frozen(place, capsys)
    (place / "tea-law.yaml").write_text(CONSTITUTION.replace("Be calm.", "Be quick."))
    with pytest.raises(DataError, match="its constitution was changed"):
        load_program(path)
    (place / "tea-law.yaml").unlink()
    assert load_program(path).name == "tea"


def test_comments_and_spaces_may_change(place, capsys):
    path = frozen(place, capsys)
    text = path.read_text().replace("   # the one that matters", "")
    path.write_text(text.replace("name: tea\n", "# more\nname:   tea\nversion: '1'\n"))
    assert load_program(path).name == "tea"


def test_other_forms_of_yaml_are_written_anew(place, capsys):
    data = load_program(place / "tea.yaml").model_dump(mode="json")
    (place / "tea.yaml").write_text(json.dumps(data))
    assert load_program(frozen(place, capsys)).model_dump(mode="json") == data
    assert load_program("hhh") == _again(place, "hhh")


def _again(place: Path, name: str):
    (place / "again.yaml").write_text(freeze(name)[0])
    return load_program(place / "again.yaml")


def test_wrong_use(place, capsys):
    path = frozen(place, capsys)
    assert "exists already" in run(capsys, "freeze", str(place / "tea.yaml"), "-o", str(path))[2]
    with pytest.raises(UsageError, match="is frozen already"):
        freeze(path)
    path.write_text(path.read_text().replace("frozen:\n", "frozen:\n  colour: red\n"))
    assert "colour" in run(capsys, "show", str(path))[2]
