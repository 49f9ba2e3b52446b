"""What a recipe will cost: bounds from its numbers alone, and what to expect where rates were measured.

:func:`forecast` needs no model, no network and no file. Judge calls are upper bounds: one for each question and text,
questions about the prompt included, for each judge of a cascade. Fewer are made where a verdict is known already or
cannot change the reward; failed calls that are repeated and questions that prompts bring along come on top. Tokens are
rough: texts are taken at their longest, words at four characters a token.
"""

from rubrica.core.config import Config
from rubrica.core.programs import Program
from rubrica.core.records import Price
from rubrica.judges.factory import parts
from rubrica.program.program import load_program, questions
from rubrica.program.relevance import relevance_questions
from rubrica.recipes.config import Recipe
from rubrica.recipes.examples import REFLECTION_TOKENS
from rubrica.recipes.nobody import is_nobody
from rubrica.recipes.options import LabDemonstrations
from rubrica.recipes.rates import Cost, Rates, cost_of, rated_cost
from rubrica.recipes.spa_scores import objectives_program
from rubrica.recipes.stages.active_dpo import ActiveDpo, JudgeLabels
from rubrica.recipes.stages.dpo import Dpo
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.stages.irft import Irft
from rubrica.recipes.stages.reward_model import TrainReward
from rubrica.recipes.stages.rft import Rft
from rubrica.recipes.stages.spa import SELF, Spa
from rubrica.recipes.stages.think_sft import ThinkSft

CHARACTERS_PER_TOKEN = 4
PROMPT_TOKENS = 100
"""Assumed length of a prompt."""
TEMPLATE_TOKENS = 180
"""Assumed length of the judge's instruction and fences."""
REASON_TOKENS = 30
"""Assumed length of an answer in mode ``reason``: a short JSON object with one sentence. A label is one token."""


class Forecast(Config):
    """Upper bounds on what the stages of a recipe ask of the judge and of the models."""

    questions: int
    """Questions of the program, those about prompts included."""
    judges: int
    """Judges that a question may be put to: the two of a cascade, else one."""
    judge_calls: int
    """Questions asked by GRPO: steps x prompts x group x 2 texts x questions."""
    sft_judge_calls: int
    """Questions asked about drafts of think-SFT, answers of DPO with an offset and answers of SPA: texts x questions.
    What a policy asks itself is not counted."""
    sft_check_calls: int
    """Questions asked about revisions, and by a reference judge where there is one."""
    diagnostic_calls: int
    """Questions that full scorecards of GRPO's samples ask beyond the reward's; within ``judge_calls``."""
    updates: int
    """Optimizer steps of GRPO, and of RFT's policy."""
    rollouts: int
    """Completions that GRPO and RFT sample in training."""
    policy_tokens: int
    """Tokens sampled in all stages, every text at its longest."""
    judge_prompt_tokens: int
    """Tokens read by the judge in all stages, nothing shared or cached."""
    judge_completion_tokens: int
    """Tokens written by the judge in all stages, reflections included."""


def forecast(recipe: Recipe, program: Program) -> Forecast:
    """Return the forecast of ``recipe`` under ``program``."""
    every = [*relevance_questions(program), *(question for _, _, question in questions(program))]
    judges, asked = len(parts(recipe.judge)), len(every)
    characters = sum(len(question.text) for question in every)
    # What one full scorecard reads besides the text itself.
    fixed = asked * (TEMPLATE_TOKENS + PROMPT_TOKENS) + characters // CHARACTERS_PER_TOKEN
    grpo_texts = draft_texts = check_texts = checks = rollouts = updates = diagnostics = sampled = read = 0
    written = spa_calls = 0
    for stage in recipe.stages:
        match stage:
            case Grpo():
                completions = stage.steps * stage.prompts_per_step * stage.group_size
                updates += stage.steps
                rollouts += completions
                texts_each = 2 if recipe.reflect else 1
                judged, diagnosed = texts_each * completions, 0
                if stage.diagnostics_every and not is_nobody(recipe.judge):
                    times = stage.steps // stage.diagnostics_every + (stage.diagnostics_every > 1)
                    diagnosed = times * stage.diagnostics_texts
                if stage.reward_model is not None:
                    judged = diagnosed
                grpo_texts, diagnostics = grpo_texts + judged, diagnostics + diagnosed
                sampled += completions * stage.max_completion_tokens
                # Draft and revision share the completion's tokens.
                read += judged * fixed + judged * asked * stage.max_completion_tokens // texts_each
            case ThinkSft():
                draft_texts += stage.examples
                check_texts += stage.examples
                checks += 0 if stage.reference is None else 2 * stage.examples
                written += stage.examples * REFLECTION_TOKENS if stage.reflection == "judge" else 0
                length = stage.draft.max_tokens + stage.revision.max_tokens
                sampled += stage.examples * length + stage.replay_examples * stage.revision.max_tokens
                read += stage.examples * (2 * fixed + asked * length)
            case Dpo():
                made = 0 if stage.pairs else stage.examples
                sampled += 2 * made * stage.sampling.max_tokens
                if stage.offset is not None:
                    draft_texts += 2 * made
                    read += 2 * made * (fixed + asked * stage.sampling.max_tokens)
            case ActiveDpo():
                evaluated = stage.held_out * (stage.rounds + 1)
                answers = stage.asked_per_stage * stage.responses + evaluated
                sampled += answers * stage.sampling.max_tokens
                labelled = isinstance(stage.labels, JudgeLabels) * 2 * stage.rounds * stage.labels_per_round
                draft_texts += labelled + evaluated
                read += (labelled + evaluated) * (fixed + asked * stage.sampling.max_tokens)
            case TrainReward():
                tokens, calls = _answers(stage, teacher=recipe.teacher is not None)
                sampled, draft_texts = sampled + tokens, draft_texts + calls
                read += calls * (fixed + asked * stage.sampling.max_tokens)
            case Irft() | Rft():
                # files are not read for a forecast: their demonstrations are not counted
                shown = [s.examples for s in stage.demonstrations if isinstance(s, LabDemonstrations)]
                sampled += sum(shown) * stage.answers.max_tokens
                if isinstance(stage, Rft):
                    step = stage.policy
                    completions = stage.rounds * step.steps * step.prompts_per_step * step.group_size
                    updates, rollouts = updates + stage.rounds * step.steps, rollouts + completions
                    sampled += completions * stage.answers.max_tokens
            case Spa():
                tokens, calls, letters = _spa(stage, program)
                sampled, read, spa_calls = sampled + tokens, read + letters, spa_calls + calls
    texts = grpo_texts + draft_texts + check_texts
    calls = texts * asked + spa_calls
    written += sum(calls * (REASON_TOKENS if p.mode == "reason" else 1) for p in parts(recipe.judge))
    return Forecast(
        questions=asked,
        judges=judges,
        judge_calls=grpo_texts * asked,
        sft_judge_calls=draft_texts * asked + spa_calls,
        sft_check_calls=check_texts * asked + checks,
        diagnostic_calls=diagnostics * asked,
        updates=updates,
        rollouts=rollouts,
        policy_tokens=sampled,
        judge_prompt_tokens=read * judges,
        judge_completion_tokens=written,
    )


def _answers(stage: TrainReward, *, teacher: bool) -> tuple[int, int]:
    """Return tokens sampled and texts judged to make the pairs of a reward model."""
    if stage.pairs:
        return 0, 0
    judged = stage.preferred == "judge"
    answers = stage.examples * ((stage.samples + teacher) if judged else 2)
    return answers * stage.sampling.max_tokens, answers if judged else 0


def _spa(stage: Spa, program: Program) -> tuple[int, int, int]:
    """Return tokens sampled, questions put to a judge that is not the policy, and tokens that it reads."""
    drawn = stage.iterations * stage.prompts * stage.samples + (2 * stage.prompts if stage.measure else 0)
    refined = 0 if stage.refine == "none" else stage.iterations * stage.prompts
    sampled = drawn * stage.sampling.max_tokens + refined * stage.refinement.max_tokens
    if stage.judge == SELF:
        return sampled, 0, 0
    scored = program if stage.program is None else load_program(stage.program)
    texts = [question.text for _, _, question in questions(objectives_program(scored, stage.objectives))]
    calls = (drawn + refined) * len(texts)
    fixed = len(texts) * (TEMPLATE_TOKENS + PROMPT_TOKENS) + sum(map(len, texts)) // CHARACTERS_PER_TOKEN
    return sampled, calls, (drawn + refined) * fixed + len(texts) * sampled


def judging_cost(expected: Forecast, price: Price | None, rates: Rates | None) -> Cost:
    """Return what judging takes: bounds, or with ``rates`` what their calls let expect."""
    calls = expected.judge_calls + expected.sft_judge_calls + expected.sft_check_calls
    if rates is None:
        read, written = float(expected.judge_prompt_tokens), float(expected.judge_completion_tokens)
        return cost_of("at most", calls * expected.judges, read, written, price, None)
    return rated_cost(round(calls * rates.asked_share), price, rates)
