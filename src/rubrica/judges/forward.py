"""One causal language model under the attention of a forest: its hidden states, and what its head says of them."""

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from rubrica.judges.attention import NAME, Forest
from rubrica.judges.forest import Branch, Floats, Ints


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

    def generate(
        self, input_ids: Tensor, *, attention_mask: Tensor, generation_config: GenerationConfig
    ) -> Tensor:
        """Prompts and what the model writes behind them, [rows, tokens]."""


class ModelConfig(Protocol):
    """Configuration of a model; what else it holds differs by family."""

    vocab_size: int
    _attn_implementation: str


class Backbone(Protocol):
    """The model below the head."""

    def __call__(
        self, *, input_ids: Tensor, position_ids: Tensor, use_cache: bool, forest: Forest
    ) -> "WithHidden":
        """Hidden states."""


class WithHidden(Protocol):
    """Output of the backbone."""

    last_hidden_state: Tensor


class WithLogits(Protocol):
    """Output of the model."""

    logits: Tensor


class Forward:
    """A model whose passes take a :class:`~rubrica.judges.attention.Forest`."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model
        self._usual = model.config._attn_implementation
        self.calls = 0
        """Passes through the model up to now."""

    @torch.inference_mode()
    def hidden(self, forest: Forest) -> Tensor:
        """Hidden states of the tokens of one pass, [tokens, width]."""
        self.calls += 1
        self.model.set_attn_implementation(NAME)
        try:
            return self.model.base_model(
                input_ids=forest.ids[None],
                position_ids=forest.positions[None],
                use_cache=False,
                forest=forest,
            ).last_hidden_state[0]
        finally:
            self.model.set_attn_implementation(self._usual)

    @torch.inference_mode()
    def likeliest(self, hidden: Tensor) -> list[int]:
        """The likeliest next token behind every state."""
        chunk = self._chunk
        parts = [self._logits(hidden[n : n + chunk]).argmax(-1) for n in range(0, len(hidden), chunk)]
        return cast("list[int]", torch.cat(parts).tolist())

    def scores(self, hidden: Tensor, starts: Sequence[int], branches: Sequence[Branch]) -> list[Floats]:
        """Log-probabilities of every branch's labels; branch n begins at ``hidden[starts[n]]``."""
        reads: list[Ints] = []
        for number, (start, branch) in enumerate(zip(starts, branches, strict=True)):
            read = branch.packed.reads + np.array([start, 0, 0])
            reads.append(np.column_stack([read, np.full(len(read), number)]))
        read = np.concatenate(reads)
        places, which = np.unique(read[:, 0], return_inverse=True)
        values = self._logprobs(hidden[torch.from_numpy(places).to(hidden.device)], which, read[:, 1])
        scores = [np.zeros(len(branch.labels)) for branch in branches]
        for value, label, number in zip(values, read[:, 2], read[:, 3], strict=True):
            scores[number][label] += value
        return scores

    @torch.inference_mode()
    def _logprobs(self, hidden: Tensor, which: Ints, tokens: Ints) -> Floats:
        """Log-probability of ``tokens[n]`` after the state ``hidden[which[n]]``.

        The logit of the token itself is computed in float32: rounded to half precision, logits of different
        answers are often equal.
        """
        head = self._head
        out = np.empty(len(which))
        for start in range(0, len(hidden), self._chunk):
            states = hidden[start : start + self._chunk]
            logits = self._logits(states)
            here = np.flatnonzero((which >= start) & (which < start + self._chunk))
            row = torch.from_numpy(which[here] - start).to(logits.device)
            token = torch.from_numpy(tokens[here]).to(logits.device)
            own = logits[row, token]
            if type(head) is torch.nn.Linear:
                own = (states[row].float() * head.weight[token].float()).sum(-1)
                bias = cast("Tensor | None", head.bias)
                own = self._capped(own if bias is None else own + bias[token].float())
            out[here] = (own - torch.logsumexp(logits, dim=-1)[row]).double().cpu().numpy()
        return out

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._capped(cast(Tensor, self._head(hidden)).float())

    def _capped(self, logits: Tensor) -> Tensor:
        cap = cast("float | None", getattr(self.model.config, "final_logit_softcapping", None))
        return torch.tanh(logits / cap) * cap if cap else logits

    @property
    def _head(self) -> torch.nn.Module:
        head = self.model.get_output_embeddings()
        assert head is not None  # a model without one is not asked this way
        return head

    @property
    def _chunk(self) -> int:
        """States whose logits are held at a time."""
        return max(1, 2**26 // self.model.config.vocab_size)
