"""The rows of evaluations as columns of numbers: some 60 bytes a row, whatever its texts.

Items and clusters are 64-bit digests of their names; among a million names two are equal with a probability of 3e-8.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from rubrica.core.clustered import Floats, Ints
from rubrica.core.config import in_our_words
from rubrica.core.errors import DataError, UsageError
from rubrica.core.evaluation import DIRECT, ItemResult, Metric, Standing
from rubrica.recipes.evaluation import RESULTS, ROWS

Digests = NDArray[np.uint64]
STANDINGS = tuple(Standing)
SHARES = tuple(standing for standing in Standing if standing is not Standing.JUDGED)
"""What may become of an answer instead of a value; each is a measure, the share of answers."""
TOKENS = "tokens"
_REPORTED = 1000
"""Rows between two reports of progress."""


class Columns(NamedTuple):
    """Rows of one suite that one model answered, by key. N rows."""

    path: Path
    metric: Metric
    keys: Digests
    """N: of item and trial; sorted, each once."""
    offsets: Ints
    """N: where the row begins in the file."""
    clusters: Digests
    groups: dict[str, NDArray[np.bool_]]
    """``category:NAME`` and ``attack:NAME`` (``attack:direct`` beside others): N each, whether the row belongs there."""
    values: Floats
    """NaN where there is none."""
    drafts: Floats
    standings: Ints
    tokens: Ints

    def measure(self, name: str) -> Floats:
        """What each row says of a measure; NaN where it says nothing."""
        if name == self.metric.value:
            return self.values
        if name == f"draft_{self.metric.value}":
            return self.drafts
        if name == TOKENS:
            return np.where(self.tokens > 0, self.tokens, np.nan)
        found: Floats = (self.standings == STANDINGS.index(Standing(name))).astype(np.float64)
        return found


class Model(NamedTuple):
    """What one model answered: one folder, one seed."""

    folder: Path
    seed: int
    suites: dict[str, Columns]


def folders(given: str) -> list[Path]:
    """Return the evaluations that ``given`` names: a folder, several with commas between, or a folder of folders.

    ``UsageError`` where one is no evaluation, or is named twice.
    """
    whole = Path(given)
    parts = [whole] if whole.exists() else [Path(part.strip()) for part in given.split(",") if part.strip()]
    found = [folder for part in parts for folder in _below(part)]
    if not found:
        raise UsageError(f"{given!r}: names no folder; expected the --out of rubrica eval")
    if len({folder.resolve() for folder in found}) < len(found):
        raise UsageError(f"{given}: names a folder twice; name each seed's folder once")
    return found


def _below(path: Path) -> list[Path]:
    if (path / ROWS).is_file():
        return [path]
    inside = sorted(child for child in path.iterdir() if (child / ROWS).is_file()) if path.is_dir() else []
    if not inside:
        why = "no such folder" if not path.exists() else f"no {ROWS} there"
        if (path / "store.sqlite").is_file() and not (path / RESULTS).exists():
            why += ", and the evaluation is not finished; run the same rubrica eval again"
        raise UsageError(
            f"{path}: no evaluation ({why}); expected the --out of rubrica eval, or a folder of them"
        )
    return inside


class _Growing:
    """Columns of one suite and seed while the file is read."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.keys, self.offsets, self.clusters = array("Q"), array("q"), array("Q")
        self.values, self.drafts = array("d"), array("d")
        self.standings, self.tokens, self.groups = array("b"), array("q"), array("i")

    def add(self, row: ItemResult, offset: int, group: int) -> None:
        self.keys.append(_digest(f"{row.trial}/{row.item}"))
        self.offsets.append(offset)
        self.clusters.append(_digest(row.cluster))
        self.values.append(np.nan if row.value is None else row.value)
        self.drafts.append(np.nan if row.draft is None else row.draft)
        self.standings.append(STANDINGS.index(row.standing))
        self.tokens.append(row.tokens)
        self.groups.append(group)

    def columns(self, path: Path, names: list[tuple[str, ...]]) -> Columns:
        keys = np.frombuffer(self.keys, np.uint64)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        offsets = np.frombuffer(self.offsets, np.int64)[order]
        if (twice := np.flatnonzero(keys[1:] == keys[:-1])).size:
            row = row_at(path, int(offsets[twice[0] + 1]))
            raise DataError(
                path,
                f"suite {row.suite}: item {row.item!r}, trial {row.trial}, seed {row.seed} is there twice; keep one",
            )
        codes = np.frombuffer(self.groups, np.int32)[order]
        groups = {name: np.zeros(len(codes), dtype=np.bool_) for both in names for name in both}
        for code, both in enumerate(names):
            for name in both:
                groups[name] |= codes == code
        attacked = np.any([inside for name, inside in groups.items() if name.startswith("attack:")], axis=0)
        if np.any(attacked) and self.metric is Metric.ASR:
            groups[f"attack:{DIRECT}"] = ~attacked
        return Columns(
            path=path,
            metric=self.metric,
            keys=keys,
            offsets=offsets,
            clusters=np.frombuffer(self.clusters, np.uint64)[order],
            groups={name: inside for name, inside in groups.items() if inside.any()},
            values=np.frombuffer(self.values, np.float64)[order],
            drafts=np.frombuffer(self.drafts, np.float64)[order],
            standings=np.frombuffer(self.standings, np.int8)[order].astype(np.int64),
            tokens=np.frombuffer(self.tokens, np.int64)[order],
        )


def read_models(folder: Path, report: Callable[[int], None] = lambda rows: None) -> list[Model]:
    """Read ``items.jsonl`` of one folder: its models, by seed. ``DataError`` names the line that is no row.

    ``report`` is told how many more rows were read.
    """
    path = folder / ROWS
    growing: dict[tuple[int, str], _Growing] = {}
    metrics: dict[str, Metric] = {}
    groups: dict[tuple[str, ...], int] = {}
    for number, (offset, row) in enumerate(_rows(path), 1):
        if number % _REPORTED == 0:
            report(_REPORTED)
        if metrics.setdefault(row.suite, row.metric) is not row.metric:
            raise DataError(
                path, f"suite {row.suite}: has metrics {metrics[row.suite]} and {row.metric}; expected one"
            )
        names = tuple(
            f"{kind}:{name}" for kind, name in (("category", row.category), ("attack", row.attack)) if name
        )
        code = groups.setdefault(names, len(groups))
        suite = growing.setdefault((row.seed, row.suite), _Growing(row.metric))
        suite.add(row, offset, code)
    if not growing:
        raise DataError(path, "empty: expected a row for each item; run the same rubrica eval again")
    models: dict[int, Model] = {}
    for (seed, name), suite in growing.items():
        model = models.setdefault(seed, Model(folder, seed, {}))
        model.suites[name] = suite.columns(path, list(groups))
    return [models[seed] for seed in sorted(models)]


def row_at(path: Path, offset: int) -> ItemResult:
    """Read the row that begins at ``offset``."""
    with path.open("rb") as file:
        file.seek(offset)
        return ItemResult.model_validate_json(file.readline())


def _rows(path: Path) -> Iterator[tuple[int, ItemResult]]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield offset, ItemResult.model_validate_json(line)
                except ValidationError as error:
                    raise DataError(path, _problem(error), number) from None
            offset += len(line)


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    said = f"{where}: {in_our_words(first)}" if where else in_our_words(first)
    return f"{said}; expected a row of rubrica eval"


def _digest(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
