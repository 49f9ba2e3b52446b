"""``rubrica compare``: did the second model get better, and may it pass?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from rubrica.cli.options import JsonFlag
from rubrica.cli.output import console, counting_bar, note, plain, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rubrica.core.compared import Comparison
    from rubrica.recipes.compare import By, Interval

_SIDE = "An --out of rubrica eval; several seeds: A1,A2,A3, or a folder of them."


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=f"The baseline. {_SIDE}")],
    second: Annotated[str, typer.Argument(metavar="B", help="The candidate, likewise.")],
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="Gates (YAML); exit 1 unless all pass.")
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="asr, frr, accuracy or preference; may be repeated."),
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="category or attack: compare these, too.")] = None,
    margin: Annotated[
        float | None,
        typer.Option("--margin", min=0.0, max=1.0, help="Not inferior: at most so much worse, as a share."),
    ] = None,
    passports: Annotated[
        list[Path] | None,
        typer.Option(
            "--passport",
            metavar="FILE",
            help="Correct rates for the errors in this passport.json of judge check; may be repeated.",
        ),
    ] = None,
    interval: Annotated[
        str, typer.Option("--interval", help="score or bootstrap: what is shown and what gates go by.")
    ] = "score",
    level: Annotated[
        float | None, typer.Option("--level", help="Of every interval (0.95, or as the policy says).")
    ] = None,
    power: Annotated[
        float, typer.Option("--power", help="For the smallest difference that would show.")
    ] = 0.8,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare in spite of different judges or protocols.")
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown on stdout.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare two evaluations item by item: differences with intervals, tests corrected for many suites, gates.

    Differences are B less A. Exit code 1: a gate of --policy does not pass.
    """
    from rubrica.core.errors import UsageError
    from rubrica.recipes import gates
    from rubrica.recipes.comparable import load
    from rubrica.recipes.compare import Options, compare
    from rubrica.recipes.judge_errors import read_errors

    if as_markdown and as_json:
        raise UsageError("--markdown: has no use with --json; leave one of them out")
    rules = None if policy is None else gates.load_policy(policy)
    if rules is not None and level not in (None, rules.level):
        raise UsageError(f"--level {level:g}: {policy} says level {rules.level:g}; say it in one place")
    intervals: tuple[Interval, ...] = ("score", "bootstrap")
    wanted = _choice("--interval", interval, intervals)
    kinds: tuple[By, ...] = ("category", "attack")
    options = Options(
        metrics=_metrics(metrics or []),
        by=None if by is None else _choice("--by", by, kinds),
        level=_share("--level", rules.level if rules else 0.95 if level is None else level),
        power=_share("--power", power),
        margin=margin,
        interval=wanted,
        anyway=anyway,
        errors=read_errors(passports or []),
    )
    with counting_bar("rows") as report:
        one, other = load(first, report), load(second, report)
    found = compare(one, other, options)
    if rules is not None and policy is not None:
        results = gates.check(rules, policy, found, (one, other), wanted)
        found = found.model_copy(update={"gates": results})
    if as_json:
        print_json(found)
    else:
        _show(found, wanted, as_markdown=as_markdown)
    if not all(gate.passes for gate in found.gates):
        raise typer.Exit(1)


def _show(found: "Comparison", interval: "Interval", *, as_markdown: bool) -> None:
    from rich.table import Table

    from rubrica.reports.comparison import markdown, remarks, sheets

    if as_markdown:
        typer.echo(markdown(found, interval), nl=False)
        return
    out = console()
    for sheet in sheets(found, interval):
        table = Table(title=plain(sheet.title), title_justify="left", box=None, padding=(0, 1, 0, 0))
        for number, column in enumerate(sheet.columns):
            numeric = sheet.numeric(number)
            table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
        for row in sheet.rows:
            table.add_row(*map(plain, row))
        out.print(table)
        for line in sheet.notes:
            out.print(plain(line), style="dim")
    for line in remarks(found):
        note(line)


ChoiceT = TypeVar("ChoiceT", bound=str)


def _choice(flag: str, value: str, known: "Sequence[ChoiceT]") -> ChoiceT:
    from rubrica.core.errors import UsageError, nearest

    for name in known:
        if value == name:
            return name
    raise UsageError(f"{flag} {value!r}{nearest(value, known)}: expected {' or '.join(known)}")


def _metrics(names: "Sequence[str]") -> tuple[str, ...]:
    from rubrica.core.evaluation import Metric

    known = [metric.value for metric in Metric]
    return tuple(_choice("--metric", name, known) for name in names)


def _share(flag: str, value: float) -> float:
    from rubrica.core.errors import UsageError

    if not 0 < value < 1:
        raise UsageError(f"{flag} {value:g}: expected a number between 0 and 1")
    return value
