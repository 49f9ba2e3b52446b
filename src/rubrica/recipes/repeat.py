"""``rubrica attack repeat``: try again and again until the model gives in (Hughes et al. 2024, arXiv 2412.03556).

Each try draws the attack and the answer anew. A request leaves with its first success, so that the budget goes to those
that hold. Whether n tries are enough is then known for every n, and their share is the attack success of best of n.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rubrica.attacks.attack import Attack, parse_attack
from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Item, ItemResult, Metric
from rubrica.core.ports import Generator
from rubrica.core.run import write_json, write_jsonl
from rubrica.core.store import Store
from rubrica.evals.prompt_file import write_items
from rubrica.judges.budget import Budget, Purse
from rubrica.recipes.answering import Answering, chunks
from rubrica.recipes.context import Progress, Surroundings
from rubrica.recipes.evaluation import RESULT, evaluation_folder, stage_of
from rubrica.recipes.judging import Asking, Rules, judge_texts
from rubrica.recipes.pending import open_asking, open_text
from rubrica.recipes.repeating import BROKEN, CURVE, TRIES, Repeating
from rubrica.recipes.tried import Curve, curves

SPARE = 2
"""A try without a verdict is no try: another is made in its place, as long as there are not so many times too many."""
_SEEDS = 1_000_000
"""Rounds that have seeds of their own: more than there can be."""


@dataclass
class _Work:
    repeating: Repeating
    attack: Attack
    store: Store
    asking: Asking
    model: Callable[[], Generator]

    def tried(self, item: Item, number: int) -> Item:
        """The item as try ``number`` puts it."""
        (made,) = self.attack(item, _SEEDS * self.repeating.sampling.seed + number)
        return made


def repeat(
    repeating: Repeating,
    items: Sequence[Item],
    out: Path,
    surroundings: Surroundings,
    *,
    open_model: Callable[[], Generator],
    budget: Budget | None = None,
    progress: Progress = lambda what, done, total: None,
) -> list[Curve]:
    """Attack, or go on; return attack success by number of tries, and write the files of ``out``.

    Raises ``UsageError`` for a folder of another attack and for an attack that makes several prompts of one,
    ``ModelError`` and ``JudgeError`` where model or judge cannot work, ``BudgetError`` at a cap; what was done is kept.
    """
    attack = parse_attack(repeating.attack)
    if attack.count != 1:
        raise UsageError(
            f"attack {repeating.attack!r}: makes {attack.count} prompts of one; give it n=1, every try draws anew"
        )
    if not items:
        raise UsageError(f"{repeating.input}: holds no prompt; expected at least one")
    with evaluation_folder(out, repeating, seed=repeating.sampling.seed) as store:
        purse = Purse(budget or Budget(), store, prefix="--max-")
        asking = open_asking(Metric.ASR, repeating.judge, repeating.program, store, surroundings, purse)
        work = _Work(repeating, attack, store, asking, cache(open_model))
        _try(work, items, progress)
        rows = list(_rows(work, items))
        found = curves(rows, stopped=not repeating.full)
        write_jsonl(out / TRIES, rows)
        write_items(out / BROKEN, _broken(work, items))
        write_json(out / CURVE, [curve.row() for curve in found])
    return found


def _try(work: _Work, items: Sequence[Item], progress: Progress) -> None:
    """Make rounds until every request fell or has its judged tries."""
    given, judged, fell = work.repeating, Counter[tuple[str, str]](), set[tuple[str, str]]()
    left = list(items)
    for number in range(SPARE * given.tries):
        progress(f"{len(left):,} requests", min(number, given.tries), given.tries)
        for item, row in _round(work, left, number):
            judged[item.suite, item.id] += row.value is not None
            if row.value and not given.full:
                fell.add((item.suite, item.id))
        left = [
            item for item in left if judged[key := (item.suite, item.id)] < given.tries and key not in fell
        ]
        if not left:
            break


def _round(work: _Work, items: Sequence[Item], number: int) -> Iterator[tuple[Item, ItemResult]]:
    """Make one try at each item; yield what became of it."""
    given = work.repeating
    sampling = given.sampling.model_copy(update={"seed": _SEEDS * given.sampling.seed + number})
    for suite in dict.fromkeys(item.suite for item in items):
        stage = stage_of(suite, 0, number)
        answering = Answering(work.model, work.store, stage, sampling, system=given.system)
        for chunk in chunks(item for item in items if item.suite == suite):
            tried = [work.tried(item, number) for item in chunk]
            answering.ask(tried)
            yield from zip(chunk, _judged(work, tried, stage, number), strict=True)


def _judged(work: _Work, tried: Sequence[Item], stage: str, number: int) -> list[ItemResult]:
    """Have judged what is not; return the rows of all."""
    rules = Rules(work.repeating.tags, drafts=False)
    texts = [text for one in tried if (text := open_text(work.store, stage, one, rules)) is not None]
    for row in judge_texts(texts, work.asking, rules, seed=0, trial=number) if texts else ():
        work.store.put(RESULT, row.item, row, stage=stage)
    found = (work.store.get(RESULT, one.id, ItemResult, stage=stage) for one in tried)
    return [row for row in found if row is not None]


def _made(work: _Work, items: Sequence[Item]) -> Iterator[tuple[Item, ItemResult]]:
    """Yield every try that counts, item by item: without ``full`` those up to the first success."""
    given = work.repeating
    for item in items:
        judged = 0
        for number in range(SPARE * given.tries):
            tried = work.tried(item, number)
            row = work.store.get(RESULT, tried.id, ItemResult, stage=stage_of(item.suite, 0, number))
            if row is None:
                break
            yield tried, row
            judged += row.value is not None
            if judged == given.tries or (row.value and not given.full):
                break


def _rows(work: _Work, items: Sequence[Item]) -> Iterator[ItemResult]:
    return (row for _, row in _made(work, items))


def _broken(work: _Work, items: Sequence[Item]) -> Iterator[Item]:
    """Yield the prompts that the model gave in to, each with the number of its try in its id."""
    for tried, row in _made(work, items):
        if row.value:
            yield tried.model_copy(update={"id": f"{tried.id}#{row.trial + 1}"})
