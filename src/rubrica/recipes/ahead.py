"""Judging in threads while the trainer's thread generates: what has ended is asked about before the rest has."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress

from rubrica.core.errors import BudgetError
from rubrica.core.prompts import Prompt
from rubrica.core.store import Closing
from rubrica.judges.executor import Executor
from rubrica.judges.keys import text_hash

Item = tuple[Prompt, str]


class Ahead(Closing):
    """Has siblings of one executor ask ahead; :meth:`join` before that executor scores.

    Texts that come while all ``workers`` are busy wait and are asked about together. There is one worker where
    texts share questions about their prompt, so that none is asked twice.
    """

    def __init__(self, executor: Executor, workers: int) -> None:
        self._executor = executor
        workers = 1 if executor.asks_about_prompts else workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="judge-ahead")
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._waiting: list[Item] = []
        self._seen: set[str] = set()
        self._tasks: list[Future[None]] = []
        self._siblings: list[Executor] = []
        self._failed = False
        self._active, self._since, self._seconds = 0, 0.0, 0.0

    def submit(self, items: Sequence[Item]) -> None:
        """Ask about ``items`` as soon as a worker is free; a text that was given before is passed over."""
        fresh = {text_hash(prompt, text): (prompt, text) for prompt, text in items}
        new = [item for digest, item in fresh.items() if digest not in self._seen]
        self._seen |= fresh.keys()
        if new:
            with self._lock:
                self._waiting += new
            self._tasks.append(self._pool.submit(self._work))

    def join(self) -> None:
        """Wait until all is asked and hand it to the executor; raises the first error of a worker, once.

        A spent budget is no error here: the executor meets it, with nothing under way any more.
        """
        tasks, self._tasks = self._tasks, []
        wait(tasks)
        siblings, self._siblings = self._siblings, []
        seconds, self._seconds = self._seconds, 0.0
        self._seen, self._waiting, self._failed = set(), [], False
        self._executor.adopt(siblings, seconds)
        for task in tasks:
            with suppress(BudgetError):
                task.result()

    def close(self) -> None:
        """Ask no more, and wait for the threads: each ends with the next answer it gets."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _work(self) -> None:
        with self._lock:
            items, self._waiting = self._waiting, []
            if not items or self._failed:
                return
            sibling = self._executor.sibling()
            self._siblings.append(sibling)
            if not self._active:
                self._since = time.monotonic()
            self._active += 1
        try:
            sibling.prepare(items, self._stop)
        except BaseException:
            self._failed = True
            raise
        finally:
            with self._lock:
                self._active -= 1
                if not self._active:
                    self._seconds += time.monotonic() - self._since
