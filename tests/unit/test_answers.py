"""Several answers to one prompt from files of every form, and what is wrong with a file."""

import json
from pathlib import Path

import pytest

from rubrica.core.answers import Answers, load_answers
from rubrica.core.errors import DataError


def read(tmp_path: Path, *rows: dict, **options) -> list[Answers]:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_answers(path, **options)


def test_pairs(tmp_path: Path):
    [found] = read(
        tmp_path, {"id": "p", "prompt": "Q", "chosen": "good", "rejected": "bad", "reference": "ideal"}
    )
    assert (found.id, found.texts, found.labels, found.reference) == (
        "p",
        ("good", "bad"),
        (1.0, 0.0),
        "ideal",
    )


def test_pairs_as_dialogues(tmp_path: Path):
    turn = "\n\nHuman: Q\n\nAssistant: "
    [found] = read(tmp_path, {"chosen": turn + "good", "rejected": turn + "bad"})
    assert found.prompt.messages[-1].content == "Q" and found.texts == ("good", "bad")


def test_several_chosen_and_rejected(tmp_path: Path):
    [found] = read(tmp_path, {"prompt": "Q", "chosen": ["a", "b"], "rejected": ["c"]})
    assert (found.texts, found.labels) == (("a", "b", "c"), (1.0, 1.0, 0.0))


def test_a_list_of_rated_answers_as_in_ultrafeedback(tmp_path: Path):
    completions = [
        {"model": "m", "response": "a", "overall_score": 9.0, "fine-grained_score": 4.5, "critique": "c"},
        {"model": "n", "response": "b", "overall_score": 2, "fine-grained_score": "N/A"},
    ]
    rows = [{"source": "s", "instruction": f"Q{i}", "completions": completions} for i in range(2)]
    found = read(tmp_path, *rows)
    assert [f.prompt.messages[0].content for f in found] == ["Q0", "Q1"]
    assert found[0].texts == ("a", "b") and found[0].labels == (4.5, None)
    assert read(tmp_path, *rows, rating="overall_score")[0].labels == (9.0, 2.0)


def test_parquet_with_nested_answers(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    rows = [
        {
            "instruction": "Q",
            "completions": [{"response": r, "overall_score": s} for r, s in (("a", 1.0), ("b", 2.0))],
        }
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    [found] = load_answers(tmp_path / "data.parquet")
    assert (found.texts, found.labels) == (("a", "b"), (1.0, 2.0))


def test_ranks_count_downwards(tmp_path: Path):
    answers = [{"answer": "a", "rank": 2.0}, {"answer": "b", "rank": 1.0}]
    assert read(tmp_path, {"prompt": "Q", "answers": answers})[0].labels == (-2.0, -1.0)
    assert read(tmp_path, {"prompt": "Q", "responses": ["a", "b"], "ranks": [2, 1]})[0].labels == (-2.0, -1.0)


def test_texts_and_ratings_side_by_side_or_no_ratings(tmp_path: Path):
    assert read(tmp_path, {"prompt": "Q", "responses": ["a", "b"], "scores": [1, None]})[0].labels == (
        1.0,
        None,
    )
    assert read(tmp_path, {"prompt": "Q", "responses": ["a", "b"]})[0].labels is None


def test_numbered_columns(tmp_path: Path):
    row = {
        "prompt": "Q",
        "response_0": "a",
        "response_1": "b",
        "better_response_id": 1,
        "is_response_0_safe": True,
    }
    assert (read(tmp_path, row)[0].texts, read(tmp_path, row)[0].labels) == (("a", "b"), (0.0, 1.0))
    row = {"prompt": "Q", "response_a": "a", "response_b": "b", "score_a": 3, "score_b": "4.5"}
    assert read(tmp_path, row)[0].labels == (3.0, 4.5)
    row = {"prompt": "Q", "output_1": "a", "output_2": "b"}
    assert read(tmp_path, row)[0].labels is None


def test_one_answer_a_row(tmp_path: Path):
    rows = [
        {"prompt": "Q", "response": "a", "score": 1, "model": "m", "topic": "t"},
        {"prompt": "R", "response": "c", "score": 5, "model": "m", "topic": "u"},
        {"prompt": "Q", "response": "b", "score": 2, "model": "n", "topic": "t"},
        {"prompt": "R", "response": "d", "score": None, "model": "n", "topic": "u"},
    ]
    found = read(tmp_path, *rows, by="topic")
    assert [(f.texts, f.labels) for f in found] == [(("a", "b"), (1.0, 2.0)), (("c", "d"), (5.0, None))]
    assert [f.columns for f in found] == [{"topic": "t"}, {"topic": "u"}]  # the model differs between answers


def test_columns_of_few_short_values_are_categories(tmp_path: Path):
    rows = [
        {
            "prompt": f"Q{i}",
            "chosen": "a",
            "rejected": "b",
            "source": "ab"[i % 2],
            "number": i % 2,
            "safe": i % 2 == 0,
            "maker": "x" if i else "",
            "story": "word " * 40,
        }
        for i in range(8)
    ]
    found = read(tmp_path, *rows)
    assert found[1].columns == {"source": "b", "safe": "False", "maker": "x"}
    assert read(tmp_path, *rows, by="prompt")[1].columns["prompt"] == "Q1"
    with pytest.raises(DataError, match=r"no column 'sourcce' \(did you mean 'source'"):
        read(tmp_path, *rows, by="sourcce")


def test_rows_without_two_different_answers_are_told(tmp_path: Path):
    rows = [
        {"prompt": "Q", "responses": ["a", "a"]},
        {"prompt": "R", "responses": ["a", "b"]},
    ]
    skipped = []
    assert len(read(tmp_path, *rows, on_skip=skipped.append)) == 1
    assert [row.line for row in skipped] == [1] and "two different answers" in skipped[0].problem
    with pytest.raises(DataError, match="two different answers"):
        read(tmp_path, *rows)


def test_skipped_pairs_do_not_shift_the_columns(tmp_path: Path):
    rows = [
        {"prompt": "Q", "chosen": "a", "rejected": "a", "source": "wrong"},
        {"prompt": "R", "chosen": "a", "rejected": "b", "source": "one"},
        {"prompt": "S", "chosen": "a", "rejected": "b", "source": "two"},
    ]
    found = read(tmp_path, *rows, by="source", on_skip=lambda row: None)
    assert [f.columns["source"] for f in found] == ["one", "two"]
    assert len(read(tmp_path, *rows, limit=1, on_skip=lambda row: None)) == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Q", "texts": ["a"]}, "no answers: expected chosen and rejected"),
        ({"prompt": "Q", "responses": ["a", "b"], "scores": [1]}, "scores: expected one for each of 2"),
        (
            {"prompt": "Q", "responses": ["a", "b"], "scores": [1e308, -1e308]},
            "scores: expected a number of at most 1e\\+100 either way, got '1e\\+308'",
        ),
        (
            {"prompt": "Q", "responses": ["a", "b"], "scores": [1, 10**400]},
            "scores: expected a number of at most 1e\\+100 either way, got '1000",
        ),
        (
            {"prompt": "Q", "responses": ["a", "b"], "scores": [1, "many"]},
            "scores: expected a number, got 'many'",
        ),
        ({"prompt": "Q", "responses": ["a", 5]}, "an answer that is a text, got '5'"),
        ({"prompt": "Q", "completions": [{"words": "a"}]}, "expected objects with response"),
        (
            {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 2},
            "expected one of 0, 1",
        ),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, row: dict, said: str):
    with pytest.raises(DataError, match=said) as error:
        read(tmp_path, row)
    assert error.value.line == 1
