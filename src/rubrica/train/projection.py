"""Random projection of gradients by signs that are computed where they are needed, and never kept.

    P g = (1 / sqrt(D)) sum over parameters i of g_i s_i,   s_i in {-1, +1}^D

(Achlioptas 2003; inner products are preserved up to about ||x|| ||y|| / sqrt(D).) A sign is a bit of SplitMix64 at a
place that seed, name of the parameter, row and column determine. So neither the size of the blocks nor the
device changes a projection, and a matrix of 300 million rows needs no memory.
"""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_BLOCK = {"cpu": 1 << 23, "cuda": 1 << 28}
"""Signs that are held at a time."""


class Projector:
    """Projects the gradients of named parameters onto ``dimension`` numbers."""

    def __init__(self, dimension: int, seed: int, device: torch.device, *, block: int | None = None) -> None:
        """``block`` is the number of signs that are held at a time."""
        self.dimension, self._seed, self._device = dimension, seed, device
        self._block = block or _BLOCK.get(device.type, _BLOCK["cpu"])

    def project(self, name: str, gradients: Tensor) -> Tensor:
        """Return the share [B, dimension] of parameter ``name`` in the projection of ``gradients`` [B, P]."""
        total = torch.zeros(len(gradients), self.dimension, device=self._device)
        for start, signs in self._blocks(name, gradients.shape[1]):
            total += gradients[:, start : start + len(signs)].float() @ signs
        return total / math.sqrt(self.dimension)

    def _blocks(self, name: str, rows: int) -> Iterator[tuple[int, Tensor]]:
        size = max(1, self._block // self.dimension)
        for start in range(0, rows, size):
            yield start, self.signs(name, start, min(rows, start + size))

    def signs(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop`` of the signs of parameter ``name``, [stop - start, dimension]."""
        words = -(-self.dimension // 64)
        key = int.from_bytes(hashlib.sha256(f"{self._seed}/{name}".encode()).digest()[:8], "big")
        places = torch.arange(start * words + 1, stop * words + 1, device=self._device)
        mixed = _wrap(key) + places * _wrap(_GOLDEN)
        for shift, factor in _MIX:
            mixed = (mixed ^ _shifted(mixed, shift)) * _wrap(factor)
        mixed = mixed ^ _shifted(mixed, 31)
        octets = mixed.view(torch.uint8).view(stop - start, words * 8, 1)
        bits = octets >> torch.arange(8, dtype=torch.uint8, device=self._device) & 1
        return bits.view(stop - start, words * 64)[:, : self.dimension].float() * 2 - 1


def _wrap(number: int) -> int:
    """The signed integer of 64 bits that has the same bits."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _shifted(values: Tensor, count: int) -> Tensor:
    """Shift to the right that fills up with zeros, whatever the sign."""
    return values >> count & ((1 << (64 - count)) - 1)
