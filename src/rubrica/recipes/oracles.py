"""Who says which of two answers is better: a judge, or people by way of a table. Any function of pairs will do as well."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rubrica.core.comparisons import Candidate, PairLabel, candidate, label_of
from rubrica.core.data import holds_pairs, load_pairs
from rubrica.core.errors import UsageError
from rubrica.judges.executor import Executor
from rubrica.recipes.label_sheet import read_sheet
from rubrica.recipes.ledger import Ledger, Oracle


def judge_oracle(executor: Executor, by: str, *, temperature: float = 0.0, seed: int = 0) -> Oracle:
    """Prefer the answer with the higher total; at ``temperature`` above 0 as often as Bradley-Terry says.

    A pair of which a total is missing gets no label and stays open: a judge's failure is no tie.
    """

    def ask(pairs: Sequence[Candidate]) -> Iterator[PairLabel]:
        cards = executor.score([(pair.prompt, text) for pair in pairs for text in (pair.first, pair.second)])
        for pair, first, second in zip(pairs, cards[::2], cards[1::2], strict=True):
            if first.total is not None and second.total is not None:
                yield label_of(pair, first.total, second.total, by=by, temperature=temperature, seed=seed)

    return ask


def labels_of(path: Path, ledger: Ledger) -> list[PairLabel]:
    """Return the labels of a filled sheet, or those that a file of chosen and rejected answers implies.

    Of such a file the pairs that were never selected are left aside. ``UsageError`` where nothing is selected yet.
    """
    known = {one.pair.id for one in ledger.selected()}
    if not known:
        raise UsageError(f"{path}: no pair has been selected yet; select first, then bring labels")
    if not holds_pairs(path):
        return read_sheet(path, known)
    found = []
    for given in load_pairs(path, on_skip=lambda skipped: None):
        pair = candidate(given.prompt, given.chosen, given.rejected)
        if pair is not None and pair.id in known:
            preferred = "first" if pair.first == given.chosen else "second"
            found.append(PairLabel.model_validate({"pair": pair.id, "preferred": preferred, "by": path.name}))
    return found
