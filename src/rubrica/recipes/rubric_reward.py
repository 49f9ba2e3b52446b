"""What a rubric says the texts of a GRPO step are worth: scorecards, and what is measured about judging."""

import random
import time
from collections.abc import Mapping, Sequence

from rubrica.core.programs import Question
from rubrica.core.prompts import Prompt
from rubrica.core.records import Attempt, Label, Outcome, Scorecard, Usage
from rubrica.judges.executor import Executor
from rubrica.judges.keys import card_id
from rubrica.methods.qa_lign import completion_rewards, texts_to_judge
from rubrica.program.labels import is_constraint
from rubrica.program.program import questions
from rubrica.program.reward import Scored
from rubrica.recipes.ahead import Ahead
from rubrica.recipes.context import Context, reference_judge
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.step_reward import Sources
from rubrica.recipes.vetoes import checked_false, expected_false


class Diagnostics:
    """Asks every question about a sample of attempts that depends on seed and step alone."""

    def __init__(self, context: Context, config: Grpo, executor: Executor) -> None:
        self._context, self._config, self._executor = context, config, executor

    def measure(self, step: int, prompts: Sequence[Prompt], attempts: Sequence[Attempt]) -> dict[str, float]:
        """Return metrics of the sample, on steps that are diagnosed; nothing on others."""
        every = self._config.diagnostics_every
        if not every or (step % every and step != 1):
            return {}
        pairs = [(p, a) for p, a in zip(prompts, attempts, strict=True) if a.malformed is None]
        count = min(len(pairs), self._config.diagnostics_texts // 2)
        if not count:
            return {}
        chosen = random.Random(f"diagnostics/{self._context.recipe.seed}/{step}").sample(pairs, count)
        texts = texts_to_judge([p for p, _ in chosen], [a for _, a in chosen])
        cards = self._executor.score(texts, full=True)
        asked = {question.id: question for _, _, question in questions(self._context.program)}
        return {"diagnostics/texts": float(2 * count), **card_metrics(cards[::2], cards[1::2], asked)}


class RubricValuer:
    """A :class:`rubrica.recipes.step_reward.Valuer` by scorecards."""

    def __init__(
        self, context: Context, config: Grpo, executor: Executor, ahead: Ahead | None = None
    ) -> None:
        """``ahead`` has judged what ended while the step was under way."""
        self._context, self._executor, self._ahead = context, executor, ahead
        self._counted = executor.usage
        self._reference = reference_judge(context, config.reference)
        self._diagnostics = Diagnostics(context, config, executor)

    def value(
        self, step: int, prompts: Sequence[Prompt], attempts: Sequence[Attempt]
    ) -> tuple[list[Scored], dict[str, float]]:
        """Return rewards and what judging them showed and cost."""
        items = texts_to_judge(prompts, attempts)
        started = time.monotonic()
        if self._ahead is not None:
            self._ahead.join()
        cards = self._executor.score(items)
        waited, used = time.monotonic() - started, self._executor.usage
        scored = completion_rewards(attempts, cards, self._context.recipe.reward)
        metrics = answer_metrics(cards) | usage_metrics(self._counted, used)
        metrics["judge/wait_seconds"] = waited
        metrics["judge/busy_seconds"] = used.seconds - self._counted.seconds
        metrics |= self._false_vetoes(items, cards)
        metrics |= self._diagnostics.measure(step, prompts, attempts)
        self._counted = self._executor.usage
        return scored, metrics

    def sources(self, prompt: Prompt, attempt: Attempt) -> Sources:
        """Return the ids of both scorecards; a malformed attempt has none."""
        if attempt.malformed is not None:
            return Sources()
        return Sources(self._card_id(prompt, attempt.draft), self._card_id(prompt, attempt.revision))

    def _card_id(self, prompt: Prompt, text: str) -> str:
        return card_id(prompt, text, self._context.program, self._context.judge.fingerprint)

    def _false_vetoes(
        self, items: Sequence[tuple[Prompt, str]], cards: Sequence[Scorecard]
    ) -> dict[str, float]:
        checked = (
            checked_false(items, cards, self._context.program, self._reference, self._context.run.store)
            if self._reference is not None
            else None
        )
        rates = {"veto/false_expected": expected_false(cards), "veto/false": checked}
        return {name: rate for name, rate in rates.items() if rate is not None}


def answer_metrics(cards: Sequence[Scorecard]) -> dict[str, float]:
    """Return shares of vetoed texts and of answers that are NA; what has no member is left out."""
    verdicts = [v for c in cards for p in c.principles for d in p.dimensions for v in d.verdicts]
    answered = [v for v in verdicts if v.outcome in (Outcome.ANSWERED, Outcome.NOT_APPLICABLE)]
    metrics: dict[str, float] = {}
    if cards:
        metrics["veto/share"] = sum(bool(card.vetoed_by) for card in cards) / len(cards)
    if answered:
        metrics["na/share"] = sum(v.outcome is Outcome.NOT_APPLICABLE for v in answered) / len(answered)
    return metrics


def card_metrics(
    drafts: Sequence[Scorecard], revisions: Sequence[Scorecard], asked: Mapping[str, Question]
) -> dict[str, float]:
    """Return means by principle and dimension, failure shares by gate, NA shares by question.

    Only values that exist count, each over the texts that have it. Questions that prompts brought along are no part
    of ``asked``, and get no mean of their own.
    """
    values: dict[str, list[float]] = {}

    def keep(name: str, value: float | None) -> None:
        if value is not None:
            values.setdefault(name, []).append(value)

    for which, cards in (("draft", drafts), ("revision", revisions)):
        for card in cards:
            for principle in card.principles:
                keep(f"principle.{principle.id}.{which}", principle.value)
                for dimension in principle.dimensions:
                    if which == "revision":
                        keep(f"dimension.{dimension.id}.revision", dimension.value)
                    for verdict in dimension.verdicts:
                        question = asked.get(verdict.question_id)
                        if verdict.label is None or question is None:
                            continue
                        keep(f"na.{verdict.question_id}", float(verdict.label is Label.NA))
                        if which == "revision" and is_constraint(question):
                            keep(f"gate_fail.{verdict.question_id}", float(verdict.label is Label.FALSE))
    return {name: sum(found) / len(found) for name, found in sorted(values.items())}


def usage_metrics(before: Usage, after: Usage) -> dict[str, float]:
    """Return what judging one step cost."""
    return {
        f"calls/{name}": float(getattr(after, name) - getattr(before, name)) for name in Usage.model_fields
    }
