"""``rubrica demo``: the whole of QA-LIGN on the embedded lab."""

from pathlib import Path
from typing import Annotated

import typer

from rubrica.cli.options import JsonFlag
from rubrica.cli.output import console, print_json


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the run.", min=0, max=2**32 - 1)] = 0,
    preset: Annotated[
        str, typer.Option(help="Reward: rubrica or qa-lign (the published constants).")
    ] = "rubrica",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the demo's recipe."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Align a small uncensored model: starter, think-SFT, GRPO, evaluation, report. No downloads, no keys."""
    from rubrica.cli.align import run_recipe
    from rubrica.core.config import load_config
    from rubrica.core.errors import UsageError, nearest
    from rubrica.lab.checkpoints import DEMO_RECIPE
    from rubrica.program.reward import PRESETS
    from rubrica.recipes.config import Recipe

    if preset not in PRESETS:
        raise UsageError(
            f"--preset {preset!r}: no such preset{nearest(preset, PRESETS)}; expected {' or '.join(PRESETS)}"
        )
    given = [f"seed={seed}", f"reward.preset={preset}", *(overrides or ())]
    recipe = load_config(Recipe, DEMO_RECIPE, given)
    words = ["rubrica", "demo", "--out", str(out), "--seed", str(seed), "--preset", preset, "--resume"]
    words += [word for override in overrides or () for word in ("--set", override)]
    run_recipe(recipe, out, str(DEMO_RECIPE), resume=resume, as_json=False, quiet=True, again=words)
    from rubrica.reports.run_data import RunData

    with RunData(out) as data:
        results = data.results
    if as_json:
        print_json(
            {
                "run": str(out),
                "report": str(out / "report.html"),
                "results": [r.model_dump(mode="json") for r in results],
            }
        )
        return
    from rubrica.reports.tables import before_after_table

    terminal = console()
    terminal.print(before_after_table(results))
    terminal.print(f"report: {out / 'report.html'}", soft_wrap=True)
