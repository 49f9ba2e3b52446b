"""What a scalar reward model says the texts of a GRPO step are worth. The formula: :mod:`rubrica.methods.scalar_reward`."""

import time
from collections.abc import Sequence
from functools import partial

from rubrica.core.errors import ModelError
from rubrica.core.ports import RewardModel
from rubrica.core.prompts import Prompt
from rubrica.core.records import Attempt
from rubrica.core.run import Stage
from rubrica.methods.scalar_reward import Scale, fit_scale, scalar_rewards, scored_texts
from rubrica.program.reward import Scored
from rubrica.recipes.context import Context
from rubrica.recipes.reward_scores import stored_scores
from rubrica.recipes.rubric_reward import Diagnostics
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.step_reward import Sources

SCALE = "reward-scale"
"""Kind under which a stage's scale lies in the store."""
_NO_SCALE = Scale(center=0.0, spread=1.0)


class ScalarValuer:
    """A :class:`rubrica.recipes.step_reward.Valuer` by scores."""

    def __init__(
        self,
        context: Context,
        config: Grpo,
        stage: Stage,
        model: RewardModel,
        diagnostics: Diagnostics | None = None,
    ) -> None:
        """``diagnostics`` put a sample before the recipe's judge, whose answers are no part of the reward."""
        assert config.reward_model is not None
        self._context, self._config, self._stage, self._model = context, config, stage, model
        self._texts, self._diagnostics = config.reward_model.texts, diagnostics
        self._store = context.run.store

    def value(
        self, step: int, prompts: Sequence[Prompt], attempts: Sequence[Attempt]
    ) -> tuple[list[Scored], dict[str, float]]:
        """Return rewards and the scores as they came; ``ModelError`` when more texts fail than the budget allows."""
        items = scored_texts(prompts, attempts, self._texts)
        started = time.monotonic()
        report = partial(self._context.report, "grpo: scoring")
        found = stored_scores(self._store, self._model, items, report, retries=self._config.judge_retries)
        waited = time.monotonic() - started
        self._check_failures(found)
        scores = [score if isinstance(score, float) else None for score in found]
        scale = self._scale(scores)
        groups = [prompt.id for prompt in prompts]
        scored = scalar_rewards(groups, attempts, scores, self._context.recipe.reward, scale, self._texts)
        metrics = score_metrics(scores, self._texts == "both") | {"judge/wait_seconds": waited}
        if self._diagnostics is not None:
            metrics |= self._diagnostics.measure(step, prompts, attempts)
        return scored, metrics

    def sources(self, prompt: Prompt, attempt: Attempt) -> Sources:
        """Return the model's fingerprint: there are no scorecards."""
        return Sources(reward_model=self._model.fingerprint)

    def summary(self) -> dict[str, object]:
        """Return which model scored, and the scale of the rewards."""
        scale = self._store.get(SCALE, self._stage.name, Scale, stage=self._stage.name)
        return {
            "reward_model": self._model.fingerprint,
            "texts": self._texts,
            "scale": None if scale is None else scale.model_dump(),
        }

    def _scale(self, scores: Sequence[float | None]) -> Scale:
        """Fitted on the first step with two different scores, and kept: all rewards of a stage are on one scale."""
        name = self._stage.name
        if (known := self._store.get(SCALE, name, Scale, stage=name)) is not None:
            return known
        if (fitted := fit_scale(scores)) is None:
            return _NO_SCALE
        self._store.put(SCALE, name, fitted, stage=name)
        return fitted

    def _check_failures(self, found: Sequence[float | ModelError]) -> None:
        failed = [score for score in found if isinstance(score, ModelError)]
        if len(failed) > self._config.failure_budget * len(found):
            raise ModelError(
                f"reward model: {len(failed)} of {len(found)} texts of a step have no score, more than failure_budget "
                f"{self._config.failure_budget:g} allows; the first: {failed[0]}. The scores are kept: mend it, then "
                "--resume"
            )


def score_metrics(scores: Sequence[float | None], both: bool) -> dict[str, float]:
    """Return mean scores on the model's own scale; what has no member is left out."""
    parts = {"draft": scores[::2], "revision": scores[1::2]} if both else {"revision": scores}
    metrics: dict[str, float] = {}
    for name, part in parts.items():
        if known := [score for score in part if score is not None]:
            metrics[f"score/{name}"] = sum(known) / len(known)
    return metrics
