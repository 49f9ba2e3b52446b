"""The list of suites: what is there, how many items, where to get the rest."""

from collections.abc import Iterable, Iterator
from enum import StrEnum

from rubrica.core.base import Record
from rubrica.core.errors import RubricaError
from rubrica.core.evaluation import Metric
from rubrica.evals.load import Census, how_to_get, locate, take_census
from rubrica.evals.locate import Shelf
from rubrica.evals.suite import Scoring, Suite


class Standing(StrEnum):
    """What became of looking for a suite's files."""

    READY = "ready"
    """Found, with the expected number of items."""
    DIFFERS = "differs"
    """Found, with another number."""
    UNREADABLE = "unreadable"
    """Found, and damaged or with other columns."""
    MISSING = "missing"
    UNSOUGHT = "unsought"
    """No folder was given to look in."""


class Listing(Record):
    """A suite, and what was found of it."""

    name: str
    title: str
    groups: tuple[str, ...]
    metric: Metric
    scoring: Scoring
    judge: str | None
    """Default judge, where one is asked."""
    official_judge: str
    found: bool
    rows: int | None
    """Items that were counted; None: not found, or unreadable."""
    expected: int
    licence: str
    citation: str
    source: str
    notes: str
    standing: Standing
    census: Census | None = None
    problem: str = ""
    """What is wrong, or where to get it."""


def catalogue(suites: Iterable[Suite], shelf: Shelf | None) -> Iterator[Listing]:
    """Yield a listing for each suite; files that cannot be read are listed with the reason."""
    for suite in suites:
        yield _listing(suite, shelf)


def _listing(suite: Suite, shelf: Shelf | None) -> Listing:
    census, problem = None, how_to_get(suite)
    standing = Standing.MISSING if shelf else Standing.UNSOUGHT
    try:
        copy = locate(suite, shelf) if shelf else None
        if copy:
            census = take_census(copy)
            standing = Standing.READY if census.complete else Standing.DIFFERS
            problem = (
                ""
                if census.complete
                else f"{census.rows:,} {'item' if census.rows == 1 else 'items'}, expected {census.expected:,}"
            )
    except RubricaError as error:
        standing, problem = Standing.UNREADABLE, str(error)
    return Listing(
        name=suite.name,
        title=suite.title,
        groups=suite.groups,
        metric=suite.metric,
        scoring=suite.settled_by,
        judge=suite.judge if suite.settled_by in ("harm", "refusal") else None,
        official_judge=suite.official_judge,
        found=standing not in (Standing.MISSING, Standing.UNSOUGHT),
        rows=census.rows if census else None,
        expected=suite.expected,
        licence=suite.licence,
        citation=suite.citation,
        source=suite.source,
        notes=suite.notes,
        standing=standing,
        census=census,
        problem=problem,
    )
