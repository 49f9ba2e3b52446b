"""How often the better of several texts is preferred: by a model's own likelihood, by a reward model, by a program.

For right texts R and wrong texts W with scores s the value of an item is the share of the pairs in R x W with
s_r > s_w; of a plain pair that is 0 or 1, and a tie is 0. A program's total is a reward as well
(:class:`rubrica.recipes.text_reward.JudgedTexts`).

Scores of a causal language model are log-probabilities of the answer under its chat template, end token included:

    sum     log p(y | x)
    mean    log p(y | x) / tokens of y
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Literal

import numpy as np

from rubrica.core.errors import ModelError, UsageError
from rubrica.core.evaluation import Item, ItemResult, Metric, Standing
from rubrica.core.ports import RewardModel
from rubrica.core.store import Store
from rubrica.evals.choices import pairs_won
from rubrica.recipes.answering import chunks
from rubrica.recipes.capability import stored_likelihoods
from rubrica.recipes.continuations import ContinuationScorer, Continued
from rubrica.recipes.reward_scores import stored_scores

By = Literal["sum", "mean", "reward"]
Scores = Mapping[By, Sequence[float]]
"""A score for each text of an item, by what scored it."""
LINE = "which text is likelier under the chat template, end token included; value mean"
"""How preferences are read off likelihoods by default, in a line."""
STYLES = 3
"""Right and as many wrong texts of RM-Bench, from concise to formatted (Liu et al., arXiv 2410.16184, section 3.3)."""


def score_pairs(
    items: Sequence[Item],
    model: ContinuationScorer | RewardModel,
    store: Store,
    *,
    by: Literal["sum", "mean"] = "mean",
    seed: int = 0,
    report: Callable[[int], None] = lambda new: None,
) -> Iterator[ItemResult]:
    """Yield a result for each item, in order; ``report`` gets how many more are done.

    ``by`` says which likelihood is the value; the other stands beside it. An item of which a text has no score has no
    value. ``UsageError`` for an item without a right or a wrong text, and for a model without chat template.
    """
    for item in items:
        if not 0 < len(item.correct) < len(item.choices):
            raise UsageError(f"item {item.id!r}: expected texts of which some are right, and some are not")
    value, score = _scoring(model, store, by)
    for chunk in chunks(items):
        for item, scores in zip(chunk, score(chunk), strict=True):
            yield preference_result(item, scores, value, seed)
        report(len(chunk))


def _scoring(
    model: ContinuationScorer | RewardModel, store: Store, by: Literal["sum", "mean"]
) -> tuple[By, Callable[[Sequence[Item]], list[Scores | ModelError]]]:
    if isinstance(model, ContinuationScorer):
        return by, partial(_likelihoods, model, store)
    return "reward", partial(_rewards, model, store)


def _likelihoods(model: ContinuationScorer, store: Store, items: Sequence[Item]) -> list[Scores | ModelError]:
    asked = [
        Continued(model.rendered(item.prompt.messages), item.choices, chat=True, ended=True) for item in items
    ]
    return [
        found
        if isinstance(found, ModelError)
        else {
            "sum": found.logprobs,
            "mean": [total / count for total, count in zip(found.logprobs, found.tokens, strict=True)],
        }
        for found in stored_likelihoods(asked, model, store)
    ]


def _rewards(model: RewardModel, store: Store, items: Sequence[Item]) -> list[Scores | ModelError]:
    asked = [(item.prompt, choice) for item in items for choice in item.choices]
    left = iter(stored_scores(store, model, asked, retries=1))
    found: list[Scores | ModelError] = []
    for item in items:
        scores = list(islice(left, len(item.choices)))
        failed = next((score for score in scores if isinstance(score, ModelError)), None)
        found.append(failed or {"reward": [score for score in scores if isinstance(score, float)]})
    return found


def preference_result(item: Item, found: Scores | ModelError, value: By, seed: int = 0) -> ItemResult:
    """Return what the scores of an item's texts count; an error where one of the texts has no score."""
    scores: Scores = {} if isinstance(found, ModelError) else found
    missing = Standing.UNJUDGED if value == "reward" else Standing.UNANSWERED
    counts: dict[str, float] = {by: pairs_won(each, item.correct) for by, each in scores.items()}
    if value in scores and item.suite.startswith("rm-bench"):
        counts |= by_style(scores[value], item.correct)
    return ItemResult(
        suite=item.suite,
        item=item.id,
        cluster=item.cluster,
        category=item.category,
        seed=seed,
        metric=Metric.PREFERENCE,
        standing=Standing.JUDGED if value in counts else missing,
        value=counts.get(value),
        reason=str(found) if isinstance(found, ModelError) else "",
        counts=counts,
    )


def by_style(scores: Sequence[float], right: Sequence[int]) -> dict[str, float]:
    """Return RM-Bench's three accuracies; none unless there are as many right as wrong texts as it has styles.

    ``hard``: the right text has the plainer style; ``normal``: both have the same; ``easy``: the wrong one has it.
    """
    better = [scores[index] for index in right]
    worse = [score for index, score in enumerate(scores) if index not in right]
    if len(better) != STYLES or len(worse) != STYLES:
        return {}
    won = np.array([[b > w for w in worse] for b in better], dtype=np.float64)
    above, below = np.triu_indices(STYLES, 1), np.tril_indices(STYLES, -1)
    return {
        "easy": float(won[below].mean()),
        "normal": float(np.diag(won).mean()),
        "hard": float(won[above].mean()),
    }
