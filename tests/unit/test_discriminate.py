"""Which questions tell good from bad: by hand on small scorecards, and through the command line with a server."""

import json
import statistics
from pathlib import Path

import pytest

from command_line import run_for
from fake_server import FakeServer, Reply, completion
from rubrica.cli.discriminate import _pairs
from rubrica.core.config import dump_yaml
from rubrica.core.programs import Dimension, Principle, Program
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Outcome, Verdict
from rubrica.lab.pairs import pairs
from rubrica.program.pooling import pool
from rubrica.program.program import load_program
from rubrica.recipes.discriminate import judged
from rubrica.recipes.score import ScoredText
from serving import BRIEF, CLEAR, GATE

PROGRAM = Program(
    name="small",
    constitution="c",
    principles=(
        Principle(
            id="p", title="P", dimensions=(Dimension(id="d", title="D", questions=(GATE, CLEAR, BRIEF)),)
        ),
    ),
)


def scored(*rows: tuple[str, str, str, str]) -> list[ScoredText]:
    """Texts of (prompt, labels of gate, clarity and brevity); "-" stands for a failed call."""
    found = []
    for n, (prompt, *labels) in enumerate(rows):
        verdicts = {}
        for question, label in zip((GATE, CLEAR, BRIEF), labels, strict=True):
            outcome = {"-": Outcome.FAILED, "NA": Outcome.NOT_APPLICABLE}.get(label, Outcome.ANSWERED)
            verdicts[question.id] = Verdict(
                question_id=question.id, outcome=outcome, label=None if label == "-" else label
            )
        asked = Prompt(id=prompt, messages=(Message(role="user", content=prompt),))
        found.append(ScoredText(id=str(n), prompt=asked, text=str(n), card=pool(PROGRAM, verdicts)))
    return found


def test_counts_means_and_correlations_by_hand():
    found = judged(
        PROGRAM,
        scored(
            ("a", "TRUE", "A", "NA"),
            ("a", "FALSE", "B", "A"),
            ("b", "TRUE", "B", "C"),
            ("b", "TRUE", "F", "C"),
            ("c", "FALSE", "C", "NA"),
            ("c", "TRUE", "-", "NA"),
        ),
    )
    gate, clear, brief = sorted(found, key=lambda q: q.id)
    assert (gate.wins, gate.ties, gate.losses, gate.auc.value, gate.missing) == (1, 1, 1, 0.5, 0)
    assert (gate.chosen, gate.rejected) == pytest.approx((1 / 3, 1 / 3))
    assert (clear.pairs, clear.wins, clear.auc.value, clear.missing) == (2, 2, 1.0, 1)
    assert clear.difference.value == pytest.approx((0.5 + 1.5) / 2)
    assert (clear.chosen, clear.rejected) == pytest.approx(((1 + 0.5 + 0.1) / 3, (0.5 - 1) / 2))
    assert (brief.pairs, brief.ties, brief.na_chosen, brief.na_rejected) == (1, 1, 2 / 3, 1 / 3)
    # clarity with the mean of the other answers: (1, 1) (.5, mean(-1, 1)) (.5, mean(1, .1)) (-1, .55) (.1, -1)
    item, rest = [1, 0.5, 0.5, -1, 0.1], [1, 0, 0.55, 0.55, -1]
    assert clear.rest == pytest.approx(statistics.correlation(item, rest))
    assert [q.id for q in found] == ["s", "g", "t"]  # the most telling first


def test_the_presence_of_a_fault_counts_against_a_text():
    fault = GATE.model_copy(update={"weight": -1.0})
    dimension = Dimension(id="d", title="D", questions=(fault, CLEAR, BRIEF), pool="weighted")
    program = PROGRAM.model_copy(
        update={"principles": (Principle(id="p", title="P", dimensions=(dimension,)),)}
    )
    rows = scored(("a", "FALSE", "A", "A"), ("a", "TRUE", "A", "A"))
    found = next(q for q in judged(program, rows) if q.id == "g")
    assert (found.wins, found.losses, found.chosen, found.rejected) == (1, 0, 1.0, -1.0)


def many(count: int, chosen: tuple[str, str, str], rejected: tuple[str, str, str]) -> list[ScoredText]:
    return scored(*(row for n in range(count) for row in ((f"p{n}", *chosen), (f"p{n}", *rejected))))


def test_findings_need_evidence():
    few = {q.id: q.finding for q in judged(PROGRAM, many(3, ("TRUE", "C", "A"), ("FALSE", "A", "A")))}
    assert set(few.values()) == {"undecided"}
    lots = {q.id: q for q in judged(PROGRAM, many(80, ("TRUE", "C", "A"), ("FALSE", "A", "A")))}
    assert {id: q.finding for id, q in lots.items()} == {"g": "discriminates", "s": "inverted", "t": "filler"}
    assert [getattr(lots["t"].difference, end) for end in ("low", "value", "high")] == [0, 0, 0]
    # 80 ties: at the level 1 - .05/3, z = 2.3940, Wilson's upper end for 0 of 80 is z2 / (80 + z2) = .06685
    assert (lots["t"].auc.low, lots["t"].auc.high) == pytest.approx(
        (0.5 - 0.06685 / 2, 0.5 + 0.06685 / 2), abs=1e-4
    )
    assert {q.finding for q in judged(PROGRAM, many(80, ("TRUE", "A", "A"), ("TRUE", "A", "A")), 0.03)} == {
        "undecided"
    }


def test_the_interval_is_corrected_for_the_number_of_questions():
    rows = many(20, ("TRUE", "A", "A"), ("FALSE", "F", "A"))
    one = PROGRAM.model_copy(
        update={
            "principles": (
                Principle(id="p", title="P", dimensions=(Dimension(id="d", title="D", questions=(GATE,)),)),
            )
        }
    )
    alone = next(q for q in judged(one, rows) if q.id == "g")
    together = next(q for q in judged(PROGRAM, rows) if q.id == "g")
    # Wilson for 20 of 20: n / (n + z2), z at .975 and at 1 - .025/3
    assert alone.auc.low == pytest.approx(20 / (20 + 1.959964**2), abs=1e-6)
    assert together.auc.low == pytest.approx(20 / (20 + 2.393980**2), abs=1e-6)


def test_pairs_of_the_lab_are_labelled_by_how_they_were_made():
    found = pairs(50, seed=3)
    assert len(found) == 50 and len({pair.prompt.tags["kind"] for pair in found}) == 5
    assert found == pairs(50, seed=3) != pairs(50, seed=4)
    assert all(pair.prompt.tags["split"] == "test" and pair.chosen != pair.rejected for pair in found)


def run(capsys, *argv: str, code: int = 0) -> str:
    said = run_for(code, capsys, "program", "discriminate", *argv)
    return said.err if code else said.out


def test_a_library_program_with_a_server_and_a_second_run_asks_nothing(
    tmp_path: Path, fake_server: FakeServer, capsys
):
    whole = load_program("hhh")
    part = whole.principles[0].model_copy(update={"dimensions": whole.principles[0].dimensions[:3]})
    small = whole.model_copy(update={"principles": (part,)})
    asked = sum(len(dimension.questions) for dimension in part.dimensions)
    telling = part.dimensions[0].questions[-1]
    (tmp_path / "hhh.yaml").write_text(dump_yaml(small))

    def answer(body: dict) -> Reply:
        said = "".join(message["content"] for message in body["messages"])
        label = "TRUE" if "TRUE if it holds" in said else "A"
        if telling.text in said and "> rude" in said:
            label = "F"
        return completion(label, {label: 1.0})

    fake_server.answer = answer
    rows = [{"prompt": f"Hi {n}", "chosen": "kind words", "rejected": "rude words"} for n in range(2)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = [
        str(tmp_path / "hhh.yaml"),
        "--judge",
        f"openai:m@{fake_server.url}",
        "--input",
        str(tmp_path / "in.jsonl"),
    ]
    argv += ["--out", str(tmp_path / "out")]
    paused = run(capsys, *argv, "--max-calls", "7", code=1)
    assert len(fake_server.requests) == 7 and "--max-calls" in paused
    found = json.loads(run(capsys, *argv, "--json"))
    assert len(fake_server.requests) == found["usage"]["asked"] + 7 == 4 * asked
    first, *rest = found["questions"]
    assert (first["id"], first["wins"], first["auc"]["value"]) == (telling.id, 2, 1.0)
    assert {q["auc"]["value"] for q in rest} == {0.5} and {q["missing"] for q in rest} == {0}
    assert found["findings"] == {
        "discriminates": 0,
        "undecided": asked,
        "filler": 0,
        "inverted": 0,
    }  # of two pairs
    assert json.loads((tmp_path / "out/discrimination.json").read_text())["pairs"] == 2
    svg = (tmp_path / "out/discrimination.svg").read_text()
    assert svg.startswith("<svg") and telling.id in svg
    printed = run(capsys, *argv)
    assert len(fake_server.requests) == 4 * asked
    assert f"{telling.id}" in printed and "1.000 [" in printed and "2/0/0" in printed


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "texts.jsonl",
            "texts.jsonl: holds single texts; expected pairs with the columns chosen and rejected",
        ),
        ("nothing.jsonl", "no such file"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, capsys, source, said):
    (tmp_path / "texts.jsonl").write_text(json.dumps({"prompt": "Hi", "response": "Ho"}) + "\n")
    argv = ["lab", "--judge", "lab-oracle", "--input", str(tmp_path / source), "--out", str(tmp_path / "out")]
    assert said in run(capsys, *argv, code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", [2, 4, 11])
def test_the_labs_pairs_are_no_more_than_asked_for(limit):
    assert len(_pairs("lab", limit).texts) == 2 * limit
