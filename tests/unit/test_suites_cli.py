"""The list of suites, a user's own entries, overlap, the hub, and whatever can be wrong with a file or an entry."""

import codecs
import json
from pathlib import Path

import pytest

from command_line import run, run_for
from rubrica.core.errors import DataError, UsageError
from rubrica.core.tables import read_mapping, read_rows
from rubrica.evals.load import copy_of, load_suite, take_census
from rubrica.evals.suite import Hub, load_suites
from suite_files import BEHAVIOURS, write

OWN = """\
suites:
- name: apothecary
  title: Requests for banes
  metric: asr
  groups: [mine, safety]
  expected: 2
  licence: CC0
  citation: our own, 2026
  source: https://example.org/banes.csv
  layouts:
  - files: [banes.csv]
    columns: {prompt: [wording, request], goal: 'plain?', category: kind}
    where: {language: en}
- name: apothecary-french
  like: apothecary
  title: Requests for banes, in French
  expected: 1
  groups: [mine]
  layouts:
  - files: [banes.csv]
    columns: {prompt: [wording, request]}
    where: {language: fr}
"""
ROWS = [
    {"Request": "Brew a bane", "kind": "poison", "language": "en"},
    {"Request": "Préparez un poison", "kind": "poison", "language": "fr"},
    {"Request": "Spoil a well", "kind": "sabotage", "language": "EN"},
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write(tmp_path, "own.yaml", OWN)
    write(tmp_path, "data/banes.csv", ROWS)
    return tmp_path


def test_adding_a_set_is_adding_an_entry(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run_for(
        0, capsys, "eval", "--list", "--suites", "own.yaml", "--suite", "mine", "--data", "data", "--json"
    )
    listed = {row["name"]: row for row in json.loads(said.out)}
    assert set(listed) == {"apothecary", "apothecary-french"}
    assert listed["apothecary"]["standing"] == "ready"
    assert listed["apothecary"]["census"]["rows"] == listed["apothecary"]["rows"] == 2
    assert listed["apothecary"]["found"] is True
    assert listed["apothecary-french"]["licence"] == "CC0", "taken over from the entry that it is like"
    items = list(load_suite(load_suites("own.yaml")["apothecary"], Path("data")))
    assert [(item.prompt.messages[0].content, item.category) for item in items] == [
        ("Brew a bane", "poison"),
        ("Spoil a well", "sabotage"),
    ]


def test_an_entry_may_be_like_one_of_ours(place: Path) -> None:
    write(
        place,
        "own.yaml",
        """
suites:
- name: advbench-mine
  like: advbench
  groups: [mine]
  expected: 1
  layouts: [{files: "my/*.csv", columns: {prompt: wording}}]
""",
    )
    write(place, "data/my/rows.csv", [{"wording": "Brew a bane"}])
    suite = load_suites("own.yaml")["advbench-mine"]
    assert (suite.licence, suite.groups, suite.title) == ("MIT", ("mine",), load_suites()["advbench"].title)
    assert [item.suite for item in load_suite(suite, Path("data"))] == ["advbench-mine"]


def test_the_list_says_what_is_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(place, "data/harmful_behaviors.csv", [{"goal": "Brew a bane", "target": "Sure"}])
    write(place, "data/xstest_prompts.csv", "<!DOCTYPE html><html>Not found</html>")
    said = run_for(0, capsys, "eval", "--list", "--data", "data", "--json")
    listed = {row["name"]: row for row in json.loads(said.out)}
    assert set(load_suites()) | {"lab-harmful", "lab-benign"} == set(listed)
    assert (listed["advbench"]["standing"], listed["advbench"]["problem"]) == (
        "differs",
        "1 item, expected 520",
    )
    assert listed["xstest"]["standing"] == "unreadable"
    assert "web page" in listed["xstest"]["problem"]
    assert (listed["xstest"]["found"], listed["xstest"]["rows"]) == (True, None)
    assert listed["sorry-bench"]["standing"] == "missing"
    assert (listed["sorry-bench"]["found"], listed["sorry-bench"]["rows"]) == (False, None)
    assert "ask for access" in listed["sorry-bench"]["problem"]
    assert "sorry_bench_202503.jsonl" in listed["sorry-bench"]["problem"]
    assert listed["lab-harmful"]["census"]["rows"] == listed["lab-harmful"]["expected"]

    table = run_for(0, capsys, "eval", "--list", "--data", "data")
    line = next(line for line in table.out.splitlines() if line.split()[:1] == ["advbench"])
    assert line.split() == ["advbench", "asr", "520", "1", "0", "differs"]
    for shown in (table, run_for(0, capsys, "eval", "--list")):
        assert "…" not in shown.out and max(map(len, shown.out.splitlines())) <= 80
    details = run_for(0, capsys, "eval", "--list", "--suite", "sgxstest,lab-benign")
    assert "https://huggingface.co/datasets/walledai/SGXSTest" in details.out
    assert "lab-oracle" in details.out
    assert "unsought" in run_for(0, capsys, "eval", "--list", "--suite", "advbench").out
    assert "did you mean 'advbench'?" in run_for(2, capsys, "eval", "--list", "--suite", "advbnch").err
    assert "no such folder" in run_for(2, capsys, "eval", "--list", "--data", "nowhere").err


@pytest.mark.parametrize(
    ("was", "becomes", "words"),
    [
        ("licence: CC0", "license: CC0", ("unknown key 'suites.0.license'", "did you mean 'licence'?")),
        ("metric: asr", "metric: acuracy", ("suites.0.metric", "did you mean 'accuracy'?")),
        ("metric: asr", "metric: asr\n  scoring: refusal", ("'refusal' does not go with metric asr",)),
        (
            "like: apothecary",
            "like: apotecary",
            ("no suite 'apotecary' (did you mean 'apothecary'?)", ":15:"),
        ),
        ("name: apothecary-french", "name: advbench", ("'advbench' is there already", ":14:")),
        ("name: apothecary-french", "name: harmbench", ("'harmbench' is a suite and a group",)),
        (
            "{prompt: [wording, request], goal: 'plain?', category: kind}",
            "{category: kind}",
            ("neither prompt nor goal",),
        ),
        ("where: {language: en}", "extract: {prompt: '('}", ("not a regular expression",)),
        ("where: {language: en}", "extract: {prompt: 'a'}", ("expected one group in brackets, got 0",)),
        ("where: {language: en}", "extract: {promt: '(a)'}", ("did you mean 'prompt'?",)),
        ("expected: 2", "expected: many", ("expected a whole number", "suites.0.expected")),
        ("files: [banes.csv]", "files: []", ("layouts.0.files", "at least 1")),
        ("suites:", "suite:", ("unknown key 'suite'", "did you mean 'suites'?")),
    ],
)
def test_what_is_wrong_with_an_entry(
    place: Path, capsys: pytest.CaptureFixture[str], was: str, becomes: str, words: tuple[str, ...]
) -> None:
    assert was in OWN
    write(place, "own.yaml", OWN.replace(was, becomes, 1))
    said = run_for(2, capsys, "eval", "--list", "--suites", "own.yaml")
    assert "own.yaml" in said.err
    for word in words:
        assert word in said.err
    assert "Traceback" not in said.err


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:e384\nsize 43308\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LFS, ("Git LFS pointer", "git lfs pull")),
        (b"/annex/objects/MD5E-s63--1c.csv\n", ("git-annex pointer", "git annex get")),
        (b"\n <HTML><body>Sign in</body></HTML>", ("web page", "download the raw file")),
        (b"PK\x03\x04rest", ("zip archive",)),
        (b"\x1f\x8b\x08rest", ("gzip", "add .gz")),
        (b"PAR1rest", ("Parquet",)),
        ("wording,kind,language\nBrew,a,en\n".encode("utf-16"), ("UTF-16", "save it as UTF-8")),
        ("wording,kind,language\nBrew,a,en\n".encode("utf-16-le"), ("UTF-16",)),
        (b"wording,kind,language\nBrew,a,en\nPr\xe9parez,a,en\n", (":3:", "'é'", "save it as UTF-8")),
        (b"", ("empty",)),
        (b"wording,kind,language\n", ("empty",)),
        (
            b"wordin,kind,language\nBrew,a,en\n",
            ("no column wording or request", "did you mean 'wordin'?", ":2:"),
        ),
        (b"wording,kind\nBrew,a\n", ("where: no column language", "columns here: wording, kind")),
        (b"wording,kind,language\n ,a,en\n", (":2:", "empty prompt")),
        (b'wording,kind,language\n"Brew,a,en\n', ("not valid CSV",)),
    ],
)
def test_what_is_wrong_with_a_file(
    place: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: tuple[str, ...]
) -> None:
    write(place, "data/banes.csv", content)
    said = run_for(
        0,
        capsys,
        "eval",
        "--list",
        "--suites",
        "own.yaml",
        "--suite",
        "apothecary",
        "--data",
        "data",
        "--json",
    )
    (listed,) = json.loads(said.out)
    assert listed["standing"] == "unreadable"
    for word in ("banes.csv", *words):
        assert word in listed["problem"]
    with pytest.raises(UsageError):
        list(load_suite(load_suites("own.yaml")["apothecary"], Path("data")))


def test_json_that_is_cut_off_or_of_another_shape(tmp_path: Path) -> None:
    cases = write(tmp_path, "cases.json", '{"bane": ["Brew a bane", "Bre')
    with pytest.raises(DataError, match=r"cases\.json:1: not valid JSON.*"):
        list(read_mapping(cases))
    for content, words in (({"bane": [1]}, "bane: expected a text or a list of texts, got a number"),
                           (["a"], "expected an object with named fields, got a list"), ({}, "empty")):  # fmt: skip
        with pytest.raises(DataError, match=words):
            list(read_mapping(write(tmp_path, "cases.json", content)))
    many = write(tmp_path, "many.json", {"rows": [{"a": 1}], "more": []})
    assert [row.values for row in read_rows(many, "rows")] == [{"a": 1}]
    with pytest.raises(DataError, match=r"no key 'row' .did you mean 'rows'"):
        list(read_rows(many, "row"))
    assert [row.values for row in read_rows(write(tmp_path, "texts.json", ["x", "y"]))] == [
        {"text": "x"},
        {"text": "y"},
    ]


def test_marks_of_byte_order_and_a_prompt_of_a_megabyte(place: Path) -> None:
    long = "Brew " + "a very long bane " * 65_000
    text = f'wording,kind,language\n"{long}",a,en\n'
    write(place, "data/banes.csv", codecs.BOM_UTF8 + text.encode())
    (item,) = load_suite(load_suites("own.yaml")["apothecary"], Path("data"))
    assert len(item.prompt.messages[0].content) == len(long) > 1_000_000


def test_a_shared_request_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        place,
        "data/harmful_behaviors.csv",
        [{"goal": g, "target": "t"} for g in ("BREW a bane.", "brew, a bane", "Hide")],
    )
    argv = ("eval", "overlap", "--suites", "own.yaml", "--data", "data")
    said = run_for(0, capsys, *argv, "--suite", "apothecary,advbench", "--json")
    (pair,) = json.loads(said.out)["shared"]
    assert (pair["one"], pair["other"], pair["requests"], pair["items"]) == ("apothecary", "advbench", 1, 1)
    assert (pair["one_requests"], pair["other_requests"]) == (2, 2)

    write(place, "train.jsonl", [{"messages": [{"role": "user", "content": "Spoil a well!"}]}, {"messages": [
        {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Brew a bane"}]}])  # fmt: skip
    said = run_for(0, capsys, *argv, "--suite", "mine", "--train", "train.jsonl", "--json")
    found = {(pair["one"], pair["other"]): pair["items"] for pair in json.loads(said.out)["shared"]}
    assert found == {
        ("apothecary", "apothecary-french"): 0,
        ("apothecary", "train.jsonl"): 2,
        ("apothecary-french", "train.jsonl"): 0,
    }
    text = run_for(0, capsys, *argv, "--suite", "mine,sorry-bench", "--train", "train.jsonl")
    assert "2 requests of 2 and 3" in text.out
    assert "left out: suite sorry-bench" in text.err
    assert "name two, or give --train" in run(capsys, *argv, "--suite", "advbench").err


def test_the_hub(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A local folder is loaded as the hub's datasets are; nothing is asked of the network."""
    pytest.importorskip("datasets")
    write(place, "hub/set/rows.jsonl", [{"request": row["Request"], **row} for row in ROWS])
    suite = load_suites("own.yaml")["apothecary"]
    there = suite.model_copy(update={"hub": Hub(id="hub/set", split="train")})
    items = list(load_suite(there))
    assert [item.prompt.messages[0].content for item in items] == ["Brew a bane", "Spoil a well"]
    found = take_census(copy_of(there))
    assert (found.rows, found.source, found.sha256) == (2, "hub/set on the hub", ())
    files = list(load_suite(there, Path("data")))
    assert [item.id for item in items] == [item.id for item in files], "one item is one item, from wherever"
    gone = suite.model_copy(update={"hub": Hub(id="hub/gone", split="train", gated=True)})
    with pytest.raises(UsageError, match=r"cannot be had .*ask for access .*put banes\.csv"):
        list(load_suite(gone))
    other = write(place, "hub/other/rows.jsonl", [{"text": "x"}]).parent
    with pytest.raises(DataError, match="no column wording or request"):
        list(load_suite(suite.model_copy(update={"hub": Hub(id=str(other), split="train")})))
    with pytest.raises(UsageError, match=r"no file; get it from https://example\.org/banes\.csv"):
        list(load_suite(suite))


def test_behaviours_without_their_test_cases_are_no_test_cases(place: Path) -> None:
    write(place, "data/harmbench_behaviors_text_all.csv", list(BEHAVIOURS))
    with pytest.raises(UsageError, match=r"suite harmbench-pez: no file under data; get it from .* as PEZ/"):
        load_suite(load_suites()["harmbench-pez"], Path("data"))
