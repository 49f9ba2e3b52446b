"""``rubrica lab build``: rebuild the lab's checkpoints from scratch."""

from pathlib import Path
from typing import Annotated

import typer

from rubrica.cli.options import JsonFlag
from rubrica.cli.output import note, print_json

app = typer.Typer(help="The embedded laboratory.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _lab() -> None:
    """The embedded laboratory."""


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the checkpoints go.")] = Path("runs/lab"),
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    scale: Annotated[
        float, typer.Option(help="Multiplies the numbers of updates; below 1 for a trial.", min=0.001)
    ] = 1.0,
    as_json: JsonFlag = False,
) -> None:
    """Train tokenizer, starter, teacher and judge from scratch (about 25 minutes on two cores)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from rubrica.cli.output import console
    from rubrica.lab.build import build as build_lab

    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as progress:
        tasks: dict[str, TaskID] = {}

        def report(part: str, update: int, updates: int, loss: float) -> None:
            if part not in tasks:
                tasks[part] = progress.add_task(part, total=updates, loss=loss)
            progress.update(tasks[part], completed=update, loss=loss)

        manifest = build_lab(out, seed=seed, scale=scale, report=report)
    if as_json:
        print_json(manifest)
    else:
        passport = manifest["judge_agreement"]
        overall = passport["all"] if isinstance(passport, dict) else None
        note(f"{out}: starter, teacher, judge; seconds {manifest['seconds']}; judge against oracle {overall}")
