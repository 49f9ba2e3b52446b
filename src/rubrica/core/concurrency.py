"""How many calls a server gets at a time: as many as raise its throughput, fewer when it says that it is too much.

:class:`Level` is the law, :class:`Gate` lets calls in by it. The law starts as TCP does (RFC 5681): the level
doubles from round to round, and after the first congestion it grows by a tenth, at least by one call, and falls
by a tenth (by half the first time). A second rule is for servers that queue instead of refusing, as vLLM does:
growth by half, beyond 16, that has not brought 5 % more answers a second is taken back, unless the lower level then
turns out to have become slower as well. Figures against other laws are in
docs/log.md.
"""

import asyncio
import math
import threading
import time
from collections import deque
from typing import Literal

Ending = Literal["answered", "refused", "silent", "other"]
"""How a call ended, as far as it tells something about the server's load."""
START = 8
FREE = 16
"""Up to here growth has to show no gain: a queue of so few does no harm, and a level too low does."""
_GROWTH = 0.1
_FIRST_CUT, _CUT = 0.5, 0.9
_STEP = 1.5
"""Growth over which a gain in throughput must show."""
_GAIN = 1.05
_PATIENCE = 16
"""Rounds until growth is tried again where it did not pay."""


class Level:
    """Number of calls that may be under way, at least 1 and at most ``most``.

    A round is two answers for every call under way. Times are seconds on any one clock.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._level = float(min(START, most))
        self._good, self._rate = self._level, 0.0  # the highest level that paid, and answers a second there
        self._doubling, self._rest = True, 0
        self._tried: tuple[float, float] | None = None
        """Level and rate of growth that did not seem to pay."""
        self._begun: float | None = None
        self._cut = -math.inf
        self._answers, self._alive = 0, True

    @property
    def now(self) -> int:
        """The level as a whole number."""
        return int(self._level)

    def answered(self, started: float, ended: float, *, waiting: bool) -> None:
        """Count a call that succeeded; ``waiting`` says whether the level, not the work, bounds the calls."""
        self._alive = True
        if not waiting:
            self._begun = None
        elif started < self._cut:
            return
        elif self._begun is None:
            self._begun, self._answers = ended, 0
        else:
            self._answers += 1
            if self._answers >= max(2 * self.now, 8) and ended > self._begun:
                self._end_round(self._answers / (ended - self._begun))
                self._restart(ended)

    def _end_round(self, rate: float) -> None:
        if self._level > self._good:
            if rate > _GAIN * self._rate or self._level <= FREE:
                self._good, self._rate = self._level, rate
            elif self._level >= _STEP * self._good:
                self._tried = (self._level, rate)
                self._level, self._rate, self._doubling = self._good, 0.0, False
                return
        elif self._tried is not None:
            # The rate before may have been that of another hour: only the one just measured can refute a gain.
            self._rest = _PATIENCE
            if self._tried[1] > _GAIN * rate:
                self._level, rate = self._tried
                self._good, self._rest = self._level, 0
            self._rate, self._tried = rate, None
        else:
            self._rate = 0.7 * self._rate + 0.3 * rate if self._rate else rate
        if self._rest:
            self._rest -= 1
        else:
            grown = 2 * self._level if self._doubling else max(self._level + 1, (1 + _GROWTH) * self._level)
            self._level = min(float(self.most), grown)

    def overloaded(self, started: float, ended: float, *, silent: bool = False) -> None:
        """Count a call that was refused or, ``silent``, timed out; those begun before the last cut say nothing new.

        A server that has not answered since the last cut is not overloaded but dead: silence then cuts no more, so
        that the calls which prove it dead are not made one by one.
        """
        if started < self._cut or (silent and not self._alive):
            return
        self._level = max(1.0, self._level * (_FIRST_CUT if self._doubling else _CUT))
        self._good, self._rate, self._doubling, self._rest = self._level, 0.0, False, 0
        self._tried = None
        self._alive = False
        self._restart(ended)

    def _restart(self, at: float) -> None:
        self._cut, self._begun = at, None


class Gate:
    """Lets calls in up to a :class:`Level`, first come, first served; for tasks of any loops and threads."""

    def __init__(self, most: int) -> None:
        self.level = Level(most)
        self.peak = 0
        """Most calls that were ever under way at a time."""
        self._running = 0
        self._lock = threading.Lock()
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    async def enter(self) -> float:
        """Wait for a place; return the time on the monotonic clock. Every entry needs one :meth:`leave`."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._running < self.level.now and not self._waiting:
                self._admit()
                return time.monotonic()
            place = loop.create_future()
            self._waiting.append((loop, place))
        try:
            await place
        except asyncio.CancelledError:
            with self._lock:
                if (loop, place) in self._waiting:
                    self._waiting.remove((loop, place))
                else:  # the place was given just now
                    self._running -= 1
                    self._fill()
            raise
        return time.monotonic()

    def leave(self, started: float, ending: Ending) -> None:
        """Give the place back and tell how the call went that ``started`` at the time :meth:`enter` gave."""
        with self._lock:
            if ending == "answered":
                self.level.answered(started, time.monotonic(), waiting=bool(self._waiting))
            elif ending != "other":
                self.level.overloaded(started, time.monotonic(), silent=ending == "silent")
            self._running -= 1
            self._fill()

    def _admit(self) -> None:
        self._running += 1
        self.peak = max(self.peak, self._running)

    def _fill(self) -> None:
        while self._waiting and self._running < self.level.now:
            loop, place = self._waiting.popleft()
            self._admit()
            loop.call_soon_threadsafe(_give, place)


def _give(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_result(None)
