"""Stage GRPO: rollouts, scorecards, one reward for each completion, and what is logged about them.

The number that trains the model is the number that is logged and kept: ``Rollout.reward``. All else goes
through ``log_metric``, never through a second reward function.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rubrica.core.attempt import parse, whole
from rubrica.core.programs import Question
from rubrica.core.prompts import Prompt
from rubrica.core.records import (
    Attempt,
    Label,
    Malformed,
    Outcome,
    Response,
    Rollout,
    Sampling,
    Scorecard,
    Usage,
)
from rubrica.core.run import Stage
from rubrica.judges.executor import Executor
from rubrica.judges.factory import JudgeConfig, is_remote
from rubrica.judges.keys import card_id
from rubrica.methods.qa_lign import completion_rewards, texts_to_judge
from rubrica.models.decoding import Decoder, decode, sampler
from rubrica.program.labels import is_constraint
from rubrica.program.program import questions
from rubrica.program.reward import Scored
from rubrica.recipes.ahead import Ahead
from rubrica.recipes.context import Context, reference_judge
from rubrica.recipes.models import ChatFormat, load_chat_format, training_start
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.vetoes import checked_false, expected_false
from rubrica.train.arguments import has_accelerator
from rubrica.train.grpo import Completion, GrpoSize, LogMetric, PromptRow, Rollouts, train_grpo

ROLLOUT = "rollout"
"""Kind under which rollouts lie in the store."""
WORKERS = 4
"""Threads that judge while others are generated: a completion that ends late finds one that is free."""
Ended = Callable[[Sequence[tuple[str, list[int]]]], None]
"""Gets (rendered prompt, tokens) of completions that have just ended."""


def run_grpo(context: Context, config: Grpo, stage: Stage, prompts: Sequence[Prompt]) -> dict[str, object]:
    """Train on ``prompts`` in their order, return the summary."""
    recipe, weights = context.recipe, context.weights
    chat = load_chat_format(weights.model, weights.chat_template)
    rendered = {prompt.id: chat.render(prompt) for prompt in prompts}
    chat.check(recipe.written_tags, list(rendered.values()), config.max_completion_tokens)
    executor = context.executor("grpo", retries=config.judge_retries, max_failure_rate=config.failure_budget)
    fast, overlap = how_to_roll_out(config, recipe.judge)
    with Ahead(executor, WORKERS if is_remote(recipe.judge) else 1) as ahead:
        reward = RubricReward(context, config, stage, chat, executor, prompts, ahead if overlap else None)
        ended = reward.ended(rendered) if overlap else None
        trained = train_grpo(
            training_start(context),
            [PromptRow(prompt.id, rendered[prompt.id]) for prompt in prompts],
            reward,
            chat.tokenizer,
            stage,
            grpo_size(config),
            config.trainer,
            seed=recipe.seed,
            source=context.source,
            rollout=fast_rollouts(chat, config, recipe.seed, ended) if fast else None,
            on_resume=reward.forget_after,
            progress=context.report,
        )
    logged = [row.metrics for row in stage.metrics()]
    rows = [metrics["reward"] for metrics in logged if "reward" in metrics]
    return {
        **trained,
        "first_reward": rows[0] if rows else None,
        "last_reward": rows[-1] if rows else None,
        "fast_rollouts": fast,
        "overlap": overlap,
        "warning": malformed_warning(logged),
    }


def grpo_size(config: Grpo) -> GrpoSize:
    """Return what one update consists of."""
    return GrpoSize(
        steps=config.steps,
        prompts=config.prompts_per_step,
        group=config.group_size,
        max_completion_tokens=config.max_completion_tokens,
        temperature=config.temperature,
        save_steps=config.save_steps,
    )


def how_to_roll_out(config: Grpo, judge: str | JudgeConfig) -> tuple[bool, bool]:
    """Return whether completions come from Rubrica's own decode loop, and whether they are judged meanwhile.

    TRL's own generation says nothing before the last completion has ended, so there is nothing to overlap with.
    """
    fast = config.fast_rollouts
    if fast is None:
        fast = config.overlap is True or not has_accelerator()
    return fast, fast and (is_remote(judge) if config.overlap == "auto" else config.overlap)


def fast_rollouts(chat: ChatFormat, config: Grpo, seed: int, ended: Ended | None = None) -> Rollouts:
    """Return a sampler of completions for TRL: unfiltered, at the rollout temperature, dropout off.

    Random numbers belong to (seed, step, row), so a resumed run samples what a straight one would. ``ended``
    hears of completions as they end.
    """

    def sample(step: int, prompts: Sequence[str], model: Decoder) -> tuple[list[list[int]], list[list[int]]]:
        rows = [chat.prompt_ids(prompt) for prompt in prompts]
        pick = sampler(
            [(step, row) for row in range(len(rows))],
            temperature=config.temperature,
            top_p=1.0,
            seed=seed,
            max_tokens=config.max_completion_tokens,
        )

        def tell(completions: Sequence[tuple[int, list[int]]]) -> None:
            if ended is not None:
                ended([(prompts[row], ids) for row, ids in completions])

        made = decode(
            model,
            rows,
            max_tokens=config.max_completion_tokens,
            stop=chat.end_ids,
            pick=pick,
            on_end=None if ended is None else tell,
        )
        return rows, [completion.ids for completion in made]

    return sample


class RubricReward:
    """Parses, judges, rewards and keeps the completions of one step."""

    def __init__(
        self,
        context: Context,
        config: Grpo,
        stage: Stage,
        chat: ChatFormat,
        executor: Executor,
        prompts: Sequence[Prompt],
        ahead: Ahead | None = None,
    ) -> None:
        """``ahead`` has judged what :meth:`ended` was told of."""
        self._context, self._config, self._stage = context, config, stage
        self._chat, self._executor, self._ahead = chat, executor, ahead
        self._counted = executor.usage
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._store, self._program = context.run.store, context.program
        self._reference = reference_judge(context, config.reference)
        self._sampling = Sampling(
            temperature=config.temperature, max_tokens=config.max_completion_tokens, seed=context.recipe.seed
        )

    def forget_after(self, step: int) -> None:
        """Drop the rollouts of steps that are computed again."""
        self._store.forget(ROLLOUT, stage=self._stage.name, after_step=step)

    def __call__(self, step: int, completions: Sequence[Completion], log: LogMetric) -> list[float | None]:
        """Return one reward for each completion; None where a total is missing after the retries."""
        prompts = [self._prompts[completion.prompt_id] for completion in completions]
        decoded = [self._chat.decode(completion.token_ids) for completion in completions]
        attempts = [self._parse(text, end) for text, end in decoded]
        items = texts_to_judge(prompts, attempts)
        started = time.monotonic()
        if self._ahead is not None:
            self._ahead.join()
        cards = self._executor.score(items)
        waited, used = time.monotonic() - started, self._executor.usage
        scored = completion_rewards(attempts, cards, self._context.recipe.reward)
        with self._store.batch():
            for index, completion in enumerate(completions):
                rollout = self._rollout(
                    step, index, completion, decoded[index], attempts[index], scored[index]
                )
                self._store.put(ROLLOUT, rollout.id, rollout, stage=self._stage.name, step=step)
        metrics = step_metrics(attempts, scored, cards) | usage_metrics(self._counted, used)
        metrics["judge/wait_seconds"] = waited
        metrics["judge/busy_seconds"] = used.seconds - self._counted.seconds
        metrics |= self._false_vetoes(items, cards)
        every = self._config.diagnostics_every
        if every and (step % every == 0 or step == 1):
            metrics |= self._diagnose(step, prompts, attempts)
        self._counted = self._executor.usage
        for name, value in metrics.items():
            log(name, value)
        return [score.reward for score in scored]

    def ended(self, rendered: Mapping[str, str]) -> Ended:
        """Return who hears of completions that end; ``rendered`` are the prompts' texts by id."""
        by_text = {rendered[prompt.id]: prompt for prompt in self._prompts.values()}

        def submit(completions: Sequence[tuple[str, list[int]]]) -> None:
            assert self._ahead is not None
            attempts = [self._parse(*self._chat.decode(ids)) for _, ids in completions]
            self._ahead.submit(texts_to_judge([by_text[text] for text, _ in completions], attempts))

        return submit

    def _parse(self, text: str, finished: bool) -> Attempt:
        tags = self._context.recipe.written_tags
        return whole(text, finished=finished) if tags is None else parse(text, tags, finished=finished)

    def _false_vetoes(
        self, items: Sequence[tuple[Prompt, str]], cards: Sequence[Scorecard]
    ) -> dict[str, float]:
        checked = (
            checked_false(items, cards, self._program, self._reference, self._store)
            if self._reference is not None
            else None
        )
        rates = {"veto/false_expected": expected_false(cards), "veto/false": checked}
        return {name: rate for name, rate in rates.items() if rate is not None}

    def _rollout(
        self,
        step: int,
        index: int,
        completion: Completion,
        decoded: tuple[str, bool],
        attempt: Attempt,
        scored: Scored,
    ) -> Rollout:
        id = f"{self._stage.name}-{step:06d}-{index:04d}"
        prompt = self._prompts[completion.prompt_id]
        text, finished = decoded
        response = Response(
            id=id,
            prompt_id=prompt.id,
            text=text,
            model=f"{self._context.recipe.name}/{self._stage.name}@{step - 1}",
            sampling=self._sampling,
            tokens=len(completion.token_ids),
            finished=finished,
        )
        judged = attempt.malformed is None
        return Rollout(
            id=id,
            stage=self._stage.name,
            step=step,
            prompt_id=prompt.id,
            response=response,
            attempt=attempt,
            draft_card=self._card_id(prompt, attempt.draft) if judged else None,
            revision_card=self._card_id(prompt, attempt.revision) if judged else None,
            r1=scored.r1,
            r2=scored.r2,
            reward=scored.reward,
        )

    def _card_id(self, prompt: Prompt, text: str) -> str:
        return card_id(prompt, text, self._program, self._context.judge.fingerprint)

    def _diagnose(
        self, step: int, prompts: Sequence[Prompt], attempts: Sequence[Attempt]
    ) -> dict[str, float]:
        """Ask every question about a sample of attempts that depends on seed and step alone."""
        pairs = [(p, a) for p, a in zip(prompts, attempts, strict=True) if a.malformed is None]
        count = min(len(pairs), self._config.diagnostics_texts // 2)
        if not count:
            return {}
        chosen = random.Random(f"diagnostics/{self._context.recipe.seed}/{step}").sample(pairs, count)
        cards = self._executor.score(
            texts_to_judge([p for p, _ in chosen], [a for _, a in chosen]), full=True
        )
        asked = {question.id: question for _, _, question in questions(self._program)}
        return {"diagnostics/texts": float(2 * count), **card_metrics(cards[::2], cards[1::2], asked)}


def step_metrics(
    attempts: Sequence[Attempt], scored: Sequence[Scored], cards: Sequence[Scorecard]
) -> dict[str, float]:
    """Return means and shares over the completions of one step; what has no member is left out."""
    count = len(attempts)
    reasons = Counter(attempt.malformed for attempt in attempts if attempt.malformed is not None)
    pairs = [(s.r1, s.r2) for s in scored if s.r1 is not None and s.r2 is not None]
    verdicts = [v for c in cards for p in c.principles for d in p.dimensions for v in d.verdicts]
    answered = [v for v in verdicts if v.outcome in (Outcome.ANSWERED, Outcome.NOT_APPLICABLE)]
    metrics = {
        "malformed/share": sum(reasons.values()) / count,
        "no_total/share": sum(s.reward is None for s in scored) / count,
        **{f"malformed/{reason}": number / count for reason, number in reasons.items()},
    }
    if pairs:
        metrics["reward/draft"] = sum(r1 for r1, _ in pairs) / len(pairs)
        metrics["reward/revision"] = sum(r2 for _, r2 in pairs) / len(pairs)
        metrics["reward/improvement"] = metrics["reward/revision"] - metrics["reward/draft"]
    if cards:
        metrics["veto/share"] = sum(bool(card.vetoed_by) for card in cards) / len(cards)
    if answered:
        metrics["na/share"] = sum(v.outcome is Outcome.NOT_APPLICABLE for v in answered) / len(answered)
    return metrics


def malformed_warning(logged: Sequence[Mapping[str, float]]) -> str | None:
    """Say so where no completion of any step was an attempt: then all rewards were the same floor."""
    steps = [metrics for metrics in logged if "malformed/share" in metrics]
    if not steps or any(metrics["malformed/share"] < 1 for metrics in steps):
        return None
    shares = {str(r): sum(m.get(f"malformed/{r}", 0.0) for m in steps) / len(steps) for r in Malformed}
    ranked = sorted(shares.items(), key=lambda item: -item[1])[:3]
    most = ", ".join(f"{reason.replace('_', ' ')} {share:.0%}" for reason, share in ranked if share)
    return (
        f"every completion was malformed ({most}), so nothing could be learned; train think-sft on more examples, "
        "or raise max_completion_tokens where they are truncated"
    )


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
