"""Which pairs were selected in which round, what was said about them, and how much of the budget is spent.

A label is spent when its pair is selected: before anybody is asked. So no crash can spend one twice, and no oracle can
answer more than was allowed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from rubrica.core.base import NonEmpty, Record
from rubrica.core.comparisons import Candidate, PairLabel, preference
from rubrica.core.errors import UsageError
from rubrica.core.records import Preference
from rubrica.core.store import Store

SELECTED, LABEL = "selected", "pair-label"
"""Kinds under which selected pairs and their labels lie in the store, by the pair's id."""

Oracle = Callable[[Sequence[Candidate]], Iterable[PairLabel]]
"""Says which answers are preferred, pair by pair as it comes to know; pairs that it leaves out stay open."""


class Selected(Record):
    """A pair that was selected to be labelled."""

    pair: Candidate
    round: int
    """From 1."""
    rank: int
    """Its place in the order of selection."""
    score: float
    """What it was selected for."""
    strategy: NonEmpty


class Round(Record):
    """One line of the ledger."""

    round: int
    spent: int
    """Labels that the round has used up: pairs selected."""
    labelled: int
    """Pairs of which one answer is preferred."""
    undecided: int
    """Ties, pairs that were skipped, and pairs without a score."""
    open: int
    """Pairs that nobody has said anything about."""


class Ledger:
    """The labels of one stage, or of one ``rubrica select``, in its store."""

    def __init__(self, store: Store, stage: str = "", budget: int | None = None) -> None:
        """``budget``: labels that may be spent in all rounds together; None: as many as are asked for."""
        self._store, self._stage, self._budget = store, stage, budget

    def selected(self, round: int | None = None) -> list[Selected]:
        """Return what was selected, all of it or in one round, in order."""
        found = self._store.all(SELECTED, Selected, stage=self._stage, step=round)
        return sorted(found, key=lambda one: (one.round, one.rank))

    def labels(self) -> dict[str, PairLabel]:
        """Return what was said, by pair."""
        return {label.pair: label for label in self._store.all(LABEL, PairLabel, stage=self._stage)}

    def open(self) -> list[Selected]:
        """Return the selected pairs that have no label yet."""
        labels = self.labels()
        return [one for one in self.selected() if one.pair.id not in labels]

    def room(self) -> int | None:
        """Return how many labels may still be spent; None without a budget."""
        return None if self._budget is None else max(0, self._budget - len(self.selected()))

    def take(self, selected: Sequence[Selected]) -> None:
        """Spend a label for each of a round's pairs, in one write; ``UsageError`` beyond the budget."""
        room = self.room()
        if room is not None and len(selected) > room:
            raise UsageError(f"{len(selected)} labels, but {room} of the budget of {self._budget} are left")
        with self._store.batch():
            for one in selected:
                self._store.put(SELECTED, one.pair.id, one, stage=self._stage, step=one.round)

    def put(self, labels: Iterable[PairLabel]) -> int:
        """Keep labels as they come, in place of earlier ones; return how many."""
        rounds = {one.pair.id: one.round for one in self.selected()}
        count = 0
        for label in labels:
            self._store.put(LABEL, label.pair, label, stage=self._stage, step=rounds[label.pair])
            count += 1
        return count

    def ask(self, oracle: Oracle) -> int:
        """Have the open pairs labelled; return how many were."""
        pairs = [one.pair for one in self.open()]
        return self.put(oracle(pairs)) if pairs else 0

    def preferences(self, rounds: Iterable[int] | None = None) -> list[Preference]:
        """Return the labelled pairs to train on, of all rounds or of some."""
        wanted, labels = None if rounds is None else set(rounds), self.labels()
        found = (
            preference(one.pair, labels[one.pair.id])
            for one in self.selected()
            if one.pair.id in labels and (wanted is None or one.round in wanted)
        )
        return [pair for pair in found if pair is not None]

    def rounds(self) -> Iterator[Round]:
        """Yield the account of every round."""
        labels, every = self.labels(), self.selected()
        for number in sorted({one.round for one in every}):
            said = [labels.get(one.pair.id) for one in every if one.round == number]
            yield Round(
                round=number,
                spent=len(said),
                labelled=sum(label is not None and label.preferred is not None for label in said),
                undecided=sum(label is not None and label.preferred is None for label in said),
                open=said.count(None),
            )
