import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubrica.core.data import Skipped, holds_pairs, load_pairs, load_prompts, load_texts
from rubrica.core.errors import DataError, UsageError
from rubrica.core.scoring import ScoreItem
from rubrica.core.tables import read_rows

ROWS = [
    {"id": "a", "prompt": "Hello", "kind": "benign"},
    {"id": "b", "prompt": 'Say "x", then\ny — ok?', "kind": "harmful"},
]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(rows: list[dict], separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def save(folder: Path, kind: str) -> Path:
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "x.parquet")
        return folder / "x.parquet"
    if kind.startswith("json"):
        return write(folder, f"x.{kind}", jsonl(ROWS) if kind.startswith("jsonl") else json.dumps(ROWS))
    return write(folder, f"x.{kind}", as_csv(ROWS, "\t" if kind == "tsv" else ","))


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "csv.gz", "tsv", "parquet"])
def test_every_format_gives_the_same_prompts(tmp_path, kind):
    found = load_prompts(save(tmp_path, kind))
    assert [(p.id, p.messages[0].content, p.tags) for p in found] == [
        (row["id"], row["prompt"], {"kind": row["kind"]}) for row in ROWS
    ]
    assert {p.source for p in found} == {f"x.{kind}"}
    assert len(load_prompts(save(tmp_path, kind), limit=1)) == 1


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1)


@given(st.lists(cells.filter(str.strip), min_size=1, max_size=5))
def test_any_text_survives_csv_and_jsonl(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("data")
    rows = [{"prompt": text} for text in texts]
    for path in (write(folder, "x.csv", as_csv(rows)), write(folder, "x.jsonl", jsonl(rows))):
        assert [p.messages[0].content for p in load_prompts(path)] == texts


def test_a_text_file_holds_a_prompt_a_line(tmp_path):
    found = load_prompts(write(tmp_path, "x.txt", "\ufeffone\n\n two \n"))
    assert [p.messages[0].content for p in found] == ["one", "two"]


@pytest.mark.parametrize(
    ("header", "used"),
    [
        ("Category,Goal,Target", "Goal"),
        ("answer,QUESTION", "QUESTION"),
        ("text,behavior", "behavior"),
        ("source,forbidden_prompt", "forbidden_prompt"),
        ("n,Instruction", "Instruction"),
    ],
)
def test_the_prompt_column_is_found(tmp_path, header, used):
    names = header.split(",")
    path = write(tmp_path, "x.csv", f"{header}\n{','.join('in ' + name for name in names)}\n")
    assert load_prompts(path)[0].messages[0].content == f"in {used}"


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path, "x.csv", "prompt,Ask,No\nwrong,right,7\n")
    [prompt] = load_prompts(path, columns={"prompt": "Ask", "id": "No"})
    assert (prompt.id, prompt.messages[0].content) == ("7", "right")
    with pytest.raises(
        DataError, match=r"no column 'Askk' \(did you mean 'Ask'\?\); columns: prompt, Ask, No"
    ):
        load_prompts(path, columns={"prompt": "Askk"})
    with pytest.raises(UsageError, match="unknown field 'prom'"):
        load_prompts(path, columns={"prom": "Ask"})


def test_ids_without_a_column_come_from_the_content_and_stay_distinct(tmp_path):
    path = write(tmp_path, "x.jsonl", jsonl([{"prompt": t} for t in ("one", "two", "one")]))
    ids = [p.id for p in load_prompts(path)]
    assert len(set(ids)) == 3 and ids[2] == f"{ids[0]}-2"
    turned = write(tmp_path, "y.jsonl", jsonl([{"goal": t} for t in ("two", "one")]))
    assert {p.id for p in load_prompts(turned)} == set(ids[:2])


def test_chat_messages_and_tags_are_read(tmp_path):
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = write(tmp_path, "x.jsonl", jsonl([{"messages": turns, "tags": {"family": "persona", "n": 3}}]))
    [prompt] = load_prompts(path)
    assert [(m.role, m.content) for m in prompt.messages] == [("system", "s"), ("user", "u")]
    assert prompt.tags == {"family": "persona", "n": "3"}


def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_kept(tmp_path):
    path = write(tmp_path, "x.jsonl", '{"prompt": "a\\uD83Db \\ud83d\\ude00"}\n')
    assert load_prompts(path)[0].messages[0].content == "a\ufffdb \U0001f600"


def test_a_list_inside_a_json_object_is_found(tmp_path):
    path = write(tmp_path, "x.json", json.dumps({"name": "set", "examples": [{"input": "hi"}]}))
    assert load_prompts(path)[0].messages[0].content == "hi"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"x\.jsonl:2: not valid JSON: .* at column 11; it ends there"),
        ("x.jsonl", '{"prompt": "a"}\n\n["b"]\n', r"x\.jsonl:3: expected an object .* got a list"),
        ("x.jsonl", "[" * 100_000, r"x\.jsonl:1: not readable as JSON"),
        ("x.jsonl", '{"prompt": "a"}\n{"prompt": "  "}\n', r"x\.jsonl:2: empty prompt"),
        ("x.jsonl", '{"prompt": "a"}\n{"x": 1}\n', r"x\.jsonl:2: no prompt: .* columns here: x"),
        ("x.jsonl", '{"prompt": null}\n', r"x\.jsonl:1: prompt: column 'prompt' is empty"),
        ("x.jsonl", '{"prompt": 3}\n', r"x\.jsonl:1: prompt: expected a text, got '3'"),
        ("x.jsonl", '{"prompt": []}\n', r"x\.jsonl:1: expected messages that end"),
        ("x.jsonl", '{"prompt": ["hi"]}\n', r"x\.jsonl:1: expected messages with role and content"),
        ("x.jsonl", '{"prompt": [{"role": "bot", "content": "x"}]}\n', r"x\.jsonl:1: not a chat message: role"),
        ("x.jsonl", '{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}\n', r":2: duplicate id '1', first in line 1"),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', r"x\.jsonl:2: not UTF-8"),
        ("x.jsonl", "", r"x\.jsonl: empty"),
        ("x.jsonl", "\n \n", r"x\.jsonl: empty"),
        ("x.json", "[]", r"x\.json: empty"),
        ("x.json", '[{"prompt": "a"},\n}]', r"x\.json:2: not valid JSON"),
        ("x.json", '"x"', r"x\.json: expected a list of objects, got a string"),
        ("x.csv", "prompt,id\na,1\n", None),
        ("x.csv", "prompt,id\n", r"x\.csv: empty"),
        ("x.csv", 'prompt,id\n"a\nb",1\nc\n', r"x\.csv:4: 1 cells, expected 2"),
        ("x.csv", 'prompt,id\n"a', r"x\.csv:2: not valid CSV"),
        ("x.csv", "colour,id\nred,1\n", r"x\.csv:2: no prompt: .* columns here: colour, id"),
        ("x.parquet", "no parquet", r"x\.parquet: not readable as Parquet"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_named_with_its_line(tmp_path, name, content, said):
    path = write(tmp_path, name, content)
    if said is None:
        assert len(load_prompts(path)) == 1
        return
    with pytest.raises(DataError, match=said):
        load_prompts(path)


def test_damaged_gzip_and_wrong_paths(tmp_path):
    whole = gzip.compress(jsonl(ROWS * 50).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "plain.jsonl.gz").write_text(jsonl(ROWS))
    for name in ("cut", "plain"):
        with pytest.raises(DataError, match="damaged gzip"):
            list(read_rows(tmp_path / f"{name}.jsonl.gz"))
    with pytest.raises(UsageError, match="no such file"):
        load_prompts(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match=r"ends in \.jsonl"):
        load_prompts(write(tmp_path, "x.docx", "x"))


def test_texts_may_share_a_prompt(tmp_path):
    rows = [{"prompt_id": "p", "prompt": "Hi", "response": r} for r in ("one", "two", "")]
    found = load_texts(write(tmp_path, "x.jsonl", jsonl(rows)))
    assert [t.text for t in found] == ["one", "two", ""]
    assert {t.prompt.id for t in found} == {"p"} and len({t.id for t in found}) == 3
    with pytest.raises(DataError, match=r"x\.jsonl:1: no response: expected a column response, completion"):
        load_texts(write(tmp_path, "x.jsonl", jsonl([{"prompt": "Hi"}])))


def dialogue(*turns: str) -> str:
    return "".join(f"\n\n{'Human' if n % 2 == 0 else 'Assistant'}: {t}" for n, t in enumerate(turns))


def pair(tmp_path: Path, **row: object):
    [found] = load_pairs(write(tmp_path, "x.jsonl", jsonl([row])))
    return [(m.role, m.content) for m in found.prompt.messages], found.chosen, found.rejected


def test_pairs_with_a_prompt(tmp_path):
    assert pair(tmp_path, prompt="Hi", chosen="yes", rejected="no") == ([("user", "Hi")], "yes", "no")


def test_pairs_of_dialogues_share_their_prompt(tmp_path):
    found = pair(
        tmp_path, chosen=dialogue("a", "b", "c", "yes\n\nso"), rejected=dialogue("a", "b", "c", "no")
    )
    assert found == ([("user", "a"), ("assistant", "b"), ("user", "c")], "yes\n\nso", "no")


def test_dialogues_that_part_early_keep_what_follows(tmp_path):
    found = pair(tmp_path, chosen=dialogue("a", "b", "c", "d"), rejected=dialogue("a", "x"))
    assert found == ([("user", "a")], "b\n\nHuman: c\n\nAssistant: d", "x")


def test_pairs_of_messages(tmp_path):
    def turns(last: str) -> list[dict]:
        return [{"role": "user", "content": "a"}, {"role": "assistant", "content": last}]

    assert pair(tmp_path, chosen=turns("yes"), rejected=turns("no")) == ([("user", "a")], "yes", "no")
    only = {"chosen": turns("yes")[1:], "rejected": turns("no")[1:]}
    assert pair(tmp_path, prompt=turns("")[:1], **only) == ([("user", "a")], "yes", "no")


def test_an_answer_that_quotes_a_turn_is_no_dialogue(tmp_path):
    found = pair(tmp_path, prompt="Hi", chosen="He said:\n\nHuman: x\n\nAssistant: y", rejected="no")
    assert found == ([("user", "Hi")], "He said:\n\nHuman: x\n\nAssistant: y", "no")


@pytest.mark.parametrize(("chosen", "said"), [("", "empty answer"), ("no", "are equal")])
def test_a_pair_that_tells_nothing_is_an_error_or_left_out(tmp_path, chosen, said):
    rows = [
        {"prompt": "Hi", "chosen": "yes", "rejected": "no"},
        {"prompt": "Hi", "chosen": chosen, "rejected": "no"},
    ]
    path = write(tmp_path, "x.jsonl", jsonl(rows))
    with pytest.raises(DataError, match=rf"x\.jsonl:2: .*{said}"):
        load_pairs(path)
    skipped: list[Skipped] = []
    assert [p.chosen for p in load_pairs(path, on_skip=skipped.append)] == ["yes"]
    assert len(skipped) == 1 and said in skipped[0].problem and ":2:" in skipped[0].problem


def test_a_null_cell_is_not_told_as_a_missing_column(tmp_path):
    table = pyarrow.table({"prompt": ["Hi", "Ho"], "response": ["x", None]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"x\.parquet:2: response: column 'response' is empty \(null\) in this row"
    ):
        load_texts(tmp_path / "x.parquet")


def test_dialogues_without_a_common_start_are_refused(tmp_path):
    path = write(tmp_path, "x.jsonl", jsonl([{"chosen": dialogue("a", "b"), "rejected": dialogue("c", "d")}]))
    with pytest.raises(DataError, match=r"x\.jsonl:1: the dialogues share no prompt"):
        load_pairs(path)


def test_pairs_are_told_from_texts(tmp_path):
    assert holds_pairs(write(tmp_path, "x.csv", "Prompt,Chosen,Rejected\na,b,c\n"))
    assert not holds_pairs(write(tmp_path, "x.csv", "Prompt,Response\na,b\n"))


def test_all_names_of_a_missing_column_are_listed(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"words": "a"}\n')
    with pytest.raises(DataError, match=r"no prompt: expected a column prompt, .*, text, messages; columns"):
        load_prompts(path)


# --- questions of a row for its prompt -----------------------------------------------------------


HEALTH = [
    {"criterion": "States that the dose is 5 mg.", "points": 7, "tags": ["axis:accuracy"]},
    {"criterion": "Tells the user to stop without a doctor.", "points": -6, "tags": []},
    {"criterion": "Is a heading.", "points": 0},
]
REWARDS = [{"title": "Dose", "description": "Important: names the dose", "weight": 4}]


def one_prompt(tmp_path, suffix=".jsonl", **columns):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(
            pyarrow.table({k: [v] for k, v in {"prompt": "p", **columns}.items()}), path
        )
    elif suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["prompt", *columns], ["p", *map(json.dumps, columns.values())]])
    else:
        path.write_text(json.dumps({"prompt": "p", **columns}) + "\n", encoding="utf-8")
    return load_prompts(path)[0]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_rubrics_of_data_sets_become_counted_questions(tmp_path, suffix):
    found = one_prompt(tmp_path, suffix, rubrics=HEALTH).questions
    assert [(q.kind, q.weight, q.text) for q in found] == [
        ("gate", 7, "Does the answer meet this criterion: States that the dose is 5 mg."),
        ("gate", -6, "Does the answer meet this criterion: Tells the user to stop without a doctor."),
    ]
    again = one_prompt(tmp_path, suffix, rubric=[*reversed(HEALTH), *HEALTH]).questions
    assert sorted(q.id for q in again) == sorted(q.id for q in found)  # ids hang on what is asked alone


def test_other_shapes_of_rubrics(tmp_path):
    (question,) = one_prompt(tmp_path, rubric=REWARDS).questions
    assert (question.weight, question.text) == (
        4,
        "Does the answer meet this criterion: Important: names the dose",
    )
    (question,) = one_prompt(tmp_path, criteria=["Is it short?"]).questions
    assert (question.weight, question.text) == (1, "Is it short?")
    assert one_prompt(tmp_path, rubric="Give 5 points for style.").questions == ()
    assert one_prompt(tmp_path, questions=["Who?", "Why?"]).questions == ()


def test_questions_in_our_own_form(tmp_path):
    rows = [
        {"id": "a", "kind": "graded", "text": "How short is it?", "dimension": "d"},
        {"text": "Is it\n\nQUESTION\nsafe?", "weight": None},
    ]
    first, second = one_prompt(tmp_path, questions=rows).questions
    assert (first.id, first.kind, first.dimension, first.weight) == ("a", "graded", "d", None)
    assert second.text == "Is it QUESTION safe?"  # no line of its own in the judge's message


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"questions": [{"text": "Is it?", "wieght": 2}]}, "wieght.*did you mean 'weight'"),
        ({"questions": [{"text": " "}]}, "questions: text"),
        ({"questions": [{"text": "Is it?", "id": "A B"}]}, "questions: id"),
        (
            {"questions": [{"id": "a", "text": "Is it?"}, {"id": "a", "text": "Was it?"}]},
            "'a' stands for two",
        ),
        ({"questions": [{"text": "Is it?", "weight": 0}]}, "weight 0"),
        ({"rubric": [{"points": 3}]}, "no text in"),
        ({"rubric": [{"text": "Is it?", "points": "many"}]}, "expected a number"),
        ({"rubric": [{"text": "x" * 3000}]}, "at most 2000"),
        ({"rubric": [f"Is it {n}?" for n in range(201)]}, "at most 200"),
        ({"rubric": [3]}, "no text in"),
    ],
)
def test_a_rubric_that_cannot_be_read_names_its_line(tmp_path, columns, said):
    with pytest.raises(DataError, match=rf"rows.jsonl:1: .*{said}"):
        one_prompt(tmp_path, **columns)


def test_alpacas_input_is_the_second_half_of_its_prompt(tmp_path):
    rows = [
        {"instruction": "Add these.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
        {"prompt": "Say bye.", "input": "not asked", "output": "Bye."},
    ]
    (tmp_path / "a.jsonl").write_text(jsonl(rows))
    asked = [text.prompt.messages[-1].content for text in load_texts(tmp_path / "a.jsonl")]
    assert asked == ["Add these.\n\n1 and 2", "Say hello.", "Say bye."]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", "prompt;response\na;b\n", "x.csv:1: cells are separated by ';', expected ','"),
        ("x.csv", "prompt,prompt,response\na,b,c\n", "x.csv:1: column 'prompt' is there twice"),
        (
            "x.csv",
            'prompt,response,rubrics\na,b,"[{""criterion"": ""Says"""\n',
            "rubrics: begins as a JSON list",
        ),
        ("x.csv", "prompt,response,tags\na,b,{kind\n", "x.csv:2: tags: not valid JSON"),
        (
            "x.jsonl",
            jsonl([{"prompt": "a", "response": "b", "tags": {"kind": ["harmful"]}}]),
            r"x.jsonl:1: tags: kind: expected one text, got \"\['harmful'\]\"",
        ),
    ],
)
def test_what_would_silently_be_lost_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        load_texts(tmp_path / name)


def test_tags_of_a_csv_are_json_in_a_cell_and_other_columns_of_that_name_are_left_alone(tmp_path):
    (tmp_path / "x.csv").write_text('prompt,response,tags\na,b,"{""kind"": ""harmful""}"\nc,d,funny\n')
    assert [text.prompt.tags for text in load_texts(tmp_path / "x.csv")] == [{"kind": "harmful"}, {}]


def test_a_folder_is_said_to_be_one(tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"x\.jsonl: is a folder"):
        load_texts(tmp_path / "x.jsonl")


@pytest.mark.parametrize("name", ["rubrics", "rubric", "criteria"])
def test_a_rubric_is_the_same_over_http_as_in_a_file(tmp_path, name):
    for rubric in (HEALTH, REWARDS, ["Is it short?", "Is it short?"]):
        item = ScoreItem.model_validate({"prompt": "p", "completion": "x", name: rubric})
        assert item.questions and item.questions == one_prompt(tmp_path, **{name: rubric}).questions
    own = [{"text": "Is it?"}]
    both = ScoreItem.model_validate({"prompt": "p", "completion": "x", "questions": own, name: REWARDS})
    assert both.questions == one_prompt(tmp_path, questions=own, **{name: REWARDS}).questions
    with pytest.raises(ValueError, match="no text in criterion 1"):
        ScoreItem.model_validate({"prompt": "p", "completion": "x", name: [{"points": 3}]})
