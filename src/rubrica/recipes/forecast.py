"""What a recipe will cost: bounds from its numbers alone, and what to expect where rates were measured.

:func:`forecast` needs no model, no network and no file, so rows of files are not counted. Judge calls are upper bounds:
one for each question and text, questions about the prompt included, for each judge of a cascade. Fewer are made where a
verdict is known already or cannot change the reward; failed calls that are repeated and questions that prompts bring
along come on top. What a policy asks itself is not counted. Tokens are rough: texts are taken at their longest, words at
four characters a token.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rubrica.core.config import Config, Json
from rubrica.core.programs import Program
from rubrica.core.records import Price
from rubrica.judges.factory import parts
from rubrica.program.program import load_program, questions
from rubrica.program.relevance import relevance_questions
from rubrica.recipes.config import Recipe
from rubrica.recipes.examples import REFLECTION_TOKENS
from rubrica.recipes.nobody import is_nobody
from rubrica.recipes.options import DemonstrationSource, LabDemonstrations
from rubrica.recipes.rates import Cost, Rates, cost_of, rated_cost
from rubrica.recipes.spa_scores import objectives_program
from rubrica.recipes.stages import StageConfig
from rubrica.recipes.stages.active_dpo import ActiveDpo, JudgeLabels
from rubrica.recipes.stages.dpo import Dpo
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.stages.irft import Irft
from rubrica.recipes.stages.reward_model import TrainReward
from rubrica.recipes.stages.rft import Rft
from rubrica.recipes.stages.sft import Sft
from rubrica.recipes.stages.spa import SELF, Spa
from rubrica.recipes.stages.think_sft import ThinkSft

CHARACTERS_PER_TOKEN = 4
PROMPT_TOKENS = 100
"""Assumed length of a prompt."""
TEMPLATE_TOKENS = 180
"""Assumed length of the judge's instruction and fences."""
REASON_TOKENS = 30
"""Assumed length of an answer in mode ``reason``: a short JSON object with one sentence. A label is one token."""


class StageForecast(Config):
    """Upper bounds on what a stage asks of the judge and of the models."""

    stage: str
    """Its folder's name."""
    updates: int | None
    """Optimizer steps; None where files say how many."""
    texts: int | None
    """Texts that are sampled; None where files say how many."""
    tokens: int | None
    """Their tokens, every text at its longest."""
    judge_calls: int
    """Questions to the judge: texts x questions, those of a reference judge and of full scorecards included."""
    judge_prompt_tokens: int
    """Tokens read by the judge, nothing shared or cached."""
    judge_completion_tokens: int
    """Tokens written by the judge, reflections included."""


class Forecast(Config):
    """Upper bounds on what a recipe asks."""

    questions: int
    """Questions of the program, those about prompts included; none without a judge."""
    judges: int
    """Judges that a question may be put to: the two of a cascade, else one, or none."""
    stages: tuple[StageForecast, ...]

    def total(self, name: str) -> int:
        """Return the sum of a field over the stages, as far as it is known."""
        return sum(getattr(stage, name) or 0 for stage in self.stages)


class _Asked(NamedTuple):
    """What a stage asks, before questions are multiplied out."""

    updates: int | None
    texts: int | None
    tokens: int | None
    judged: int = 0
    """Texts before the judge."""
    read: int = 0
    """Tokens of these texts."""
    calls: int = 0
    """Questions beyond those of the program about these texts."""
    call_tokens: int = 0
    """Tokens read with them."""
    written: int = 0
    """Tokens that the judge writes beside answers."""


def forecast(recipe: Recipe, program: Program) -> Forecast:
    """Return the forecast of ``recipe`` under ``program``."""
    nobody = is_nobody(recipe.judge)
    asked = [] if nobody else [*relevance_questions(program), *(q for _, _, q in questions(program))]
    judges = [] if nobody else parts(recipe.judge)
    # What one full scorecard reads besides the text itself.
    fixed = _fixed([question.text for question in asked])
    stages = []
    for number, stage in enumerate(recipe.stages, 1):
        found = _asked(recipe, program, stage)
        calls = found.judged * len(asked) + found.calls
        read = found.judged * fixed + len(asked) * found.read + found.call_tokens
        other = stage.judge if isinstance(stage, Spa) and stage.judge != SELF else None
        heard = judges if other is None else parts(other)
        answer = sum(REASON_TOKENS if judge.mode == "reason" else 1 for judge in heard)
        stages.append(
            StageForecast(
                stage=f"{number:02d}-{stage.type}",
                updates=found.updates,
                texts=found.texts,
                tokens=found.tokens,
                judge_calls=calls,
                judge_prompt_tokens=read * len(heard),
                judge_completion_tokens=calls * answer + found.written,
            )
        )
    return Forecast(questions=len(asked), judges=len(judges), stages=tuple(stages))


def _asked(recipe: Recipe, program: Program, stage: StageConfig) -> _Asked:
    match stage:
        case Grpo():
            return _grpo(recipe, stage)
        case ThinkSft():
            return _think_sft(stage)
        case Dpo():
            made = 0 if stage.pairs else stage.examples
            tokens = 2 * made * stage.sampling.max_tokens
            updates = None if stage.pairs else _updates(made, stage.trainer)
            judged = (2 * made, tokens) if stage.offset is not None else (0, 0)
            return _Asked(updates, 2 * made, tokens, *judged)
        case ActiveDpo():
            return _active_dpo(stage)
        case TrainReward():
            return _reward_model(stage, teacher=recipe.teacher is not None)
        case Irft() | Rft():
            return _irft(stage)
        case Spa():
            return _spa(stage, program)
        case Sft():
            return _Asked(_passes(_shown(stage.demonstrations), stage.trainer), 0, 0)


def _updates(rows: int, trainer: Mapping[str, Json], epochs: float = 1) -> int:
    """Return the updates of a trainer over ``rows``; the defaults are those of :mod:`rubrica.train`."""

    def number(name: str, default: float) -> float:
        given = trainer.get(name)
        return given if isinstance(given, int | float) else default

    if (most := number("max_steps", -1)) > 0:
        return int(most)
    size = number("per_device_train_batch_size", 16) * number("gradient_accumulation_steps", 1)
    return math.ceil(number("num_train_epochs", epochs) * math.ceil(rows / max(size, 1)))


def _passes(rows: int | None, trainer: Mapping[str, Json]) -> int | None:
    return _updates(rows or 0, trainer) if rows is not None or "max_steps" in trainer else None


def _shown(sources: Sequence[DemonstrationSource]) -> int | None:
    """How many demonstrations there are; None where files say it."""
    counts = [source.examples if isinstance(source, LabDemonstrations) else None for source in sources]
    return sum(n for n in counts if n is not None) if None not in counts else None


def _grpo(recipe: Recipe, stage: Grpo) -> _Asked:
    completions = stage.steps * stage.prompts_per_step * stage.group_size
    each = 2 if recipe.reflect else 1
    judged = each * completions
    if stage.reward_model is not None:  # the judge sees what is diagnosed
        judged = 0
        if stage.diagnostics_every and not is_nobody(recipe.judge):
            times = stage.steps // stage.diagnostics_every + (stage.diagnostics_every > 1)
            judged = times * stage.diagnostics_texts
    # Draft and revision share the completion's tokens.
    read = judged * stage.max_completion_tokens // each
    return _Asked(stage.steps, completions, completions * stage.max_completion_tokens, judged, read)


def _think_sft(stage: ThinkSft) -> _Asked:
    pair = stage.examples * (stage.draft.max_tokens + stage.revision.max_tokens)
    return _Asked(
        _updates(stage.examples + stage.replay_examples, stage.trainer),
        2 * stage.examples + stage.replay_examples,
        pair + stage.replay_examples * stage.revision.max_tokens,
        judged=2 * stage.examples,
        read=pair,
        calls=0 if stage.reference is None else 2 * stage.examples,
        written=stage.examples * REFLECTION_TOKENS if stage.reflection == "judge" else 0,
    )


def _active_dpo(stage: ActiveDpo) -> _Asked:
    evaluated = stage.held_out * (stage.rounds + 1)
    labelled = isinstance(stage.labels, JudgeLabels) * 2 * stage.rounds * stage.labels_per_round
    answers = stage.asked_per_stage * stage.responses + evaluated
    sets = range(1, stage.rounds + 1) if stage.train_on == "all" else [1] * stage.rounds
    updates = sum(_updates(n * stage.labels_per_round, stage.trainer, epochs=4) for n in sets)
    longest = stage.sampling.max_tokens
    judged = labelled + evaluated
    return _Asked(updates, answers, answers * longest, judged, judged * longest)


def _reward_model(stage: TrainReward, *, teacher: bool) -> _Asked:
    if stage.pairs:
        return _Asked(_passes(None, stage.trainer), 0, 0)
    by_judge = stage.preferred == "judge"
    answers = stage.examples * ((stage.samples + teacher) if by_judge else 2)
    tokens = answers * stage.sampling.max_tokens
    judged = (answers, tokens) if by_judge else (0, 0)
    return _Asked(_updates(stage.examples, stage.trainer), answers, tokens, *judged)


def _irft(stage: Irft | Rft) -> _Asked:
    shown = _shown(stage.demonstrations)
    longest, times = stage.answers.max_tokens, stage.stages if isinstance(stage, Irft) else stage.rounds
    part = None if shown is None else math.ceil(shown / times)
    if isinstance(stage, Irft):
        own = {"max_steps": stage.steps} if stage.steps is not None else {}
        each = _passes(part, {**stage.trainer, **own})
        updates, more = None if each is None else times * each, 0
    else:
        step, each = stage.policy, _passes(part, stage.reward.trainer)
        updates = None if each is None else times * (each + step.steps)
        more = times * step.steps * step.prompts_per_step * step.group_size
    if shown is None:
        return _Asked(updates, None, None)
    return _Asked(updates, shown + more, (shown + more) * longest)


def _spa(stage: Spa, program: Program) -> _Asked:
    drawn = stage.iterations * stage.prompts * stage.samples + (2 * stage.prompts if stage.measure else 0)
    refined = 0 if stage.refine == "none" else stage.iterations * stage.prompts
    tokens = drawn * stage.sampling.max_tokens + refined * stage.refinement.max_tokens
    pairs = math.comb(stage.samples + (stage.refine != "none"), 2)
    each = min(pairs, stage.pairs.per_prompt or pairs)
    updates = stage.iterations * _updates(stage.prompts * each, stage.trainer)
    if stage.judge == SELF:
        return _Asked(updates, drawn + refined, tokens)
    scored = program if stage.program is None else load_program(stage.program)
    texts = [question.text for _, _, question in questions(objectives_program(scored, stage.objectives))]
    calls, read = (drawn + refined) * len(texts), (drawn + refined) * _fixed(texts) + len(texts) * tokens
    return _Asked(updates, drawn + refined, tokens, calls=calls, call_tokens=read)


def _fixed(texts: Sequence[str]) -> int:
    """Tokens that questions take beside the text that they are about."""
    return len(texts) * (TEMPLATE_TOKENS + PROMPT_TOKENS) + sum(map(len, texts)) // CHARACTERS_PER_TOKEN


def judging_cost(expected: Forecast, price: Price | None, rates: Rates | None) -> Cost:
    """Return what judging takes: bounds, or with ``rates`` what their calls let expect."""
    calls = expected.total("judge_calls")
    if rates is None:
        read = float(expected.total("judge_prompt_tokens"))
        written = float(expected.total("judge_completion_tokens"))
        return cost_of("at most", calls * max(expected.judges, 1), read, written, price, None)
    return rated_cost(round(calls * rates.asked_share), price, rates)
