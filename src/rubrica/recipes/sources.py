"""What ``rubrica eval`` is given to work on: suites, the lab's among them, and answers that are there already."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rubrica.attacks.attack import Attack, attacked, parse_attacks
from rubrica.core.data import each_text
from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Item, Metric
from rubrica.core.records import Response, Sampling
from rubrica.core.tables import SUFFIXES
from rubrica.evals.items import Tally
from rubrica.evals.load import copy_of, how_to_get, load_suite, locate, read
from rubrica.evals.locate import Shelf
from rubrica.evals.prompt_file import read_items
from rubrica.evals.requests import cluster_of
from rubrica.evals.suite import Suite, choose, load_suites
from rubrica.lab import suites as lab

EMBEDDED = "embedded"
"""Judge of answers where nobody else is named."""


class Given(NamedTuple):
    """An item and its answer."""

    item: Item
    response: Response


class Source(NamedTuple):
    """A suite as it is asked."""

    name: str
    metric: Metric
    items: Callable[[], Iterator[Item]]
    """Reads the items from the start."""
    size: int
    """How many there are."""
    judge: str = ""
    """Who judges its answers where nobody else is named."""
    given: Callable[[], Iterator[Given]] | None = None
    """Answers that are there already; then no model is asked."""
    examples: Callable[[], list[Item]] = list
    """Reads the items from which worked examples are drawn."""
    note: str = ""
    """What a reader of its rates should know."""


def suite_sources(
    names: Sequence[str],
    data: Path | None,
    *,
    own: Path | None = None,
    attacks: Sequence[str] = (),
    seed: int = 0,
    limit: int | None = None,
    left_out: Callable[[str], None] | None = None,
) -> list[Source]:
    """Return the suites and groups of these names; a name may be a file of prompts too, taken for harmful requests.

    ``own`` is a user's file of suites. The prompts of safety suites are put under each of ``attacks``
    (:func:`rubrica.attacks.attack.parse_attacks`); none: as they are. Every suite is read once, to count it. Errors
    are those of :func:`rubrica.evals.load.load_suite`; a suite that nobody has is left out where ``left_out`` takes
    the reason.
    """
    chosen, known = parse_attacks(attacks), load_suites(own)
    meant = {  # all of them before the first is read, or asked of the hub
        name: choose([name], known, also=lab.METRICS)
        for name in names
        if name not in lab.METRICS and not name.endswith(SUFFIXES)
    }
    shelf = None if data is None else Shelf(data)
    found: dict[str, Source] = {}
    for name in names:
        if name in lab.METRICS:
            sources = [_lab_source(name, limit)]
        elif name.endswith(SUFFIXES):
            sources = [_file_source(Path(name), limit)]
        else:
            sources = list(_found(meant[name], known, shelf, limit, left_out))
        found |= {source.name: _under(source, chosen, seed) for source in sources}
    if not found:
        raise UsageError(f"--suite {','.join(names)}: none of these is there")
    return list(found.values())


def _found(
    suites: Sequence[Suite],
    known: Mapping[str, Suite],
    shelf: Shelf | None,
    limit: int | None,
    left_out: Callable[[str], None] | None,
) -> Iterator[Source]:
    for suite in suites:
        if left_out is None or shelf is None or locate(suite, shelf) is not None:
            yield _suite_source(suite, known, shelf, limit)
        else:
            left_out(f"left out: {suite.name}: {how_to_get(suite)}")


def _under(source: Source, attacks: Sequence[Attack], seed: int) -> Source:
    if not attacks or source.metric is not Metric.ASR:
        return source
    return source._replace(
        items=lambda: attacked(source.items(), attacks, seed),
        size=source.size * sum(attack.count for attack in attacks),
    )


def _lab_source(name: str, limit: int | None) -> Source:
    found = lab.items(name)[:limit]
    return Source(name, lab.METRICS[name], lambda: iter(found), len(found), "lab-oracle")


def _file_source(path: Path, limit: int | None) -> Source:
    found = read_items(path, limit=limit)
    name = suite_name(path)
    items = [item.model_copy(update={"suite": name}) for item in found]
    return Source(name, Metric.ASR, lambda: iter(items), len(items), EMBEDDED)


def _suite_source(suite: Suite, known: Mapping[str, Suite], shelf: Shelf | None, limit: int | None) -> Source:
    copy, tally = copy_of(suite, shelf), Tally()

    def items() -> Iterator[Item]:
        return islice(read(copy), limit)

    def examples() -> list[Item]:
        training = known.get(f"{suite.name}-train")
        return list(load_suite(training, shelf)) if training else []

    size = sum(1 for _ in islice(read(copy, tally), limit))
    rows = size + (0 if suite.sample else tally.empty)
    odd = limit is None and rows != suite.expected
    note = f"{suite.name}: {rows} items, where {suite.expected} were published" if odd else ""
    return Source(suite.name, suite.metric, items, size, suite.judge, examples=examples, note=note)


def answers_source(path: Path, metric: str, limit: int | None = None) -> Source:
    """Return the rows of a file with ``prompt`` and ``response`` as a suite; it is read once to count them."""
    name = suite_name(path)

    def given() -> Iterator[Given]:
        return given_answers(path, name, limit)

    size = sum(1 for _ in given())
    return Source(name, Metric(metric), lambda: (row.item for row in given()), size, EMBEDDED, given)


def given_answers(path: Path, suite: str, limit: int | None = None) -> Iterator[Given]:
    """Yield the rows of a file with ``prompt`` and ``response``, read as :func:`rubrica.core.data.load_texts` does.

    Its tags ``category`` and ``goal``, columns of the same names included, become the item's.
    """
    sampling = Sampling()
    for text in each_text(path, limit=limit):
        tags = text.prompt.tags
        item = Item(
            id=text.id,
            suite=suite,
            prompt=text.prompt,
            goal=tags.get("goal", ""),
            cluster=cluster_of(tags.get("goal") or text.prompt.messages[-1].content),
            category=tags.get("category", ""),
            attack=tags.get("attack", ""),
        )
        yield Given(
            item,
            Response(
                id=text.id,
                prompt_id=text.prompt.id,
                text=text.text,
                model=path.name,
                sampling=sampling,
                tokens=0,
            ),
        )


def suite_name(path: Path) -> str:
    """Return the name under which the rows of a file are counted."""
    return re.sub(r"[^a-z0-9_.-]+", "-", path.name.split(".")[0].lower()).strip("-._") or "answers"
