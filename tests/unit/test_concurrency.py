"""Concurrency follows what the server bears: in simulation, and over HTTP with a server of limited capacity."""

import asyncio
import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_server import FakeServer, completion, error
from queueing import SERVERS, Batches, simulate
from rubrica.core.concurrency import Gate, Level
from rubrica.core.programs import Question, QuestionKind
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Query
from rubrica.judges.server import ServerJudge

GATE = Question(id="g", kind=QuestionKind.GATE, text="Is it safe?", clause="c")
PROMPT = Prompt(id="1", messages=(Message(role="user", content="Hello"),))


def queries(count):
    return [Query(prompt=PROMPT, text=f"text {n}", question=GATE) for n in range(count)]


def judge(server, **options):
    settings = {"secret": "s", "timeout": 20.0, "backoff": 0.01, "retries": 8} | options
    return ServerJudge("m", server.url, **settings)


# --- the law -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_nine_tenths_of_the_capacity_and_no_storm(name):
    found = simulate(Level(256), SERVERS[name].make())
    assert found.rate >= 0.9 * SERVERS[name].capacity
    assert found.refused < 0.05


def test_a_server_with_few_slots_is_not_buried():
    """Growth without gain is taken back: 8 slots see far fewer than 256 calls."""
    assert simulate(Level(256), SERVERS["queues behind 8"].make()).level < 100


def test_the_level_halves_then_falls_by_a_tenth_once_a_round_trip_and_never_below_one():
    level = Level(16)
    assert level.now == 8
    level.overloaded(started=0.0, ended=1.0)
    assert level.now == 4
    for started in (0.1, 0.5, 0.99):  # begun before the cut: the same congestion
        level.overloaded(started, 1.5)
    assert level.now == 4
    for n in range(20):
        level.overloaded(2.0 + n, 2.5 + n)
    assert level.now == 1
    assert Level(1).now == 1


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0.001, 5)), max_size=300), st.integers(1, 40)
)
def test_the_level_stays_between_one_and_its_bound(events, most):
    level, now = Level(most), 0.0
    for answered, waiting, seconds in events:
        if answered:
            level.answered(now, now + seconds, waiting=waiting)
        else:
            level.overloaded(now, now + seconds)
        now += seconds / 2
        assert 1 <= level.now <= most


def test_silence_after_silence_is_death_not_load():
    level = Level(16)
    for n in range(20):
        level.overloaded(2.0 + n, 2.5 + n, silent=True)
    assert level.now == 4
    level.answered(30.0, 31.0, waiting=True)
    level.overloaded(32.0, 33.0, silent=True)
    assert level.now == 3


def test_a_machine_that_becomes_slow_does_not_hold_the_level_down():
    """Between 3 s and 20 s everything takes five times as long, whatever the level."""

    class Stutters(Batches):
        def offer(self, now, running, rng):
            answered, end = super().offer(now, running, rng)
            return answered, now + (end - now) * (5 if 3 < now < 20 else 1)

    capacity = (60 - 17 + 17 / 5) / 60 * 256 / (0.05 + 256 * 0.002)
    for seed in range(5):
        assert simulate(Level(256), Stutters(0.05, 0.002), seed=seed).rate >= 0.8 * capacity
    level = simulate(Level(16), Stutters(0.05, 0.002), seed=1).level
    assert level > 14


def test_work_that_never_fills_the_level_does_not_raise_it():
    level = Level(64)
    for n in range(1000):
        level.answered(n, n + 0.5, waiting=False)
    assert level.now == 8


# --- the gate ----------------------------------------------------------------------------------------


def test_the_gate_bounds_calls_of_several_threads_and_survives_cancelled_waiters():
    gate, under_way, most = Gate(3), Counter(), []

    async def call():
        started = await gate.enter()
        under_way["now"] += 1
        most.append(under_way["now"])
        await asyncio.sleep(0.001)
        under_way["now"] -= 1
        gate.leave(started, "answered")

    async def main():
        tasks = [asyncio.create_task(call()) for _ in range(100)]
        await asyncio.sleep(0.005)
        for task in tasks[50:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert max(most) <= 3 == gate.peak
    assert len(most) >= 150
    asyncio.run(asyncio.wait_for(call(), 1))  # nobody kept a place


# --- over HTTP ---------------------------------------------------------------------------------------


def test_a_server_that_refuses_is_used_to_its_capacity_and_not_stormed(fake_server):
    def answer(body):
        if fake_server.busy > 6:
            return error(429, "too many", retry_after="0.02")
        return completion("TRUE", {"TRUE": 1.0}, delay=0.05)

    fake_server.answer = answer
    subject = judge(fake_server, concurrency="auto")
    assert all(verdict.label is Label.TRUE for _, verdict in subject.answer(queries(150)))
    assert len(fake_server.requests) < 1.2 * 150
    assert 4 <= subject.level <= 9


def test_a_server_that_queues_is_not_flooded():
    with FakeServer(lambda body: completion("TRUE", {"TRUE": 1.0}, delay=0.02), slots=4) as server:
        subject = judge(server, concurrency="auto")
        assert all(verdict.label is Label.TRUE for _, verdict in subject.answer(queries(200)))
        assert 4 <= server.peak < 64


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [True, False])
def test_nine_tenths_of_the_best_fixed_level_over_http(refuses):
    def answer(body):
        if refuses and server.busy > 6:
            return error(429, "too many", retry_after="0.05")
        return completion("TRUE", {"TRUE": 1.0}, delay=0.1)

    def rate(concurrency):
        subject = judge(server, concurrency=concurrency, timeout=60.0)
        list(subject.answer(queries(80)))  # finds its level
        start = time.monotonic()
        assert all(verdict.label for _, verdict in subject.answer(queries(150)))
        return 150 / (time.monotonic() - start)

    with FakeServer(answer, slots=None if refuses else 6) as server:
        assert rate("auto") >= 0.9 * max(rate(n) for n in (3, 6, 12))


def test_timeouts_bring_the_level_down(fake_server):
    slow = iter([0.0] * 24 + [30.0] * 8)
    fake_server.answer = lambda body: completion("TRUE", {"TRUE": 1.0}, delay=next(slow, 0.0))
    subject = judge(fake_server, timeout=3.0, concurrency=8)
    assert all(verdict.label for _, verdict in subject.answer(queries(24)))
    assert subject.level == 8
    assert all(verdict.label for _, verdict in subject.answer(queries(16)))
    assert 4 <= subject.level < 8
