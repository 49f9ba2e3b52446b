"""Which evaluations may be compared: the same judge, protocol and program, whatever the models.

A difference between two judges is no difference between two models. How answers were sampled may differ on purpose; that is
told, not refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rubrica.core.compared import Evaluated
from rubrica.core.config import Json, read_yaml
from rubrica.core.records import EvalResult
from rubrica.recipes.eval_columns import Model, folders, read_models
from rubrica.recipes.evaluate import read_results
from rubrica.recipes.evaluation import SETTINGS

_SETTINGS = ("sampling", "system", "trials", "limit", "attacks")


class Loaded(NamedTuple):
    """One side: its models, and what their folders say of themselves."""

    models: list[Model]
    results: dict[Path, dict[str, EvalResult]]
    """By folder and suite."""

    def judge(self, suite: str) -> str:
        """Fingerprint of who judged the suite, of the first folder that knows."""
        return next((found[suite].judge for found in self.results.values() if suite in found), "")


def load(given: str, report: Callable[[int], None] = lambda rows: None) -> Loaded:
    """Read all folders of one side; ``UsageError`` and ``DataError`` where one is no evaluation.

    ``report`` is told how many more rows were read.
    """
    found = folders(given)
    models = [model for folder in found for model in read_models(folder, report)]
    return Loaded(models, {folder: _results(folder) for folder in found})


def evaluated(loaded: Loaded) -> Evaluated:
    """Name one side."""
    results = [result for by_suite in loaded.results.values() for result in by_suite.values()]
    labels, models = (
        list(dict.fromkeys(getattr(result, name) for result in results)) for name in ("label", "model")
    )
    return Evaluated(
        label=" + ".join(labels) or "?",
        model=", ".join(models),
        folders=tuple(map(str, loaded.results)),
        models=len(loaded.models),
    )


def differences(first: Loaded, second: Loaded) -> tuple[list[str], list[str]]:
    """Return what forbids a comparison, and what else differs; each with the first folder of every kind."""
    results = first.results | second.results
    shared = _suites(first) & _suites(second)
    forbidding = [
        line
        for suite in sorted(shared)
        for line in (
            *_unlike(f"judge of {suite}", [(f, r[suite].judge) for f, r in results.items() if suite in r]),
            *_unlike(
                f"protocol of {suite}", [(f, _rules(r[suite])) for f, r in results.items() if suite in r]
            ),
        )
    ]
    settings = {folder: _settings(folder) for folder in results}
    known = {folder: given for folder, given in settings.items() if given}
    forbidding += _unlike("program", [(folder, given.get("program")) for folder, given in known.items()])
    said = {folder: dict(_told(given)) for folder, given in known.items()}
    names = dict.fromkeys(name for lines in said.values() for name in lines)
    telling = [
        line
        for name in names
        for line in _unlike(name, [(folder, lines.get(name)) for folder, lines in said.items()])
    ]
    return forbidding, telling


def _told(given: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """The settings that may differ, one by one and as a person would write them."""
    for name in _SETTINGS:
        value = given.get(name)
        if isinstance(value, dict):
            yield from ((f"{name} {key}", str(each)) for key, each in value.items())
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value))
        else:
            yield name, "" if value is None else str(value)


def _unlike(what: str, said: Sequence[tuple[Path, Json]]) -> Iterator[str]:
    """One line where not all say the same."""
    kinds: dict[str, Path] = {}
    for folder, value in said:
        kinds.setdefault(str(value), folder)
    if len(kinds) > 1:
        yield f"{what}: " + ", ".join(f"{value or 'none'} in {folder}" for value, folder in kinds.items())


def _rules(result: EvalResult) -> str:
    """The protocol, without what it says of a model that revises: that is the model's own way to answer."""
    return result.protocol.partition("; the revision is judged")[0]


def _suites(loaded: Loaded) -> set[str]:
    return {suite for model in loaded.models for suite in model.suites}


def _settings(folder: Path) -> dict[str, Json]:
    path = folder / SETTINGS
    data = read_yaml(path) if path.is_file() else {}
    return data if isinstance(data, dict) else {}


def _results(folder: Path) -> dict[str, EvalResult]:
    return {result.suite: result for result in read_results(folder)}
