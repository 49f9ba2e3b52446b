"""``rubrica curve``: learning curves of active-dpo runs, over seeds."""

from pathlib import Path
from typing import Annotated

import typer

from rubrica.cli.options import JsonFlag
from rubrica.cli.output import check_out, console, print_json


def curve(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Runs with a stage active-dpo, of several seeds.")
    ],
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", metavar="FILE", help="FILE.svg, .png or .json; may be repeated."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what labels bought: the score of held-out answers by labels spent, for each strategy, over seeds."""
    from rubrica.reports.curves import check_suffix, over_seeds, read_curve, write_curves

    for path in out or []:
        check_out(path)
        check_suffix(path)
    curves = over_seeds([read_curve(run) for run in runs])
    for path in out or []:
        write_curves(curves, path)
    if as_json:
        print_json(curves)
        return
    from rich.table import Table

    table = Table("strategy", box=None)
    for name in ("labels", "score", "95 % interval", "seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in curves.points:
        score = point.score
        interval = "none: one seed" if score.n == 1 else f"[{score.low:+.3f}, {score.high:+.3f}]"
        table.add_row(
            point.strategy, str(point.labels), f"{score.value:+.3f}", interval, str(len(point.seeds))
        )
    console().print(table)
    for path in out or []:
        console().print(str(path), soft_wrap=True)
