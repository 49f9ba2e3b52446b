"""Stage IRFT: in T stages the policy answers a part of the prompts, and learns to prefer the demonstrations.

Answers lie in the store as they come, and every inner stage is a folder with its own summary, so a killed run
redoes neither. The steps themselves are :mod:`rubrica.methods.irft`.
"""

import gc
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rubrica.checkpoint import load_checkpoint
from rubrica.core.config import Json
from rubrica.core.errors import TrainingError
from rubrica.core.records import Response
from rubrica.core.run import Stage
from rubrica.methods.irft import Paired, fallen, monitored, pair_up, parts
from rubrica.models.likelihood import Row, likelihoods
from rubrica.recipes.context import Context, Weights
from rubrica.recipes.demonstrations import TokenDemonstration, gather_demonstrations, keep_prompts, tokens_of
from rubrica.recipes.models import ChatFormat, load_chat_format, open_generator, training_start
from rubrica.recipes.rounds import hand_over, inner_stage, log_rounds, shed, weights_after, with_weights
from rubrica.recipes.sampling import stored_texts
from rubrica.recipes.stages.irft import Irft
from rubrica.train.pairs import PairLoss, PairRow, train_pairs

ANSWER = "answer"
"""Kind under which the policy's answers lie in the store."""
LOG_PROB = "demonstrations/log_prob"
"""Metric: mean log-probability a token of the watched demonstrations."""


def run_irft(context: Context, config: Irft, stage: Stage) -> dict[str, object]:
    """Train T stages one after another and return the summary, with a warning where the guard has one."""
    seed = context.recipe.seed
    chat = load_chat_format(context.weights.model, context.weights.chat_template)
    shown = gather_demonstrations(config.demonstrations, context.surroundings)
    tokens, too_long = tokens_of(shown, chat, config.trainer.get("max_length"))
    known = {demonstration.shown.id: demonstration for demonstration in tokens}
    usable = [demonstration.shown for demonstration in tokens]
    keep_prompts(context.run.store, usable)
    watched = [known[text.id] for text in monitored(usable, config.guard, seed)]
    at, done, warning = context.weights, list[Stage](), None
    for number, part in enumerate(parts(usable, config.stages, seed), 1):
        inner = inner_stage(stage, f"{number:02d}")
        if not inner.done:
            before = _number(done[-1], "log_prob") if done else log_prob(context, at, watched)
            trained = _train(context, config, inner, at, chat, [known[text.id] for text in part], number)
            after = log_prob(context, weights_after(context, at, inner), watched)
            inner.finish({**trained, "log_prob_before": before, "log_prob": after})
        start = _number(done[0] if done else inner, "log_prob_before")
        said = fallen(start, _number(inner, "log_prob"), config.guard)
        if said and config.guard.then == "stop":
            warning = f"stage {number} of {config.stages} was undone and the rest left out: {said}"
            shed(inner)
            break
        warning = f"after stage {number} of {config.stages} {said}" if said else None
        at = weights_after(context, at, inner)
        for earlier in done:
            shed(earlier)
        done.append(inner)
    if not done:
        raise TrainingError(f"{stage.name}: {warning}")
    hand_over(done[-1], stage)
    log_rounds(stage, [(inner, _about(inner)) for inner in done])
    return _summary(done, len(shown), too_long, warning)


def _train(
    context: Context,
    config: Irft,
    inner: Stage,
    at: Weights,
    chat: ChatFormat,
    part: Sequence[TokenDemonstration],
    number: int,
) -> dict[str, object]:
    """One stage: answers of the policy as it stands, pairs, K updates."""
    label, name = f"irft {number}/{config.stages}", f"{inner.path.parent.name}/{inner.name}"
    asked = _used(part, config)
    sampling = config.answers.model_copy(update={"seed": context.recipe.seed + config.answers.seed})
    generator = open_generator(at.model, context.recipe.policy.dtype, at.chat_template)
    answers = stored_texts(
        context.run.store,
        name,
        ANSWER,
        generator,
        [demonstration.shown.prompt for demonstration in asked],
        sampling,
        None,
        partial(context.report, f"{label}: answers"),
    )
    del generator
    gc.collect()  # its weights go before the trainer's come
    paired = pair_up([demonstration.shown for demonstration in asked], answers)
    rows = pair_rows(paired, {demonstration.shown.id: demonstration for demonstration in asked}, chat)
    found = {"answers": len(asked), "equal": paired.equal, "pairs": len(rows)}
    if not rows:
        raise TrainingError(
            f"{name}: all of {len(asked)} answers equal their demonstration, so nothing is left to learn; lower "
            "stages, or sample with a higher answers.temperature"
        )
    trained = train_pairs(
        training_start(with_weights(context, at)),
        rows,
        chat.tokenizer,
        inner,
        PairLoss(link=config.link, beta=config.beta, sft=config.sft),
        irft_options(config),
        seed=context.recipe.seed,
        source=context.source,
        reference=context.weights.model if config.reference == "initial" and number > 1 else None,
        progress=context.report,
        label=label,
    )
    return {**found, **trained}


def irft_options(config: Irft) -> dict[str, Json]:
    """Return the trainer's options of one stage: the paper's, then the recipe's."""
    paper: dict[str, Json] = {
        "learning_rate": 5e-7,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "optim": "rmsprop",
    }
    return {**paper, **config.trainer, **({} if config.steps is None else {"max_steps": config.steps})}


def _used(part: Sequence[TokenDemonstration], config: Irft) -> Sequence[TokenDemonstration]:
    """K updates of B rows see K B demonstrations at most: no answer is sampled that nothing is learned from."""
    batch = config.trainer.get("per_device_train_batch_size", 16)
    times = config.trainer.get("gradient_accumulation_steps", 1)
    if config.steps is None or not isinstance(batch, int) or not isinstance(times, int):
        return part
    return part[: config.steps * batch * times]


def pair_rows(paired: Paired, known: Mapping[str, TokenDemonstration], chat: ChatFormat) -> list[PairRow]:
    """Return the pairs in tokens. An answer that was cut off gets no end token, and none at all is left out."""
    rows = []
    for pair in paired.pairs:
        demonstration = known[pair.demonstration.id]
        rejected = answer_ids(pair.answer, chat)
        if rejected:
            rows.append(PairRow(demonstration.prompt_ids, demonstration.answer_ids, rejected))
    return rows


def answer_ids(answer: Response, chat: ChatFormat) -> list[int]:
    """Return the tokens of an answer, with the end token if it ended by itself."""
    ids = chat.completion_ids(answer.text)
    return ids if answer.finished else ids[:-1]


def log_prob(context: Context, weights: Weights, watched: Sequence[TokenDemonstration]) -> float:
    """Return the mean log-probability a token of the watched demonstrations; ``TrainingError`` if it is no number."""
    context.report("irft: likelihood of the demonstrations", 0, 1)
    model, _ = load_checkpoint(Path(weights.model), dtype=context.recipe.policy.dtype)
    found = likelihoods(model, [Row(d.prompt_ids, d.answer_ids) for d in watched])
    mean = sum(one.total for one in found) / sum(one.tokens for one in found)
    if not math.isfinite(mean):
        raise TrainingError(
            f"{weights.model}: the demonstrations' log-probability is {mean}; lower trainer.learning_rate"
        )
    return mean


def _number(inner: Stage, name: str) -> float:
    value = inner.summary()[name]
    assert isinstance(value, int | float)
    return float(value)


def _about(inner: Stage) -> dict[str, float]:
    return {
        LOG_PROB: _number(inner, "log_prob"),
        "answers/equal": _number(inner, "equal") / _number(inner, "answers"),
    }


def _summary(done: Sequence[Stage], given: int, too_long: int, warning: str | None) -> dict[str, object]:
    totals = {
        name: int(sum(_number(i, name) for i in done)) for name in ("answers", "equal", "pairs", "steps")
    }
    return {
        "demonstrations": given,
        "too_long": too_long,
        "stages": len(done),
        **totals,
        "log_prob": [_number(done[0], "log_prob_before"), *(_number(inner, "log_prob") for inner in done)],
        "accuracy": [_number(inner, "last_accuracy") for inner in done],
        "warning": warning,
    }
