"""Answers that one judge takes from others and passes on."""

from collections.abc import Callable, Iterator
from typing import Self

from rubrica.core.ports import Closable
from rubrica.core.records import Verdict

Answers = Iterator[tuple[int, Verdict]]


class Relay(Answers):
    """A generator over other judges' answers; when closed, those that had arrived still come.

    A plain generator ends where it is closed, and what it was about to pass on is lost, though it was paid for.
    """

    def __init__(self, run: Callable[[Self], Answers]) -> None:
        """``run`` gets this object, and takes the answers that it passes on through :meth:`take`."""
        self.closed = False
        self._source: Answers = iter(())
        self._rows = run(self)

    def __next__(self) -> tuple[int, Verdict]:
        return next(self._rows)

    def take(self, source: Answers) -> Answers:
        """Yield from ``source``, which ends soon after this object is closed."""
        self._source = source
        for answer in source:
            yield answer
            if self.closed and not isinstance(source, Closable):
                return

    def close(self) -> None:
        """Ask no more."""
        self.closed = True
        if isinstance(self._source, Closable):
            self._source.close()
