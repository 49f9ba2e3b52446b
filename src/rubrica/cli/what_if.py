"""``rubrica score --from``: stored verdicts under another rule, and what that changes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rubrica.cli.output import check_out, console, note, plain, plural, print_json, progress_bar

if TYPE_CHECKING:
    from rubrica.core.records import Estimate
    from rubrica.recipes.ranking import Change, Preferred, Ranking
    from rubrica.recipes.what_if import WhatIf


def what_if(
    path: Path,
    program: str | None,
    preset: str | None,
    settings: Sequence[str],
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print what the verdicts in ``path`` are worth under another rule; no judge is built."""
    from rubrica.core.errors import UsageError
    from rubrica.program.program import load_program
    from rubrica.recipes.what_if import compare, open_source

    if plot is not None:
        check_out(plot)
        if plot.suffix.lower() != ".svg":
            raise UsageError(f"--plot {plot}: expected a name that ends in .svg, which is what is drawn")
    other = load_program(program) if program else None
    with progress_bar("texts") as progress:
        report = compare(open_source(path), other, preset, settings, progress)
    if plot is not None:
        _draw(report, plot)
    if as_json:
        print_json(report)
    else:
        for line in _lines(report):
            console().print(plain(line), soft_wrap=True)
    if report.reproduced < report.comparable:
        note(
            f"{report.comparable - report.reproduced} of {report.comparable} stored values do not follow from the "
            "recipe's own rule and the stored verdicts: this version pools otherwise, or fitted veto thresholds were "
            "not kept"
        )


def _draw(report: "WhatIf", path: Path) -> None:
    from rubrica.reports.revalued import spec
    from rubrica.reports.svg import write_svg

    both = [(i.before, i.after) for i in report.items if i.before is not None and i.after is not None]
    write_svg(spec(both, "total" if report.what == "texts" else "reward"), path)


def _lines(report: "WhatIf") -> Iterator[str]:
    what, missing = report.what, report.missing
    yield f"before: {report.before}"
    yield f"after:  {report.after}"
    yield f"{report.rows} {what}; without a value {missing.before} before, {missing.after} after"
    if missing.unasked:
        yield (
            f"  {missing.unasked} of them because questions that the other rule needs were never asked: "
            "rubrica score --full asks all"
        )
    if report.change is None:
        yield f"no {what} with both values: nothing to compare"
        return
    yield from _values(report.change)
    yield from _ranks(report.ranking)
    if report.preferred is not None:
        yield from _preferences(report.preferred)


def _values(change: "Change") -> Iterator[str]:
    spread = [f", sd {sd:.3f}" if sd is not None else "" for sd in (change.sd_before, change.sd_after)]
    yield f"mean of {change.items} {_signed(change.mean_before)}{spread[0]}"
    yield f"     now {_signed(change.mean_after)}{spread[1]}; {change.changed} changed"
    yield f"difference {_signed(change.difference)}"


def _ranks(found: "Ranking") -> Iterator[str]:
    if not found.groups:
        yield "no group with two values: no ranks to compare"
        return
    yield (
        f"{plural(found.groups, 'group')}, {plural(found.pairs, 'pair')}: {plural(found.flips, 'flip')}, "
        f"{plural(found.ties_broken, 'tie')} broken, {found.ties_made} made"
    )
    for estimate in (found.reranked, found.best_changed):
        if estimate is not None:
            yield f"{estimate.name} {_share(estimate)}"
    if found.tau is not None:
        yield f"{found.tau.name} {_signed(found.tau)}"
    if found.advantage_correlation is not None:
        yield (
            f"advantages: correlation {found.advantage_correlation:.3f}, "
            f"{found.sign_flips} of {found.advantages} change sign"
        )
    for flip in found.examples:
        was, now = flip.before, flip.after
        yield (
            f"  {flip.better_before} {was[0]:+.3f} > {flip.better_after} {was[1]:+.3f}, "
            f"now {now[0]:+.3f} < {now[1]:+.3f}"
        )


def _preferences(found: "Preferred") -> Iterator[str]:
    yield f"{found.before.name} {_share(found.before)}"
    yield f"{found.after.name} {_share(found.after)}"
    yield f"difference {_signed(found.difference)}: {found.won} won, {found.lost} lost"


def _signed(estimate: "Estimate") -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}], n={estimate.n}"


def _share(estimate: "Estimate") -> str:
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}], n={estimate.n}"
