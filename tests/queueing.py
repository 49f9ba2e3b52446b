"""Simulated servers under an endless backlog, and laws of concurrency to compare with ours.

``python tests/queueing.py`` prints the table in docs/log.md.
"""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from rubrica.core.concurrency import Level


class Law(Protocol):
    @property
    def now(self) -> int: ...
    def answered(self, started: float, ended: float, *, waiting: bool) -> None: ...
    def overloaded(self, started: float, ended: float) -> None: ...


class Server(Protocol):
    def offer(self, now: float, running: int, rng: random.Random) -> tuple[bool, float]: ...
    def leave(self, answered: bool) -> None: ...


class Found(NamedTuple):
    rate: float
    """Answers a second."""
    refused: float
    """Refusals for every answer."""
    level: float
    """Mean number of calls under way."""


def simulate(law: Law, server: Server, seconds: float = 60.0, seed: int = 0) -> Found:
    """Keep ``law.now`` calls under way for some simulated seconds."""
    rng = random.Random(seed)
    events: list[tuple[float, int, float, bool]] = []
    now = area = 0.0
    good = refused = number = 0
    while now < seconds:
        while len(events) < law.now:
            answered, end = server.offer(now, len(events) + 1, rng)
            heapq.heappush(events, (end, number := number + 1, now, answered))
        before, running = now, len(events)
        now, _, started, answered = heapq.heappop(events)
        area += (now - before) * running
        server.leave(answered)
        if answered:
            good += 1
            law.answered(started, now, waiting=True)
        else:
            refused += 1
            law.overloaded(started, now)
    return Found(good / now, refused / max(good, 1), area / now)


@dataclass
class Slots:
    """Serves ``slots`` calls at a time; further ones wait their turn or, with ``refuses``, are refused."""

    slots: int
    service: float = 0.1
    refuses: bool = False
    changes: list[tuple[float, int]] = field(default_factory=list)
    """(time, slots from then on)."""
    busy: int = 0

    def __post_init__(self) -> None:
        self._free = [0.0] * self.slots

    def offer(self, now: float, running: int, rng: random.Random) -> tuple[bool, float]:
        while self.changes and now >= self.changes[0][0]:
            _, self.slots = self.changes.pop(0)
            self._free = (sorted(self._free) + [now] * self.slots)[: self.slots]
        if self.refuses and self.busy >= self.slots:
            return False, now + 0.005
        self.busy += 1
        first = min(range(len(self._free)), key=self._free.__getitem__)
        end = max(now, self._free[first]) + rng.gammavariate(4, self.service / 4)
        self._free[first] = end
        return True, end

    def leave(self, answered: bool) -> None:
        self.busy -= answered


@dataclass
class Batches:
    """Takes everything at once, each call the slower the more there are: ``fixed + each * running`` seconds."""

    fixed: float
    each: float

    def offer(self, now: float, running: int, rng: random.Random) -> tuple[bool, float]:
        return True, now + (self.fixed + self.each * running) * rng.gammavariate(25, 1 / 25)

    def leave(self, answered: bool) -> None:
        pass


class Additive:
    """AIMD: one more call a round, ``cut`` on congestion; as TCP Reno with ``cut`` 0.5."""

    def __init__(self, cut: float, most: int = 256) -> None:
        self._level, self._most, self._cut, self._since = 4.0, most, cut, 0.0

    @property
    def now(self) -> int:
        return int(self._level)

    def answered(self, started: float, ended: float, *, waiting: bool) -> None:
        self._level = min(self._most, self._level + 1 / self._level)

    def overloaded(self, started: float, ended: float) -> None:
        if started >= self._since:
            self._level, self._since = max(1.0, self._level * self._cut), ended


class Gradient:
    """Gradient2 of Netflix's concurrency-limits: short against long latency, room for a queue of sqrt(level)."""

    def __init__(self, most: int = 256) -> None:
        self._level, self._most, self._long = 4.0, most, 0.0

    @property
    def now(self) -> int:
        return int(self._level)

    def answered(self, started: float, ended: float, *, waiting: bool) -> None:
        short = ended - started
        self._long = self._long + (short - self._long) * 2 / 601 if self._long else short
        if self._long > 2 * short:
            self._long *= 0.95
        gradient = max(0.5, min(1.0, 1.5 * self._long / short))
        target = self._level * gradient + math.sqrt(self._level)
        self._level = max(1.0, min(self._most, 0.8 * self._level + 0.2 * target))

    def overloaded(self, started: float, ended: float) -> None:
        self._level = max(1.0, 0.9 * self._level)


class Case(NamedTuple):
    make: Callable[[], Server]
    capacity: float
    """Answers a second of the best level up to 256."""


SERVERS = {
    "queues behind 2": Case(lambda: Slots(2, service=0.5), 2 / 0.5),
    "queues behind 8": Case(lambda: Slots(8), 8 / 0.1),
    "queues behind 64": Case(lambda: Slots(64), 64 / 0.1),
    "refuses beyond 8": Case(lambda: Slots(8, refuses=True), 8 / 0.1),
    "refuses beyond 24": Case(lambda: Slots(24, refuses=True), 24 / 0.1),
    "refuses beyond 100": Case(lambda: Slots(100, refuses=True), 100 / 0.1),
    "batches, 50 ms + 2 ms a call": Case(lambda: Batches(0.05, 0.002), 256 / (0.05 + 256 * 0.002)),
    "batches, 20 ms + 10 ms a call": Case(lambda: Batches(0.02, 0.01), 256 / (0.02 + 256 * 0.01)),
    "queues behind 32, 8, 32": Case(lambda: Slots(32, changes=[(20, 8), (40, 32)]), 24 / 0.1),
    "refuses beyond 32, 8, 32": Case(lambda: Slots(32, refuses=True, changes=[(20, 8), (40, 32)]), 24 / 0.1),
}
LAWS: dict[str, Callable[[], Law]] = {
    "AIMD 0.5": lambda: Additive(0.5),
    "AIMD 0.9": lambda: Additive(0.9),
    "Gradient2": Gradient,
    "ours": lambda: Level(256),
}


def main() -> None:
    print("| server | " + " | ".join(LAWS) + " |\n" + "|---" * (len(LAWS) + 1) + "|")
    for name, case in SERVERS.items():
        cells = []
        for law in LAWS.values():
            runs = [simulate(law(), case.make(), seed=seed) for seed in range(3)]
            rate, refused, level = (sum(column) / len(runs) for column in zip(*runs, strict=True))
            cells.append(f"{rate / case.capacity:.2f} ({level:.0f}; {refused:.3f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
