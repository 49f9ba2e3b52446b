"""Limits on calls to a server: a rate that is never exceeded, and a clock that bounds a task."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class RateLimit:
    """At most ``rpm`` calls and ``tpm`` estimated tokens in any window of ``window`` seconds."""

    def __init__(self, rpm: int | None, tpm: int | None, window: float = 60.0) -> None:
        self._rpm, self._tpm, self._window = rpm or math.inf, tpm or math.inf, window
        self._log: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    async def admit(self, tokens: int) -> None:
        """Wait until one more call fits. A call larger than ``tpm`` goes alone."""
        while (pause := self._try(tokens)) > 0:
            await asyncio.sleep(pause)

    def _try(self, tokens: int) -> float:
        if math.isinf(self._rpm) and math.isinf(self._tpm):
            return 0.0
        with self._lock:
            now = time.monotonic()
            while self._log and self._log[0][0] <= now - self._window:
                self._log.popleft()
            used = sum(count for _, count in self._log)
            if not self._log or (len(self._log) < self._rpm and used + tokens <= self._tpm):
                self._log.append((now, tokens))
                return 0.0
            return max(0.001, self._log[0][0] + self._window - now)


class Clock:
    """Seconds that a task has left, retries and pauses included. Waiting for one's turn costs nothing."""

    def __init__(self, seconds: float) -> None:
        self.left = self._all = seconds
        self._attempt = seconds / 2

    @property
    def used(self) -> float:
        """Seconds charged so far."""
        return self._all - self.left

    @property
    def spent(self) -> bool:
        """True when less is left than a tenth of what one attempt may take."""
        return self.left < self._attempt / 10

    @contextmanager
    def running(self) -> Iterator[float]:
        """Charge the time inside the block; gives the seconds that one attempt may take: half of all."""
        start = time.monotonic()
        try:
            yield max(0.0, min(self._attempt, self.left))
        finally:
            self.left -= time.monotonic() - start

    async def pause(self, seconds: float) -> None:
        """Sleep, and charge it."""
        with self.running():
            await asyncio.sleep(seconds)
