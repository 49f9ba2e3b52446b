"""What a stage costs, over all sessions in which it ran."""

import time

from rubrica.core.account import total_usage
from rubrica.core.base import Record
from rubrica.core.records import Usage
from rubrica.core.store import Store
from rubrica.judges.executor import Executor

SESSION = "session"
"""Kind under which sessions lie in the store."""
WHOLE_RUN = "run"
"""In place of a stage: the run from its start, evaluation included."""
_KEEP_SECONDS = 1.0


class Session(Record):
    """One session: a stage, from its start or from where it was resumed, until it ends or is killed."""

    seconds: float = 0.0
    usage: Usage = Usage()


class Spending:
    """Time and judging of one stage; kept in the store as it grows, so that a kill loses about a second of it."""

    def __init__(self, store: Store, stage: str) -> None:
        self._store, self._stage = store, stage
        self._earlier = store.all(SESSION, Session, stage=stage)
        self._id = f"{len(self._earlier) + 1:04d}"
        self._started = self._kept = time.monotonic()
        self._executor: Executor | None = None
        self._before = Usage()
        """Usage of the executors that were released."""

    def watch(self, executor: Executor) -> None:
        """Count what ``executor`` asks, on top of what others did."""
        self.release()
        self._executor = executor

    def release(self) -> None:
        """Let go of the executor, and with it of its judge's weights; what it asked stays counted."""
        self._before, self._executor = self._used(), None

    def keep(self) -> None:
        """Store what this session has cost, unless that was done just now."""
        if time.monotonic() - self._kept >= _KEEP_SECONDS:
            self._kept = time.monotonic()
            self._store.put(SESSION, self._id, self._current(), stage=self._stage)

    def total(self) -> Session:
        """Return what all sessions have cost."""
        sessions = [*self._earlier, self._current()]
        usage = total_usage(session.usage for session in sessions)
        return Session(seconds=sum(session.seconds for session in sessions), usage=usage)

    def _current(self) -> Session:
        return Session(seconds=time.monotonic() - self._started, usage=self._used())

    def _used(self) -> Usage:
        return total_usage([self._before, self._executor.usage]) if self._executor else self._before
