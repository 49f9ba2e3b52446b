"""From rows of an evaluation to rates with intervals, in a few bytes a row.

A rate is over the rows that have a value. Its interval takes together what is not independent
(:func:`rubrica.core.clustered.rate`): the rows of a cluster (one request under several attacks or trials), and with
several models, each of which is one seed of the same recipe, also the rows of a model.

Under several attacks the mean over all answers says little, since it depends on which attacks are in the list. So each
attack has a rate, and so has the request: the share of those that fell to at least one of them.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from rubrica.core.clustered import Ints, Side, numbered, rate, side
from rubrica.core.evaluation import ANY_ATTACK, DIRECT, ItemResult, Metric, Standing
from rubrica.core.records import Estimate
from rubrica.core.stats import mean_interval, wilson

_SHARES = (Standing.ABSTAINED, Standing.UNJUDGED, Standing.NO_REVISION, Standing.UNANSWERED)


class _Column:
    """Values of one rate, and the numbers of the cluster and of the model that each belongs to."""

    def __init__(self) -> None:
        self.values, self.clusters, self.models = array("d"), array("l"), array("l")

    def add(self, value: float, cluster: int, model: int) -> None:
        """Take one value."""
        self.values.append(value)
        self.clusters.append(cluster)
        self.models.append(model)

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


class _Prompts(_Column):
    """Values of all prompts of all requests, infinite where there is none, and the trial of each."""

    def __init__(self) -> None:
        super().__init__()
        self.trials = array("l")

    def worst(self) -> _Column | None:
        """Return the highest value of each request, model and trial; None where no request has several prompts.

        A request of which one prompt has no value is left out, whatever the others did: else those that fell would
        stay in the rate and those that did not would leave it.
        """
        tries = np.stack([np.array(each) for each in (self.clusters, self.models, self.trials)], axis=1)
        requests, codes = np.unique(tries, axis=0, return_inverse=True)
        if len(requests) == len(tries):
            return None
        highest = np.full(len(requests), -np.inf)
        np.maximum.at(highest, codes.reshape(-1), np.array(self.values))
        found = _Column()
        for value, (cluster, model, _) in zip(highest.tolist(), requests.tolist(), strict=True):
            if np.isfinite(value):
                found.add(value, cluster, model)
        return found if found.values else None


class Tally:
    """Takes the rows of one suite, one after the other."""

    def __init__(self) -> None:
        self._clusters: dict[str, int] = {}
        """Cluster -> its number."""
        self._columns: dict[tuple[str, str], _Column] = defaultdict(_Column)
        """By name and group of a rate."""
        self._prompts = _Prompts()
        self._attacks: set[str] = set()
        self._standings: Counter[Standing] = Counter()
        self._tokens = array("d")
        self.rows = 0
        self.reasons: dict[str, str] = {}
        """Why answers have no value, by standing: what the first of each said."""

    def add(self, row: ItemResult) -> None:
        """Count one row."""
        self.rows += 1
        self._standings[row.standing] += 1
        if row.reason:
            self.reasons.setdefault(row.standing.value, row.reason)
        if row.tokens:
            self._tokens.append(row.tokens)
        cluster = self._clusters.setdefault(row.cluster, len(self._clusters))
        for name, group, value in _values(row):
            self._columns[name, group].add(value, cluster, row.seed)
        if row.metric is Metric.ASR:
            self._attacks.add(row.attack)
            self._prompts.add(np.inf if row.value is None else row.value, cluster, row.seed)
            self._prompts.trials.append(row.trial)

    def side(self, name: str) -> Side | None:
        """Return the values of one rate over the whole suite; None where there are none."""
        column = self._columns.get((name, ""))
        return column.side() if column else None

    def estimates(self) -> Iterator[Estimate]:
        """Yield every rate: of the whole suite, of each category and attack, of what became of the answers."""
        for (name, group), column in sorted(self._columns.items(), key=lambda item: bool(item[0][1])):
            if self._attacks - {""} or group != f"attack:{DIRECT}":
                yield rate(column.side(), name=name, group=group)
        if self._attacks - {""} and (worst := self._prompts.worst()):
            yield rate(worst.side(), name=ANY_ATTACK)
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
        if row.attack or row.metric is Metric.ASR:
            yield row.metric.value, f"attack:{row.attack or DIRECT}", row.value
    if row.draft is not None:
        yield f"draft_{row.metric.value}", "", row.draft
    for name, count in row.counts.items():
        yield name, "", count
