"""What many questions share, as a forest in which every distinct stretch of tokens stands once.

Instructions, prompts, drafts and revisions that begin alike become inner nodes of a radix tree; questions, with the
answers that are allowed, hang on them as leaves. :func:`passes` cuts the forest into forward passes of bounded size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = tuple[int, ...]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MIN_SHARED = 16
"""Shorter common beginnings are computed again: a node costs calls, a token little."""


@dataclass(frozen=True)
class Branch:
    """One question behind a shared prefix, and the answers that are allowed, as token ids."""

    question: Ids
    labels: tuple[Ids, ...]

    @cached_property
    def packed(self) -> "PackedBranch":
        """The branch as arrays; made once, used for every text."""
        ids, offsets, tails = list(self.question), list(range(len(self.question))), [0] * len(self.question)
        reads: list[tuple[int, int, int]] = []
        for number, label in enumerate(self.labels):
            at = len(self.question) - 1
            for depth, token in enumerate(label):
                reads.append((at, token, number))
                if depth + 1 < len(label):
                    at = len(ids)
                    ids.append(token)
                    offsets.append(len(self.question) + depth)
                    tails.append(number + 1)
        return PackedBranch(np.array(ids), np.array(offsets), np.array(tails), np.array(reads))

    @cached_property
    def asked(self) -> "PackedBranch":
        """The question alone, without its answers."""
        count = len(self.question)
        none = np.empty((0, 3), dtype=np.int64)
        return PackedBranch(np.array(self.question), np.arange(count), np.zeros(count, dtype=np.int64), none)

    @property
    def longest(self) -> int:
        """Tokens of the question with its longest answer."""
        return len(self.question) + max(map(len, self.labels)) - 1


class PackedBranch(NamedTuple):
    """Arrays of one branch: ``ids``, ``offsets`` and ``tails`` [T]; ``reads`` [N, 3] (position, token, label)."""

    ids: Ints
    offsets: Ints
    tails: Ints
    """0 in the question, n in the tokens of label n (counted from 1), which see no other label."""
    reads: Ints


class Group(NamedTuple):
    """A shared prefix and the branches behind it; ``owners`` are the caller's numbers of the branches."""

    prefix: Ids
    branches: Sequence[Branch]
    owners: Sequence[int]


@dataclass(eq=False)
class Node:
    """A stretch of tokens that all below it share."""

    ids: Ids
    start: int
    """Position of its first token."""
    parent: "Node | None"
    leaves: list[tuple[Branch, int]] = field(default_factory=list)
    """(branch, owner)"""
    children: list["Node"] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Position behind its last token."""
        return self.start + len(self.ids)

    @property
    def path(self) -> Iterator["Node"]:
        """The node and what is above it, from the root down."""
        if self.parent is not None:
            yield from self.parent.path
        yield self


@dataclass(eq=False)
class Pass:
    """Nodes and leaves that are computed together, as one row without padding."""

    nodes: list[Node] = field(default_factory=list)
    leaves: list[tuple[Node, Branch, int]] = field(default_factory=list)
    """(node that it hangs on, branch, owner); those of one node stand together."""
    tokens: int = 0


def grow(groups: Sequence[Group]) -> list[Node]:
    """Return the roots of the forest over the groups' prefixes; groups of one prefix may not repeat."""
    return _grow(sorted(groups, key=lambda group: group.prefix), 0, None)


def _grow(groups: Sequence[Group], at: int, parent: Node | None) -> list[Node]:
    """Nodes for ``groups``, which are sorted and share their first ``at`` tokens."""
    nodes: list[Node] = []
    first = 0
    while first < len(groups):
        prefix = groups[first].prefix
        stop, shared = first + 1, len(prefix)
        while stop < len(groups) and (common := _shared(prefix, groups[stop].prefix)) - at >= MIN_SHARED:
            stop, shared = stop + 1, common
        node = Node(prefix[at:shared], at, parent)
        below = list(groups[first:stop])
        while below and len(below[0].prefix) == shared:
            group = below.pop(0)
            node.leaves += zip(group.branches, group.owners, strict=True)
        node.children = _grow(below, shared, node)
        nodes.append(node)
        first = stop
    return nodes


def _shared(a: Ids, b: Ids) -> int:
    """Length of the common beginning."""
    length = min(len(a), len(b))
    return next((i for i in range(length) if a[i] != b[i]), length)


def passes(roots: Sequence[Node], limit: int, room: int = 0) -> Iterator[Pass]:
    """Cut the forest, depth first, into passes of at most ``limit`` tokens (a longer node has one of its own).

    ``room`` is what a leaf will need beyond its own tokens.
    """
    current = Pass()
    for node, branch, owner in _walk(roots):
        size = len(node.ids) if branch is None else len(branch.packed.ids) + room
        if current.tokens and current.tokens + size > limit:
            yield current
            current = Pass()
        if branch is None:
            current.nodes.append(node)
        else:
            current.leaves.append((node, branch, owner))
        current.tokens += size
    if current.tokens:
        yield current


def _walk(nodes: Sequence[Node]) -> Iterator[tuple[Node, Branch | None, int]]:
    for node in nodes:
        yield node, None, -1
        for branch, owner in node.leaves:
            yield node, branch, owner
        yield from _walk(node.children)
