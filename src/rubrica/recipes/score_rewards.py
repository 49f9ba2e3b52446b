"""Scores of given texts by a reward model, and how often it prefers the answer that people preferred."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import FiniteFloat

from rubrica.core.base import Record
from rubrica.core.data import Text
from rubrica.core.ports import RewardModel
from rubrica.core.prompts import Prompt
from rubrica.core.records import Estimate
from rubrica.core.run import write_jsonl
from rubrica.core.stats import mean_interval
from rubrica.core.store import Store
from rubrica.recipes.reward_scores import Report, stored_scores
from rubrica.recipes.score import Accuracy, Input, accuracy

SCORES = "scores.jsonl"
"""What is left behind, beside the store."""


class RewardedText(Record):
    """One text with its score: a row of ``scores.jsonl``."""

    id: str
    """The text's id; of a pair ``ID/chosen`` and ``ID/rejected``."""
    prompt: Prompt
    text: str
    score: FiniteFloat | None
    """On the model's own scale."""
    reason: str = ""
    """Why there is none."""


class RewardReport(Record):
    """What the reward model said of all texts."""

    texts: int
    without_score: int
    mean: Estimate | None
    """Mean score of the texts that have one, with Student's t interval."""
    accuracy: Accuracy | None
    """Only for preference pairs."""
    model: str
    """Fingerprint."""
    reasons: tuple[str, ...]
    """Why scores are missing, the most common reason first."""
    skipped: tuple[str, ...] = ()
    """Pairs of the file that could not be compared, with the reason."""


def score_rewards(
    texts: Sequence[Text], model: RewardModel, store: Store, report: Report = lambda done, total: None
) -> list[RewardedText]:
    """Score every text; what the store knows is not scored again. Raises what the model raises."""
    found = stored_scores(store, model, [(text.prompt, text.text) for text in texts], report, retries=1)
    return [
        RewardedText(id=text.id, prompt=text.prompt, text=text.text, score=score)
        if isinstance(score, float)
        else RewardedText(id=text.id, prompt=text.prompt, text=text.text, score=None, reason=str(score))
        for text, score in zip(texts, found, strict=True)
    ]


def reward_report(scored: Sequence[RewardedText], given: Input, model: str) -> RewardReport:
    """Sum up scores; a text without one is counted, and is in no mean and no rate."""
    known = [text.score for text in scored if text.score is not None]
    reasons = Counter(text.reason for text in scored if text.score is None)
    return RewardReport(
        texts=len(scored),
        without_score=reasons.total(),
        mean=mean_interval(known, bounds=(-math.inf, math.inf), name="score") if known else None,
        accuracy=accuracy([text.score for text in scored]) if given.paired else None,
        model=model,
        reasons=tuple(f"{count} of them: {reason}" for reason, count in reasons.most_common(3)),
        skipped=tuple(row.problem for row in given.skipped),
    )


def write_scores(scored: Sequence[RewardedText], folder: Path) -> Path:
    """Write ``scores.jsonl`` and return its path."""
    path = folder / SCORES
    write_jsonl(path, scored)
    return path
