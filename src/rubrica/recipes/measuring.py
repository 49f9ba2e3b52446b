"""What a policy has to say about the answers of candidate pairs: the features by which pairs are selected."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rubrica.checkpoint import weights_hash
from rubrica.core.comparisons import Candidate
from rubrica.core.config import Json, content_hash
from rubrica.core.prompts import Prompt
from rubrica.methods.active_dpo import Array, Features, Pool, Strategy, unit
from rubrica.recipes.models import ChatFormat
from rubrica.train.callbacks import quiet
from rubrica.train.gradient_cache import GradientCache, Projection, measured
from rubrica.train.gradients import GradientModel, Measured
from rubrica.train.policy import Lora, Start
from rubrica.train.sft import TokenRow

Report = Callable[[str, int, int], None]


class Work(NamedTuple):
    """What measuring cost; answers that were in the cache cost nothing."""

    answers: int = 0
    tokens: int = 0
    flops: float = 0.0
    """Floating-point operations: 2 for each parameter and token forward, as many backward, and the projection."""


@dataclass
class Measurer:
    """Measures answers of one policy, with a cache on disk."""

    start: Start
    chat: ChatFormat
    cache: Path
    """Folder; each model and projection has one of its own in it."""
    lora: Lora
    """Adapter whose gradients are taken where the policy has none."""
    projection: Projection
    batch_size: int = 8
    seed: int = 0
    """Of the new adapter."""
    report: Report = lambda label, done, total: None
    work: Work = field(default_factory=Work)
    """What all calls cost together."""

    def row(self, prompt: Prompt, text: str) -> TokenRow:
        """Return the tokens of an answer."""
        return TokenRow(self.chat.prompt_ids(self.chat.render(prompt)), self.chat.completion_ids(text))

    def fits(self, pair: Candidate) -> bool:
        """Tell whether both answers fit the model's context."""
        rows = [self.row(pair.prompt, text) for text in (pair.first, pair.second)]
        longest = max(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
        return self.chat.context is None or longest <= self.chat.context

    def measure(self, rows: Mapping[str, TokenRow], *, gradients: bool, label: str) -> list[Measured]:
        """Return what was measured of each row, in order."""
        folder = self.cache / self._identity(gradients)
        opened: list[GradientModel] = []

        def open_model() -> GradientModel:
            with quiet():
                opened.append(GradientModel(self.start, self.lora, seed=self.seed))
            return opened[0]

        found, fresh = measured(
            open_model,
            rows,
            GradientCache(folder),
            projection=self.projection if gradients else None,
            batch_size=self.batch_size,
            progress=partial(self.report, label),
        )
        if opened:
            self._count(opened[0], [rows[key] for key in fresh], gradients)
        return list(found.values())

    def _identity(self, gradients: bool) -> str:
        """Hash of all that a measurement depends on, the answers themselves apart."""
        folders = [folder for folder in (self.start.model, self.start.adapter) if folder is not None]
        known: list[Json] = [*(weights_hash(folder) for folder in folders), self.start.dtype]
        if self.start.adapter is None:
            known += [(self.start.lora or self.lora).model_dump(mode="json"), self.seed]
        return content_hash([*known, [*self.projection] if gradients else None])

    def _count(self, model: GradientModel, rows: Sequence[TokenRow], gradients: bool) -> None:
        tokens = sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
        flops = 2.0 * model.parameters * tokens * (2 if gradients else 1)
        if gradients:
            flops += 2.0 * model.adapted * (tokens + self.projection.dimension * len(rows))
        before = self.work
        self.work = Work(before.answers + len(rows), before.tokens + tokens, before.flops + flops)


def pool_rows(pairs: Sequence[Candidate], measurer: Measurer) -> tuple[Pool, dict[str, TokenRow]]:
    """Return the pool of ``pairs`` and its distinct answers by key."""
    rows: dict[str, TokenRow] = {}
    places: dict[str, int] = {}
    sides: tuple[list[int], list[int]] = ([], [])
    for pair in pairs:
        for side, text in zip(sides, (pair.first, pair.second), strict=True):
            row = measurer.row(pair.prompt, text)
            key = content_hash([[*row.prompt_ids], [*row.completion_ids]])
            rows[key] = row
            side.append(places.setdefault(key, len(places)))
    return Pool(pairs, *sides), rows


def features_for(
    strategy: Strategy,
    pairs: Sequence[Candidate],
    measurer: Measurer | None,
    reference: Measurer | None = None,
    *,
    normalise: bool = True,
) -> tuple[Pool, Features]:
    """Measure what ``strategy`` needs of ``pairs``; random needs no model, aplp a ``reference``."""
    if strategy == "random" or measurer is None:
        nothing: Array = np.zeros((0, 0))
        return Pool(pairs, [0] * len(pairs), [0] * len(pairs)), Features(nothing, nothing, np.zeros(0))
    pool, rows = pool_rows(pairs, measurer)
    found = measurer.measure(rows, gradients=strategy == "activedpo", label="measuring answers")
    gradients = torch.stack([one.gradient for one in found]).numpy()
    before = None
    if strategy == "aplp" and reference is not None:
        before = reference.measure(rows, gradients=False, label="measuring the reference")
    return pool, Features(
        gradients=unit(gradients) if normalise else gradients,
        states=torch.stack([one.state for one in found]).numpy(),
        log_probs=np.array([one.log_prob for one in found]),
        reference=None if before is None else np.array([one.log_prob for one in before]),
    )
