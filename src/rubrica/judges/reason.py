"""Reason first: the model writes a reason greedily, then the probabilities of the answers are read behind it.

All questions of a pass are written to at once, a token each a step, and none reads the text again. A row whose reason
has ended leaves the batch, together with others, when they are a quarter of it.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from rubrica.judges.attention import Kept, View
from rubrica.judges.continuation import Continuation
from rubrica.judges.forest import Branch, Floats, Ids, PackedBranch, Pass
from rubrica.judges.forward import Forward


class Reason(NamedTuple):
    """What the model wrote before its answer."""

    ids: Ids
    """Without the token that ended it."""
    ended: bool
    """False when it was cut."""


class Score(NamedTuple):
    """What was found of one branch."""

    owner: int
    logprobs: Floats
    """[labels]"""
    tokens: int
    """Tokens read for the branch; shared ones count for the first branch behind them."""
    reason: Reason | None = None


class ReasonForm(NamedTuple):
    """How a reason ends."""

    limit: int
    """Most tokens of a reason; it is cut there."""
    stops: frozenset[int]
    """Tokens that end it; they are no part of it."""
    closing: Ids
    """Tokens between the reason and the answer; at least one."""

    def behind(self, branch: Branch) -> Branch:
        """The closing as a branch with the labels of ``branch``."""
        return _closing(self.closing, branch.labels)

    def room(self, branches: Iterable[Branch]) -> int:
        """Tokens that may stand behind a question: the reason, the closing, and the answers side by side."""
        return self.limit + max((len(self.behind(branch).packed.ids) for branch in branches), default=0)


@lru_cache(maxsize=256)
def _closing(closing: Ids, labels: tuple[Ids, ...]) -> Branch:
    return Branch(closing, labels)


def write_reasons(
    forward: Forward, work: Pass, view: View, hidden: Tensor, kept: Kept, form: ReasonForm, ahead: int
) -> Iterator[list[Score]]:
    """Write behind every leaf of a pass that was read (``hidden`` [tokens, width]) and score its answers.

    ``ahead`` are tokens of earlier passes, charged to the first leaf with those of the inner nodes. Yields leaves
    as their reasons end.
    """
    written: list[list[int]] = [[] for _ in work.leaves]
    rows, left = Continuation(view, kept), list(range(len(work.leaves)))
    ends = [start + len(packed.ids) - 1 for start, (_, packed) in zip(view.starts, view.leaves, strict=True)]
    tokens, ended = forward.likeliest(hidden[ends]), set[int]()

    def close(rows: Continuation, numbers: list[int]) -> list[Score]:
        branches = [form.behind(work.leaves[number][1]) for number in numbers]
        rows.put([branch.packed for branch in branches])
        starts = [row * rows.longest for row in range(len(numbers))]
        scores = forward.scores(forward.hidden(rows), starts, branches)
        found = []
        for number, branch, logprobs in zip(numbers, branches, scores, strict=True):
            read = len(view.leaves[number][1].ids) + len(branch.packed.ids)
            read += 0 if number else view.trunk + ahead
            reason = Reason(tuple(written[number]), number in ended)
            found.append(Score(work.leaves[number][2], logprobs, read, reason))
        return found

    for _ in range(form.limit):
        for number, token in zip(left, tokens, strict=True):
            if number not in ended and token not in form.stops:
                written[number].append(token)
            else:
                ended.add(number)
        going = [row for row, number in enumerate(left) if number not in ended]
        if len(going) <= 0.75 * len(left):
            over = [row for row, number in enumerate(left) if number in ended]
            yield close(rows.select(over), [left[row] for row in over])
            if not going:
                return
            rows, left, tokens = rows.select(going), [left[row] for row in going], [tokens[r] for r in going]
        rows.put(
            [_EMPTY if number in ended else _one(token) for number, token in zip(left, tokens, strict=True)]
        )
        tokens = forward.likeliest(forward.hidden(rows))
    yield close(rows, left)


def _one(token: int) -> PackedBranch:
    return PackedBranch(np.array([token]), _ZERO, _ZERO, _EMPTY.reads)


_ZERO = np.zeros(1, dtype=np.int64)
_EMPTY = PackedBranch(_ZERO[:0], _ZERO[:0], _ZERO[:0], np.empty((0, 3), dtype=np.int64))
