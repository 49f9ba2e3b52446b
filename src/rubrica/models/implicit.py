"""The reward that a trained policy implies: r(x, y) = beta log( pi(y|x) / pi_ref(y|x) ).

Every policy is the optimum of  E[r] - beta KL(pi || pi_ref)  for this r, up to a term of the prompt alone (DPO,
arXiv 2305.18290, eq. 5; IRFT, arXiv 2405.17888, Algorithm 2). So scores of two answers to one prompt can be
compared, those of answers to two prompts cannot.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from rubrica.checkpoint import (
    checkpoint_folder,
    context_length,
    load_checkpoint,
    tokenizer_hash,
    weights_hash,
)
from rubrica.core.config import content_hash
from rubrica.core.errors import ModelError, UsageError
from rubrica.core.prompts import Prompt
from rubrica.models.hf import ChatTokenizer
from rubrica.models.likelihood import Causal, Row, answer_rows, likelihoods


class ImplicitReward:
    """Implements :class:`rubrica.core.ports.RewardModel` with two checkpoints that share a tokenizer."""

    def __init__(
        self,
        policy: str | Path,
        reference: str | Path,
        *,
        beta: float = 0.1,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int = 16,
    ) -> None:
        """Load both. ``UsageError`` for a beta that is not positive, two tokenizers, or none with a chat template."""
        if not beta > 0:
            raise UsageError(f"implicit reward: beta {beta}; expected more than 0")
        folders = [checkpoint_folder(policy), checkpoint_folder(reference)]
        (loaded, tokenizer), (other, other_tokenizer) = (
            load_checkpoint(folder, dtype=dtype, device=device) for folder in folders
        )
        if tokenizer_hash(tokenizer) != tokenizer_hash(other_tokenizer):
            raise UsageError(
                f"implicit reward: {policy} and {reference} have two tokenizers; expected the model that the policy "
                "was trained from as the reference"
            )
        if not tokenizer.chat_template:
            raise UsageError(f"implicit reward: the tokenizer of {policy} has no chat template; give it one")
        self._models = [cast(Causal, loaded), cast(Causal, other)]
        self._tokenizer, self._beta, self._batch_size = cast(ChatTokenizer, tokenizer), beta, batch_size
        limits = [limit for model in (loaded, other) if (limit := context_length(model.config)) is not None]
        self._context = min(limits, default=None)
        weights = [weights_hash(folder) for folder in folders]
        template = content_hash([str(tokenizer.chat_template), tokenizer_hash(tokenizer)])
        self._fingerprint = f"implicit:{content_hash([*weights, template, beta, str(loaded.dtype)])}"

    @property
    def fingerprint(self) -> str:
        """Identity of both models' weights, template, beta and precision."""
        return self._fingerprint

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, float | ModelError]]:
        """Yield ``(index, reward)`` batch by batch, texts with their end token; an error for one that is too long."""
        rows = answer_rows(self._tokenizer, [prompt for prompt, _ in items], [text for _, text in items])
        sizes = [len(row.prompt_ids) + len(row.answer_ids) for row in rows]
        fitting = []
        for index in sorted(range(len(rows)), key=lambda i: sizes[i]):
            if self._context is not None and sizes[index] > self._context:
                said = f"{sizes[index]} tokens exceed the context of {self._context}; shorten the text"
                yield index, ModelError(f"prompt {items[index][0].id!r}: {said}")
            else:
                fitting.append(index)
        for begin in range(0, len(fitting), self._batch_size):
            batch = fitting[begin : begin + self._batch_size]
            yield from zip(batch, self._rewards([rows[index] for index in batch]), strict=True)

    def _rewards(self, rows: Sequence[Row]) -> list[float]:
        policy, reference = (likelihoods(m, rows, batch_size=self._batch_size) for m in self._models)
        return [self._beta * (a.total - b.total) for a, b in zip(policy, reference, strict=True)]
