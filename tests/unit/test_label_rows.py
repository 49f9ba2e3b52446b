"""``rubrica eval judge``: rows of a file get labels, equal ones once, bad ones are named; agreement is checked."""

import json

import pytest
from typer.testing import CliRunner

from fake_server import error
from rubrica.cli import app
from rubrica.core.errors import DataError, UsageError
from rubrica.core.records import Outcome, Verdict
from rubrica.evals.prefix_judge import PrefixJudge
from rubrica.program.program import load_program
from rubrica.recipes.label_rows import BATCH, Labeller

REFUSAL, HELP = "I'm sorry, I can't help with that.", "Boil the root."


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Counting(PrefixJudge):
    """Remembers what it was asked, and does not say what it makes of a question mark."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def answer(self, queries):
        self.asked += [(query.prompt.messages[0].content, query.text) for query in queries]
        for index, verdict in super().answer(queries):
            if queries[index].text == "?":
                verdict = Verdict(
                    question_id=verdict.question_id, outcome=Outcome.ABSTAINED, judge=self.fingerprint
                )
            yield index, verdict


def labelled(path, **options):
    judge = Counting()
    labeller = Labeller(judge, load_program("harm"), **options)
    return list(labeller.rows(path)), labeller.summary(), judge


def test_every_row_gets_a_label_and_equal_ones_are_judged_once(tmp_path):
    rows = [{"id": n, "prompt": "p", "response": (REFUSAL, HELP)[n % 2]} for n in range(2 * BATCH + 3)]
    found, summary, judge = labelled(write(tmp_path / "a.jsonl", rows))
    assert [row.id for row in found] == list(range(2 * BATCH + 3))
    assert [row.label for row in found[:3]] == ["harmless", "harmful", "harmless"]
    assert len(judge.asked) == 2 * 3  # in each of three batches; the command's store knows them over batches
    assert summary.counts == {"harmful": BATCH + 1, "harmless": BATCH + 2} and summary.agreement is None


def test_a_goal_is_read_instead_of_the_prompt_that_wraps_it(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        [{"goal": "g", "prompt": "p", "response": HELP}, {"prompt": "q", "response": ""}],
    )
    assert labelled(path)[2].asked == [("g", HELP), ("q", "")]
    assert labelled(path, goals=False)[2].asked == [("p", HELP), ("q", "")]


def test_a_prompt_may_be_a_conversation(tmp_path):
    turns = [
        {"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))
    ]
    rows = [
        {"messages": turns},
        {"prompt": turns},
        {"prompt": turns[:1]},
        {"prompt": turns[:2]},
        {"prompt": [1]},
    ]
    path = write(tmp_path / "a.jsonl", [row | {"response": HELP} for row in rows])
    found, summary, judge = labelled(path)
    assert [row.line for row in found] == [1, 2, 3]
    assert len(judge.asked) == 2, "the first two are equal, the third is another request"
    assert [bad.problem for bad in summary.named] == [
        "expected messages that end with the user's turn",
        "expected messages with role and content",
    ]


def test_bad_rows_are_left_out_and_named(tmp_path):
    rows = [
        {"prompt": "p"},
        {"prompt": " ", "response": HELP},
        {"response": HELP},
    ]
    found, summary, _ = labelled(write(tmp_path / "a.jsonl", [*rows, {"prompt": "p", "response": HELP}]))
    assert [row.line for row in found] == [4] and summary.bad == 3
    assert [bad.line for bad in summary.named] == [1, 2, 3]
    assert "no response" in summary.named[0].problem and "no prompt" in summary.named[2].problem


@pytest.mark.parametrize("program", ["harm", "refusal"])
def test_a_label_of_another_question_or_of_no_kind_is_no_label(tmp_path, program):
    """Such rows are judged, since that is what was asked for, and are in no agreement."""
    other = {"harm": "refused", "refusal": "harmful"}[program]
    own = {"harm": "harmless", "refusal": "refused"}[program]
    labels = [own, other, "unclear", None, float("nan"), ""]
    rows = [
        {"prompt": f"p{n}", "response": REFUSAL, "label": label, "jailbroken": 1, "refusal": 1}
        for n, label in enumerate(labels)
    ]
    judge = Counting()
    labeller = Labeller(judge, load_program(program))
    assert len(list(labeller.rows(write(tmp_path / "a.jsonl", rows[:3] + rows[4:])))) == len(rows) - 1
    summary = labeller.summary()
    assert (summary.agreement.labelled, summary.agreement.estimates[0].value) == (1, 1.0)
    assert [row.line for row in summary.unread] == [2, 3]
    assert f"'{other}' says nothing about {program}" in summary.unread[0].problem


def test_agreement_with_labels(tmp_path):
    # truth: harmful 1 1 1 0 0, the judge says 1 1 0 1 0 and leaves the sixth open
    said = [HELP, HELP, REFUSAL, HELP, REFUSAL, "?"]
    truth = [1, "harmful", True, 0, "safe", 1]
    rows = [
        {"prompt": f"p{n}", "response": t, "label": y}
        for n, (t, y) in enumerate(zip(said, truth, strict=True))
    ]
    _, summary, _ = labelled(write(tmp_path / "a.jsonl", rows))
    assert summary.agreement.labelled == 6 and summary.agreement.open == 1
    found = {estimate.name: estimate for estimate in summary.agreement.estimates}
    assert found["agreement"].value == pytest.approx(3 / 5)
    assert found["sensitivity"].value == pytest.approx(2 / 3) and found["sensitivity"].n == 3
    assert found["specificity"].value == pytest.approx(1 / 2)
    chance = (3 * 3 + 2 * 2) / 25
    assert found["kappa"].value == pytest.approx((3 / 5 - chance) / (1 - chance))


def run(*arguments):
    return CliRunner().invoke(app, ["eval", "judge", *map(str, arguments)])


def test_json_is_one_document_on_stdout(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "p", "response": HELP}, {"prompt": "p"}])
    done = run("--input", path, "--judge", "prefix", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["label"] for row in found["rows"]] == ["harmful"] and found["summary"]["bad"] == 1


def test_output_is_written_whole_and_its_store_is_gone(tmp_path):
    path, out = (
        write(tmp_path / "a.jsonl", [{"prompt": "p", "response": REFUSAL}] * 3),
        tmp_path / "out.jsonl",
    )
    done = run("--input", path, "--judge", "prefix", "--program", "refusal", "--output", out, "--json")
    assert done.exit_code == 0, done.output
    assert [json.loads(line)["label"] for line in out.read_text().splitlines()] == ["refused"] * 3
    assert json.loads(done.stdout)["counts"] == {"refused": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl"]


def test_a_file_that_breaks_off_leaves_what_was_judged(tmp_path):
    path, out = (
        write(tmp_path / "a.jsonl", [{"prompt": f"p{n}", "response": HELP} for n in range(BATCH)]),
        tmp_path / "o",
    )
    whole = path.read_text()
    path.write_text(whole + "{broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a.jsonl:257: not valid JSON"):
        raise run("--input", path, "--judge", "prefix", "--output", out).exception
    assert not out.exists() and (tmp_path / "o.sqlite").exists()
    path.write_text(whole, encoding="utf-8")
    assert run("--input", path, "--judge", "prefix", "--output", out).exit_code == 0
    assert len(out.read_text().splitlines()) == BATCH and not (tmp_path / "o.sqlite").exists()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"prompt": "p"}], [], "no row can be judged: no response"),
        ([{"prompt": "p", "response": "r"}], ["--judge", "prefx"], "did you mean 'prefix'"),
        ([{"prompt": "p", "response": "r"}], ["--output", "/nowhere/x"], "folder does not exist"),
    ],
)
def test_wrong_use_is_named(tmp_path, rows, options, message):
    options = options if "--judge" in options else [*options, "--judge", "prefix"]
    done = run("--input", write(tmp_path / "a.jsonl", rows), *options)
    assert (
        isinstance(done.exception, UsageError) and message in str(done.exception)
    ) or message in done.output


def test_what_failed_is_asked_again_and_nothing_else(tmp_path, fake_server):
    path = write(tmp_path / "a.jsonl", [{"prompt": f"p{n}", "response": HELP} for n in range(6)])
    given = ("--input", path, "--judge", f"openai:m@{fake_server.url}", "--output", tmp_path / "o")
    whole = fake_server.answer
    fake_server.answer = lambda body: error(400, "odd") if "p3" in str(body["messages"]) else whole(body)
    said = run(*given)
    assert said.exit_code == 0 and "1 failed; to ask these again" in said.output
    asked, fake_server.answer = len(fake_server.requests), whole
    said = run(*given)
    assert said.exit_code == 0 and len(fake_server.requests) == asked + 1
    assert [json.loads(line)["label"] for line in (tmp_path / "o").open()] == ["harmless"] * 6
    assert not (tmp_path / "o.sqlite").exists()


def test_kappa_is_no_percentage(tmp_path):
    rows = [{"prompt": f"p{n}", "response": (HELP, REFUSAL)[n % 2], "label": 1 - n % 2} for n in range(8)]
    assert "kappa 1.00 [" in run("--input", write(tmp_path / "a.jsonl", rows), "--judge", "prefix").output
