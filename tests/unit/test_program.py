"""Loading and checking programs; what ``hhh`` holds, counted without our own counter."""

import json
import re
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from rubrica.core.config import dump_yaml
from rubrica.core.errors import DataError, UsageError
from rubrica.core.programs import Program, Question, QuestionKind
from rubrica.program.constitution import (
    clauses,
    diff_constitutions,
    load_constitution,
    parse_constitution,
)
from rubrica.program.lint import lint
from rubrica.program.program import (
    constitution_of,
    counts,
    load_program,
    parse_program,
    program_hash,
    question_hash,
    questions,
)

LIBRARY = resources.files("rubrica.program") / "library"
TITLES = {
    "Harmlessness": """Language Sensitivity; Avoidance of Physical Harm; Harmful Request Handling; Risk Recognition;
        Identity Deception; Child Safety; Avoidance of Emotional or Psychological Harm; Avoidance of Inappropriate
        Content; Avoidance of Dangerous or Triggering Content; Avoidance of Poor Judgment in Sensitive Scenarios;
        Encouraging Constructive Alternatives; Avoidance of Misinformation; Promotion of Inclusivity;
        Encouragement of Ethical Decision-Making""",
    "Helpfulness": """Relevance; Handling Ambiguity; Information Gathering; Accuracy; Clarity; Completeness; Depth;
        Logical Flow; Engagement; Actionability; Problem-Solving Process; Solution Accuracy; Context Awareness""",
    "Honesty": """Truthfulness; Scientific Accuracy; Educational Responsibility; Anthropomorphization; Transparency;
        Avoidance of Misleading; Consistency; Impartiality; Source Reliability; Knowledge Boundaries; Historical
        Claims; Real-Time Information; Acknowledgement of Errors""",
}
SMALL = """\
name: small
constitution: elsewhere
principles:
  - id: harmlessness
    title: Harmlessness
    caps: true
    dimensions:
      - id: har.words
        title: Words
        questions:
          - {id: har.words.g1, kind: gate, clause: words, protected: true, text: "Is the answer free of insults?"}
          - {id: har.words.q1, kind: graded, clause: words, text: "How calm is the tone of the answer?"}
  - id: honesty
    title: Honesty
    dimensions:
      - id: hon.facts
        title: Facts
        questions:
          - {id: hon.facts.q1, kind: graded, clause: facts, text: "How correct are the facts in the answer?"}
"""
SMALL_CONSTITUTION = """\
name: elsewhere
principles:
  - id: all-of-it
    title: All of it
    clauses:
      - {id: words, text: Be civil.}
      - {id: facts, text: Be right.}
"""


def write(folder: Path, text: str, name: str = "program.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def raw() -> dict:
    return YAML(typ="safe", pure=True).load((LIBRARY / "hhh.yaml").read_text(encoding="utf-8"))


def test_hhh_has_the_published_counts(raw: dict) -> None:
    found = {}
    for principle in raw["principles"]:
        kinds = Counter(q["kind"] for d in principle["dimensions"] for q in d["questions"])
        found[principle["id"]] = (len(principle["dimensions"]), kinds["gate"], kinds["graded"])
    assert found == {"harmlessness": (14, 16, 47), "helpfulness": (13, 13, 39), "honesty": (13, 13, 39)}
    text = (LIBRARY / "hhh.yaml").read_text(encoding="utf-8")
    assert (text.count("kind: gate"), text.count("kind: graded"), text.count(" text: ")) == (42, 125, 167)
    assert counts(load_program("hhh"))["all"].model_dump() == {
        "dimensions": 40,
        "gates": 42,
        "graded": 125,
        "total": 167,
    }


def test_hhh_shape_of_dimensions(raw: dict) -> None:
    shapes = {
        p["title"]: Counter(
            (
                sum(q["kind"] == "gate" for q in d["questions"]),
                sum(q["kind"] == "graded" for q in d["questions"]),
            )
            for d in p["dimensions"]
        )
        for p in raw["principles"]
    }
    # 14 x (1 + 3), two second gates and five fourth grades: 16 gates and 47 grades
    assert shapes["Harmlessness"] == {(1, 3): 9, (1, 4): 3, (2, 4): 2}
    assert shapes["Helpfulness"] == shapes["Honesty"] == {(1, 3): 13}


def test_hhh_titles_stand_as_in_the_paper(raw: dict) -> None:
    expected = {name: [" ".join(t.split()) for t in titles.split(";")] for name, titles in TITLES.items()}
    assert {p["title"]: [d["title"] for d in p["dimensions"]] for p in raw["principles"]} == expected


def test_hhh_questions_are_well_formed(raw: dict) -> None:
    asked = [q for p in raw["principles"] for d in p["dimensions"] for q in d["questions"]]
    texts = [" ".join(q["text"].lower().split()) for q in asked]
    assert len(set(texts)) == len({q["id"] for q in asked}) == 167
    assert [t for t in texts if not t.endswith("?") or t.count("?") != 1] == []
    for q in asked:
        assert re.fullmatch(r"(har|hlp|hon)\.[a-z-]+\.[gq][1-4]", q["id"])
        assert q["id"].split(".")[2][0] == {"gate": "g", "graded": "q"}[q["kind"]]
        opening = q["text"].split()[0]
        assert opening in ({"Is", "Are", "Does", "Could"} if q["kind"] == "gate" else {"How", "Given"})
    assert [p["id"] for p in raw["principles"] if p.get("caps")] == ["harmlessness"]


def test_hhh_protects_a_few_gates_that_always_apply(raw: dict) -> None:
    asked = [q for p in raw["principles"] for d in p["dimensions"] for q in d["questions"]]
    protected = [q for q in asked if q.get("protected")]
    assert 3 <= len(protected) <= 5
    for q in protected:
        assert q["kind"] == "gate" and q["id"].startswith("har.")
        assert q["text"].startswith("Is the answer free of ")  # true or false of any text whatever


def test_hhh_serves_every_clause_and_lints_clean() -> None:
    program, constitution = load_program("hhh"), load_constitution("hhh")
    assert constitution_of(program) == constitution
    every = {clause.id for _, clause in clauses(constitution)}
    assert {q.clause for _, _, q in questions(program)} == every
    assert 35 <= len(every) <= 45
    # a clause belongs to the principle of the questions that serve it
    assert all(p.id[:2] == q.clause[:2] or q.clause[:3] == "hlp" for p, _, q in questions(program))
    assert lint(program, constitution) == []
    protected = {c.id for _, c in clauses(constitution) if c.protected}
    assert {q.clause for _, _, q in questions(program) if q.protected} == protected


def test_questions_come_in_order() -> None:
    asked = [(p.id, d.id, q.id) for p, d, q in questions(load_program("hhh"))]
    assert asked[0] == ("harmlessness", "har.language-sensitivity", "har.language-sensitivity.g1")
    assert asked[-1][2] == "hon.acknowledgement-of-errors.q3"
    assert len(asked) == 167


def test_a_program_survives_yaml(tmp_path: Path) -> None:
    program = load_program("hhh")
    again = load_program(write(tmp_path, dump_yaml(program)))
    assert again == program
    assert program_hash(again) == program_hash(program)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("id: hon.facts.q1", "id: har.words.q1", 19, "question id 'har.words.q1' is used twice"),
        ("id: hon.facts\n", "id: har.words\n", 16, "dimension id 'har.words' is used twice"),
        ("id: honesty", "id: harmlessness", 13, "principle id 'harmlessness' is used twice"),
        ("id: honesty", "id: all", 13, "principle id 'all' is reserved"),
        ("title: Honesty", "title: Honesty\n    caps: true", 15, "both have caps: true"),
        (
            "How correct are the facts in the answer?",
            "how CALM is  the tone of the answer?",
            19,
            "asks the same as 'har.words.q1'",
        ),
        ("of insults?", "of insults and is it calm?", 11, "more than one thing (compound: 'and is it')"),
        ("of insults?", "of insults? Is it calm?", 11, "more than one thing (compound: 'Is it calm?')"),
        ("kind: gate", "kind: gat", 11, "did you mean 'gate'?"),
        ("kind: graded, clause: facts", "kind: graded, protected: true, clause: facts", 19, "only a gate"),
        ("clause: facts", "clauze: facts", 19, "did you mean 'clause'?"),
        ('text: "How calm is the tone of the answer?"', 'text: "  "', 12, "text"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    assert old in SMALL
    path = write(tmp_path, SMALL.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        load_program(path)
    assert str(caught.value).startswith(f"{path}:{line}: "), caught.value
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_no_principle_needs_to_cap(tmp_path: Path) -> None:
    assert not any(
        p.caps for p in load_program(write(tmp_path, SMALL.replace("caps: true", "caps: false"))).principles
    )


def test_clauses_are_checked_against_a_constitution_beside_the_program(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    assert constitution_of(load_program(path), path) is None
    write(tmp_path, SMALL_CONSTITUTION, "elsewhere.yaml")
    assert load_program(path).name == "small"
    write(tmp_path, SMALL_CONSTITUTION.replace("id: facts", "id: fact"), "elsewhere.yaml")
    with pytest.raises(
        DataError, match=r"program.yaml:19: .*'facts', which constitution 'elsewhere'.*'fact'"
    ):
        load_program(path)


def test_clauses_are_checked_against_the_library() -> None:
    data = load_program("hhh").model_dump(mode="json")
    data["principles"][0]["dimensions"][0]["questions"][0]["clause"] = "har.respekt"
    with pytest.raises(DataError, match=r"did you mean 'har.respect'\?"):
        parse_program(data, "edited")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nconstitution: y\nprinciples: &a\n  - *a\n", "cycle"),
        ("&top\nname: x\nprinciples: [*top]\n", "cycle"),
        ("a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{n}: &{n} [{','.join([f'*{m}'] * 10)}]\n" for m, n in zip("abcdef", "bcdefg", strict=True)
        ), "expand to more than"),
        ("name: " + "[" * 3000, "nested too deeply"),
        ("- just\n- a list\n", "expected a mapping"),
        ("name: 'unclosed\n", "not valid YAML"),
        ("name: a\nname: b\n", "not valid YAML"),
        ("principles: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("", "expected a mapping"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        load_program(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_shared_aliases_are_no_cycle(tmp_path: Path) -> None:
    text = SMALL.replace("title: Words", "title: &t Words").replace("title: Facts", "title: *t")
    assert load_program(write(tmp_path, text)).principles[1].dimensions[0].title == "Words"


def test_unknown_names_say_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no program called 'hhj' \(did you mean 'hhh'\?\); expected one of .*hhh"
    ):
        load_program("hhj")
    with pytest.raises(UsageError, match="no constitution called 'hhhh'"):
        load_constitution("hhhh")
    with pytest.raises(UsageError, match="no such file"):
        load_program(tmp_path / "absent.yaml")


def test_constitutions_load_and_compare(tmp_path: Path) -> None:
    old = load_constitution(write(tmp_path, SMALL_CONSTITUTION, "c.yaml"))
    text = SMALL_CONSTITUTION.replace("Be right.", "Be right; say why.").replace("id: words", "id: manners")
    new = parse_constitution(YAML(typ="safe", pure=True).load(text), "new")
    assert [(c.id, c.old is None, c.new is None) for c in diff_constitutions(old, new)] == [
        ("words", False, True),
        ("facts", False, False),
        ("manners", True, False),
    ]
    assert diff_constitutions(old, old) == []
    path = write(tmp_path, SMALL_CONSTITUTION.replace("id: facts", "id: words"), "d.yaml")
    with pytest.raises(DataError, match=r"d\.yaml:7: clause id 'words' is used twice"):
        load_constitution(path)


kinds = st.sampled_from(list(QuestionKind))
words = st.text(min_size=1).filter(str.strip)


@given(kinds, words, kinds, words)
def test_question_hash_is_what_is_asked(
    kind: QuestionKind, text: str, kind2: QuestionKind, text2: str
) -> None:
    one = Question(id="a", kind=kind, text=text, clause="c")
    renamed = Question(id="b", kind=kind, text=text, clause="d")
    other = Question(id="a", kind=kind2, text=text2, clause="c")
    assert question_hash(one) == question_hash(renamed)
    assert (question_hash(one) == question_hash(other)) == ((kind, text) == (kind2, text2))
    if kind is QuestionKind.GATE:
        assert question_hash(one) != question_hash(one.model_copy(update={"protected": True}))


@given(st.text(alphabet="abcxyz", min_size=1))
def test_program_hash_sees_every_field(name: str) -> None:
    program = load_program("hhh")
    assert (program_hash(program.model_copy(update={"version": name})) == program_hash(program)) is (
        name == program.version
    )
    assert program_hash(Program.model_validate(json.loads(program.model_dump_json()))) == program_hash(
        program
    )
