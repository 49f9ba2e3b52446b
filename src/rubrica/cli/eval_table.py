"""What an evaluation prints: a line for each suite, what belongs to it below, and why answers have no value."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from rubrica.cli.output import console, note, plain

if TYPE_CHECKING:
    from rubrica.core.records import Estimate, EvalResult

_MAIN = ("asr", "frr", "accuracy", "preference")
_MISSING = ("abstained", "unjudged", "no_revision", "unanswered")
_LONGEST = 300
"""Letters of a reason that are shown."""


def show(results: "Sequence[EvalResult]") -> None:
    """Print rates, and what became of the answers that have no value. Exit code 1 where nothing has one."""
    from rich.table import Table

    table = Table("suite", "rate", box=None)
    for name in ("value", "95 % interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        for row in _rows(result):
            table.add_row(*map(plain, row))
    console().print(table)
    for result in results:
        if missing := _missing(result):
            console().print(plain(f"{result.suite}: without a value: {missing}"), soft_wrap=True)
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


def _missing(result: "EvalResult") -> str:
    whole = _whole(result)
    return ", ".join(
        f"{whole[name].value:.1%} {name.replace('_', ' ')}" for name in _MISSING if name in whole
    )


def _rows(result: "EvalResult") -> Iterator[tuple[str, ...]]:
    from rubrica.core.agreement import CORRECTED
    from rubrica.core.evaluation import ANY_ATTACK

    rate, whole = _rate(result), _whole(result)
    yield (result.suite, rate.name, *_figures(rate)) if rate else (result.suite, "–", "–", "–", "0")
    for name, each in whole.items():
        if name.startswith("draft_") and not name.endswith(CORRECTED):
            yield "  drafts", name.removeprefix("draft_"), *_figures(each)
    if rate is None:
        return
    if true := whole.get(f"{rate.name}{CORRECTED}"):
        yield "  corrected", rate.name, *_figures(true)
    for each in result.estimates:
        if each.group.startswith("attack:") and each.n < rate.n:
            yield f"  {each.group.removeprefix('attack:')}", rate.name, *_figures(each)
    if worst := whole.get(ANY_ATTACK):
        yield "  any of these", rate.name, *_figures(worst)


def _figures(found: "Estimate") -> tuple[str, str, str]:
    return f"{found.value:.1%}", f"[{found.low:.1%}, {found.high:.1%}]", f"{found.n:,}"
