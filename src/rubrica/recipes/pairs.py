"""Preference pairs, from files or made, and from them to a trained policy: what stages that learn from pairs share."""

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from rubrica.core.config import Json
from rubrica.core.data import load_pairs
from rubrica.core.errors import TrainingError
from rubrica.core.prompts import Prompt
from rubrica.core.records import Preference, Response, Sampling
from rubrica.core.run import Stage
from rubrica.methods.dpo import answered_pairs
from rubrica.recipes.context import Context
from rubrica.recipes.models import (
    ChatFormat,
    load_chat_format,
    open_generator,
    open_source,
    training_start,
)
from rubrica.recipes.options import ModelSource
from rubrica.recipes.sampling import stored_texts
from rubrica.train.pairs import PairLoss, PairRow, train_pairs

KIND = "pair"
"""Under which pairs lie in the store."""


def given_pairs(paths: Sequence[str]) -> tuple[list[Preference], list[str]]:
    """Return the pairs of files, and why others of their rows are left out. Ids tell the files apart."""
    dropped: list[str] = []
    pairs: dict[str, Preference] = {}
    for number, path in enumerate(paths):
        for pair in load_pairs(
            Path(path).expanduser(), on_skip=lambda skipped: dropped.append(skipped.problem.split(": ")[-1])
        ):
            pairs[f"{number}/{pair.id}"] = pair.model_copy(update={"id": f"{number}/{pair.id}"})
    return list(pairs.values()), dropped


def answered(
    context: Context,
    stage: Stage,
    source: ModelSource,
    sampling: Sampling,
    prompts: Sequence[Prompt],
    *,
    label: str,
) -> tuple[list[Preference], list[str]]:
    """Return one pair for each prompt, the answer of ``source`` over the policy's, and why others are left out.

    A prompt that comes again is not answered again.
    """
    asked = list({prompt.id: prompt for prompt in prompts}.values())
    chosen = answers_of(context, stage, source, sampling, asked, kind="chosen", label=label)
    rejected = answers_of(context, stage, None, sampling, asked, kind="rejected", label=label)
    return answered_pairs(asked, [chosen[p.id] for p in asked], [rejected[p.id] for p in asked])


def answers_of(
    context: Context,
    stage: Stage,
    source: ModelSource | None,
    sampling: Sampling,
    prompts: Sequence[Prompt],
    *,
    kind: str,
    label: str,
) -> dict[str, Response]:
    """Return the answer of ``source`` (None: of the policy as it stands) to each prompt, kept in the store.

    The model is loaded for that and gone afterwards.
    """
    weights = context.weights
    if source is None:
        model = open_generator(weights.model, context.recipe.policy.dtype, weights.chat_template)
    else:
        model = open_source(source, context.surroundings)
    report = partial(context.report, f"{label}: {kind}")
    found = stored_texts(context.run.store, stage.name, kind, model, prompts, sampling, None, report)
    del model
    gc.collect()  # its weights go before others come
    return found


def program_totals(context: Context, label: str, items: Sequence[tuple[Prompt, str]]) -> list[float | None]:
    """Return the total of each text under the program; None where there is none."""
    return [card.total for card in context.executor(label).score(items)]


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
