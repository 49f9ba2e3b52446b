"""One round of selection: measure the candidates, choose, write down what was chosen and what it cost."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rubrica.core.base import Record
from rubrica.core.comparisons import Candidate, without_repeats
from rubrica.core.errors import StorageError, UsageError
from rubrica.core.store import Store
from rubrica.methods.active_dpo import (
    Array,
    Features,
    Pool,
    cheapest,
    differences,
    operations,
    select,
    vectors,
)
from rubrica.recipes.ledger import Ledger, Selected
from rubrica.recipes.measuring import Measurer, features_for
from rubrica.recipes.stages.active_dpo import Selection

KIND = "selection"
"""Under which the accounts of rounds lie in the store."""
_WITH_COVARIANCE = ("activedpo", "apo-linear")


class RoundCost(Record):
    """What choosing one round's pairs took."""

    round: int
    strategy: str
    candidates: int
    selected: int
    answers: int
    """Answers that were measured, not counting those in the cache."""
    tokens: int
    measuring_flops: float
    measuring_seconds: float
    selecting_flops: float
    selecting_seconds: float
    route: str | None
    """How scores were computed, for strategies with a covariance."""


def select_round(
    options: Selection,
    candidates: Sequence[Candidate],
    count: int,
    ledger: Ledger,
    store: Store,
    *,
    stage: str = "",
    number: int,
    folder: Path,
    seed: int,
    measurer: Measurer | None = None,
    reference: Measurer | None = None,
) -> list[Selected]:
    """Choose up to ``count`` of ``candidates`` as round ``number`` and enter them in the ledger.

    A round that was chosen before is returned as it was; none are chosen where no candidate is left that the strategy
    tells apart, or no label. ``folder`` keeps the differences of selected pairs.
    """
    if known := ledger.selected(number):
        return known
    room = ledger.room()
    count = count if room is None else min(count, room)
    earlier = ledger.selected()
    fresh = without_repeats(candidates, [one.pair.id for one in earlier])
    if not fresh or not count:
        return []
    started = time.monotonic()
    current = options.gradients == "current" and options.strategy in _WITH_COVARIANCE
    pairs = [*fresh, *(one.pair for one in earlier)] if current else fresh
    before = None if measurer is None else measurer.work
    whole, features = features_for(options.strategy, pairs, measurer, reference, normalise=options.normalise)
    measured = time.monotonic()
    pool, explored = _explored(options, whole, features, len(fresh), number, folder)
    picks = select(
        options.strategy,
        pool,
        features,
        count,
        explored=explored,
        ridge=options.ridge,
        beta=options.beta,
        seed=seed * 1_000_003 + number,
        route=options.route,
    )
    if not picks:
        return []
    chosen = [
        Selected(
            pair=fresh[pick.place],
            round=number,
            rank=rank,
            score=pick.score,
            strategy=options.strategy,
        )
        for rank, pick in enumerate(picks)
    ]
    known_before = 0 if explored is None else len(explored)
    cost = _cost(options, features, known_before, len(fresh), len(picks), number)
    if measurer is not None and before is not None:
        work = measurer.work
        cost = cost.model_copy(
            update={
                "answers": work.answers - before.answers,
                "tokens": work.tokens - before.tokens,
                "measuring_flops": work.flops - before.flops,
            }
        )
    if options.strategy in _WITH_COVARIANCE:
        phi = differences(vectors(options.strategy, features), pool)
        _keep(folder, number, phi[[pick.place for pick in picks]])
    seconds = {
        "measuring_seconds": measured - started,
        "selecting_seconds": time.monotonic() - measured,
    }
    with store.batch():
        store.put(KIND, f"{number:04d}", cost.model_copy(update=seconds), stage=stage, step=number)
        ledger.take(chosen)
    return chosen


def costs(store: Store, stage: str = "") -> list[RoundCost]:
    """Return what the rounds took."""
    return store.all(KIND, RoundCost, stage=stage)


def _explored(
    options: Selection, whole: Pool, features: Features, fresh: int, number: int, folder: Path
) -> tuple[Pool, Array | None]:
    """Return the pool without earlier pairs, and the differences of these, [E, D]."""
    pool = Pool(whole.pairs[:fresh], whole.first[:fresh], whole.second[:fresh])
    if options.strategy not in _WITH_COVARIANCE:
        return pool, None
    if options.gradients == "current":
        earlier = Pool(whole.pairs[fresh:], whole.first[fresh:], whole.second[fresh:])
        return pool, differences(vectors(options.strategy, features), earlier)
    kept = [_kept(folder, round) for round in range(1, number)]
    width = vectors(options.strategy, features).shape[1]
    for phi in kept:
        if phi.shape[1] != width:
            raise UsageError(
                f"{folder}: earlier rounds have {phi.shape[1]} dimensions, this one {width}; use the same "
                "projection, or gradients: current"
            )
    return pool, np.concatenate(kept) if kept else None


def _keep(folder: Path, number: int, phi: Array) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"selected-{number:02d}.safetensors"
    temporary = path.with_suffix(".tmp")
    try:
        save_file({"phi": np.ascontiguousarray(phi)}, temporary)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error}); free some space there") from error


def _kept(folder: Path, number: int) -> Array:
    path = folder / f"selected-{number:02d}.safetensors"
    try:
        found: Array = load_file(path)["phi"]
    except (OSError, SafetensorError, KeyError) as error:
        raise StorageError(
            f"{path}: cannot be read ({str(error)[:100]}); select with gradients: current, which measures "
            "earlier pairs anew"
        ) from error
    return found


def _cost(
    options: Selection, features: Features, explored: int, candidates: int, picked: int, number: int
) -> RoundCost:
    route, flops = None, 0.0
    if options.strategy in _WITH_COVARIANCE:
        size = (candidates, vectors(options.strategy, features).shape[1], explored, picked)
        route = options.route or cheapest(*size)
        flops = operations(route, *size)
    return RoundCost(
        round=number,
        strategy=options.strategy,
        candidates=candidates,
        selected=picked,
        answers=0,
        tokens=0,
        measuring_flops=0.0,
        measuring_seconds=0.0,
        selecting_flops=flops,
        selecting_seconds=0.0,
        route=route,
    )
