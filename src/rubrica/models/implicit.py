"""The reward that a trained policy implies: r(x, y) = beta log( pi(y|x) / pi_ref(y|x) ).

Every policy is the optimum of  E[r] - beta KL(pi || pi_ref)  for this r, up to a term of the prompt alone (DPO,
arXiv 2305.18290, eq. 5; IRFT, arXiv 2405.17888, Algorithm 2). So scores of two answers to one prompt can be
compared, those of answers to two prompts cannot.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from rubrica.checkpoint import checkpoint_folder, load_checkpoint, tokenizer_hash
from rubrica.core.errors import UsageError
from rubrica.core.prompts import Prompt
from rubrica.models.hf import ChatTokenizer
from rubrica.models.likelihood import Causal, answer_rows, likelihoods


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
        self._name = f"implicit:{policy}@{reference}"
        loaded, tokenizer = load_checkpoint(checkpoint_folder(policy), dtype=dtype, device=device)
        other, other_tokenizer = load_checkpoint(checkpoint_folder(reference), dtype=dtype, device=device)
        if tokenizer_hash(tokenizer) != tokenizer_hash(other_tokenizer):
            raise UsageError(
                f"implicit reward: {policy} and {reference} have two tokenizers; expected the model that the policy "
                "was trained from as the reference"
            )
        if not tokenizer.chat_template:
            raise UsageError(f"implicit reward: the tokenizer of {policy} has no chat template; give it one")
        self._policy, self._reference = cast(Causal, loaded), cast(Causal, other)
        self._tokenizer, self._beta, self._batch_size = cast(ChatTokenizer, tokenizer), beta, batch_size

    @property
    def name(self) -> str:
        """Both models."""
        return self._name

    def score(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        """Return one reward for each (prompt, text), the text with its end token."""
        rows = answer_rows(self._tokenizer, prompts, texts)
        policy = likelihoods(self._policy, rows, batch_size=self._batch_size)
        reference = likelihoods(self._reference, rows, batch_size=self._batch_size)
        return [self._beta * (a.total - b.total) for a, b in zip(policy, reference, strict=True)]
