"""From preference pairs to a trained policy: what every stage that learns from pairs shares."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rubrica.core.config import Json
from rubrica.core.errors import TrainingError
from rubrica.core.records import Preference
from rubrica.core.run import Stage
from rubrica.recipes.context import Context
from rubrica.recipes.models import ChatFormat, load_chat_format, training_start
from rubrica.train.pairs import PairLoss, PairRow, train_pairs

KIND = "pair"
"""Under which pairs lie in the store."""


def pair_rows(
    pairs: Sequence[Preference],
    chat: ChatFormat,
    limit: int | None,
    offset: Callable[[Preference], float] = lambda pair: 0.0,
) -> tuple[list[PairRow], int]:
    """Return the rows to train on, and how many were left out because they exceed ``limit`` tokens."""
    rows = [
        PairRow(
            chat.prompt_ids(chat.render(pair.prompt)),
            chat.completion_ids(pair.chosen),
            chat.completion_ids(pair.rejected),
            pair.weight,
            offset(pair),
        )
        for pair in pairs
    ]
    fitting = [row for row in rows if limit is None or row.size <= limit]
    return fitting, len(rows) - len(fitting)


def train_on_pairs(
    context: Context,
    stage: Stage,
    pairs: Sequence[Preference],
    loss: PairLoss,
    options: Mapping[str, Json],
    *,
    label: str,
    offset: Callable[[Preference], float] = lambda pair: 0.0,
    reference: Path | None = None,
) -> dict[str, object]:
    """Keep ``pairs`` in the store, train the current weights on them and return the stage's summary.

    Pairs longer than ``trainer.max_length``, else than the model's context, are left out and counted.
    """
    weights, store = context.weights, context.run.store
    with store.batch():
        for pair in pairs:
            store.put(KIND, pair.id, pair, stage=stage.name)
    chat = load_chat_format(weights.model, weights.chat_template)
    given = options.get("max_length")
    rows, too_long = pair_rows(pairs, chat, given if isinstance(given, int) else chat.context, offset)
    if not rows:
        raise TrainingError(
            f"{stage.name}: none of {len(pairs)} pairs can be trained on: {too_long} are too long; "
            "raise trainer.max_length or shorten the answers"
        )
    trained = train_pairs(
        training_start(context),
        rows,
        chat.tokenizer,
        stage,
        loss,
        options,
        seed=context.recipe.seed,
        source=context.source,
        reference=reference,
        progress=context.report,
        label=label,
    )
    return {"pairs": len(rows), "too_long": too_long, **trained}
