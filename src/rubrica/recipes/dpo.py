"""Stage DPO: pairs from files, or an aligned model's answers over the policy's own, then training on them."""

import gc
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rubrica.core.data import load_pairs
from rubrica.core.errors import TrainingError
from rubrica.core.prompts import Prompt
from rubrica.core.records import Preference
from rubrica.core.run import Stage
from rubrica.judges.executor import Executor
from rubrica.methods.dpo import answered_pairs, offset, with_gaps
from rubrica.recipes.context import Context
from rubrica.recipes.models import model_folder, open_generator
from rubrica.recipes.pairs import train_on_pairs
from rubrica.recipes.sampling import stored_texts
from rubrica.recipes.stages.dpo import Dpo
from rubrica.train.pairs import PairLoss


def run_dpo(context: Context, config: Dpo, stage: Stage, prompts: Sequence[Prompt]) -> dict[str, object]:
    """Make or read the pairs, score them where there is an offset, train, return the summary."""
    pairs, dropped = _given(config) if config.pairs else _made(context, config, stage, prompts)
    made = len(pairs) + len(dropped)
    if config.offset is not None:
        pairs, unscored = with_gaps(pairs, _scores(context, stage, pairs))
        dropped += unscored
    reasons = dict(Counter(dropped).most_common())
    if not pairs:
        raise TrainingError(f"{stage.name}: none of {made} pairs can be trained on: {reasons}")
    trained = train_on_pairs(
        context, stage, pairs, dpo_loss(config), config.trainer, label="dpo", offset=partial(_offset, config)
    )
    return {"made": made, "dropped": reasons, **trained}


def dpo_loss(config: Dpo) -> PairLoss:
    """Return the loss that the stage names."""
    return PairLoss(
        margin="ratio" if config.loss == "dpo" else "length", beta=config.beta, gamma=config.gamma
    )


def _offset(config: Dpo, pair: Preference) -> float:
    if config.offset is None or pair.gap is None:
        return 0.0
    return offset(pair.gap, config.offset.scale, config.offset.form)


def _given(config: Dpo) -> tuple[list[Preference], list[str]]:
    dropped: list[str] = []
    pairs: dict[str, Preference] = {}
    for number, path in enumerate(config.pairs):
        for pair in load_pairs(
            Path(path).expanduser(), on_skip=lambda skipped: dropped.append(skipped.problem.split(": ")[-1])
        ):
            pairs[f"{number}/{pair.id}"] = pair.model_copy(update={"id": f"{number}/{pair.id}"})
    return list(pairs.values()), dropped


def _made(
    context: Context, config: Dpo, stage: Stage, prompts: Sequence[Prompt]
) -> tuple[list[Preference], list[str]]:
    """One pair for each prompt; a prompt that comes again is not answered again."""
    asked = list({prompt.id: prompt for prompt in prompts}.values())
    source = config.chosen or context.recipe.teacher
    assert source is not None  # checked before the run was started
    aligned = open_generator(model_folder(source, context.surroundings), source.dtype, source.chat_template)
    chosen = stored_texts(
        context.run.store,
        stage.name,
        "chosen",
        aligned,
        asked,
        config.sampling,
        None,
        partial(context.report, "dpo: chosen"),
    )
    del aligned
    gc.collect()  # its weights go before the policy's come
    weights = context.weights
    policy = open_generator(weights.model, context.recipe.policy.dtype, weights.chat_template)
    rejected = stored_texts(
        context.run.store,
        stage.name,
        "rejected",
        policy,
        asked,
        config.sampling,
        None,
        partial(context.report, "dpo: rejected"),
    )
    del policy
    gc.collect()
    return answered_pairs(asked, [chosen[p.id] for p in asked], [rejected[p.id] for p in asked])


def _scores(
    context: Context, stage: Stage, pairs: Sequence[Preference]
) -> list[tuple[float | None, float | None]]:
    """Totals of chosen and rejected under the program."""
    executor = Executor(
        context.judge,
        context.run.store,
        program=context.program,
        reward=context.recipe.reward,
        thresholds=context.thresholds,
        progress=lambda done, total: context.report("dpo: judging", done, total),
    )
    if context.spending is not None:
        context.spending.watch(executor)
    cards = executor.score([(p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)])
    return [(a.total, b.total) for a, b in zip(cards[::2], cards[1::2], strict=True)]
