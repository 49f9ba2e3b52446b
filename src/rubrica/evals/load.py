"""Load a suite: find its files, read its items, hold their number against the entry."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from rubrica.core.base import Record
from rubrica.core.errors import DataError, UsageError
from rubrica.core.evaluation import Item
from rubrica.evals.hub import hub_copy
from rubrica.evals.items import Copy, Tally, fits, items_of
from rubrica.evals.locate import Shelf
from rubrica.evals.suite import Sample, Suite


class Census(Record):
    """What was found of one suite."""

    suite: str
    source: str
    """The file or files, or the id on the hub."""
    rows: int
    """Items, and rows that were left out because they ask nothing."""
    expected: int
    empty: int = 0
    """Rows that ask nothing."""
    duplicates: tuple[str, ...] = ()
    """Ids of items that repeat an earlier one word for word."""
    dropped: int = 0
    """How many of them were left out."""
    sha256: tuple[str, ...] = ()
    """Digest of each file."""
    published: bool | None = None
    """Whether the file's bytes are those that were published; None where the entry does not say which those are."""

    @property
    def complete(self) -> bool:
        """Whether the number is the expected one."""
        return self.rows == self.expected


def locate(suite: Suite, shelf: Shelf) -> Copy | None:
    """Return the suite's files: those of the first layout whose names and columns are there; None where none is.

    ``DataError`` where files have the names but no layout's columns; ``UsageError`` for several that could be it.
    """
    problem: DataError | None = None
    for layout in suite.layouts:
        if layout.all_files:
            paths = next((found for pattern in layout.files if (found := shelf.find(pattern))), [])
        else:
            first = shelf.first(layout.files, suite.name)
            paths = [first] if first else []
        joined = [(join, shelf.first(join.files, suite.name)) for join in layout.join]
        templates = shelf.first(layout.templates.files, suite.name) if layout.templates else None
        absent = any(path is None and not join.optional for join, path in joined)
        if not paths or absent or (layout.templates and templates is None):
            continue
        if wrong := fits(layout, paths[0]):
            problem = problem or wrong
            continue
        there = tuple((join, path) for join, path in joined if path is not None)
        return Copy(suite, layout, tuple(sorted(paths)), there, templates)
    if problem:
        raise problem
    return None


def copy_of(suite: Suite, data: Path | Shelf | None = None, *, online: bool = True) -> Copy:
    """Return what the suite is read from: files under ``data``, else the hub where ``online``.

    Raises ``UsageError`` that says where to get it where neither has it, ``DataError`` with file and line for a file
    that is damaged or has other columns.
    """
    shelf = data if isinstance(data, Shelf) or data is None else Shelf(data)
    if shelf and (found := locate(suite, shelf)):
        return found
    if suite.hub and online:
        return hub_copy(suite)
    where = f" under {shelf.folder}" if shelf else ""
    raise UsageError(f"suite {suite.name}: no file{where}; {how_to_get(suite)}")


def read(copy: Copy, tally: Tally | None = None) -> Iterator[Item]:
    """Yield the items of a copy, or the part of them that the entry samples. ``tally`` is complete at the end."""
    return _sampled(copy.suite.sample, items_of(copy, tally or Tally()))


def load_suite(
    suite: Suite, data: Path | Shelf | None = None, *, limit: int | None = None, online: bool = True
) -> Iterator[Item]:
    """Yield the items of a suite, or the first of them; see :func:`copy_of`."""
    return islice(read(copy_of(suite, data, online=online)), limit)


def take_census(copy: Copy) -> Census:
    """Read a suite through and count."""
    tally, suite = Tally(), copy.suite
    number = sum(1 for _ in read(copy, tally))
    files = () if copy.rows else copy.paths
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    known = copy.layout.sha256
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return Census(
        suite=suite.name,
        source=f"{copy.paths[0]}{more}" if files else f"{copy.paths[0]} on the hub",
        rows=number + (0 if suite.sample else tally.empty),
        expected=suite.expected,
        empty=tally.empty,
        duplicates=tuple(tally.duplicates),
        dropped=tally.dropped,
        sha256=digests,
        published=set(digests) <= set(known) if known and digests else None,
    )


def how_to_get(suite: Suite) -> str:
    """Say where the suite's files come from and what to call them."""
    layout = suite.layouts[0]
    names = [layout.files[0], *(join.files[0] for join in layout.join if not join.optional)]
    names += [layout.templates.files[0]] if layout.templates else []
    gated = suite.hub is not None and suite.hub.gated
    ask = "ask for access and " if gated and "huggingface.co" in suite.source else ""
    log_in = " (ask for access there and log in with: hf auth login)" if gated else ""
    hub = f", or use the dataset {suite.hub.id} on the hub{log_in}" if suite.hub and not ask else ""
    more = f" ({suite.obtain})" if suite.obtain else ""
    return f"{ask}get it from {suite.source}{more}, and put it into the --data folder as {' and '.join(names)}{hub}"


def _sampled(sample: Sample | None, items: Iterable[Item]) -> Iterator[Item]:
    """Yield the sample in the order of the suite; each category has its share, by largest remainder."""
    if sample is None:
        yield from items
        return
    every = list(items)
    sizes = Counter(_group(sample, item) for item in every)
    quota = _shares(sizes, min(sample.n, len(every)))
    drawn = set()
    for item in sorted(every, key=lambda item: _draw(sample, item)):
        if quota[_group(sample, item)]:
            quota[_group(sample, item)] -= 1
            drawn.add(item.id)
    yield from (item for item in every if item.id in drawn)


def _group(sample: Sample, item: Item) -> str:
    return item.category if sample.by == "category" else ""


def _draw(sample: Sample, item: Item) -> str:
    return hashlib.sha256(f"{sample.seed}:{item.prompt.id}:{item.id}".encode()).hexdigest()


def _shares(sizes: Counter[str], n: int) -> Counter[str]:
    total = sum(sizes.values())
    shares = Counter({group: size * n // total for group, size in sizes.items()})
    rest = sorted(sizes, key=lambda group: (-(sizes[group] * n % total), group))
    for group in rest[: n - sum(shares.values())]:
        shares[group] += 1
    return shares
