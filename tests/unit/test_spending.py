"""What a stage costs is summed over its sessions, killed ones included."""

from types import SimpleNamespace

import pytest

from rubrica.core.records import Usage
from rubrica.core.store import Store
from rubrica.recipes import spending
from rubrica.recipes.spending import Spending


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(at=100.0)
    monkeypatch.setattr(spending, "time", SimpleNamespace(monotonic=lambda: now.at))
    return now


def test_sessions_add_up_though_a_kill_ends_them(tmp_path, clock):
    with Store(tmp_path / "store.sqlite") as store:
        killed, executor = Spending(store, "01-think-sft"), SimpleNamespace(usage=Usage(asked=5, seconds=2.0))
        killed.watch(executor)
        clock.at += 3
        killed.keep()
        executor.usage = Usage(asked=6, seconds=2.5)
        clock.at += 0.5
        killed.keep()  # too soon: this much is lost

        clock.at += 1000
        second = Spending(store, "01-think-sft")
        second.watch(SimpleNamespace(usage=Usage(asked=2, cached=5, seconds=1.0)))
        clock.at += 4
        second.keep()
        found = second.total()
        assert found.seconds == 7.0
        assert found.usage == Usage(asked=7, cached=5, seconds=3.0)
        assert Spending(store, "01-think-sft").total() == found
        assert Spending(store, "02-grpo").total().usage == Usage()


def test_executors_of_one_stage_add_up_and_are_let_go(tmp_path, clock):
    with Store(tmp_path / "store.sqlite") as store:
        spent = Spending(store, "01-spa")
        first = SimpleNamespace(usage=Usage(asked=5))
        spent.watch(first)
        first.usage = Usage(asked=7)
        spent.watch(SimpleNamespace(usage=Usage(asked=2)))
        assert spent.total().usage == Usage(asked=9)
        spent.release()
        first.usage = Usage(asked=1000)
        assert spent.total().usage == Usage(asked=9)
