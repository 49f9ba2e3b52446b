"""``rubrica judge fit-cascade``: from which certainty on a cheap judge's answers stand."""

from pathlib import Path
from typing import Annotated

import typer

from rubrica.cli.options import JsonFlag, LimitTexts, MaxCalls, ProgramFlag, TextsFlag
from rubrica.cli.output import check_out, console, how_to_go_on, print_json, progress_bar


def fit_cascade(
    cheap: Annotated[
        str, typer.Option("--cheap", metavar="JUDGE", help="Answers first; gives probabilities.")
    ],
    expensive: Annotated[str, typer.Option("--expensive", metavar="JUDGE", help="Asked where it is unsure.")],
    program: ProgramFlag,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="thresholds.json to write.")],
    source: TextsFlag = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", metavar="FILE", help="Right answers, as for check; default: the expensive judge's."
        ),
    ] = None,
    target: Annotated[
        float,
        typer.Option("--target-agreement", min=0.5, max=0.999, help="Of the cheap judge's kept answers."),
    ] = 0.97,
    level: Annotated[
        float, typer.Option("--confidence", min=0.5, max=0.999, help="That the target is reached.")
    ] = 0.95,
    limit: LimitTexts = None,
    max_calls: MaxCalls = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit from which certainty on a cheap judge's answers stand. The same command goes on after an interruption."""
    from rubrica.core.run import claim, write_json
    from rubrica.core.store import Store
    from rubrica.judges.budget import Budget, Purse
    from rubrica.judges.factory import check_spec, make_judge, read_judge
    from rubrica.program.program import load_program
    from rubrica.recipes.fit_cascade import fit_cascade as fit
    from rubrica.recipes.passport_input import read_given
    from rubrica.recipes.surroundings import default_surroundings

    _check_thresholds_file(out)
    loaded, around = load_program(program), default_surroundings()
    builtin, configs = dict(around.judges), [read_judge(cheap), read_judge(expensive)]
    for config in configs:
        check_spec(config, builtin)
    given = read_given(loaded, around, texts=source, labels=labels, own=None, limit=limit)
    answers = out.with_suffix(".sqlite")
    with claim(answers), Store(answers) as store:
        purse = Purse(Budget(calls=max_calls), store, prefix="--max-")
        first, second = (make_judge(c, secret=store.secret, builtin=builtin, purse=purse) for c in configs)
        with how_to_go_on(f"answers so far are in {store.path}"), progress_bar("questions") as progress:
            found = fit(
                first, second, store, given, program=loaded, target=target, level=level, progress=progress
            )
    write_json(out, found)
    if as_json:
        print_json(found.model_dump(mode="json") | {"path": str(out)})
        return
    from rich.table import Table

    table = Table("on texts not used for fitting", "questions", "share", "95 %", "n", box=None)
    for e in found.estimates:
        table.add_row(e.name, e.group or "all", f"{e.value:.1%}", f"{e.low:.1%} to {e.high:.1%}", str(e.n))
    console().print(table)
    for kind, value in sorted(found.kinds.items()):
        console().print(
            f"{kind}: " + ("always escalated" if value > 1 else f"kept from probability {value:.4f} on")
        )
    console().print(str(out), soft_wrap=True)


def _check_thresholds_file(out: Path) -> None:
    """Refuse to write over anything but thresholds: a slip may name texts or labels, which cannot be had back."""
    from pydantic import ValidationError

    from rubrica.core.errors import UsageError
    from rubrica.judges.escalation import Thresholds

    check_out(out)
    if out.suffix == ".sqlite":
        raise UsageError(f"--out {out}: the answers are kept in a file of this name; choose {out.stem}.json")
    if not out.exists():
        return
    try:
        Thresholds.model_validate_json(out.read_bytes())
    except (OSError, ValidationError):
        raise UsageError(
            f"--out {out}: exists and holds no thresholds of fit-cascade; choose another file"
        ) from None
