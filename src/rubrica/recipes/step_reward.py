"""One reward for each completion of a GRPO step, and what is logged and kept about it.

The number that trains the model is the number that is logged and kept: ``Rollout.reward``. All else goes
through ``log_metric``, never through a second reward function. What a text is worth a rubric says
(:mod:`rubrica.recipes.rubric_reward`) or a reward model (:mod:`rubrica.recipes.scalar_reward`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from rubrica.core.attempt import Tags, parse, whole
from rubrica.core.prompts import Prompt
from rubrica.core.records import Attempt, Response, Rollout, Sampling
from rubrica.methods.qa_lign import texts_to_judge
from rubrica.program.reward import Scored
from rubrica.recipes.ahead import Ahead
from rubrica.recipes.context import Context
from rubrica.recipes.models import ChatFormat
from rubrica.recipes.stages.grpo import Grpo
from rubrica.train.grpo import Completion, LogMetric

ROLLOUT = "rollout"
"""Kind under which rollouts lie in the store."""
Ended = Callable[[Sequence[tuple[str, list[int]]]], None]
"""Gets (rendered prompt, tokens) of completions that have just ended."""
Read = Callable[[str, bool], Attempt]
"""Makes an attempt of a completion's text; the second argument tells whether it came to its end."""


def read_with(tags: Tags | None) -> Read:
    """Return what parses draft, reflection and revision, or without ``tags`` takes the whole for an answer."""
    if tags is None:
        return lambda text, finished: whole(text, finished=finished)
    return lambda text, finished: parse(text, tags, finished=finished)


class Sources(NamedTuple):
    """Where the values of a rollout come from: two scorecards, or a reward model."""

    draft_card: str | None = None
    revision_card: str | None = None
    reward_model: str | None = None


class Valuer(Protocol):
    """Says what the texts of attempts are worth."""

    def value(
        self, step: int, prompts: Sequence[Prompt], attempts: Sequence[Attempt]
    ) -> tuple[list[Scored], dict[str, float]]:
        """Return what each attempt of a step earned, and metrics of the step."""

    def sources(self, prompt: Prompt, attempt: Attempt) -> Sources:
        """Return where the values of an attempt are found."""


class StepReward:
    """Parses, has valued, rewards and keeps the completions of one step."""

    def __init__(
        self,
        context: Context,
        config: Grpo,
        stage: str,
        chat: ChatFormat,
        valuer: Valuer,
        prompts: Sequence[Prompt],
        read: Read,
    ) -> None:
        """``stage`` is the name under which rollouts are kept."""
        self._context, self._stage, self._chat, self._valuer = context, stage, chat, valuer
        self._prompts, self._read = {prompt.id: prompt for prompt in prompts}, read
        self._store = context.run.store
        self._sampling = Sampling(
            temperature=config.temperature, max_tokens=config.max_completion_tokens, seed=context.recipe.seed
        )

    def forget_after(self, step: int) -> None:
        """Drop the rollouts of steps that are computed again."""
        self._store.forget(ROLLOUT, stage=self._stage, after_step=step)

    def __call__(self, step: int, completions: Sequence[Completion], log: LogMetric) -> list[float | None]:
        """Return one reward for each completion; None where a value is missing after the retries."""
        prompts = [self._prompts[completion.prompt_id] for completion in completions]
        decoded = [self._chat.decode(completion.token_ids) for completion in completions]
        attempts = [self._read(text, end) for text, end in decoded]
        scored, metrics = self._valuer.value(step, prompts, attempts)
        with self._store.batch():
            for index, completion in enumerate(completions):
                rollout = self._rollout(
                    step, index, completion, decoded[index], attempts[index], scored[index]
                )
                self._store.put(ROLLOUT, rollout.id, rollout, stage=self._stage, step=step)
        for name, value in (step_metrics(attempts, scored) | metrics).items():
            log(name, value)
        return [score.reward for score in scored]

    def ended(self, rendered: Mapping[str, str], ahead: Ahead) -> Ended:
        """Return who hears of completions that end; ``rendered`` are the prompts' texts by id."""
        by_text = {rendered[prompt.id]: prompt for prompt in self._prompts.values()}

        def submit(completions: Sequence[tuple[str, list[int]]]) -> None:
            attempts = [self._read(*self._chat.decode(ids)) for _, ids in completions]
            ahead.submit(texts_to_judge([by_text[text] for text, _ in completions], attempts))

        return submit

    def _rollout(
        self,
        step: int,
        index: int,
        completion: Completion,
        decoded: tuple[str, bool],
        attempt: Attempt,
        scored: Scored,
    ) -> Rollout:
        id = f"{self._stage}-{step:06d}-{index:04d}"
        prompt = self._prompts[completion.prompt_id]
        text, finished = decoded
        response = Response(
            id=id,
            prompt_id=prompt.id,
            text=text,
            model=f"{self._context.recipe.name}/{self._stage}@{step - 1}",
            sampling=self._sampling,
            tokens=len(completion.token_ids),
            finished=finished,
        )
        return Rollout(
            id=id,
            stage=self._stage,
            step=step,
            prompt_id=prompt.id,
            response=response,
            attempt=attempt,
            **self._valuer.sources(prompt, attempt)._asdict(),
            r1=scored.r1,
            r2=scored.r2,
            reward=scored.reward,
        )


def step_metrics(attempts: Sequence[Attempt], scored: Sequence[Scored]) -> dict[str, float]:
    """Return means and shares over the completions of one step; what has no member is left out."""
    count = len(attempts)
    reasons = Counter(attempt.malformed for attempt in attempts if attempt.malformed is not None)
    pairs = [(s.r1, s.r2) for s in scored if s.r1 is not None and s.r2 is not None]
    revisions = [s.r2 for s in scored if s.r2 is not None and s.reward is not None]
    metrics = {
        "malformed/share": sum(reasons.values()) / count,
        "no_total/share": sum(s.reward is None for s in scored) / count,
        **{f"malformed/{reason}": number / count for reason, number in reasons.items()},
    }
    if revisions:
        metrics["reward/revision"] = sum(revisions) / len(revisions)
    if pairs:
        metrics["reward/draft"] = sum(r1 for r1, _ in pairs) / len(pairs)
        metrics["reward/improvement"] = metrics["reward/revision"] - metrics["reward/draft"]
    return metrics
