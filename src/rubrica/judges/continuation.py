"""Rows that go on behind the leaves of a pass: what a model writes there, and what is read behind it.

A row keeps keys and values of its own tokens. The path above it is held once for all rows of a node, so a text is
never read again for the reasons that are written about it.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rubrica.attention import KeysValues, Scores, attention, join
from rubrica.judges.attention import Kept, View, padded, path_of
from rubrica.judges.forest import Node, PackedBranch

NONE = -1
"""Offset of a column that holds no token of its row."""


class Continuation:
    """One row a leaf; a :class:`~rubrica.judges.attention.Forest` of the tokens that were put last."""

    def __init__(self, view: View, kept: Kept) -> None:
        """Go on behind the leaves of ``view``, whose inner nodes are all in ``kept``."""
        self._kept = kept
        self._paths: dict[tuple[Node, int], KeysValues] = {}
        self._nodes = [node for node, _ in view.leaves]
        self._own = view.own
        packed = [packed for _, packed in view.leaves]
        self._ends = np.array([len(each.ids) for each in packed])
        """Offset of each row's next token."""
        device = view.ids.device
        self._used = int(self._ends.max())
        capacity = next(iter(view.own.values()))[0].shape[2]
        self._offsets = torch.full((len(packed), capacity), NONE, device=device)
        """Offset of the token in each column, counted from the end of the row's node."""
        offsets = padded([each.offsets for each in packed], self._used, NONE)
        self._offsets[:, : self._used] = torch.from_numpy(offsets).to(device)
        self.ids = self.positions = torch.empty(0, dtype=torch.long, device=device)

    def select(self, rows: Sequence[int]) -> Self:
        """Return these rows alone, with a copy of their keys and values."""
        index = torch.tensor(rows, device=self._offsets.device)
        found = object.__new__(type(self))
        found._kept, found._paths, found._used = self._kept, self._paths, self._used
        found._nodes = [self._nodes[row] for row in rows]
        found._own = {layer: (k[index], v[index]) for layer, (k, v) in self._own.items()}
        found._ends, found._offsets = self._ends[list(rows)], self._offsets[index]
        found.ids, found.positions = self.ids, self.positions
        return found

    def put(self, tokens: Sequence[PackedBranch]) -> None:
        """Put tokens behind every row, [rows x longest]; their ids, positions and masks are those of the next pass.

        Rows without tokens, and columns behind a row's tokens, hold ids that nobody sees.
        """
        device, longest = self._offsets.device, max(len(each.ids) for each in tokens)
        offsets = padded(
            [each.offsets + end for each, end in zip(tokens, self._ends, strict=True)], longest, NONE
        )
        self._mine = torch.from_numpy(offsets).to(device)
        self._tails = torch.from_numpy(padded([each.tails for each in tokens], longest)).to(device)
        self._now = slice(self._used, self._used + longest)
        self._offsets[:, self._now] = self._mine
        self._used += longest
        self._ends = self._ends + np.array([len(each.ids) for each in tokens])
        starts = torch.tensor([node.end for node in self._nodes], device=device)
        self.ids = torch.from_numpy(padded([each.ids for each in tokens], longest)).to(device).flatten()
        self.positions = (starts[:, None] + self._mine.clamp(min=0)).flatten()
        self._masks: dict[tuple[Node | None, int | None], Tensor | None] = {}
        self.longest = longest

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores, window: int | None
    ) -> Tensor:
        """As :meth:`rubrica.judges.attention.View.attend`."""
        keys, values = self._own[layer]
        keys[:, :, self._now], values[:, :, self._now] = self._split(key), self._split(value)
        own, lse = attention(
            self._split(query),
            keys[:, :, : self._used],
            values[:, :, : self._used],
            scores,
            allow=self._allowed(window),
        )
        out = own.transpose(0, 1).reshape(query.shape)
        lse = lse.transpose(0, 1).reshape(query.shape[:-1])
        for node, here in self._runs():
            if node.end:
                if (node, layer) not in self._paths:
                    self._paths[node, layer] = path_of(node, layer, self._kept)
                path = self._paths[node, layer]
                seen = attention(query[:, :, here], *path, scores, allow=self._near(node, here, window))
                out[:, :, here] = join(out[:, :, here], lse[:, :, here], *seen)
        return out.transpose(1, 2)

    def _split(self, x: Tensor) -> Tensor:
        """[1, heads, rows x longest, size] to [rows, heads, longest, size]."""
        heads, _, size = x.shape[1:]
        return x.reshape(heads, len(self._nodes), self.longest, size).transpose(0, 1)

    def _runs(self) -> list[tuple[Node, slice]]:
        """Tokens of rows below one node."""
        runs: list[tuple[Node, slice]] = []
        for row, node in enumerate(self._nodes):
            start, stop = row * self.longest, (row + 1) * self.longest
            if runs and runs[-1][0] is node:
                start = runs.pop()[1].start
            runs.append((node, slice(start, stop)))
        return runs

    def _allowed(self, window: int | None) -> Tensor | None:
        """Which columns of its row a token may see, [rows, 1, longest, columns]."""
        if (None, window) not in self._masks:
            columns = self._offsets[:, None, : self._used]
            allow = (columns != NONE).repeat(1, self.longest, 1)
            if window is not None:
                allow &= self._mine[:, :, None] - columns < window
            tails = self._tails
            same = (tails[:, None, :] == 0) | (tails[:, None, :] == tails[:, :, None])
            allow[:, :, self._now] &= same.tril()
            self._masks[None, window] = allow[:, None]
        return self._masks[None, window]

    def _near(self, node: Node, here: slice, window: int | None) -> Tensor | None:
        """What of the path a token may see through a sliding window, [tokens, path]; None for all of it."""
        if window is None:
            return None
        if (node, window) not in self._masks:
            keys = torch.arange(node.end, device=self.positions.device)
            near = self.positions[here, None] - keys < window
            self._masks[node, window] = None if bool(near.all()) else near
        return self._masks[node, window]
