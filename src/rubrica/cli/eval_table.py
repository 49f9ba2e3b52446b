"""What an evaluation prints: one line a suite, its attacks below, and why answers have no value."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from rubrica.cli.output import console, note, plain

if TYPE_CHECKING:
    from rubrica.core.records import Estimate, EvalResult

_MAIN = ("asr", "frr", "accuracy", "preference")
_MISSING = ("abstained", "unjudged", "no_revision", "unanswered")
_COLUMNS = ("suite", "rate", "value", "95 % interval", "n", "corrected", "drafts", "without a value")
_ALWAYS = 5
"""Columns that are shown even where they hold nothing."""
_LONGEST = 300
"""Letters of a reason that are shown."""


def show(results: "Sequence[EvalResult]") -> None:
    """Print rates, and what became of the answers that have no value. Exit code 1 where nothing has one."""
    from rich.table import Table

    rows = [row for result in results for row in _rows(result)]
    shown = [n for n in range(len(_COLUMNS)) if n < _ALWAYS or any(row[n] for row in rows)]
    table = Table(box=None)
    for number in shown:
        table.add_column(_COLUMNS[number], justify="left" if number < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(plain(row[number]) for number in shown))
    console().print(table)
    for result in results:
        for standing, reason in result.reasons.items():
            said = " ".join(reason.split())[:_LONGEST]
            note(f"{result.suite}: {standing.replace('_', ' ')}, the first: {said}")
    if not any(_rate(result) for result in results):
        raise typer.Exit(1)


def _whole(result: "EvalResult") -> "dict[str, Estimate]":
    return {each.name: each for each in result.estimates if not each.group}


def _rate(result: "EvalResult") -> "Estimate | None":
    whole = _whole(result)
    return next((whole[name] for name in _MAIN if name in whole), None)


def _rows(result: "EvalResult") -> Iterator[tuple[str, ...]]:
    from rubrica.core.agreement import CORRECTED
    from rubrica.core.evaluation import ANY_ATTACK

    rate, whole = _rate(result), _whole(result)
    without = ", ".join(
        f"{whole[name].value:.1%} {name.replace('_', ' ')}" for name in _MISSING if name in whole
    )
    if rate is None:
        yield result.suite, "–", "–", "–", "0", "", "", without
        return
    draft, true = whole.get(f"draft_{rate.name}"), whole.get(f"{rate.name}{CORRECTED}")
    yield (
        result.suite,
        rate.name,
        *_figures(rate),
        f"{true.value:.1%} [{true.low:.1%}, {true.high:.1%}]" if true else "",
        f"{draft.value:.1%}" if draft else "",
        without,
    )
    for each in result.estimates:
        if each.group.startswith("attack:") and each.n < rate.n:
            yield f"  {each.group.removeprefix('attack:')}", rate.name, *_figures(each), "", "", ""
    if worst := whole.get(ANY_ATTACK):
        yield "  any of these", rate.name, *_figures(worst), "", "", ""


def _figures(found: "Estimate") -> tuple[str, str, str]:
    return f"{found.value:.1%}", f"[{found.low:.1%}, {found.high:.1%}]", f"{found.n:,}"
