"""What a model has read, held once, and the rows that go on behind it: no prefix is computed twice.

A *slot* holds keys and values of one prompt and of what was written to it so far. *Rows* go on behind slots. Each keeps
keys and values of its own tokens alone and looks at its slot in an attention of two parts
(:mod:`rubrica.attention`), so a thousand continuations of a long prompt cost their own tokens. A row whose tokens are
chosen hands its keys and values to the slot. Shapes: S slots, R rows, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from rubrica.attention import KeysValues, Scores, attention, join
from rubrica.packed import PackedModel

_PASS_TOKENS = 16_384
"""Prompt tokens that are read in one pass, unless one prompt has more."""


class Top(NamedTuple):
    """The likeliest tokens at a place, and their log-probabilities over the whole vocabulary."""

    tokens: list[int]
    logprobs: list[float]


@dataclass(eq=False)
class Rows:
    """Continuations of slots: what is known of each, and how much of that the model has read."""

    room: int
    """Most tokens of a row."""
    capacity: int
    """Most rows."""
    slots: list[int] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    tops: list[list[Top]] = field(default_factory=list)
    """What is likeliest behind each token that was read, where that was asked for."""
    own: dict[int, KeysValues] = field(default_factory=dict)
    """Keys and values of their own tokens by layer, each [capacity, key heads, room, size]."""

    def add(self, slot: int, tokens: Sequence[int]) -> int:
        """Add a row of which nothing is read yet; return its number."""
        self.slots.append(slot)
        self.tokens.append(list(tokens))
        self.read.append(0)
        self.tops.append([])
        return len(self.slots) - 1


class Line(NamedTuple):
    """What is known of a slot's continuation from rows of before."""

    rows: Rows
    row: int
    skip: int
    """Tokens of that row which the slot has taken over."""

    @property
    def tokens(self) -> list[int]:
        """The tokens behind them."""
        return self.rows.tokens[self.row][self.skip :]

    @property
    def read(self) -> int:
        """How many of these the model has read."""
        return max(0, self.rows.read[self.row] - self.skip)

    @property
    def tops(self) -> list[Top]:
        """What is likeliest behind each of those."""
        return self.rows.tops[self.row][self.skip :]


class Trunk(Protocol):
    """Slots of one model."""

    computed: list[int]
    """By slot: tokens that went through the model since it was filled."""

    def fill(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        """Read prompts into slots, whose earlier content is dropped; logits behind them, [prompts, V]."""

    def step(self, rows: Rows, which: Sequence[int]) -> Tensor:
        """Have these rows read one token more; logits behind it, [which, V]."""

    def copy(self, rows: Rows, parents: Sequence[int]) -> list[int]:
        """Add a row for each of ``parents``, with the same tokens and as much read; return their numbers."""

    def follow(self, rows: Rows, found: Mapping[int, tuple[Line, int]]) -> None:
        """Let rows that have read nothing take over the first tokens that a line has read: row -> (line, how many)."""

    def commit(self, rows: Rows, chosen: Mapping[int, int], count: int) -> None:
        """Append the first ``count`` tokens of rows, which are read, to their slots: slot -> row."""

    def keep(self, slots: Sequence[int]) -> None:
        """Keep these slots alone, renumbered in this order."""


class SharedTrunk:
    """A :class:`Trunk` of a model whose attention can be arranged."""

    def __init__(self, model: PackedModel, slots: int, capacity: int) -> None:
        """``capacity`` is the most tokens of a slot."""
        self.model, self.lengths = model, [0] * slots
        self.computed = [0] * slots
        self._capacity = capacity
        self._held: dict[int, KeysValues] = {}

    @torch.inference_mode()
    def fill(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        """As :meth:`Trunk.fill`; several prompts are read side by side."""
        parts: list[dict[int, Sequence[int]]] = [{}]
        for slot, prompt in prompts.items():
            if parts[-1] and sum(map(len, parts[-1].values())) + len(prompt) > _PASS_TOKENS:
                parts.append({})
            parts[-1][slot] = prompt
        return torch.cat([self._read(part) for part in parts])

    def _read(self, prompts: Mapping[int, Sequence[int]]) -> Tensor:
        reading = _Reading(self, prompts)
        hidden = self.model.hidden(reading)
        for slot, prompt in prompts.items():
            self.lengths[slot] = self.computed[slot] = len(prompt)
        ends = torch.tensor([here.stop - 1 for _, here in reading.places], device=hidden.device)
        return self.model.logits(hidden[ends])

    @torch.inference_mode()
    def step(self, rows: Rows, which: Sequence[int]) -> Tensor:
        """As :meth:`Trunk.step`, in one pass."""
        hidden = self.model.hidden(_Stepping(self, rows, which))
        for row in which:
            rows.read[row] += 1
            self.computed[rows.slots[row]] += 1
        return self.model.logits(hidden)

    @torch.inference_mode()
    def copy(self, rows: Rows, parents: Sequence[int]) -> list[int]:
        """As :meth:`Trunk.copy`."""
        children = [again(rows, parent) for parent in parents]
        for keys, values in rows.own.values():
            for held in (keys, values):
                held[children] = held[list(parents)]
        return children

    @torch.inference_mode()
    def follow(self, rows: Rows, found: Mapping[int, tuple[Line, int]]) -> None:
        """As :meth:`Trunk.follow`."""
        groups: dict[tuple[int, int], list[tuple[int, Line]]] = {}
        for row, (line, count) in found.items():
            take_over(rows, row, count, line.tops)
            if count:
                groups.setdefault((id(line.rows), line.skip), []).append((row, line))
        for group in groups.values():
            first = group[0][1]
            most = max(found[row][1] for row, _ in group)
            new, old = [row for row, _ in group], [line.row for _, line in group]
            for layer, pair in first.rows.own.items():
                for mine, theirs in zip(self.own_of(rows, layer, *pair), pair, strict=True):
                    mine[new, :, :most] = theirs[old, :, first.skip : first.skip + most]

    @torch.inference_mode()
    def commit(self, rows: Rows, chosen: Mapping[int, int], count: int) -> None:
        """As :meth:`Trunk.commit`."""
        slots, picked = list(chosen), list(chosen.values())
        starts = torch.tensor([self.lengths[slot] for slot in slots])
        places = starts[:, None] + torch.arange(count)
        for layer, pair in rows.own.items():
            for held, own in zip(self._held[layer], pair, strict=True):
                index = torch.tensor(slots, device=held.device)[:, None]
                held[index, :, places.to(held.device)] = own[picked, :, :count].transpose(1, 2)
        for slot in slots:
            self.lengths[slot] += count

    @torch.inference_mode()
    def keep(self, slots: Sequence[int]) -> None:
        """As :meth:`Trunk.keep`."""
        self.lengths = [self.lengths[slot] for slot in slots]
        self.computed = [self.computed[slot] for slot in slots]
        self._held = {layer: (k[list(slots)], v[list(slots)]) for layer, (k, v) in self._held.items()}

    def held(self, layer: int, key: Tensor, value: Tensor) -> KeysValues:
        """Keys and values of the slots at a layer, each [S, key heads, capacity, size]."""
        if layer not in self._held:
            shape = (len(self.lengths), self._capacity)
            self._held[layer] = _room(key, *shape), _room(value, *shape)
        return self._held[layer]

    def own_of(self, rows: Rows, layer: int, key: Tensor, value: Tensor) -> KeysValues:
        """Keys and values of rows at a layer; room is made when the first come."""
        if layer not in rows.own:
            shape = (rows.capacity, rows.room)
            rows.own[layer] = _room(key, *shape), _room(value, *shape)
        return rows.own[layer]


def _room(like: Tensor, count: int, length: int) -> Tensor:
    """Zeros [count, key heads, length, size]; no row may see what is no number, even at weight 0."""
    return like.new_zeros(count, like.shape[1], length, like.shape[3])


def again(rows: Rows, parent: int) -> int:
    """Add a row with the tokens of ``parent``, and what is known of them."""
    child = rows.add(rows.slots[parent], rows.tokens[parent])
    take_over(rows, child, rows.read[parent], rows.tops[parent])
    return child


def take_over(rows: Rows, row: int, read: int, tops: Sequence[Top]) -> None:
    """Note that ``read`` tokens of a row need not be read, and what is likeliest behind them."""
    rows.read[row], rows.tops[row] = read, list(tops[:read])


class _Reading:
    """Prompts side by side in one row; their keys and values go into their slots."""

    def __init__(self, trunk: SharedTrunk, prompts: Mapping[int, Sequence[int]]) -> None:
        self._trunk = trunk
        device = trunk.model.model.device
        self.places: list[tuple[int, slice]] = []
        at = 0
        for slot, prompt in prompts.items():
            self.places.append((slot, slice(at, at + len(prompt))))
            at += len(prompt)
        self.ids = torch.tensor([token for prompt in prompts.values() for token in prompt], device=device)
        self.positions = torch.cat([torch.arange(len(p), device=device) for p in prompts.values()])

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores, window: int | None
    ) -> Tensor:
        """As :meth:`rubrica.attention.Forest.attend`."""
        keys, values = self._trunk.held(layer, key, value)
        out = query.new_empty(query.transpose(1, 2).shape)
        for slot, here in self.places:
            q, k, v = (x[:, :, here] for x in (query, key, value))
            count = here.stop - here.start
            keys[slot, :, :count], values[slot, :, :count] = k[0], v[0]
            allow = None
            if window is not None and count > window:
                far = self.positions[here, None] - self.positions[here]
                allow = (far >= 0) & (far < window)
            out[:, here] = attention(q, k, v, scores, causal=True, allow=allow)[0].transpose(1, 2)
        return out


class _Stepping:
    """One token of each of some rows; it sees its slot and the row's earlier tokens."""

    def __init__(self, trunk: SharedTrunk, rows: Rows, which: Sequence[int]) -> None:
        self._trunk, self._rows = trunk, rows
        device = trunk.model.model.device
        slots = np.array([rows.slots[row] for row in which])
        columns = np.array([rows.read[row] for row in which])
        tokens = [rows.tokens[row][rows.read[row]] for row in which]
        self.ids = torch.tensor(tokens, device=device)
        lengths = np.array(trunk.lengths)
        self.positions = torch.from_numpy(lengths[slots] + columns).to(device)
        self._index = torch.tensor(which, device=device)
        self._columns = torch.from_numpy(columns).to(device)
        self._width = int(columns.max()) + 1
        self._even = bool((columns == columns[0]).all())
        first = list(which) == list(range(len(which)))
        self._own: slice | Tensor = slice(len(which)) if first else self._index  # a slice copies nothing
        present, group = np.unique(slots, return_inverse=True)
        self._present = None if len(present) == len(lengths) else torch.from_numpy(present).to(device)
        self._lengths = torch.from_numpy(lengths[present]).to(device)
        self._longest = int(lengths[present].max())
        self._same = bool((lengths[present] == self._longest).all())
        self._group, self._place, grid = _grid(group, len(present))
        self._grid = torch.from_numpy(grid).to(device)
        self._scatter = torch.from_numpy(self._group * grid.shape[1] + self._place).to(device)
        self._masks: dict[tuple[str, int | None], Tensor | None] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores, window: int | None
    ) -> Tensor:
        """As :meth:`rubrica.attention.Forest.attend`."""
        pair = self._trunk.own_of(self._rows, layer, key, value)
        for held, new in zip(pair, (key, value), strict=True):
            held[self._index, :, self._columns] = new[0].transpose(0, 1)
        keys, values = (x[self._own, :, : self._width] for x in pair)
        tokens = query[0].transpose(0, 1)
        own, lse = attention(tokens[:, :, None], keys, values, scores, allow=self._mask("own", window))
        own, lse = own[:, :, 0], lse[:, :, 0]
        if self._longest:
            seen, lse_seen = self._slots(layer, tokens, (key, value), scores, window)
            own = join(own, lse, seen, lse_seen)
        return own[None]

    def _slots(
        self, layer: int, tokens: Tensor, like: KeysValues, scores: Scores, window: int | None
    ) -> KeysValues:
        """What each token sees of its slot: rows of one slot stand side by side as queries."""
        keys, values = self._trunk.held(layer, *like)
        if self._present is not None:
            keys, values = keys[self._present, :, : self._longest], values[self._present, :, : self._longest]
        keys, values = keys[:, :, : self._longest], values[:, :, : self._longest]
        query = tokens[self._grid].transpose(1, 2)  # [S, heads, rows of a slot, size]
        seen, lse = attention(query, keys, values, scores, allow=self._mask("slots", window))
        seen = seen.transpose(1, 2).flatten(0, 1)[self._scatter]
        return seen, lse.transpose(1, 2).flatten(0, 1)[self._scatter]

    def _mask(self, what: str, window: int | None) -> Tensor | None:
        if (what, window) not in self._masks:
            make = self._own_mask if what == "own" else self._slots_mask
            self._masks[what, window] = make(window)
        return self._masks[what, window]

    def _own_mask(self, window: int | None) -> Tensor | None:
        if self._even and (window is None or self._width <= window):
            return None
        far = self._columns[:, None] - torch.arange(self._width, device=self._columns.device)
        allow = (far >= 0) if window is None else (far >= 0) & (far < window)
        return allow[:, None, None]

    def _slots_mask(self, window: int | None) -> Tensor | None:
        near = window is None or int(self.positions.max()) < window
        if self._same and near:
            return None
        at = torch.arange(self._longest, device=self._lengths.device)
        allow = (at < self._lengths[:, None])[:, None].repeat(1, self._grid.shape[1], 1)
        if window is not None and not near:
            allow &= self.positions[self._grid][:, :, None] - at < window
        return allow[:, None]


def _grid(group: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place rows of one group side by side: group and place of each row, and the rows as a grid [count, most].

    Places behind a group's last row repeat row 0, whose result there nobody reads.
    """
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=count)
    place = np.empty(len(group), dtype=np.int64)
    place[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    grid = np.zeros((count, int(sizes.max())), dtype=np.int64)
    grid[group, place] = np.arange(len(group))
    return group, place, grid
