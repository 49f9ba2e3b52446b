"""Scores of allowed answers under a causal language model, with shared work done once.

A row is a tree: ``[shared][question 1][labels of 1][question 2][labels of 2] ...``. A token sees the shared
part, its own question and its own label, never a sibling; positions go on from where the parent ends. So one
forward pass gives exactly what asking each question alone would give.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = tuple[int, ...]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mode = Literal["tree", "plain"]
_PADDING = -1


class CausalLM(Protocol):
    """What is used of a ``transformers`` causal language model."""

    base_model: "Backbone"
    config: "ModelConfig"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""

    def get_output_embeddings(self) -> torch.nn.Module | None:
        """The language-model head."""

    def __call__(self, *, input_ids: Tensor, logits_to_keep: int, use_cache: bool) -> "WithLogits":
        """Full forward pass."""


class ModelConfig(Protocol):
    """Configuration of a model; what else it holds differs by family."""

    vocab_size: int


class Backbone(Protocol):
    """The model below the head."""

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | dict[str, Tensor],
        position_ids: Tensor,
        use_cache: bool,
    ) -> "WithHidden":
        """Hidden states."""


class WithHidden(Protocol):
    """Output of the backbone."""

    last_hidden_state: Tensor


class WithLogits(Protocol):
    """Output of the model."""

    logits: Tensor


@dataclass(frozen=True)
class Branch:
    """One question behind a shared prefix, and the answers that are allowed, as token ids."""

    question: Ids
    labels: tuple[Ids, ...]

    @cached_property
    def packed(self) -> "PackedBranch":
        """The branch as arrays; made once, used for every text."""
        ids, offsets, leaves = list(self.question), list(range(len(self.question))), [0] * len(self.question)
        rows: list[tuple[int, int, int]] = []
        for number, label in enumerate(self.labels):
            at = len(self.question) - 1
            for depth, token in enumerate(label):
                rows.append((at, token, number))
                if depth + 1 < len(label):
                    at = len(ids)
                    ids.append(token)
                    offsets.append(len(self.question) + depth)
                    leaves.append(number + 1)
        read = np.array(rows, dtype=np.int64)
        return PackedBranch(np.array(ids), np.array(offsets), np.array(leaves), read)

    @property
    def longest(self) -> int:
        """Tokens of the question with its longest answer."""
        return len(self.question) + max(map(len, self.labels)) - 1


class PackedBranch(NamedTuple):
    """Arrays of one branch: ``ids``, ``offsets`` and ``leaves`` [T]; ``read`` [N, 3] (position, token, label)."""

    ids: Ints
    offsets: Ints
    leaves: Ints
    """0 in the question, n in the tokens of label n (counted from 1)."""
    read: Ints


class Group(NamedTuple):
    """A shared prefix and the branches behind it; ``owners`` are the caller's numbers of the branches."""

    prefix: Ids
    branches: Sequence[Branch]
    owners: Sequence[int]


class Scored(NamedTuple):
    """Scores of one batch: ``logprobs[n]`` [labels] belongs to branch ``owners[n]``."""

    owners: list[int]
    logprobs: list[Floats]
    tokens: list[int]
    """Tokens computed for each branch; the shared part counts for the first of its row."""


class Row(NamedTuple):
    """A group, or a part of one, that becomes one row of a batch."""

    prefix: Ids
    branches: Sequence[Branch]
    owners: Sequence[int]
    tokens: int


class TreeScorer:
    """Scores branches in one pass per row (``tree``) or one pass per question (``plain``)."""

    def __init__(self, model: CausalLM, batch_tokens: int, mode: Mode | None = None) -> None:
        self._model, self._batch_tokens = model, batch_tokens
        self.mode: Mode = mode or ("tree" if self._tree_is_exact() else "plain")

    def score(self, groups: Sequence[Group]) -> Iterator[Scored]:
        """Yield the log-probabilities of every branch's labels, batch by batch, in any order."""
        return self._tree(groups) if self.mode == "tree" else self._plain(groups)

    # --- one pass per row -----------------------------------------------------------------------

    def _tree(self, groups: Sequence[Group]) -> Iterator[Scored]:
        rows = sorted((row for group in groups for row in split_rows(group)), key=lambda row: -row.tokens)
        for batch in _batches(rows, self._batch_tokens):
            yield self._tree_batch(batch)

    @torch.inference_mode()
    def _tree_batch(self, rows: Sequence[Row]) -> Scored:
        packed = pack(rows)
        device = self._model.device
        ids, positions, segments, leaves = (
            torch.from_numpy(array).to(device)
            for array in (packed.ids, packed.positions, packed.segments, packed.leaves)
        )
        hidden = self._model.base_model(
            input_ids=ids,
            attention_mask=self._masks(positions, segments, leaves),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        read = packed.read
        places, which = np.unique(read[:, :2], axis=0, return_inverse=True)
        at = torch.from_numpy(places).to(device)
        values = self._logprobs(hidden[at[:, 0], at[:, 1]], which, read[:, 2])
        scores = np.zeros((len(packed.owners), int(read[:, 4].max()) + 1))
        np.add.at(scores, (read[:, 3], read[:, 4]), values)
        counts = [len(branch.labels) for row in rows for branch in row.branches]
        return Scored(
            packed.owners, [score[:n] for score, n in zip(scores, counts, strict=True)], packed.tokens
        )

    def _masks(self, positions: Tensor, segments: Tensor, leaves: Tensor) -> Tensor | dict[str, Tensor]:
        config = self._model.config
        window = sliding_window(config)
        kinds = layer_kinds(config)
        full = allowed(segments, leaves)
        if window is not None:
            near = (positions[:, :, None] - positions[:, None, :]) < window
            sliding = full & near
        else:
            sliding = full
        if len(kinds) > 1:
            return {"full_attention": self._usable(full), "sliding_attention": self._usable(sliding)}
        everywhere = window is not None and kinds != {"full_attention"}
        return self._usable(sliding if everywhere else full)

    def _usable(self, allow: Tensor) -> Tensor:
        """[B, T, T] to the [B, 1, T, T] mask that the model's attention adds to its scores."""
        mask = torch.zeros(allow.shape, dtype=self._model.dtype, device=allow.device)
        return mask.masked_fill_(~allow, torch.finfo(mask.dtype).min)[:, None]

    def _logprobs(self, hidden: Tensor, which: Ints, tokens: Ints) -> Floats:
        """Log-probability of ``tokens[n]`` after the state ``hidden[which[n]]``."""
        head = self._model.get_output_embeddings()
        assert head is not None
        cap = cast("float | None", getattr(self._model.config, "final_logit_softcapping", None))
        out = np.empty(len(which))
        chunk = max(1, 2**26 // self._model.config.vocab_size)
        for start in range(0, len(hidden), chunk):
            logits = cast(Tensor, head(hidden[start : start + chunk])).float()
            if cap:
                logits = torch.tanh(logits / cap) * cap
            here = np.flatnonzero((which >= start) & (which < start + chunk))
            row = torch.from_numpy(which[here] - start).to(logits.device)
            token = torch.from_numpy(tokens[here]).to(logits.device)
            norm = torch.logsumexp(logits, dim=-1)
            out[here] = (logits[row, token] - norm[row]).double().cpu().numpy()
        return out

    # --- one pass per question ------------------------------------------------------------------

    def _plain(self, groups: Sequence[Group]) -> Iterator[Scored]:
        """Rows of one length share a batch, so that nothing is padded: right for every architecture."""
        items = sorted(
            (
                Row(group.prefix, (branch,), (owner,), len(group.prefix) + branch.longest)
                for group in groups
                for branch, owner in zip(group.branches, group.owners, strict=True)
            ),
            key=lambda row: -row.tokens,
        )
        for batch in _batches(items, self._batch_tokens):
            yield self._plain_batch(batch)

    @torch.inference_mode()
    def _plain_batch(self, rows: Sequence[Row]) -> Scored:
        tails: dict[int, dict[Ids, list[tuple[int, Ids]]]] = {}
        entries: list[tuple[int, int, Ids]] = []
        for number, row in enumerate(rows):
            for label, ids in enumerate(row.branches[0].labels):
                sequence = (*row.prefix, *row.branches[0].question, *ids[:-1])
                tails.setdefault(len(sequence), {}).setdefault(sequence, []).append((len(entries), ids))
                entries.append((number, label, ids))
        values = [0.0] * len(entries)
        for sequences in tails.values():
            keep = max(len(ids) for asked in sequences.values() for _, ids in asked)
            logits = self._model(
                input_ids=torch.tensor(list(sequences), device=self._model.device),
                logits_to_keep=keep,
                use_cache=False,
            ).logits[:, -keep:]
            logprobs = logits.float().log_softmax(-1).double().cpu()
            for line, asked in zip(logprobs, sequences.values(), strict=True):
                for entry, ids in asked:
                    last = line[-len(ids) :]
                    values[entry] = float(last[torch.arange(len(ids)), torch.tensor(ids)].sum())
        scores: list[list[float]] = [[] for _ in rows]
        for (number, _, _), value in zip(entries, values, strict=True):
            scores[number].append(value)
        return Scored(
            [row.owners[0] for row in rows],
            [np.array(score) for score in scores],
            [row.tokens for row in rows],
        )

    # --- check ----------------------------------------------------------------------------------

    def _tree_is_exact(self) -> bool:
        """Compare both ways on a small probe: some models take no mask or positions, or scale their logits."""
        kinds = layer_kinds(self._model.config)
        if (
            not kinds <= {"full_attention", "sliding_attention"}
            or self._model.get_output_embeddings() is None
        ):
            return False
        draw = np.random.default_rng(0).integers(self._model.config.vocab_size, size=64).tolist()
        labels = ((draw[0],), (draw[1], draw[2]), (draw[3], draw[4], draw[5]))
        branches = [Branch(tuple(draw[a:b]), labels) for a, b in ((6, 9), (9, 15), (15, 20))]
        groups = [
            Group(tuple(draw[20:44]), branches, (0, 1, 2)),
            Group(tuple(draw[44:53]), branches, (3, 4, 5)),
        ]
        try:
            tree, plain = _ordered(self._tree(groups)), _ordered(self._plain(groups))
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError):
            return False
        coarse = self._model.dtype in (torch.float16, torch.bfloat16)
        return bool(np.allclose(tree, plain, rtol=0.02 if coarse else 0.0, atol=0.25 if coarse else 1e-3))


class Packed(NamedTuple):
    """A padded batch: ``ids``, ``positions``, ``segments``, ``leaves`` [B, T]."""

    ids: Ints
    positions: Ints
    segments: Ints
    """0 in the shared part, n in question n of the row, -1 in padding."""
    leaves: Ints
    """0 outside the labels, n in the tokens of label n."""
    read: Ints
    """[N, 5]: row, position, token to score there, number of the branch in the batch, number of the label."""
    owners: list[int]
    tokens: list[int]


def pack(rows: Sequence[Row]) -> Packed:
    """Lay out ``rows`` as one batch, padded on the right."""
    shape = (len(rows), max(row.tokens for row in rows))
    ids, positions, leaves = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    segments = np.full(shape, _PADDING, dtype=np.int64)
    reads: list[Ints] = []
    owners: list[int] = []
    tokens: list[int] = []
    for number, row in enumerate(rows):
        start = len(row.prefix)
        ids[number, :start], positions[number, :start], segments[number, :start] = row.prefix, range(start), 0
        shared = at = start
        for segment, (branch, owner) in enumerate(zip(row.branches, row.owners, strict=True), 1):
            packed = branch.packed
            to = at + len(packed.ids)
            ids[number, at:to] = packed.ids
            positions[number, at:to] = start + packed.offsets
            segments[number, at:to] = segment
            leaves[number, at:to] = packed.leaves
            read = np.empty((len(packed.read), 5), dtype=np.int64)
            read[:, 0], read[:, 1], read[:, 2] = number, packed.read[:, 0] + at, packed.read[:, 1]
            read[:, 3], read[:, 4] = len(owners), packed.read[:, 2]
            reads.append(read)
            owners.append(owner)
            tokens.append(to - at + shared)
            at, shared = to, 0
    return Packed(ids, positions, segments, leaves, np.concatenate(reads), owners, tokens)


def allowed(segments: Tensor, leaves: Tensor) -> Tensor:
    """Who may look at whom, [B, T, T]: earlier tokens of the shared part, the own question, the own label."""
    mine, other = segments[:, :, None], segments[:, None, :]
    allow = (other == 0) | (other == mine)
    if bool(leaves.any()):
        above, label = leaves[:, None, :], leaves[:, :, None]
        allow &= (above == 0) | (above == label)
    return allow.tril_()


def layer_kinds(config: ModelConfig) -> set[str]:
    """Kinds of attention among the model's layers; empty where its configuration names none."""
    return set(cast("Sequence[str] | None", getattr(config, "layer_types", None)) or ())


def sliding_window(config: ModelConfig) -> int | None:
    """Window of the model's sliding attention in tokens, or None."""
    if getattr(config, "use_sliding_window", True) is False:
        return None
    return cast("int | None", getattr(config, "sliding_window", None))


def split_rows(group: Group) -> Iterator[Row]:
    """Cut a group into rows of like size: a row pays for attention between questions that do not see each other."""
    sizes = [len(branch.packed.ids) for branch in group.branches]
    limit = max(512, 3 * len(group.prefix))
    count = -(-sum(sizes) // limit)
    bounds = np.searchsorted(np.cumsum(sizes), np.arange(1, count) * sum(sizes) / count, side="left") + 1
    for start, end in zip([0, *bounds], [*bounds, len(sizes)], strict=True):
        if start < end:
            tokens = len(group.prefix) + sum(sizes[start:end])
            yield Row(group.prefix, group.branches[start:end], group.owners[start:end], tokens)


def _batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[Sequence[Row]]:
    """Cut rows, longest first, into batches of at most ``batch_tokens`` with padding (at least one row)."""
    start = 0
    while start < len(rows):
        size = max(1, batch_tokens // rows[start].tokens)
        yield rows[start : start + size]
        start += size


def _ordered(batches: Iterator[Scored]) -> Floats:
    found = {owner: row for batch in batches for owner, row in zip(batch.owners, batch.logprobs, strict=True)}
    return np.concatenate([found[owner] for owner in sorted(found)])
