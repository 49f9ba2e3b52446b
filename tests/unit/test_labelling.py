"""The budget of labels, and pairs that people label in a table."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubrica.core.comparisons import Candidate, PairLabel
from rubrica.core.errors import DataError, UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.store import Store
from rubrica.recipes.label_sheet import cell, read_sheet, write_sheet
from rubrica.recipes.ledger import Ledger, Round, Selected


def pair(name: str, first: str = "yes", second: str = "no") -> Candidate:
    prompt = Prompt(id=name, messages=(Message(role="user", content=f"ask {name}"),))
    return Candidate(id=f"p{name}", prompt=prompt, first=first, second=second)


def chosen(names: str, round: int) -> list[Selected]:
    return [
        Selected(pair=pair(name), round=round, rank=rank, score=1.0, strategy="random")
        for rank, name in enumerate(names)
    ]


def test_a_ledger_spends_labels_when_pairs_are_selected_and_never_too_many(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        ledger = Ledger(store, budget=5)
        ledger.take(chosen("cab", 1))
        assert [one.pair.id for one in ledger.selected(1)] == ["pc", "pa", "pb"]
        assert ledger.room() == 2
        with pytest.raises(UsageError, match="3 labels, but 2 of the budget of 5 are left"):
            ledger.take(chosen("xyz", 2))
        assert ledger.room() == 2  # nothing of a refused round is kept
        ledger.put([PairLabel(pair="pa", preferred="first"), PairLabel(pair="pb", preferred=None)])
        ledger.take(chosen("de", 2))
        assert ledger.room() == 0
    with Store(tmp_path / "s.sqlite") as store:  # another session
        ledger = Ledger(store, budget=5)
        assert ledger.room() == 0 and [one.pair.id for one in ledger.open()] == ["pc", "pd", "pe"]
        assert list(ledger.rounds()) == [
            Round(round=1, spent=3, labelled=1, undecided=1, open=1),
            Round(round=2, spent=2, labelled=0, undecided=0, open=2),
        ]


def test_an_oracle_that_breaks_off_loses_no_label(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def oracle(pairs):
        asked.append([one.id for one in pairs])
        for number, one in enumerate(pairs):
            if len(asked) == 1 and number == 2:
                raise KeyboardInterrupt
            yield PairLabel(pair=one.id, preferred="second", by="me")

    with Store(tmp_path / "s.sqlite") as store:
        ledger = Ledger(store)
        ledger.take(chosen("abcd", 1))
        with pytest.raises(KeyboardInterrupt):
            ledger.ask(oracle)
        assert ledger.ask(oracle) == 2
        assert asked == [["pa", "pb", "pc", "pd"], ["pc", "pd"]]
        assert ledger.ask(oracle) == 0 and len(asked) == 2
        assert [(p.chosen, p.rejected) for p in ledger.preferences()] == [("no", "yes")] * 4
        assert ledger.preferences([2]) == []


def fill(path: Path, labels: dict[str, str], **more: str) -> None:
    """Fill in a sheet as a spreadsheet would save it."""
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    for row in rows:
        row["label"] = labels.get(row["id"], "")
        row.update(more)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_sheet_comes_back_with_its_labels(tmp_path: Path) -> None:
    path = tmp_path / "label.csv"
    write_sheet(path, [pair(name) for name in "abcdef"])
    fill(path, {"pa": "first", "pb": " Second ", "pc": "TIE", "pd": "skip", "pe": "2"})
    found = read_sheet(path, {f"p{name}" for name in "abcdef"})
    assert [(label.pair, label.preferred, label.reason) for label in found] == [
        ("pa", "first", ""),
        ("pb", "second", ""),
        ("pc", None, "tie"),
        ("pd", None, "skip"),
        ("pe", "second", ""),
    ]
    fill(path, {"pa": "first"}, rater="Ann")
    assert read_sheet(path, {f"p{name}" for name in "abcdef"})[0].by == "Ann"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id,label\npz,first\n", r"label.csv:2: id 'pz' is of no selected pair"),
        (
            "id,label\npa,better\n",
            r"label.csv:2: label 'better'; expected first, second, tie, skip or nothing",
        ),
        ("id,label\npa,first\npa,second\n", r"label.csv:3: id 'pa' is there twice"),
        ("id,verdict\npa,first\n", r"no column 'label'"),
        ("id;label\npa;first\n", r"label.csv:1: cells are separated by ';', expected ','"),
    ],
)
def test_what_is_wrong_with_a_sheet_is_said_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "label.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=problem):
        read_sheet(path, {"pa"})


HOSTILE = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2",
    "@SUM(A1)",
    "\t=1",
    "  =HYPERLINK(1)",
    "＝1",
    'a";=1\n=2',
    "\x00x\r=3",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_no_formula(tmp_path: Path, text: str) -> None:
    path = tmp_path / "label.csv"
    write_sheet(path, [pair("a", first=text, second=f"{text}!")])
    cells = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    assert [len(row) for row in cells] == [5, 5]  # no cell can end its row, or its neighbour
    for value in cells[1]:
        assert not value.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
        assert "\x00" not in value and "\r" not in value


@given(st.text())
def test_a_cell_keeps_every_printable_character(text: str) -> None:
    shown = cell(text)
    assert shown.removeprefix("'") == "".join(
        c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text
    ) or (text.startswith("'"))
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\n"))
