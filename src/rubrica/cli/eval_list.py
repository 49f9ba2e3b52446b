"""``rubrica eval --list``: the suites, what is there of them, and where to get the rest."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rubrica.cli.output import console, note, plain, plural, print_json, progress_bar
from rubrica.core.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from rubrica.evals.catalogue import Listing
    from rubrica.evals.suite import Suite


def show_suites(names: str | None, data: Path | None, own: Path | None, *, as_json: bool) -> None:
    """Print the suites of ``names``, or all; with names, all that is known about each."""
    from rubrica.evals.catalogue import Standing, catalogue
    from rubrica.evals.locate import Shelf

    named = suite_names(names) if names is not None else []
    of_lab = [name for name in named if name.startswith("lab-")] if named else _lab_names()
    others = [name for name in named if name not in of_lab]
    chosen = chosen_suites(others, own) if others or not named else []
    shelf = Shelf(data) if data else None
    found: list[Listing] = []
    with progress_bar("reading suites") as bar:
        for listing in catalogue(chosen, shelf):
            found.append(listing)
            bar(len(found), len(chosen))
    found += map(_of_lab, of_lab)
    if as_json:
        print_json([listing.model_dump(mode="json") for listing in found])
        return
    if names:
        for listing in found:
            _show_details(listing)
    else:
        console().print(_table(found, sought=shelf is not None))
    for listing in found:
        if listing.problem and (shelf or named):
            note(f"{listing.name}: {listing.problem.removeprefix(f'{listing.name}: ')}")
        if listing.census and listing.census.published is False:
            note(f"{listing.name}: {listing.census.source} is not the published file, byte for byte")
    ready = sum(listing.standing is Standing.READY for listing in found)
    note(f"{plural(len(found), 'suite')}{f', {ready} ready' if shelf else '; --data DIR looks for them'}")


def chosen_suites(names: "Sequence[str]", own: Path | None) -> "list[Suite]":
    """The suites of ``names`` (suites and groups), or all; ``own`` adds a user's."""
    from rubrica.evals.suite import choose, load_suites

    known = load_suites(own)
    return choose(names, known) if names else list(known.values())


def suite_names(given: str) -> list[str]:
    """Take apart what ``--suite`` says."""
    found = [name.strip() for name in given.split(",") if name.strip()]
    if not found:
        raise UsageError("--suite: no name; expected suites or groups with commas between them")
    return found


def _lab_names() -> list[str]:
    from rubrica.lab.suites import METRICS

    return list(METRICS)


def _of_lab(name: str) -> "Listing":
    """The lab's suites are made, not found."""
    from rubrica.core.evaluation import Metric
    from rubrica.evals.catalogue import Listing, Standing
    from rubrica.evals.load import Census
    from rubrica.lab.suites import METRICS, items

    count = len(items(name))
    harm = METRICS[name] is Metric.ASR
    return Listing(
        name=name,
        title=f"The lab's {'harmful' if harm else 'harmless'} prompts",
        groups=(),
        metric=METRICS[name],
        scoring="harm" if harm else "refusal",
        judge="lab-oracle",
        official_judge="",
        found=True,
        rows=count,
        expected=count,
        licence="Apache-2.0",
        citation="",
        source="ships with Rubrica",
        notes="A fictional world in which harm has a ground truth; see docs/lab.md.",
        standing=Standing.READY,
        census=Census(suite=name, source="the lab", rows=count, expected=count),
    )


def _table(found: "Sequence[Listing]", *, sought: bool) -> "Table":
    """80 columns hold what was found, or who judges and under which licence; both are among the details of a suite."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    left, right = ("found",) if sought else ("judge", "licence"), ("items", "twice") if sought else ()
    for name in ("suite", "metric", "expected", *right, *left):
        numbers = name in ("expected", *right)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=name != "licence")
    for listing in found:
        about = (listing.name, listing.metric, f"{listing.expected:,}")
        if sought:
            census = listing.census
            counts = ("", "") if census is None else (f"{census.rows:,}", f"{len(census.duplicates):,}")
            rest: tuple[str, ...] = (*counts, listing.standing.value)
        else:
            rest = (listing.judge or listing.scoring, listing.licence)
        table.add_row(*map(plain, (*about, *rest)))
    return table


def _show_details(listing: "Listing") -> None:
    census = listing.census
    lines = {
        "metric": f"{listing.metric}, by {listing.judge or listing.scoring}",
        "judge of its authors": listing.official_judge,
        "groups": ", ".join(listing.groups),
        "expected": f"{listing.expected:,}",
        "found": f"{census.rows:,} in {census.source}" if census else str(listing.standing),
        "rows that ask nothing": f"{census.empty:,}" if census and census.empty else "",
        "said twice": _twice(listing),
        "licence": listing.licence,
        "citation": listing.citation,
        "source": listing.source,
        "notes": listing.notes,
    }
    out = console()
    out.print(plain(f"{listing.name}: {listing.title}"), soft_wrap=True)
    for name, said in lines.items():
        if said:
            out.print(plain(f"  {name}: {said}"), soft_wrap=True)


def _twice(listing: "Listing") -> str:
    if listing.census is None or not (ids := listing.census.duplicates):
        return ""
    named = f"{', '.join(ids[:5])}{' ...' if len(ids) > 5 else ''}"
    kept = "left out" if listing.census.dropped else "kept"
    return f"{plural(len(ids), 'item')}, {kept}: {named}"
