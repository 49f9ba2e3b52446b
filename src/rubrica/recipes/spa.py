"""Stage spa: a pool of scored answers, refined and denoised, then training on its pairs; as often as is asked for.

The policy writes, scores and refines by itself, as in the paper, unless the stage names another judge or writer.
"""

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

from rubrica.checkpoint import load_checkpoint, weights_hash
from rubrica.core.base import Record
from rubrica.core.errors import JudgeError, RubricaError, TrainingError
from rubrica.core.ports import Generator, Judge
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import Preference
from rubrica.core.run import Stage
from rubrica.judges.factory import JudgeConfig, make_judge, metered
from rubrica.judges.layout import Tokenizer
from rubrica.judges.local import LocalJudge, read_card
from rubrica.methods.spa import INCONSISTENT, LAMBDAS, NO_INFORMATION, NO_REFINEMENT, hh
from rubrica.models.decoding import Decoder
from rubrica.models.hf import ChatTokenizer, HFGenerator
from rubrica.packed import CausalLM
from rubrica.program.program import load_program
from rubrica.recipes.context import Context, Weights, reference_judge
from rubrica.recipes.models import (
    ChatFormat,
    load_chat_format,
    model_folder,
    next_weights,
    open_generator,
    open_source,
    training_start,
)
from rubrica.recipes.pairs import pair_rows, train_on_pairs
from rubrica.recipes.sampling import sampled, stored_texts
from rubrica.recipes.spa_pool import CUT_OFF, UNSCORED, BuiltPool, PoolBuilder, Refining, mean_scores
from rubrica.recipes.spa_scores import Scorer, objectives_in_words, objectives_program, rubric_scorer
from rubrica.recipes.stages.spa import SELF, Spa
from rubrica.train.pairs import PairLoss
from rubrica.train.sft import TokenRow, train_sft


def run_spa(context: Context, config: Spa, stage: Stage, prompts: Sequence[Prompt]) -> dict[str, object]:
    """Run all iterations and return the summary: what each test removed, scores before and after, HH_lambda.

    The last iteration works in the stage's own folder, each earlier one in a folder of its own below it.
    """
    before = _measured(context, config, stage, _distinct(prompts), "spa-before", context.weights)
    weights, earlier = context.weights, list[dict[str, object]]()
    size = config.prompts if config.fresh_prompts else 0
    for number in range(config.iterations - 1):
        part = Stage(stage.path / f"{stage.name}-{number + 1}")
        now = replace(context, weights=weights)
        if not part.done:
            part.finish(_iteration(now, config, part, prompts[number * size :][: config.prompts]))
        earlier.append(dict(part.summary()))
        weights = next_weights(now, part)
    now = replace(context, weights=weights)
    last = _iteration(now, config, stage, prompts[-config.prompts :])
    trained = next_weights(now, stage)
    after = _measured(context, config, stage, _distinct(prompts), "spa-after", trained)
    told = {"before": before, "after": after}
    return {
        **last,
        **({"earlier": earlier} if earlier else {}),
        **{when: found.model_dump() for when, found in told.items() if found is not None},
    }


def _iteration(context: Context, config: Spa, stage: Stage, prompts: Sequence[Prompt]) -> dict[str, object]:
    built = _build(context, config, stage, _distinct(prompts))
    if context.spending is not None:
        context.spending.release()
    gc.collect()  # the weights of generators and judge go before the trainer's come
    if not built.pairs:
        raise _nothing_to_train_on(stage.name, built.report)
    return {**built.report, **_train(context, config, stage, built.pairs)}


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Each prompt once: a short list of prompts is passed over several times."""
    return list({prompt.id: prompt for prompt in prompts}.values())


# --- the pool -----------------------------------------------------------------------------------------


class _Own(NamedTuple):
    """The policy, and itself as a judge; both use one copy of the weights."""

    generator: Generator
    judge: Judge


def _build(context: Context, config: Spa, stage: Stage, prompts: Sequence[Prompt]) -> BuiltPool:
    program = scoring_program(context, config)
    own = _open_own(context)
    refining = _refining(context, config, own.generator)
    strong = reference_judge(context, config.reference)
    builder = PoolBuilder(
        stage=stage,
        store=context.run.store,
        objectives=dict(zip(config.objectives, objectives_in_words(program), strict=True)),
        scorer=_scorer(context, config, program, _judge(context, config, own.judge)),
        draw=lambda kind, asked, count: sampled(
            context.run.store,
            stage.name,
            kind,
            own.generator,
            asked,
            count,
            config.sampling,
            partial(context.report, "spa: sampling"),
        ),
        samples=config.samples,
        systems=config.system_prompts or [""],
        denoising=config.denoise,
        pairing=config.pairs,
        refining=refining,
        strong=None if strong is None else _scorer(context, config, program, strong),
        report=context.report,
    )
    return builder.build(prompts)


def scoring_program(context: Context, config: Spa) -> Program:
    """Return the principles that are the stage's objectives, in their order; ``UsageError`` for an unknown one."""
    program = context.program if config.program is None else load_program(config.program)
    return objectives_program(program, config.objectives, context.source)


def _open_own(context: Context) -> _Own:
    weights = context.weights
    chat = load_chat_format(weights.model, weights.chat_template)
    model, _ = load_checkpoint(weights.model, dtype=context.recipe.policy.dtype)
    judge = LocalJudge(
        cast(CausalLM, model),
        cast(Tokenizer, chat.tokenizer),
        card=read_card(weights.model),
        secret=context.run.store.secret,
        weights=weights_hash(weights.model),
    )
    generator = HFGenerator(
        cast(Decoder, model), cast(ChatTokenizer, chat.tokenizer), name=str(weights.model)
    )
    return _Own(generator, judge)


def _judge(context: Context, config: Spa, own: Judge | None) -> Judge:
    if config.judge is None:
        return context.judge
    if config.judge == SELF:
        assert own is not None
        return own if context.purse is None else metered(own, JudgeConfig(spec=SELF), context.purse)
    judges = dict(context.surroundings.judges)
    return make_judge(config.judge, secret=context.run.store.secret, builtin=judges, purse=context.purse)


def _scorer(context: Context, config: Spa, program: Program, judge: Judge) -> Scorer:
    """Under a program of the stage's own, questions that prompts bring along have no place."""
    executor = replace(context, judge=judge, program=program, thresholds={}).executor("spa")
    return rubric_scorer(executor, own_questions=config.program is None)


def _refining(context: Context, config: Spa, policy: Generator) -> Refining | None:
    source, weights = context.recipe.teacher, context.weights
    if config.refine == "none":
        return None
    if config.refine == "policy":
        generator, chat = policy, load_chat_format(weights.model, weights.chat_template)
    else:
        assert source is not None, "checked before the run"
        generator = open_source(source, context.surroundings)
        chat = load_chat_format(model_folder(source, context.surroundings), source.chat_template)
    fits = partial(_fits, chat, config.refinement.max_tokens)
    return Refining(generator, config.refinement, config.refine != "afresh", fits)


def _fits(chat: ChatFormat, room: int, prompt: Prompt) -> bool:
    return chat.context is None or len(chat.prompt_ids(chat.render(prompt))) + room <= chat.context


# --- training -----------------------------------------------------------------------------------------


def pair_loss(config: Spa) -> PairLoss:
    """Return the loss on pairs that the stage asks for."""
    if config.loss == "dpo":
        return PairLoss(margin="ratio", beta=config.beta or 0.1)
    weight_power = config.alpha if config.loss == "spa" else None
    return PairLoss(margin="length", beta=config.beta or 2.5, gamma=config.gamma, weight_power=weight_power)


def _train(context: Context, config: Spa, stage: Stage, pairs: Sequence[Preference]) -> dict[str, object]:
    if config.loss == "sft":
        return _train_on_preferred(context, config, stage, pairs)
    if config.loss != "spa":
        pairs = [pair.model_copy(update={"weight": 1.0}) for pair in pairs]
    trained = train_on_pairs(context, stage, pairs, pair_loss(config), config.trainer, label="spa")
    return {"loss": config.loss, **{f"trained_{k}" if k == "pairs" else k: v for k, v in trained.items()}}


def _train_on_preferred(
    context: Context, config: Spa, stage: Stage, pairs: Sequence[Preference]
) -> dict[str, object]:
    """Supervised training on every text that was preferred, each once."""
    preferred = {(pair.prompt.id, pair.chosen): pair for pair in pairs}
    chat = load_chat_format(context.weights.model, context.weights.chat_template)
    given = config.trainer.get("max_length")
    rows, too_long = pair_rows(
        list(preferred.values()), chat, given if isinstance(given, int) else chat.context
    )
    trained = train_sft(
        training_start(context),
        [TokenRow(row.prompt_ids, row.chosen_ids) for row in rows],
        chat.tokenizer,
        stage,
        {"learning_rate": 1e-6, **config.trainer},
        seed=context.recipe.seed,
        source=context.source,
        progress=context.report,
    )
    return {"loss": "sft", "examples": len(rows), "too_long": too_long, **trained}


def _nothing_to_train_on(stage: str, report: Mapping[str, object]) -> RubricaError:
    """Return the error of an iteration without pairs: the judge's, who can be asked again, or the recipe's."""
    reasons = {**cast(dict[str, int], report["dropped"]), **cast(dict[str, int], report["left_out"])}
    told = ", ".join(f"{reason} ({count})" for reason, count in Counter(reasons).most_common(3))
    said = f"{stage}: none of {report['prompts']} prompts gives a pair: {told or 'no gap reaches delta'}"
    most = max(reasons, key=lambda reason: reasons[reason], default="")
    if most == UNSCORED:
        return JudgeError(f"{said}; mend the judge, then --resume asks for the missing answers")
    remedies = {
        INCONSISTENT: "try denoise.better: pareto, or denoise.consistency: drop-refined",
        NO_REFINEMENT: "raise refinement.max_tokens, or try denoise.consistency: drop-refined",
        NO_INFORMATION: "raise sampling.temperature or samples, or try denoise.informativeness: false",
        CUT_OFF: "raise sampling.max_tokens",
    }
    return TrainingError(f"{said}; {remedies.get(most, 'lower pairs.delta and pairs.threshold')}")


# --- before and after ---------------------------------------------------------------------------------


class Measured(Record):
    """One greedy answer to each prompt under the judge as it was before the stage."""

    answers: int
    """Those with scores."""
    scores: dict[str, float]
    """Means by objective."""
    hh: dict[str, float]
    """HH_lambda of the means, by lambda."""


def _measured(
    context: Context, config: Spa, stage: Stage, prompts: Sequence[Prompt], kind: str, weights: Weights
) -> Measured | None:
    store, dtype = context.run.store, context.recipe.policy.dtype
    known = store.get("spa-measured", kind, Measured, stage=stage.name)
    if known is not None or not config.measure:
        return known
    answers = stored_texts(
        store,
        stage.name,
        kind,
        open_generator(weights.model, dtype, weights.chat_template),
        prompts,
        config.sampling.model_copy(update={"temperature": 0.0}),
        None,
        partial(context.report, kind.replace("-", ": ")),
    )
    judge = _judge(context, config, _open_own(context).judge if config.judge == SELF else None)
    scorer = _scorer(context, config, scoring_program(context, config), judge)
    scores = [s for s in scorer([(p, answers[p.id].text) for p in prompts]) if s is not None]
    means = mean_scores(config.objectives, scores)
    if means is None:
        return None
    total = {f"{weight:g}": hh(tuple(means.values()), weight) for weight in LAMBDAS}
    found = Measured(answers=len(scores), scores=means, hh=total)
    store.put("spa-measured", kind, found, stage=stage.name)
    return found
