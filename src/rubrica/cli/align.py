"""``rubrica align``: run a recipe."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rubrica.cli.options import JsonFlag
from rubrica.cli.output import console, cost_table, error_line, labelled_bar, note, plural, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rubrica.recipes.config import Recipe
    from rubrica.recipes.forecast import Forecast
    from rubrica.recipes.rates import Cost


def align(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see recipes/.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder; default runs/NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan and forecast; load and write nothing.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="With --dry-run: ask the judge a few questions to measure them.")
    ] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a value, as in a.b=c.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Align a model by a recipe: its stages in order, evaluation, report."""
    from rubrica.core.config import load_config
    from rubrica.core.errors import UsageError
    from rubrica.recipes.config import Recipe

    loaded = load_config(Recipe, recipe, overrides or ())
    folder = out or Path("runs") / loaded.name
    source = f"{recipe} with --set" if overrides else str(recipe)
    if probe and not dry_run:
        raise UsageError("--probe: measures for a forecast; use it with --dry-run")
    if dry_run:
        _dry_run(loaded, folder, source, ask=probe, as_json=as_json)
        return
    words = ["rubrica", "align", str(recipe), "--out", str(folder), "--resume"]
    words += [word for override in overrides or () for word in ("--set", override)]
    run_recipe(loaded, folder, source, resume=resume, as_json=as_json, again=words)


def run_recipe(
    loaded: "Recipe",
    folder: Path,
    source: str,
    *,
    resume: bool,
    as_json: bool,
    quiet: bool = False,
    again: "Sequence[str]",
) -> None:
    """Run a recipe with one progress line on stderr.

    Ctrl-C (exit 130), a spent budget, a judge that fails too often, or a full disk leaves a run that the command ``again``
    goes on with. What a stage cannot be trained on stays so: that takes another run.
    ``quiet`` prints no result on stdout.
    """
    from rubrica.core.errors import BudgetError, JudgeError, ModelError, StorageError, TrainingError
    from rubrica.recipes.align import align as run_align
    from rubrica.recipes.surroundings import default_surroundings

    pauses = (BudgetError, JudgeError, ModelError, StorageError, TrainingError)
    try:
        with labelled_bar() as progress:
            model = run_align(
                loaded,
                folder,
                resume=resume,
                progress=progress,
                announce=note,
                surroundings=default_surroundings(),
                source=source,
            )
    except (KeyboardInterrupt, *pauses) as error:
        if isinstance(error, BudgetError):
            error_line(f"to go on: {shlex.join(_raised(again, f'budget.{error.cap}'))}")
        elif isinstance(error, TrainingError):
            error_line("to start over: correct the recipe and choose another --out")
        elif (folder / "recipe.yaml").exists():
            error_line(f"to go on: {shlex.join(again)}")
        raise
    if as_json:
        print_json(_result(folder, model))
    elif not quiet:
        console().print(f"run: {folder}\nmodel: {model}")


def _raised(words: "Sequence[str]", key: str) -> list[str]:
    """The command ``words`` with ``--set key=MORE`` in place of what it sets ``key`` to."""
    kept: list[str] = []
    for word in words:
        if kept[-1:] == ["--set"] and word.partition("=")[0].strip() == key:
            kept.pop()
        else:
            kept.append(word)
    return [*kept, "--set", f"{key}=MORE"]


def _dry_run(loaded: "Recipe", folder: Path, source: str, *, ask: bool, as_json: bool) -> None:
    """Print plan and forecast, then check all that needs neither torch nor a model nor the network.

    With ``ask`` the checks come first, and the judge is asked a few questions.
    """
    from rubrica.recipes.align import prompts_of
    from rubrica.recipes.checks import (
        check_passports,
        check_prompt_files,
        check_recipe,
        program_of,
        prompt_files,
    )
    from rubrica.recipes.forecast import forecast, judging_cost
    from rubrica.recipes.prompts import arrange, names_hub
    from rubrica.recipes.rates import measure, price_of, rates_of_run
    from rubrica.recipes.surroundings import default_surroundings

    program, around = program_of(loaded, source), default_surroundings()
    expected, price = forecast(loaded, program), price_of(loaded.judge)
    costs, spent = [judging_cost(expected, price, None)], None
    if begun := rates_of_run(folder, price):
        costs.append(judging_cost(expected, price, begun[0]))
        spent = begun[1]
    if ask:
        check_recipe(loaded, program, source, around)
        check_prompt_files(loaded, source)
        prompts = arrange(loaded, files=prompts_of, lab=around.prompts)
        measured = measure(loaded, program, [*prompts.rl, *prompts.sft], dict(around.judges))
        costs.append(judging_cost(expected, price, measured))
    _show_plan(loaded, folder, expected, costs, spent, as_json=as_json)
    check_recipe(loaded, program, source, around)
    for warning in check_passports(loaded, program, source):
        note(f"warning: {warning}")
    absent = [f"{key}: {path}" for key, path in prompt_files(loaded) if not Path(path).expanduser().exists()]
    for each in absent:
        note(f"not there yet: {each}")
    if names_hub(loaded):
        note("not counted: prompts of a dataset on the hub")
    elif not absent:
        arrange(loaded, files=prompts_of, lab=around.prompts)
    note("checked when the run starts: models and the trainers' options")


def _result(folder: Path, model: Path) -> dict[str, object]:
    from rubrica.core.run import Run

    run = Run.open(folder)
    with run.store:
        return {
            "run": str(folder),
            "model": str(model),
            "stages": {stage.name: stage.summary() for stage in run.stages()},
        }


def _show_plan(
    loaded: "Recipe",
    folder: Path,
    expected: "Forecast",
    costs: "Sequence[Cost]",
    spent: "Cost | None",
    *,
    as_json: bool,
) -> None:
    plan = {
        "name": loaded.name,
        "out": str(folder),
        "policy": loaded.policy.model,
        "teacher": loaded.teacher.model if loaded.teacher else loaded.policy.model,
        "judge": loaded.judge if isinstance(loaded.judge, str) else loaded.judge.spec,
        "program": loaded.program,
        "reward": {
            "preset": loaded.reward.preset,
            "alpha": loaded.reward.weights[0],
            "beta": loaded.reward.weights[1],
        },
        "stages": [stage.model_dump(mode="json") for stage in loaded.stages],
    }
    if as_json:
        found: dict[str, object] = {"plan": plan, "forecast": expected.model_dump()}
        found["cost"] = [cost.model_dump() for cost in costs]
        print_json(found | {"spent": spent.model_dump() if spent else None})
        return
    from rich.table import Table

    out = console()
    for key in ("name", "policy", "teacher", "judge", "program", "out"):
        out.print(f"{key:<9}{plan[key]}", soft_wrap=True)
    out.print(f"{'stages':<9}{', '.join(stage.type for stage in loaded.stages)}")
    table = Table(box=None)
    table.add_column("at most", no_wrap=True)
    for name in ("updates", "texts", "tokens", "asked", "read", "written"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in expected.stages:
        stage, *counts = each.model_dump().values()
        table.add_row(stage, *("by files" if n is None else f"{n:,}" for n in counts))
    out.print(table)
    if expected.judges:
        judges = "each of two judges" if expected.judges == 2 else "the judge"
        asked = plural(expected.questions, "question")
        out.print(
            f"texts and tokens are sampled; {judges} is asked up to {asked} a text, reads and writes tokens"
        )
    out.print(cost_table([*costs, spent] if spent else costs))
    if costs[0].money is None:
        out.print(
            "no money without a price: judge: {spec: ..., price: {prompt: USD, completion: USD}}, for 1M tokens"
        )
