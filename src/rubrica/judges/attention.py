"""Attention of a forest: a token sees the nodes above it and the earlier tokens of its own stretch, never a sibling.

All tokens of a pass are one row, so every matrix product of the model works on distinct tokens only. Attention is
computed in two parts, to the path above and within the stretch, and joined (:mod:`rubrica.attention`).

Keys and values of nodes that a later pass needs are kept until it has run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rubrica.attention import KeysValues, Scores, attention, join
from rubrica.judges.forest import Ints, Node, PackedBranch, Pass

Kept = dict[Node, dict[int, KeysValues]]
"""Keys and values of nodes of earlier passes, by layer."""


class Run(NamedTuple):
    """Tokens ``start`` to ``stop`` of the row, which look at the path that ends in ``above``."""

    start: int
    stop: int
    above: Node | None


class View:
    """One pass as a row: inner nodes, then leaves; who may look at whom. A :class:`Forest`."""

    def __init__(
        self, work: Pass, keep: Sequence[Node], kept: Kept, device: torch.device, room: int | None = None
    ) -> None:
        """``keep`` are nodes of this pass that later ones need; their keys and values are put into ``kept``.

        With ``room`` the leaves are read without their answers, and their keys and values stay in :attr:`own`,
        with room for so many more tokens each.
        """
        self._keep, self._kept, self._device, self._room = keep, kept, device, room
        self.own: dict[int, KeysValues] = {}
        """Of the leaves, by layer; each [leaves, key heads, longest + room, size]."""
        self._place: dict[Node, slice] = {}
        self._inner: list[Run] = []
        self._runs: list[Run] = []
        ids: list[Ints] = []
        positions: list[Ints] = []
        at = 0
        for node in work.nodes:
            run = Run(at, at + len(node.ids), node.parent)
            self._place[node] = slice(run.start, run.stop)
            self._inner.append(run)
            ids.append(np.array(node.ids, dtype=np.int64))
            positions.append(np.arange(node.start, node.end))
            at = run.stop
        self.trunk = at
        """Tokens of the inner nodes."""
        self.leaves = [
            (node, branch.packed if room is None else branch.asked) for node, branch, _ in work.leaves
        ]
        self.starts: list[int] = []
        """Where each leaf begins in the row."""
        for node, packed in self.leaves:
            start, stop = at, at + len(packed.ids)
            self.starts.append(start)
            if self._runs and self._runs[-1].above is node:
                start = self._runs.pop().start
            self._runs.append(Run(start, stop, node))
            ids.append(packed.ids)
            positions.append(node.end + packed.offsets)
            at = stop
        self.ids = torch.from_numpy(np.concatenate(ids)).to(device)
        """[tokens]"""
        self.positions = torch.from_numpy(np.concatenate(positions)).to(device)
        """[tokens]"""
        self._stack = _Stack([packed for _, packed in self.leaves], device) if self.leaves else None
        self._masks: dict[tuple[Run | None, bool, int | None], Tensor | None] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores, window: int | None
    ) -> Tensor:
        """As :meth:`Forest.attend`."""
        for node in self._keep:
            place = self._place[node]
            pair = key[:, :, place].clone(), value[:, :, place].clone()
            self._kept.setdefault(node, {})[layer] = pair
        paths: dict[Node, KeysValues] = {}
        out = query.new_empty(query.transpose(1, 2).shape)

        def write(run: Run, own: Tensor, lse: Tensor) -> None:
            here = slice(run.start, run.stop)
            if run.above is not None and run.above.end:
                if run.above not in paths:
                    paths[run.above] = self._path(run.above, layer, key, value)
                allow = self._near(run, window)
                own = join(own, lse, *attention(query[:, :, here], *paths[run.above], scores, allow=allow))
            out[:, here] = own.transpose(1, 2)

        for run in self._inner:
            if run.stop > run.start:
                q, k, v = (x[:, :, run.start : run.stop] for x in (query, key, value))
                write(run, *attention(q, k, v, scores, causal=True, allow=self._own(run, window)))
        if self._stack is not None:
            q, k, v = (self._stack.split(x[:, :, self.trunk :]) for x in (query, key, value))
            if self._room is not None:
                self.own[layer] = _roomy(k, self._room), _roomy(v, self._room)
            allow = self._stack.allowed(window)
            own, lse = map(self._stack.merge, attention(q, k, v, scores, allow=allow))
            for run in self._runs:
                part = slice(run.start - self.trunk, run.stop - self.trunk)
                write(run, own[:, :, part], lse[:, :, part])
        return out

    def _path(self, node: Node, layer: int, key: Tensor, value: Tensor) -> KeysValues:
        """Keys and values from the root down to ``node``."""
        here = {
            n: {layer: (key[:, :, self._place[n]], value[:, :, self._place[n]])}
            for n in node.path
            if n in self._place
        }
        return path_of(node, layer, {**self._kept, **here})

    def _near(self, run: Run, window: int | None) -> Tensor | None:
        """What of its path a run may see through a sliding window, [tokens, path]; None for all of it."""
        assert run.above is not None
        return self._windowed(run, torch.arange(run.above.end, device=self._device), window, causal=False)

    def _own(self, run: Run, window: int | None) -> Tensor | None:
        return self._windowed(run, self.positions[run.start : run.stop], window, causal=True)

    def _windowed(self, run: Run, keys: Tensor, window: int | None, *, causal: bool) -> Tensor | None:
        if window is None:
            return None
        known = (run, causal, window)
        if known not in self._masks:
            far = self.positions[run.start : run.stop, None] - keys[None]
            near = far < window
            self._masks[known] = None if bool(near.all()) else (near & (far >= 0) if causal else near)
        return self._masks[known]


class _Stack:
    """Leaves of a pass side by side, [leaves, heads, longest, size], for attention within each."""

    def __init__(self, leaves: Sequence[PackedBranch], device: torch.device) -> None:
        sizes = np.array([len(packed.ids) for packed in leaves])
        self._count, self._longest = len(sizes), int(sizes.max())
        valid = np.arange(self._longest) < sizes[:, None]
        starts = np.cumsum(sizes) - sizes
        gather = np.where(valid, starts[:, None] + np.arange(self._longest), 0)
        self._even = bool(valid.all())
        self._gather = torch.from_numpy(gather.ravel()).to(device)
        self._scatter = torch.from_numpy(np.flatnonzero(valid)).to(device)
        self._offsets, self._tails = (
            torch.from_numpy(padded(rows, self._longest)).to(device)
            for rows in ([each.offsets for each in leaves], [each.tails for each in leaves])
        )
        self._masks: dict[int | None, Tensor] = {}

    def split(self, x: Tensor) -> Tensor:
        """[1, heads, tokens, size] to [leaves, heads, longest, size]."""
        x = x[0].transpose(0, 1)  # tokens first, as a model's projections lay them out
        x = x if self._even else x.index_select(0, self._gather)
        return x.reshape(self._count, self._longest, *x.shape[1:]).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """[leaves, heads, longest, ...] to [1, heads, tokens, ...]."""
        x = x.transpose(1, 2).flatten(0, 1)
        return (x if self._even else x.index_select(0, self._scatter)).transpose(0, 1).unsqueeze(0)

    def allowed(self, window: int | None) -> Tensor:
        """Who may look at whom, [leaves, 1, longest, longest]; [longest, longest] where it is every earlier token."""
        if window not in self._masks:
            far = self._offsets[:, :, None] - self._offsets[:, None, :]
            tails = (self._tails[:, None, :] == 0) | (self._tails[:, None, :] == self._tails[:, :, None])
            near = tails if window is None else tails & (far < window)
            self._masks[window] = near[0].tril() if bool(near.all()) else near.tril()[:, None]
        return self._masks[window]


def padded(rows: Sequence[Ints], length: int, fill: int = 0) -> Ints:
    """Rows below each other, [rows, length], with ``fill`` behind the shorter ones."""
    out = np.full((len(rows), length), fill, dtype=np.int64)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out


def _roomy(x: Tensor, room: int) -> Tensor:
    """A copy of ``x`` [rows, heads, tokens, size] with ``room`` more tokens of zeros."""
    return torch.nn.functional.pad(x, (0, 0, 0, room))


def path_of(node: Node, layer: int, kept: Kept) -> KeysValues:
    """Keys and values from the root down to ``node``."""
    pairs = [kept[above][layer] for above in node.path]
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([k for k, _ in pairs], 2), torch.cat([v for _, v in pairs], 2)
