"""Scores of allowed answers under a causal language model, every distinct token computed once.

The prefixes of all questions form a forest (:mod:`rubrica.judges.forest`); a pass through the model takes as much
of it as fits, as one row without padding, under an attention that knows the forest
(:mod:`rubrica.judges.attention`). So a question gets exactly the scores that asking it alone would give. A model that
cannot be asked this way, as a probe at the start tells, is asked one question a row.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rubrica.judges.attention import NAME, Kept, View
from rubrica.judges.forest import Branch, Group, Ids, Ints, Node, Pass, grow, passes

Floats = NDArray[np.float64]
Mode = Literal["tree", "plain"]


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

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Choose the attention function."""

    def __call__(self, *, input_ids: Tensor, logits_to_keep: int, use_cache: bool) -> "WithLogits":
        """Full forward pass."""


class ModelConfig(Protocol):
    """Configuration of a model; what else it holds differs by family."""

    vocab_size: int
    _attn_implementation: str


class Backbone(Protocol):
    """The model below the head."""

    def __call__(
        self, *, input_ids: Tensor, position_ids: Tensor, use_cache: bool, forest: View
    ) -> "WithHidden":
        """Hidden states."""


class WithHidden(Protocol):
    """Output of the backbone."""

    last_hidden_state: Tensor


class WithLogits(Protocol):
    """Output of the model."""

    logits: Tensor


class Scored(NamedTuple):
    """Scores of one batch: ``logprobs[n]`` [labels] belongs to branch ``owners[n]``."""

    owners: list[int]
    logprobs: list[Floats]
    tokens: list[int]
    """Tokens computed for each branch; shared ones count for the first branch behind them."""


class Row(NamedTuple):
    """A prefix and one branch behind it."""

    prefix: Ids
    branch: Branch
    owner: int
    tokens: int


def pass_tokens(device: torch.device) -> int:
    """Tokens of one forward pass by default: on a CPU more does not fit the caches."""
    return 2048 if device.type == "cpu" else 16_384


class TreeScorer:
    """Scores branches, each distinct token once (``tree``) or a row per question (``plain``)."""

    def __init__(self, model: CausalLM, batch_tokens: int, mode: Mode | None = None) -> None:
        self._model, self._batch_tokens = model, batch_tokens
        self._usual = model.config._attn_implementation
        self.mode: Mode = mode or ("tree" if self._tree_is_exact() else "plain")

    def score(self, groups: Sequence[Group]) -> Iterator[Scored]:
        """Yield the log-probabilities of every branch's labels, batch by batch, in any order."""
        return self._tree(groups) if self.mode == "tree" else self._plain(groups)

    # --- every distinct token once --------------------------------------------------------------

    def _tree(self, groups: Sequence[Group]) -> Iterator[Scored]:
        work = list(passes(grow(groups), self._batch_tokens))
        needed: dict[Node, int] = {}
        for number, each in enumerate(work):
            for node in (*each.nodes, *(node for node, _, _ in each.leaves)):
                needed |= dict.fromkeys(node.path, number)
        kept: Kept = {}
        ahead = 0  # tokens of passes without a leaf, charged to the next one
        for number, each in enumerate(work):
            keep = [node for node in each.nodes if needed[node] > number]
            scored = self._pass(each, keep, kept, ahead)
            for node in [node for node in kept if needed[node] == number]:
                del kept[node]
            ahead = 0 if each.leaves else ahead + each.tokens
            if scored is not None:
                yield scored

    @torch.inference_mode()
    def _pass(self, work: Pass, keep: Sequence[Node], kept: Kept, ahead: int) -> Scored | None:
        view = View(work, keep, kept, self._model.device)
        self._model.set_attn_implementation(NAME)
        try:
            hidden = self._model.base_model(
                input_ids=view.ids[None], position_ids=view.positions[None], use_cache=False, forest=view
            ).last_hidden_state[0]
        finally:
            self._model.set_attn_implementation(self._usual)
        if not work.leaves:
            return None
        reads: list[Ints] = []
        at = view.trunk
        for number, (_, branch, _) in enumerate(work.leaves):
            reads.append(branch.packed.reads + np.array([at, 0, 0]))
            reads[-1] = np.column_stack([reads[-1], np.full(len(reads[-1]), number)])
            at += len(branch.packed.ids)
        read = np.concatenate(reads)
        places, which = np.unique(read[:, 0], return_inverse=True)
        values = self._logprobs(hidden[torch.from_numpy(places).to(hidden.device)], which, read[:, 1])
        scores = [np.zeros(len(branch.labels)) for _, branch, _ in work.leaves]
        for value, label, number in zip(values, read[:, 2], read[:, 3], strict=True):
            scores[number][label] += value
        tokens = [len(branch.packed.ids) for _, branch, _ in work.leaves]
        tokens[0] += view.trunk + ahead
        return Scored([owner for _, _, owner in work.leaves], scores, tokens)

    def _logprobs(self, hidden: Tensor, which: Ints, tokens: Ints) -> Floats:
        """Log-probability of ``tokens[n]`` after the state ``hidden[which[n]]``.

        The logit of the token itself is computed in float32: rounded to half precision, logits of different
        answers are often equal.
        """
        head = self._model.get_output_embeddings()
        assert head is not None
        cap = cast("float | None", getattr(self._model.config, "final_logit_softcapping", None))

        def capped(logits: Tensor) -> Tensor:
            return torch.tanh(logits / cap) * cap if cap else logits

        out = np.empty(len(which))
        chunk = max(1, 2**26 // self._model.config.vocab_size)
        for start in range(0, len(hidden), chunk):
            states = hidden[start : start + chunk]
            logits = capped(cast(Tensor, head(states)).float())
            here = np.flatnonzero((which >= start) & (which < start + chunk))
            row = torch.from_numpy(which[here] - start).to(logits.device)
            token = torch.from_numpy(tokens[here]).to(logits.device)
            own = logits[row, token]
            if type(head) is torch.nn.Linear:
                own = (states[row].float() * head.weight[token].float()).sum(-1)
                bias = cast("Tensor | None", head.bias)
                own = capped(own if bias is None else own + bias[token].float())
            out[here] = (own - torch.logsumexp(logits, dim=-1)[row]).double().cpu().numpy()
        return out

    # --- one pass per question ------------------------------------------------------------------

    def _plain(self, groups: Sequence[Group]) -> Iterator[Scored]:
        """Rows of one length share a batch, so that nothing is padded: right for every architecture."""
        items = sorted(
            (
                Row(group.prefix, branch, owner, len(group.prefix) + branch.longest)
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
            for label, ids in enumerate(row.branch.labels):
                sequence = (*row.prefix, *row.branch.question, *ids[:-1])
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
            [row.owner for row in rows],
            [np.array(score) for score in scores],
            [row.tokens for row in rows],
        )

    # --- check ----------------------------------------------------------------------------------

    def _tree_is_exact(self) -> bool:
        """Compare both ways on a small probe: some models bring an attention of their own, or scale their logits."""
        kinds = set(cast("Sequence[str] | None", getattr(self._model.config, "layer_types", None)) or ())
        if (
            not kinds <= {"full_attention", "sliding_attention"}
            or self._model.get_output_embeddings() is None
        ):
            return False
        draw = np.random.default_rng(0).integers(self._model.config.vocab_size, size=96).tolist()
        labels = ((draw[0],), (draw[1], draw[2]), (draw[3], draw[4], draw[5]))
        branches = [Branch(tuple(draw[a:b]), labels) for a, b in ((6, 9), (9, 15), (15, 20))]
        prefixes = (tuple(draw[20:70]), tuple(draw[20:40] + draw[70:90]), tuple(draw[90:96]))
        groups = [Group(prefix, branches, range(3 * n, 3 * n + 3)) for n, prefix in enumerate(prefixes)]
        whole, self._batch_tokens = self._batch_tokens, 40  # several passes
        try:
            tree, plain = _ordered(self._tree(groups)), _ordered(self._plain(groups))
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError):
            return False
        finally:
            self._batch_tokens = whole
        coarse = self._model.dtype in (torch.float16, torch.bfloat16)
        return bool(np.allclose(tree, plain, rtol=0.02 if coarse else 0.0, atol=0.25 if coarse else 1e-3))


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
