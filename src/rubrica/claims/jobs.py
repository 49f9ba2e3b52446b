"""Seeds of experiments in several processes at once.

A process takes one seed of one experiment at a time. What two of them need is made by one while the other waits
(:mod:`rubrica.claims.workshop`), so they are kept apart: each works on a seed of its own, and where there are more
processes than seeds, from the other end of the list of experiments, which shares little with this one.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import wait as wait_for
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import NamedTuple

from rubrica.claims.experiment import Experiment
from rubrica.claims.workshop import Workshop
from rubrica.core.errors import ModelError
from rubrica.recipes.context import Progress

Attempt = Callable[["Task", Workshop], str | None]
"""Finishes a task in a workshop, and returns why it could not."""
_Told = tuple[int, str, int, int]


class Task(NamedTuple):
    """One seed of one experiment."""

    experiment: Experiment
    seed: int


def next_task(waiting: Sequence[Task], running: Sequence[Task]) -> Task:
    """Return the task that shares least with those that run: of the seed at which fewest are at work, the first.

    The last one of that seed, if another process has begun at the first.
    """
    busy = [task.seed for task in running]
    seed = min((task.seed for task in waiting), key=lambda seed: (busy.count(seed), seed))
    own = [task for task in waiting if task.seed == seed]
    return own[-1 if seed in busy else 0]


def spread(
    tasks: Sequence[Task], attempt: Attempt, shop: Workshop, bars: Sequence[Progress]
) -> Iterator[tuple[Task, str | None]]:
    """Attempt every task in as many processes as there are ``bars``; yields them as they end, with what failed.

    ``ModelError`` if a process is killed.
    """
    context = multiprocessing.get_context("spawn")
    told: SimpleQueue[_Told | None] = context.SimpleQueue()
    threads = max(1, len(os.sched_getaffinity(0)) // len(bars))
    slots = context.SimpleQueue()
    for slot in range(len(bars)):
        slots.put(slot)
    listener = threading.Thread(target=_listen, args=(told, bars), daemon=True)
    listener.start()
    begin = (threads, told, slots)
    try:
        with ProcessPoolExecutor(len(bars), context, _begin, begin) as pool:
            waiting, running = list(tasks), dict[Future[str | None], Task]()
            while waiting or running:
                while waiting and len(running) < len(bars):
                    task = next_task(waiting, tuple(running.values()))
                    waiting.remove(task)
                    running[pool.submit(_work, task, attempt, shop.out, shop.quick)] = task
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield running.pop(future), future.result()
    except BrokenExecutor:
        raise ModelError("a process of --jobs was killed, perhaps for its memory") from None
    finally:
        told.put(None)
        listener.join()


def _listen(told: "SimpleQueue[_Told | None]", bars: Sequence[Progress]) -> None:
    while (news := told.get()) is not None:
        slot, what, done, total = news
        bars[slot](what, done, total)


class _Mine:
    """What a process of the pool has."""

    progress: Progress | None = None


def _begin(threads: int, told: "SimpleQueue[_Told | None]", slots: "SimpleQueue[int]") -> None:
    import torch

    torch.set_num_threads(threads)
    slot = slots.get()
    _Mine.progress = lambda what, done, total: told.put((slot, what, done, total))
    threading.Thread(target=_die_with_the_parent, daemon=True).start()


def _die_with_the_parent() -> None:
    """A killed parent cannot stop its processes: they see to it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)


def _work(task: Task, attempt: Attempt, out: Path, quick: bool) -> str | None:
    shop = Workshop(out, quick=quick)
    shop.progress = _Mine.progress
    return attempt(task, shop)
