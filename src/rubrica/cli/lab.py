"""``rubrica lab``: rebuild the lab's checkpoints from scratch, test the claims of papers in it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rubrica.cli.options import JsonFlag
from rubrica.cli.output import note, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as RichTable

    from rubrica.claims.experiment import Experiment
    from rubrica.claims.finding import Finding
    from rubrica.core.records import EvalResult

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


@app.command()
def claims(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Experiments, or groups of them; default all."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of every experiment.", min=1, max=1000)] = 3,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of everything that is made.")] = Path(
        "runs/claims"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes; wider intervals.")] = False,
    models: Annotated[
        bool, typer.Option("--models", help="Print the models' rates as well, as Markdown.")
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="Say what there is to test; test nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Test the claims of papers in the lab, over seeds. What is finished is kept: the same command goes on."""
    from rubrica.claims.experiment import choose
    from rubrica.claims.registry import EXPERIMENTS
    from rubrica.claims.table import FILE, fill
    from rubrica.claims.workshop import Workshop
    from rubrica.cli.output import console, error_line, how_to_go_on, labelled_bar

    chosen = choose(names or (), EXPERIMENTS)
    if listed:
        _list(chosen, as_json=as_json)
        return
    with (
        Workshop(out, quick=quick) as shop,
        how_to_go_on(f"everything finished is in {out}"),
        labelled_bar() as shop.progress,
    ):
        table = fill(chosen, range(seeds), shop, announce=note, known=EXPERIMENTS)
    if as_json:
        print_json(table)
    else:
        console().print(_claims_table(chosen, table.findings))
        if models:
            print(_models_table(table.models))
        console().print(f"{out / FILE}", soft_wrap=True)
    if table.failures:
        failed = ", ".join(f"{each.experiment} (seed {each.seed})" for each in table.failures)
        error_line(f"failed: {failed}; run the same command again to try these once more")
        raise typer.Exit(1)


def _list(chosen: "Sequence[Experiment]", *, as_json: bool) -> None:
    from rubrica.cli.output import console

    if as_json:
        print_json(
            [{"name": e.name, "claims": [c.model_dump(mode="json") for c in e.claims]} for e in chosen]
        )
        return
    from rich.table import Table

    table = Table("experiment", "claim", "paper", box=None)
    for experiment in chosen:
        for index, claim in enumerate(experiment.claims):
            table.add_row("" if index else experiment.name, claim.claim, claim.paper)
    console().print(table)


def _models_table(models: "Sequence[EvalResult]") -> str:
    """Rates with intervals, one column a model, as Markdown."""
    keys = dict.fromkeys((e.name, e.group) for model in models for e in model.estimates)
    lines = ["| | " + " | ".join(model.label for model in models) + " |", "|---" * (len(models) + 1) + "|"]
    for key in keys:
        cells = [""] * len(models)
        for index, model in enumerate(models):
            found = next((e for e in model.estimates if (e.name, e.group) == key), None)
            if found is not None:
                cells[index] = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
        lines.append(f"| {' '.join(filter(None, key))} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _claims_table(chosen: "Sequence[Experiment]", findings: "Sequence[Finding]") -> "RichTable":
    from rich.table import Table

    table = Table("claim", "paper", box=None)
    for name in ("estimate", "95 % interval", "seeds", "verdict", "time"):
        table.add_column(name, no_wrap=True)
    by_id = {found.id: found for found in findings}
    for experiment in chosen:
        shown = [by_id[claim.id] for claim in experiment.claims if claim.id in by_id]
        for index, found in enumerate(shown):
            alone = found.low is None or found.high is None
            interval = "none: one seed" if alone else f"[{found.low:+.3f}, {found.high:+.3f}]"
            table.add_row(
                found.claim,
                "〃" if index and found.paper == shown[index - 1].paper else found.paper,
                f"{found.estimate:+.3f}",
                interval,
                str(len(found.seeds)),
                found.verdict,
                "〃" if index else f"{found.seconds:,.0f} s",
            )
    return table
