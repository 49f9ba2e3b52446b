"""``rubrica eval harness``: capability under lm-evaluation-harness, on local files."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rubrica.cli.options import JsonFlag
from rubrica.cli.output import console, how_to_go_on, note, plain, plural, print_json, rate_line

if TYPE_CHECKING:
    from rubrica.recipes.harness_run import SuiteRun


ModelFlag = Annotated[
    str, typer.Option("--model", metavar="MODEL", help="A directory, hub id, lab:NAME or a run of align.")
]
SuiteFlag = Annotated[
    str, typer.Option("--suite", metavar="NAMES", help="gsm8k, arc-challenge, commonsenseqa, with commas.")
]
OutFlag = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Results; goes on from there.")]
DataFlag = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder with copies of the suites' files.")
]
LabelFlag = Annotated[str | None, typer.Option("--label", help="Name of the model in tables.")]
LimitFlag = Annotated[int | None, typer.Option("--limit", min=1, help="First items of each suite.")]
ShotsFlag = Annotated[
    int | None, typer.Option("--shots", min=0, max=64, help="Worked examples; GSM8K 5, others 0.")
]
SeedFlag = Annotated[int, typer.Option("--seed", min=0, help="Draws the worked examples.")]
ChatFlag = Annotated[bool, typer.Option("--chat", help="Ask through the chat template.")]
MultiturnFlag = Annotated[
    bool, typer.Option("--multiturn", help="With --chat: each example is a turn of its own.")
]
MaxTokensFlag = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest written answer.")]
DtypeFlag = Annotated[str, typer.Option("--dtype", help="Of the weights.")]
ChatTemplateFlag = Annotated[
    str | None, typer.Option("--chat-template", metavar="FILE", help="Instead of the tokenizer's own.")
]
BatchSizeFlag = Annotated[int, typer.Option("--batch-size", min=1, help="Questions at a time.")]
CheckFlag = Annotated[
    bool, typer.Option("--check", help="Score with our own scorer too; exit 1 where an item differs.")
]


def harness(
    model: ModelFlag,
    suite: SuiteFlag,
    out: OutFlag,
    data: DataFlag = None,
    label: LabelFlag = None,
    limit: LimitFlag = None,
    shots: ShotsFlag = None,
    seed: SeedFlag = 0,
    chat: ChatFlag = False,
    multiturn: MultiturnFlag = False,
    max_tokens: MaxTokensFlag = None,
    dtype: DtypeFlag = "auto",
    chat_template: ChatTemplateFlag = None,
    batch_size: BatchSizeFlag = 8,
    check: CheckFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Have lm-evaluation-harness ask and count; needs pip install 'rubrica[eval]'. Nothing is fetched for --data."""
    from rubrica.cli.eval_list import suite_names
    from rubrica.core.errors import UsageError
    from rubrica.recipes.capability import Asking
    from rubrica.recipes.evaluated import open_scorer, read_model
    from rubrica.recipes.harness import check_task, harness_version
    from rubrica.recipes.harness_run import HarnessSettings, evaluate_harness
    from rubrica.recipes.options import ModelSource
    from rubrica.recipes.sources import suite_sources
    from rubrica.recipes.surroundings import default_surroundings

    if multiturn and not chat:
        raise UsageError("--multiturn: is for --chat; add it, or leave both")
    harness_version()
    names = suite_names(suite)
    for name in names:
        check_task(name)
    sources = suite_sources(names, data, limit=limit)
    source = read_model(model, ModelSource(model=model, chat_template=chat_template)).source
    settings = HarnessSettings(
        label=label or Path(model).name,
        model=source,
        suites=names,
        data=data,
        limit=limit,
        asking=Asking(shots=shots, seed=seed, chat=chat, multiturn=multiturn, max_tokens=max_tokens),
        dtype=dtype,
        batch_size=batch_size,
    )
    around = default_surroundings()
    with how_to_go_on("suites that are done are kept"):
        runs = evaluate_harness(
            settings,
            sources,
            out,
            lambda: open_scorer(source, dtype, around),
            check=check,
            quiet=not sys.stderr.isatty(),
        )
    if as_json:
        print_json([run.model_dump(mode="json") for run in runs])
    else:
        show(runs)
        note(
            f"{out}: report.md, results.json, items.jsonl; harness/ holds tasks and questions for lm_eval --include_path"
        )
    found = [run.agreement for run in runs if run.agreement]
    if check and (len(found) < len(runs) or any(each.differing or not each.same for each in found)):
        raise typer.Exit(1)


def show(runs: "Sequence[SuiteRun]") -> None:
    """Print every rate of every suite, and how our own scorer agrees."""
    out = console()
    for run in runs:
        out.print(plain(f"{run.result.suite}: {run.result.protocol}"), soft_wrap=True)
        for estimate in run.result.estimates:
            out.print(plain(f"  {rate_line(estimate)}"))
        if run.truncated:
            note(
                f"  {plural(run.truncated, 'warning')}: questions were cut at their beginning to fit the context"
            )
        if (found := run.agreement) is not None:
            largest = "" if found.largest is None else f", log-probabilities within {found.largest:.1e}"
            differing = f"; differing: {', '.join(found.differing[:5])}" if found.differing else ""
            without = f", {found.unanswered} beyond the context" if found.unanswered else ""
            out.print(
                plain(
                    f"  our scorer: {found.same} of {found.items} items the same{largest}{without}{differing}"
                ),
                soft_wrap=True,
            )
