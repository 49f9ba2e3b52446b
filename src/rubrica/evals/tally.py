"""From rows of an evaluation to rates with intervals, in a few bytes a row.

A rate is over the rows that have a value. Its interval takes together what is not independent
(:func:`rubrica.core.clustered.rate`): the rows of a cluster (one request under several attacks or trials), and with
several models, each of which is one seed of the same recipe, also the rows of a model.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from rubrica.core.clustered import Ints, Side, numbered, rate, side
from rubrica.core.evaluation import ItemResult, Standing
from rubrica.core.records import Estimate
from rubrica.core.stats import mean_interval, wilson

_SHARES = (Standing.ABSTAINED, Standing.UNJUDGED, Standing.NO_REVISION, Standing.UNANSWERED)


class _Column:
    """Values of one rate, and the numbers of the cluster and of the model that each belongs to."""

    def __init__(self) -> None:
        self.values, self.clusters, self.models = array("d"), array("l"), array("l")

    def side(self) -> Side:
        """Return the values with models as runs: the k-th of a model in a cluster beside the k-th of the others."""
        clusters, models = (numbered(np.array(each)) for each in (self.clusters, self.models))
        runs = int(models.max()) + 1
        turns = _turns(clusters * runs + models)
        rows = numbered(clusters * (int(turns.max()) + 1) + turns)
        table = np.full((int(rows.max()) + 1, runs), np.nan)
        table[rows, models] = self.values
        of_row = np.empty(len(table), dtype=np.int64)
        of_row[rows] = clusters
        return side(table, of_row)


def _turns(codes: Ints) -> Ints:
    """How many of the same code stand before each."""
    order = np.argsort(codes, kind="stable")
    ranked = codes[order]
    turns = np.empty(len(codes), dtype=np.int64)
    turns[order] = np.arange(len(codes)) - np.searchsorted(ranked, ranked)
    return turns


class Tally:
    """Takes the rows of one suite, one after the other."""

    def __init__(self) -> None:
        self._clusters: dict[str, int] = {}
        """Cluster -> its number."""
        self._columns: dict[tuple[str, str], _Column] = defaultdict(_Column)
        """By name and group of a rate."""
        self._standings: Counter[Standing] = Counter()
        self._tokens = array("d")
        self.rows = 0

    def add(self, row: ItemResult) -> None:
        """Count one row."""
        self.rows += 1
        self._standings[row.standing] += 1
        if row.tokens:
            self._tokens.append(row.tokens)
        cluster = self._clusters.setdefault(row.cluster, len(self._clusters))
        for name, group, value in _values(row):
            column = self._columns[name, group]
            column.values.append(value)
            column.clusters.append(cluster)
            column.models.append(row.seed)

    def side(self, name: str) -> Side | None:
        """Return the values of one rate over the whole suite; None where there are none."""
        column = self._columns.get((name, ""))
        return column.side() if column else None

    def estimates(self) -> Iterator[Estimate]:
        """Yield every rate: of the whole suite, of each category and attack, of what became of the answers."""
        for (name, group), column in sorted(self._columns.items(), key=lambda item: bool(item[0][1])):
            yield rate(column.side(), name=name, group=group)
        for standing in _SHARES:
            if count := self._standings[standing]:
                yield wilson(count, self.rows, name=standing.value)
        if self._tokens:
            yield mean_interval(self._tokens, name="tokens", bounds=(0.0, float("inf")))


def _values(row: ItemResult) -> Iterator[tuple[str, str, float]]:
    """Yield name, group and value of every rate that a row counts in."""
    if row.value is not None:
        yield row.metric.value, "", row.value
        if row.category:
            yield row.metric.value, f"category:{row.category}", row.value
        if row.attack:
            yield row.metric.value, f"attack:{row.attack}", row.value
    if row.draft is not None:
        yield f"draft_{row.metric.value}", "", row.draft
    for name, count in row.counts.items():
        yield name, "", count
