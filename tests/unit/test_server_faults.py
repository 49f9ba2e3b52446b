"""Faults of a real HTTP server, seen through executor and store.

No verdict is lost: what was answered well is in the store. None is invented: what is in the store is the truth.
None counts as a score: a total is that of a run without faults, or None. No call blocks beyond its timeout.
"""

import hashlib
import json
import random
import re
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_server import FakeServer, Reply, completion, error
from naive_pooling import dimension, every_question, principle, program, question
from rubrica.core.config import dump_yaml
from rubrica.core.errors import JudgeError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Outcome, Verdict
from rubrica.core.store import Store
from rubrica.judges.budget import Budget, Purse
from rubrica.judges.executor import Executor
from rubrica.judges.keys import text_hash, verdict_key
from rubrica.judges.server import ServerJudge
from rubrica.program.program import question_hash
from rubrica.program.reward import RewardConfig

PROMPT = Prompt(id="p", messages=(Message(role="user", content="Hello"),))
TEXTS = [f"text number {n}" for n in range(4)]
PROGRAM = program(
    principle("p", dimension("d", question("one", "gate"), question("two", "graded"))),
    principle("q", dimension("e", question("three", "gate", True), question("four", "graded"))),
)
QUESTIONS = {q.id: q for q in every_question(PROGRAM)}
HANG_TIMEOUT = 1.0
ALL = len(TEXTS) * len(QUESTIONS)


def truth(text, question_id):
    """A label that is a function of text and question."""
    offered = "ABCDF" if QUESTIONS[question_id].kind == "graded" else ("TRUE", "TRUE", "TRUE", "FALSE")
    return Label(offered[hashlib.sha256(f"{text} {question_id}".encode()).digest()[0] % len(offered)])


def about(body):
    """(text, question id) of a request."""
    said = body["messages"][1]["content"]
    text = re.search(r"> (text number \d+)", said)[1]
    asked = said.partition("QUESTION\n")[2]
    return text, next(q.id for q in QUESTIONS.values() if q.text in asked)


def honest(body):
    label = truth(*about(body))
    return completion(label, {label: 0.9, "the": 0.1})


def later(seconds):
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


NAN = completion("hm", {"TRUE": 0.9, "A": 0.1}).body.replace(b"-2.3025850929940455", b"NaN")
GOOD = completion("TRUE", {"TRUE": 1.0}).body
MANY = completion("TRUE " * 2_000_000)
LONG = completion("TRUE", {f"t{n}": 1e-9 for n in range(60_000)})
FAULTS = {
    "429 with seconds": lambda: error(429, "slow down", retry_after="0.05"),
    "429 with a date": lambda: error(429, "slow down", retry_after=later(0)),
    "429 until tomorrow": lambda: error(429, "slow down", retry_after=later(86400)),
    "429 with nonsense": lambda: error(429, "slow down", retry_after="nan"),
    "500": lambda: error(500, "boom"),
    "503 with a page": lambda: Reply(b"<html>TRUE A</html>", 503, {"content-type": "text/html"}),
    "hangs": lambda: Reply(GOOD, delay=20.0),
    "trickles": lambda: Reply(GOOD, trickle=0.05),
    "reset": lambda: Reply(reset=True),
    "truncated JSON": lambda: Reply(GOOD[:90]),
    "wrong label": lambda: completion("E", {"E": 1.0}),
    "two labels": lambda: completion("TRUE or FALSE, A or B"),
    "another language": lambda: completion("Ja, das stimmt."),
    "another script": lambda: completion("是的", {"是": 1.0}),
    "empty": lambda: completion(""),
    "no text": lambda: completion(None),
    "HTML": lambda: Reply(b"<html>TRUE A</html>", headers={"content-type": "text/html"}),
    "NaN": lambda: Reply(NAN),
    "minus infinity": lambda: Reply(NAN.replace(b"NaN", b"-Infinity").replace(b"-0.105360", b"-9999.0")),
    "10 MB": lambda: MANY,
    "megabytes of log-probabilities": lambda: LONG,
    "too little for its length": lambda: Reply(GOOD[:50], headers={"content-length": "5000"}),
    "too much for its length": lambda: Reply(GOOD, headers={"content-length": "60"}),
    "unknown coding": lambda: Reply(GOOD, headers={"content-encoding": "gzip"}),
    "deep": lambda: Reply(b'{"choices":' + b"[" * 50_000),
    "redirect to nowhere": lambda: Reply(b"", 307, {"location": "http://127.0.0.1:9/"}),
    "400": lambda: error(400, "context too long"),
    "401": lambda: error(401, "key expired"),
}
ANSWERED = {Outcome.ANSWERED, Outcome.NOT_APPLICABLE, Outcome.ABSTAINED}


class Rig:
    """A judge, an executor and a store before a server that errs; ``fault`` says how it errs on a request, if it does."""

    def __init__(self, path, fault=lambda number, body: None, **options):
        self.path, self.fault, self.number = path, fault, count()
        self.server = FakeServer(self.answer)
        self.well = []
        self.options = {"secret": "s", "timeout": 30.0, "retries": 2, "backoff": 0.01} | options

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *exc):
        self.server.stop()

    def answer(self, body):
        fault = self.fault(next(self.number), body)
        if fault is not None:
            return FAULTS[fault]()
        self.well.append(about(body))
        return honest(body)

    def score(self, budget=None, **options):
        judge = ServerJudge("m", self.server.url, **self.options)
        with Store(self.path) as store:
            if budget is not None:
                judge = Purse(budget, store).meter(judge, None)
            executor = Executor(
                judge, store, program=PROGRAM, reward=RewardConfig(preset="qa-lign"), **options
            )
            return [card.total for card in executor.score([(PROMPT, text) for text in TEXTS], full=True)]

    def stored(self):
        """(text, question id) -> verdict, of all that is kept for reuse."""
        judge = ServerJudge("m", self.server.url, secret="s").fingerprint
        keys = {
            verdict_key(judge, question_hash(q), text_hash(PROMPT, text)): (text, q.id)
            for text in TEXTS
            for q in QUESTIONS.values()
        }
        with Store(self.path, read_only=True) as store:
            return {keys[key]: verdict for key, verdict in store.verdicts(list(keys)).items()}

    def logged(self):
        """Verdicts in the log of failures."""
        db = sqlite3.connect(self.path)
        rows = db.execute("SELECT verdict FROM failures").fetchall()
        db.close()
        return [Verdict.model_validate_json(row[0]) for row in rows]

    def check(self, totals, clean):
        """None lost, none invented, none a score."""
        stored = self.stored()
        assert set(stored) == set(self.well)
        assert all(verdict.label is truth(*key) for key, verdict in stored.items())
        assert all(total in (None, right) for total, right in zip(totals, clean, strict=True))
        whole = {text for text in TEXTS if all((text, q) in stored for q in QUESTIONS)}
        assert all(total is not None for text, total in zip(TEXTS, totals, strict=True) if text in whole)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    with Rig(tmp_path_factory.mktemp("clean") / "s.sqlite") as rig:
        totals = rig.score()
        assert len(rig.server.requests) == ALL and None not in totals
        rig.check(totals, totals)
        return totals


HANGS = {"hangs", "trickles"}
UNPARSEABLE = {"wrong label", "two labels", "another language", "another script", "empty", "no text", "NaN"}
UNPARSEABLE |= {"minus infinity"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_loses_invents_and_scores_nothing(tmp_path, clean, fault):
    """Questions about one text are never answered well, all others always."""

    def errs(number, body):
        return fault if about(body)[0] == TEXTS[1] else None

    timeout = HANG_TIMEOUT if fault in HANGS else 30.0
    with Rig(tmp_path / "s.sqlite", errs, retries=1, timeout=timeout) as rig:
        start = time.monotonic()
        totals = rig.score(retries=0, max_failure_rate=1.0)
        assert time.monotonic() - start < 4 * HANG_TIMEOUT + 10.0, "at worst one of the 4 after the other"
        rig.check(totals, clean)
        assert totals[1] is None and len(set(rig.well)) == ALL - 4
        failures = rig.logged()
        expected = Outcome.UNPARSEABLE if fault in UNPARSEABLE else Outcome.FAILED
        assert [v.outcome for v in failures] == [expected] * 4
        assert all(v.label is None and v.probabilities is None and v.reason for v in failures)
        assert all(v.seconds <= HANG_TIMEOUT + 1.0 for v in failures)


def mixed(plan):
    """Faults by number of request; the first request is answered, for the endpoint has to exist."""
    return lambda number, body: plan[number % len(plan)] if number else None


def run_mixed(path, clean, plan, **options):
    with Rig(path, mixed(plan), **options) as rig:
        totals = rig.score(max_failure_rate=1.0)
        rig.check(totals, clean)
        rig.fault, rig.options["timeout"] = lambda number, body: None, 30.0
        before = len(rig.server.requests)
        missing = ALL - len(set(rig.well))
        assert rig.score() == clean
        assert len(rig.server.requests) - before == missing, "a resumed run asks what is missing, once"


def test_all_faults_in_turn(tmp_path, clean):
    plan = [fault for name in FAULTS for fault in (name, None)]
    random.Random(1).shuffle(plan)
    run_mixed(tmp_path / "s.sqlite", clean, plan, timeout=HANG_TIMEOUT)


@pytest.mark.slow
@given(st.lists(st.sampled_from([None, *FAULTS]), min_size=1, max_size=30), st.integers(1, 20))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mix_of_faults(tmp_path_factory, clean, plan, concurrency):
    path = tmp_path_factory.mktemp("mix") / "s.sqlite"
    run_mixed(path, clean, plan, concurrency=concurrency, timeout=2 * HANG_TIMEOUT)


def test_a_server_that_dies_and_comes_back_in_mid_run(tmp_path, clean):
    with Rig(tmp_path / "s.sqlite", retries=6, timeout=20.0, concurrency=3, backoff=0.1) as rig:
        seen = []

        def progress(done, total):
            seen.append(done)
            if done == 9:
                rig.server.stop()
                time.sleep(0.3)
                rig.server.start()

        assert rig.score(progress=progress) == clean
        rig.well = list(rig.stored())  # an answer may have died with the server
        rig.check(clean, clean)
        assert len(rig.logged()) == 0 and ALL <= len(rig.server.requests) <= ALL + 3


def test_the_failure_budget_pauses_with_one_message_and_resuming_asks_what_is_missing(tmp_path, clean):
    """No answer that reached us is lost by the pause, also none that came in while it was decided."""

    def errs(number, body):
        return "500" if number >= 10 else None

    with Rig(tmp_path / "s.sqlite", errs, retries=0) as rig:
        with pytest.raises(JudgeError) as raised:
            rig.score(retries=20)
        said = str(raised.value)
        assert said.count("\n") == 0
        for part in (
            "failed (allowed: 20%)",
            "HTTP 500: boom",
            "all answers so far are stored",
            "run the same",
        ):
            assert part in said
        assert len(rig.stored()) == 10
        rig.fault = lambda number, body: None
        before = len(rig.server.requests)
        assert rig.score() == clean
        assert len(rig.server.requests) - before == ALL - 10


@pytest.mark.parametrize("budget", [None, Budget(calls=1000)])
def test_an_interruption_keeps_what_had_arrived(tmp_path, clean, budget):
    """Ctrl-C while an answer is being handled: those that wait behind it are stored as well."""
    with Rig(tmp_path / "s.sqlite", concurrency=8) as rig:

        def progress(done, total):
            if done == 5:
                time.sleep(0.5)  # all calls under way end meanwhile
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rig.score(progress=progress, budget=budget)
        stored = rig.stored()
        assert len(stored) > 5
        assert all(verdict.label is truth(*key) for key, verdict in stored.items())
        done = len(rig.server.requests)
        assert rig.score() == clean
        assert len(rig.server.requests) - done == ALL - len(stored)


@pytest.mark.slow
def test_a_killed_process_has_stored_every_answer(tmp_path):
    """SIGKILL of ``rubrica score`` while its server hangs: what was answered before is in the store."""
    rows = [{"prompt": "Hello", "response": text} for text in TEXTS]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "program.yaml").write_text(dump_yaml(PROGRAM))
    with Rig(tmp_path / "out/store.sqlite", lambda number, body: "hangs" if number >= 10 else None) as rig:
        command = [sys.executable, "-m", "rubrica", "score", "--program", "program.yaml", "--json", "--full"]
        command += ["--input", "texts.jsonl", "--out", "out", "--judge", f"openai:m@{rig.server.url}"]
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 60
            while not (rig.path.exists() and _count(rig.path) == 10) and time.monotonic() < deadline:
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        assert set(rig.stored()) == set(rig.well) and len(rig.well) == 10
        rig.fault = lambda number, body: None
        before = len(rig.server.requests)
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        assert len(rig.server.requests) - before == ALL - 10
        assert all(verdict.label is truth(*key) for key, verdict in rig.stored().items())


def _count(path):
    try:
        with Store(path, read_only=True) as store:
            return store.count_verdicts()[0]
    except Exception:  # not yet made
        return 0
