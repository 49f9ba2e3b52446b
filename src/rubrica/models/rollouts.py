"""Continuations behind slots of a trunk, all in one batch; samples that begin alike share a row until they part.

So the samples of a start cost as many tokens as the tree of their distinct prefixes has nodes, and what a greedy rollout
of an earlier call has read is not read again (``Start.line``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rubrica.models.decoding import draw, shares_of
from rubrica.models.trunk import Line, Rows, Top, Trunk

Floats = NDArray[np.float64]
_LOGITS = 2**27
"""Logits that are held at a time."""
_SHARES = 2**23
"""Shares that are held at a time: they are of twice the size, and so is their cumulative sum."""


class Start(NamedTuple):
    """Where rollouts begin: a slot, the tokens that stand already, and how long they may become."""

    slot: int
    tokens: Sequence[int]
    """At least one."""
    target: int
    """Most tokens, those that stand already included."""
    points: Floats | None
    """Random numbers [samples, target - tokens]; None: one greedy rollout."""
    lines: Sequence[Line] = ()
    """What earlier calls know of the slot's continuation; the one that agrees and goes farthest is taken over."""

    @property
    def samples(self) -> int:
        """How many rollouts."""
        return 1 if self.points is None else len(self.points)


class Style(NamedTuple):
    """How tokens are picked."""

    temperature: float
    """Of sampled tokens."""
    top_p: float
    stop: frozenset[int]
    """Tokens that end a rollout."""
    top: int = 0
    """How many of the likeliest tokens are recorded at every place."""


class Rollouts(NamedTuple):
    """What became of the starts, in their order."""

    rows: Rows
    first: list[int]
    """A row that begins with the start's own tokens."""
    samples: list[list[list[int]]]
    """Tokens of each start's samples; its own, and the end token, included."""
    excess: list[float]
    """By row: sum over its sampled tokens of log q - log p, q what they were drawn from, p the model."""


@dataclass
class _Work:
    """Rows under way."""

    trunk: Trunk
    rows: Rows
    style: Style
    starts: Sequence[Start]
    owner: list[int] = field(default_factory=list)
    """By row: its start."""
    members: list[list[int]] = field(default_factory=list)
    """By row: the samples of its start that go through it."""
    excess: list[float] = field(default_factory=list)

    def add(self, owner: int, members: list[int], excess: float) -> None:
        """Note whose a new row is."""
        self.owner.append(owner)
        self.members.append(members)
        self.excess.append(excess)

    def open(self, row: int) -> bool:
        """Whether the row needs another token."""
        tokens = self.rows.tokens[row]
        return len(tokens) < self.starts[self.owner[row]].target and tokens[-1] not in self.style.stop


def roll(trunk: Trunk, starts: Sequence[Start], style: Style) -> Rollouts:
    """Continue every start to its target, or to a token of ``style.stop``."""
    rows = Rows(room=max(start.target for start in starts), capacity=sum(start.samples for start in starts))
    work = _Work(trunk, rows, style, starts)
    _begin(work)
    width = 1
    while active := [row for row in range(len(work.owner)) if work.open(row)]:
        most = max(1, _LOGITS // width)
        for begin in range(0, len(active), most):
            part = active[begin : begin + most]
            logits = trunk.step(rows, part)
            width = logits.shape[-1]
            _extend(work, part, logits)
    samples: list[list[list[int]]] = [[[]] * start.samples for start in starts]
    for tokens, owner, members in zip(rows.tokens, work.owner, work.members, strict=True):
        for member in members:
            samples[owner][member] = tokens
    return Rollouts(rows, list(range(len(starts))), samples, work.excess)


def likeliest(logits: Tensor, count: int) -> list[Top]:
    """Return the ``count`` likeliest tokens behind each row of ``logits`` [R, V], the likeliest first."""
    found = logits.topk(min(count, logits.shape[-1]), dim=-1)
    logprobs = found.values.double() - logits.double().logsumexp(-1, keepdim=True)
    return [Top(*pair) for pair in zip(found.indices.tolist(), logprobs.tolist(), strict=True)]


def _begin(work: _Work) -> None:
    """Add one row a start, as far on as earlier calls have read it."""
    found: dict[int, tuple[Line, int]] = {}
    for number, start in enumerate(work.starts):
        tokens = list(start.tokens)
        agreeing = [line for line in start.lines if line.tokens[: len(tokens)] == tokens]
        line = max(agreeing, key=lambda each: each.read, default=None)
        if line is not None and start.points is None:
            tokens = line.tokens[: start.target]
        row = work.rows.add(start.slot, tokens)
        if line is not None:
            found[row] = line, min(line.read, len(tokens) - 1)  # the last one tells what comes next
        work.add(number, list(range(start.samples)), 0.0)
    if found:
        work.trunk.follow(work.rows, found)


def _extend(work: _Work, part: Sequence[int], logits: Tensor) -> None:
    """Record what stands behind the token that each row of ``part`` has just read, and append the next ones."""
    rows = work.rows
    if work.style.top:
        for row, top in zip(part, likeliest(logits, work.style.top), strict=True):
            rows.tops[row].append(top)
    places = [at for at, row in enumerate(part) if rows.read[row] == len(rows.tokens[row])]
    children: list[tuple[int, int, list[int], float]] = []
    for row, picked in _picks(work, [part[at] for at in places], logits[places]):
        shared: dict[int, list[int]] = {}
        for member, (token, _) in zip(work.members[row], picked, strict=True):
            shared.setdefault(token, []).append(member)
        excess = dict(picked)
        before = work.excess[row]
        (own, members), *others = shared.items()
        children += [(row, token, rest, before + excess[token]) for token, rest in others]
        rows.tokens[row].append(own)
        work.members[row], work.excess[row] = members, before + excess[own]
    if children:
        copies = work.trunk.copy(rows, [row for row, _, _, _ in children])
        for child, (row, token, members, total) in zip(copies, children, strict=True):
            rows.tokens[child][-1] = token  # in place of the one that its parent went on with
            work.add(work.owner[row], members, total)


Picked = list[tuple[int, float]]
"""Next token of each sample of a row, and its log q - log p."""


def _picks(work: _Work, rows: Sequence[int], logits: Tensor) -> list[tuple[int, Picked]]:
    greedy = [at for at, row in enumerate(rows) if work.starts[work.owner[row]].points is None]
    sampled = [at for at, row in enumerate(rows) if work.starts[work.owner[row]].points is not None]
    found: list[tuple[int, Picked]] = []
    if greedy:
        best = logits[greedy].argmax(-1).tolist()
        found += [(rows[at], [(token, 0.0)]) for at, token in zip(greedy, best, strict=True)]
    most = max(1, _SHARES // logits.shape[-1])
    for begin in range(0, len(sampled), most):
        part = sampled[begin : begin + most]
        found += _drawn(work, [rows[at] for at in part], logits[part])
    return found


def _drawn(work: _Work, rows: Sequence[int], logits: Tensor) -> list[tuple[int, Picked]]:
    """Draw the next token of every sample; what it gets does not depend on which samples share its row."""
    points = np.zeros((len(rows), max(len(work.members[row]) for row in rows)))
    for line, row in zip(points, rows, strict=True):
        start = work.starts[work.owner[row]]
        assert start.points is not None
        depth = len(work.rows.tokens[row]) - len(start.tokens)
        line[: len(work.members[row])] = start.points[work.members[row], depth]
    style = work.style
    shares = shares_of(logits, temperature=style.temperature, top_p=style.top_p)
    tokens = draw(shares, torch.from_numpy(points).to(logits.device))
    excess = torch.zeros_like(tokens, dtype=torch.float64)
    if style.temperature != 1 or style.top_p < 1:
        excess = shares.gather(-1, tokens).log() - shares.sum(-1, keepdim=True).log()
        excess -= logits.double().log_softmax(-1).gather(-1, tokens)
    return [
        (row, list(zip(ids[: len(work.members[row])], more, strict=False)))
        for row, ids, more in zip(rows, tokens.tolist(), excess.tolist(), strict=True)
    ]
