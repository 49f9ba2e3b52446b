"""A stage that consists of several inner ones, each trained as a stage by itself in a folder inside.

Only the newest inner stage keeps its weights: with five stages of an 8B model the others would fill a disk.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rubrica.core.run import MetricRow, Stage
from rubrica.recipes.context import Context, Weights
from rubrica.recipes.models import next_weights


def inner_stage(stage: Stage, name: str) -> Stage:
    """Return (and create) the folder of an inner stage."""
    return Stage(stage.path / name)


def with_weights(context: Context, weights: Weights) -> Context:
    """Return the context of an inner stage that starts from ``weights``."""
    return replace(context, weights=weights)


def weights_after(context: Context, at: Weights, inner: Stage) -> Weights:
    """Return the weights that an inner stage left which started from ``at``."""
    return next_weights(with_weights(context, at), inner)


def shed(inner: Stage) -> None:
    """Remove what nobody needs any more: checkpoints and weights of an inner stage that others went on from."""
    for folder in (inner.checkpoints, inner.model_dir, inner.path / "adapter"):
        shutil.rmtree(folder, ignore_errors=True)


def hand_over(inner: Stage, stage: Stage) -> None:
    """Make the weights of the last inner stage those of ``stage``; a kill in between leaves it to be done again."""
    shutil.rmtree(inner.checkpoints, ignore_errors=True)
    if (inner.path / "adapter").exists():
        (inner.path / "adapter").rename(stage.path / "adapter")
    if not stage.model_dir.exists():
        inner.model_dir.rename(stage.model_dir)


def log_rounds(stage: Stage, rounds: Sequence[tuple[Stage, Mapping[str, float]]]) -> None:
    """Write the metrics of all inner stages into ``stage``'s, updates counted through.

    With each inner stage come numbers about the whole of it, which join its last row.
    """
    rows: list[MetricRow] = []
    before = 0
    for inner, extra in rounds:
        own = [row for row in inner.metrics() if row.metrics]
        rows += [MetricRow(before + row.step, row.metrics) for row in own]
        if own:
            rows[-1] = MetricRow(rows[-1].step, {**rows[-1].metrics, **extra})
            before = rows[-1].step
    stage.rewind(0)
    for row in rows:
        stage.log(row.step, row.metrics)
