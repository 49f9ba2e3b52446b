"""Stage DPO: pairs from files, or an aligned model's answers over the policy's own, then training on them."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from rubrica.core.errors import TrainingError
from rubrica.core.prompts import Prompt
from rubrica.core.records import Preference
from rubrica.core.run import Stage
from rubrica.methods.dpo import offset, with_gaps
from rubrica.recipes.context import Context
from rubrica.recipes.pairs import answered, given_pairs, program_totals, train_on_pairs
from rubrica.recipes.stages.dpo import Dpo
from rubrica.train.pairs import PairLoss


def run_dpo(context: Context, config: Dpo, stage: Stage, prompts: Sequence[Prompt]) -> dict[str, object]:
    """Make or read the pairs, score them where there is an offset, train, return the summary."""
    if config.pairs:
        pairs, dropped = given_pairs(config.pairs)
    else:
        source = config.chosen or context.recipe.teacher
        assert source is not None  # checked before the run was started
        pairs, dropped = answered(context, stage, source, config.sampling, prompts, label="dpo")
    made = len(pairs) + len(dropped)
    if config.offset is not None:
        totals = program_totals(
            context, "dpo", [(p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)]
        )
        pairs, unscored = with_gaps(pairs, list(zip(totals[::2], totals[1::2], strict=True)))
        dropped += unscored
    reasons = dict(Counter(dropped).most_common())
    if not pairs:
        told = ", ".join(f"{reason} ({n})" for reason, n in reasons.items())
        raise TrainingError(f"{stage.name}: none of {made} pairs can be trained on: {told}")
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
