"""The claims table: every experiment with every seed, what was finished kept, what failed told.

Seeds come first, experiments second, so that an early stop leaves every claim with the same few seeds.
"""

import gc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rubrica.claims.experiment import Experiment
from rubrica.claims.finding import Finding, Outcome, finding
from rubrica.claims.rates import over_seeds
from rubrica.claims.workshop import Workshop
from rubrica.core.base import Record
from rubrica.core.errors import DataError
from rubrica.core.records import EvalResult
from rubrica.core.run import write_json

FILE = "claims.json"
"""Name of the table's file in OUT."""
Announce = Callable[[str], None]


class Failure(Record):
    """A seed that an experiment could not finish."""

    experiment: str
    seed: int
    why: str


class Table(Record):
    """What is written to ``claims.json``."""

    quick: bool
    findings: tuple[Finding, ...]
    models: tuple[EvalResult, ...]
    """The models that were compared, each over its seeds."""
    failures: tuple[Failure, ...]


class _Seed(Record):
    """A finished seed of an experiment: an outcome for each claim, by its id."""

    seed: int
    date: str
    results: tuple[EvalResult, ...]
    """Evaluations behind the outcomes."""
    outcomes: dict[str, Outcome]


def fill(
    experiments: Sequence[Experiment],
    seeds: Sequence[int],
    shop: Workshop,
    announce: Announce = lambda line: None,
    known: Sequence[Experiment] = (),
) -> Table:
    """Test what is not tested yet and return the table of ``experiments``.

    After every seed ``claims.json`` is written, with the earlier findings of the other ``known`` experiments.
    """
    failures: list[Failure] = []
    every = known or experiments
    write_json(shop.out / FILE, collect(every, shop))
    for seed in seeds:
        for experiment in experiments:
            path = _file(experiment, seed, shop)
            if path.exists():
                continue
            try:
                outcomes = _test(experiment, seed, shop)
            except Exception as error:  # the others go on, whatever it was
                why = " ".join(f"{type(error).__name__}: {error}".split())
                failures.append(Failure(experiment=experiment.name, seed=seed, why=why))
                announce(f"{experiment.name}, seed {seed}: failed: {why}")
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, outcomes)
                announce(f"{experiment.name}, seed {seed}: done")
            write_json(shop.out / FILE, collect(every, shop, failures))
            gc.collect()  # models of one experiment go before those of the next come
    return collect(experiments, shop, failures)


def collect(experiments: Sequence[Experiment], shop: Workshop, failures: Sequence[Failure] = ()) -> Table:
    """Return the findings of all seeds that were ever finished in this folder: none is left out."""
    findings: list[Finding] = []
    results: dict[tuple[str, int], EvalResult] = {}
    for experiment in experiments:
        paths = shop.finished(experiment.name, experiment.test).glob("*.json")
        kept = sorted((_read(path) for path in paths), key=lambda seed: seed.seed)
        if kept:
            date = max(seed.date for seed in kept)
            findings += [
                finding(claim, [seed.outcomes[claim.id] for seed in kept], date)
                for claim in experiment.claims
            ]
            results |= {(result.label, seed.seed): result for seed in kept for result in seed.results}
    labels = dict.fromkeys(label for label, _ in results)
    models = [over_seeds([r for (own, _), r in sorted(results.items()) if own == label]) for label in labels]
    return Table(quick=shop.quick, findings=tuple(findings), models=tuple(models), failures=tuple(failures))


def _file(experiment: Experiment, seed: int, shop: Workshop) -> Path:
    return shop.finished(experiment.name, experiment.test) / f"{seed}.json"


def _read(path: Path) -> _Seed:
    try:
        return _Seed.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(path, f"not a finished seed ({error}); delete it to test it again") from None


def _test(experiment: Experiment, seed: int, shop: Workshop) -> _Seed:
    bench = shop.bench(experiment.name, seed)
    effects = experiment.test(bench)
    ids = [claim.id for claim in experiment.claims]
    if set(effects) != set(ids):
        raise ValueError(f"effects of {', '.join(effects)}; expected one for each of {', '.join(ids)}")
    spent = bench.seconds
    return _Seed(
        seed=seed,
        date=datetime.now(UTC).date().isoformat(),
        results=bench.results,
        outcomes={
            id: Outcome(seed=seed, effect=effects[id].value, details=dict(effects[id].details), seconds=spent)
            for id in ids
        },
    )
