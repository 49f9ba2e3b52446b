"""A reward manager for verl (0.9), which sees the prompt itself, so that the data need not carry it twice.

    reward.reward_manager.source=importlib
    reward.reward_manager.name=RubricaRewardManager
    reward.reward_manager.module.path=pkg://rubrica.integrations.verl_manager

It reads the variables RUBRICA_URL, RUBRICA_API_KEY, RUBRICA_MODE and RUBRICA_MISSING, and decodes the
completion with special tokens, so that it knows which ones were cut off and loses no tag.
"""

import os
from collections.abc import Mapping
from typing import Protocol, cast

from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from rubrica.core.scoring import Mode, ScoreItem
from rubrica.integrations.exchange import RAISE, client_at, number, prompt_of


class Tokenizer(Protocol):
    """What is used of the policy's tokenizer."""

    eos_token: str | None
    pad_token: str | None

    def decode(self, ids: object, *, skip_special_tokens: bool) -> str:
        """Return the text."""


class Row(Protocol):
    """One row of verl's ``DataProto``."""

    batch: Mapping[str, "Ids"]
    non_tensor_batch: Mapping[str, object]


class Ids(Protocol):
    """A row of token ids."""

    def __getitem__(self, at: slice) -> "Ids": ...
    def __len__(self) -> int: ...
    def sum(self) -> int:
        """Return the sum."""


class RubricaRewardManager(RewardManagerBase):  # type: ignore[misc]  # verl is not here when types are checked
    """Scores the last completion of each row by the reward server."""

    def __init__(self, config: object, tokenizer: Tokenizer, compute_score: object, **unused: object) -> None:
        super().__init__(config, tokenizer, compute_score)
        self._client = client_at(None)
        self._mode = cast(Mode, os.environ.get("RUBRICA_MODE", "attempt"))
        self._missing = os.environ.get("RUBRICA_MISSING", RAISE)

    async def run_single(self, data: list[Row]) -> dict[str, object]:
        """Return ``reward_score`` and what verl logs beside it."""
        row = data[-1:][0]
        responses = row.batch["responses"]
        length = int(row.batch["attention_mask"][-len(responses) :].sum())
        text = self.tokenizer.decode(responses[:length], skip_special_tokens=False)
        finished = length < len(responses)
        for end in (self.tokenizer.pad_token, self.tokenizer.eos_token):
            if end and text.endswith(end):
                text, finished = text.removesuffix(end), True
        prompt = prompt_of(row.non_tensor_batch["raw_prompt"], "raw_prompt")
        item = ScoreItem(prompt=prompt, completion=text.strip(), mode=self._mode, finished=finished)
        [result] = await self._client.ascore([item])
        score = number(result, self._missing)
        extra = {
            "score": score,
            "rubrica_malformed": float(result.malformed is not None),
            "rubrica_missing": float(result.reward is None),
        }
        return {"reward_score": score, "reward_extra_info": extra}
