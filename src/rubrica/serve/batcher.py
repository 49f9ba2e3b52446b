"""Requests that come at the same time are judged together, by the one thread that uses the judge.

What waits is taken as one batch, so the questions about texts of one prompt share its prefix, whoever sent
them. A judge that fails for good marks the server as not ready; the last texts are then asked again every few
seconds, by this thread and nobody's request, until it answers.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from rubrica.core.errors import BudgetError, Interrupted, JudgeError, RubricaError
from rubrica.core.records import Usage
from rubrica.core.scoring import BatchUsage, ScoredItem, ScoreItem, Scorer

LINGER = 0.01
"""Seconds that an idle judge waits for more requests to come along with the first."""
HAND_BACK = 5.0
"""Seconds after the end of the grace period at which a judge that hangs is left alone."""


class QueueFull(RubricaError):
    """More texts are waiting than the queue holds."""


class Closing(RubricaError):
    """The server is about to stop."""


class Interruptible(Scorer, Protocol):
    """A scorer that another thread can stop, and that knows what it cost."""

    @property
    def usage(self) -> Usage:
        """What all calls cost together."""

    def check_judge(self) -> None:
        """Put one question to the judge; ``JudgeError`` unless it replies."""

    def interrupt(self) -> None:
        """Make the call that is under way raise ``Interrupted``."""


class Judged(NamedTuple):
    """What one request gets."""

    results: list[ScoredItem]
    usage: BatchUsage


@dataclass
class _Job:
    items: Sequence[ScoreItem]
    detail: bool
    future: Future[Judged] = field(default_factory=Future)


class Batcher:
    """Owns the scorer's thread. Every method but the thread's own returns at once."""

    def __init__(
        self, scorer: Interruptible, *, max_batch: int = 256, max_queue: int = 8192, probe: float = 5.0
    ) -> None:
        """Batches grow up to ``max_batch`` items; ``probe`` is the pause before a failed judge is tried again."""
        self._scorer, self._max_batch, self._max_queue, self._probe = scorer, max_batch, max_queue, probe
        self._jobs: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self._down: JudgeError | None = None
        self._spent = ""
        self.batches = 0
        """Batches judged so far."""
        self._thread = threading.Thread(target=self._work, name="judge", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str:
        """Why new questions are not asked at the moment; empty while they are."""
        return str(self._down or self._spent)

    @property
    def closing(self) -> bool:
        """True from the moment the server is told to stop."""
        return self._closing

    @property
    def waiting(self) -> int:
        """Items in the queue, those that are being judged left out."""
        return sum(len(job.items) for job in list(self._jobs))

    def submit(self, items: Sequence[ScoreItem], *, detail: bool) -> Future[Judged]:
        """Queue one request. Raises ``QueueFull``, ``Closing``, or ``JudgeError`` while the judge is down."""
        with self._changed:
            if self._closing:
                raise Closing("the server is stopping")
            if self._down is not None:
                raise self._down
            if self._jobs and self.waiting + len(items) > self._max_queue:
                raise QueueFull(f"{self.waiting} items are waiting; the queue holds {self._max_queue}")
            job = _Job(items, detail)
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def close(self, grace: float) -> None:
        """Hand back what waits; what is being judged gets ``grace`` seconds to finish. Returns at once."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            waiting, self._jobs = list(self._jobs), deque()
            self._changed.notify_all()
        _hand_back(waiting)
        for pause, act in ((grace, self._scorer.interrupt), (grace + HAND_BACK, self._abandon)):
            timer = threading.Timer(pause, act)
            timer.daemon = True
            timer.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end; False if the judge hangs."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _abandon(self) -> None:
        _hand_back(self._running)

    def _work(self) -> None:
        while jobs := self._next():
            self._running = jobs
            self._try(jobs)
            self._running = []

    def _try(self, jobs: Sequence[_Job]) -> None:
        try:
            self._judge(jobs)
        except Interrupted:
            _hand_back(jobs)
        except JudgeError as error:
            self._down = error
            _fail(jobs, error)
            self._recover()
        except BudgetError as error:  # what is stored can still be had
            self._spent = str(error)
            _fail(jobs, error)
        except Exception as error:
            if len(jobs) == 1:
                _fail(jobs, error)
            else:  # one request must not spoil the others; what was answered is stored
                for job in jobs:
                    self._try([job])

    def _next(self) -> list[_Job]:
        """Wait for requests and return as many as make one batch; nothing at the end."""
        with self._changed:
            if not self._jobs and not self._closing:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                until = time.monotonic() + LINGER
                while self.waiting < self._max_batch and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
            taken: list[_Job] = []
            size = 0
            while self._jobs and (not taken or size + len(self._jobs[0].items) <= self._max_batch):
                taken.append(self._jobs.popleft())
                size += len(taken[-1].items)
            return taken

    def _judge(self, jobs: Sequence[_Job]) -> None:
        before = self._scorer.usage
        items = [item for job in jobs for item in job.items]
        results = self._scorer.score(items, detail=any(job.detail for job in jobs))
        self.batches += 1
        after = self._scorer.usage
        cost = {name: getattr(after, name) - getattr(before, name) for name in Usage.model_fields}
        usage = BatchUsage(**cost, requests=len(jobs))
        start = 0
        for job in jobs:
            own = results[start : start + len(job.items)]
            start += len(job.items)
            _resolve(job, Judged(own if job.detail else [_brief(result) for result in own], usage))

    def _recover(self) -> None:
        """Refuse work until the judge answers again."""
        with self._changed:
            waiting, self._jobs = list(self._jobs), deque()
        while self._down is not None:
            _fail(waiting, self._down)
            with self._changed:
                if self._changed.wait_for(lambda: self._closing, self._probe):
                    return
            try:
                self._scorer.check_judge()
            except JudgeError as still:
                self._down = still
            except RubricaError:  # the next request meets it, and is told
                self._down = None
            else:
                self._down = None


def _brief(result: ScoredItem) -> ScoredItem:
    """Leave out the scorecards that another request of the batch asked for."""
    if all(text.card is None for text in result.texts):
        return result
    texts = tuple(text.model_copy(update={"card": None}) for text in result.texts)
    return result.model_copy(update={"texts": texts})


def _resolve(job: _Job, judged: Judged) -> None:
    with suppress(InvalidStateError):  # handed back already, or the client's time is up
        job.future.set_result(judged)


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        with suppress(InvalidStateError):
            job.future.set_exception(error)


def _hand_back(jobs: Sequence[_Job]) -> None:
    _fail(jobs, Closing("the server is stopping; every answer so far is stored"))
