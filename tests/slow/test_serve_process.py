"""``rubrica serve`` as a process: what a signal, a kill and a crash leave behind."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from fake_server import FakeServer, Reply
from rubrica.core.store import Store
from serving import TOTALS, call, item, rule, write_judge

pytestmark = pytest.mark.slow
TEXTS = 40


@pytest.fixture
def judge(fake_server: FakeServer) -> FakeServer:
    fake_server.answer = rule
    return fake_server


class Process:
    """A server on a free port."""

    def __init__(self, place: Path, judge: FakeServer, *flags: str, **options: object) -> None:
        program, named = write_judge(place, judge, **options)
        words = ["serve", "--program", program, "--judge", named, "--out", str(place / "out"), "--port", "0"]
        self.child = subprocess.Popen(
            [sys.executable, "-m", "rubrica", *words, "--json", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        said = self._document()
        self.url, self.judge = said["url"], said["judge"]

    def _document(self) -> dict:
        text = ""
        while not text.rstrip().endswith("}"):
            line = self.child.stdout.readline()
            assert line, self.child.stderr.read()
            text += line
        return json.loads(text)

    def end(self, number: int) -> tuple[int, str]:
        if self.child.poll() is None:
            self.child.send_signal(number)
        _, said = self.child.communicate(timeout=60)
        return self.child.returncode, said


def ask(url: str, *numbers: int):
    items = [item("good", prompt=f"p{n}") for n in numbers]
    return call(f"{url}/v1/score", {"items": items})


def slow(judge: FakeServer, seconds: float) -> None:
    judge.answer = lambda body: Reply(rule(body).body, delay=seconds)


def wait_until(reached, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.01)


def stored(place: Path) -> int:
    with Store(place / "out/store.sqlite", read_only=True) as store:
        return store.count_verdicts()[0]


def test_after_kill_9_only_what_is_missing_is_asked(tmp_path, judge):
    slow(judge, 0.05)
    server = Process(tmp_path, judge, concurrency=2)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(ask, server.url, *range(TEXTS))
        wait_until(lambda: len(judge.requests) >= 30)
        assert server.end(signal.SIGKILL)[0] == -signal.SIGKILL
        assert isinstance(lost.exception(), OSError | HTTPException)
    wait_until(lambda: judge.busy == 0)
    kept = stored(tmp_path)
    assert 20 <= kept <= len(judge.requests) < 3 * TEXTS
    asked, judge.answer = len(judge.requests), rule
    again = Process(tmp_path, judge)
    found = ask(again.url, *range(TEXTS))
    assert [r["reward"] for r in found.json["results"]] == [TOTALS["good"]] * TEXTS
    assert len(judge.requests) - asked == 3 * TEXTS - kept == found.json["usage"]["asked"]
    assert again.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_batch_finish_and_hands_back_the_rest(tmp_path, judge, number):
    slow(judge, 0.3)
    server = Process(tmp_path, judge)
    with ThreadPoolExecutor(4) as pool:
        running = pool.submit(ask, server.url, 0)
        wait_until(lambda: judge.busy > 0)
        waiting = [pool.submit(ask, server.url, n) for n in (1, 2)]
        wait_until(lambda: "rubrica_queue_items 2" in call(f"{server.url}/metrics").text)
        code, said = server.end(number)
        assert running.result().json["results"][0]["reward"] == TOTALS["good"]
        for found in waiting:
            answer = found.result()
            assert (answer.status, answer.json["error"]) == (503, "stopping")
            assert "same request again" in answer.json["message"]
    assert code == 0 and "every verdict is stored" in said
    assert not list((tmp_path / "out").glob("*-wal")), "the store was not closed"
    assert stored(tmp_path) == 3


def test_a_batch_that_outlasts_the_grace_is_stopped_between_two_verdicts(tmp_path, judge):
    slow(judge, 0.2)
    server = Process(tmp_path, judge, "--grace", "0.5", concurrency=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server.url, *range(TEXTS))
        wait_until(lambda: len(judge.requests) >= 3)
        started = time.monotonic()
        code, _ = server.end(signal.SIGTERM)
        assert running.result().status == 503 and time.monotonic() - started < 10
    assert code == 0
    kept, asked = stored(tmp_path), len(judge.requests)
    assert 3 <= kept < 3 * TEXTS
    wait_until(lambda: judge.busy == 0)
    judge.answer = rule
    again = Process(tmp_path, judge)
    found = ask(again.url, *range(TEXTS))
    assert found.json["usage"]["asked"] == 3 * TEXTS - kept == len(judge.requests) - asked
    again.end(signal.SIGTERM)


def test_a_judge_that_hangs_does_not_keep_the_server(tmp_path, judge):
    server = Process(tmp_path, judge, "--grace", "0", timeout=120)
    assert ask(server.url, 0).status == 200
    slow(judge, 100)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(ask, server.url, 1)
        wait_until(lambda: judge.busy > 0)
        started = time.monotonic()
        code, said = server.end(signal.SIGTERM)
        assert hanging.result().status == 503 and time.monotonic() - started < 30
    assert code == 0 and "hung" in said and stored(tmp_path) == 3


def test_many_clients_get_what_one_gets(tmp_path, judge):
    server = Process(tmp_path, judge)
    words = ("good", "rude", "dull")
    with ThreadPoolExecutor(64) as pool:

        def one(n: int):
            body = {"items": [item(words[n % 3], prompt=f"p{n % 20}")]}
            return call(f"{server.url}/v1/score", body)

        answers = list(pool.map(one, range(300)))
    assert {a.status for a in answers} == {200}
    assert [a.json["results"][0]["reward"] for a in answers] == [TOTALS[words[n % 3]] for n in range(300)]
    # 60 distinct texts, 20 a word: three questions each, two where the gate fails.
    assert len(judge.requests) == 20 * (3 + 2 + 3)
    assert server.end(signal.SIGTERM)[0] == 0


def test_keys_come_from_the_environment(tmp_path, judge, monkeypatch):
    monkeypatch.setenv("MY_KEYS", "one, two")
    server = Process(tmp_path, judge, "--api-key-env", "MY_KEYS", "--host", "0.0.0.0")
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    body = {"items": [item("good")]}
    assert call(f"{url}/v1/score", body).status == 401
    assert call(f"{url}/v1/score", body, authorization="Bearer two").status == 200
    code, said = server.end(signal.SIGTERM)
    assert (
        code == 0 and "one" not in said.replace("with an API key", "") and os.environ["MY_KEYS"] not in said
    )


def test_two_signals_end_it_at_once(tmp_path, judge):
    slow(judge, 100)
    server = Process(tmp_path, judge, timeout=120)
    with ThreadPoolExecutor(1) as pool:
        cut_off = pool.submit(ask, server.url, 1)
        wait_until(lambda: judge.busy > 0)
        started = time.monotonic()
        server.child.send_signal(signal.SIGINT)
        time.sleep(0.5)
        server.end(signal.SIGINT)
        assert time.monotonic() - started < 20
        assert cut_off.exception() or cut_off.result().status >= 500
