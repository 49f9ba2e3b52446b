"""``rubrica attack search``: white-box search for texts that make a local model answer what it should decline."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rubrica.cli.options import JsonFlag, MaxCalls, MaxMoney
from rubrica.cli.output import console, how_to_go_on, labelled_bar, note, plain, plural, print_json, rate_line

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from rubrica.core.config import Json
    from rubrica.core.evaluation import Item
    from rubrica.core.records import Estimate
    from rubrica.recipes.searching import Searched, Searching

REFRESH = 10
"""Steps between two samplings of draft and reflection, with --revision."""
MethodFlag = Annotated[
    Literal["gcg", "pez", "gbda", "uat", "autodan"], typer.Option("--method", help="How to search.")
]
ModelFlag = Annotated[
    str, typer.Option("--model", metavar="M", help="A folder, hub id, lab:NAME, or a run of rubrica align.")
]
InputFlag = Annotated[
    str, typer.Option("--input", metavar="FILE|SUITE", help="Prompts with targets: a file, or a suite.")
]
OutFlag = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="What is found; goes on from there.")
]
DataFlag = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder with copies of the suites' files.")
]
TargetFlag = Annotated[
    str,
    typer.Option("--target", metavar="TEXT", help="How a compliant answer begins; {goal} is the request."),
]
ColumnFlag = Annotated[
    str, typer.Option("--target-column", metavar="NAME", help="Column of the file with the targets.")
]
StepsFlag = Annotated[int, typer.Option("--steps", min=1, help="Most steps for a prompt.")]
PassesFlag = Annotated[
    int | None, typer.Option("--passes", min=1, help="Most sequences through the model for a prompt.")
]
SecondsFlag = Annotated[float | None, typer.Option("--seconds", min=0.001, help="Most seconds for a prompt.")]
SeedFlag = Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")]
LimitFlag = Annotated[int | None, typer.Option("--limit", min=1, help="First prompts only.")]
JudgeFlag = Annotated[
    str | None, typer.Option("--judge", help="Who judges answers; default for the lab's suites: lab-oracle.")
]
StopFlag = Annotated[
    Literal["harm", "target", "either", "never"] | None,
    typer.Option("--stop", help="End early at harm (default with a judge) or at the target (without)."),
]
UniversalFlag = Annotated[bool, typer.Option("--universal", help="One text for all prompts together.")]
PlaceFlag = Annotated[
    Literal["suffix", "prefix"], typer.Option("--place", help="Behind the request, or in front of it.")
]
ThinkFlag = Annotated[bool, typer.Option("--think", help="It writes draft, <think>, revision.")]
RevisionFlag = Annotated[
    bool, typer.Option("--revision", help="The target begins the revision, not the answer.")
]
SettingsFlag = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Any setting, for example method.topk=64; see search.yaml."),
]


def search(
    method: MethodFlag,
    model: ModelFlag,
    source: InputFlag,
    out: OutFlag,
    data: DataFlag = None,
    target: TargetFlag = "",
    target_column: ColumnFlag = "",
    steps: StepsFlag = 500,
    passes: PassesFlag = None,
    seconds: SecondsFlag = None,
    seed: SeedFlag = 0,
    limit: LimitFlag = None,
    judge: JudgeFlag = None,
    stop: StopFlag = None,
    universal: UniversalFlag = False,
    place: PlaceFlag = "suffix",
    think: ThinkFlag = False,
    revision: RevisionFlag = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 256,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the weights.")] = "auto",
    chat_template: Annotated[
        str | None, typer.Option("--chat-template", metavar="FILE", help="Instead of the tokenizer's own.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Candidates at once; default: by memory.")
    ] = None,
    settings: SettingsFlag = None,
    max_calls: MaxCalls = None,
    max_money: MaxMoney = None,
    as_json: JsonFlag = False,
) -> None:
    """Search with the model's own gradients (gcg, pez, gbda, uat) or by evolution (autodan).

    The same command run again goes on. Writes test_cases.json in HarmBench's form, and an evaluation.
    """
    from rubrica.judges.budget import Budget
    from rubrica.recipes.search import run_search
    from rubrica.recipes.search_input import is_lab, search_items
    from rubrica.recipes.surroundings import default_surroundings

    named = judge or ("lab-oracle" if is_lab(source) else None)
    wanted: dict[str, Json] = {
        "dtype": dtype,
        "chat_template": chat_template,
        "method": {"type": method},
        "input": source,
        "data": None if data is None else str(data),
        "limit": limit,
        "target": target,
        "target_column": target_column,
        "universal": universal,
        "place": place,
        "aim": "revision" if revision else "answer",
        "judge": named,
        "limits": {
            "steps": steps,
            "passes": passes,
            "seconds": seconds,
            "stop": stop or ("harm" if named else "target"),
            "refresh": REFRESH if revision else 0,
        },
        "max_tokens": max_tokens,
        "batch_size": batch_size,
        "seed": seed,
    }
    searching = _searching(model, wanted, settings or [], think=think)
    items = search_items(searching)
    with how_to_go_on(f"what was found up to here is in {out}"), labelled_bar() as progress:
        found = run_search(
            searching,
            items,
            out,
            default_surroundings(),
            budget=Budget(calls=max_calls, money=max_money),
            report=progress,
        )
    _show(found, items, searching, out, as_json=as_json)
    if all(row.error for row in found):
        raise typer.Exit(1)


def _searching(
    model: str, wanted: "dict[str, Json]", settings: "Sequence[str]", *, think: bool
) -> "Searching":
    """Settings of the flags, of ``--set``, and, for a run of rubrica align, its last model and tags."""
    from rubrica.core.attempt import Tags
    from rubrica.core.config import apply_overrides, validate
    from rubrica.core.errors import UsageError
    from rubrica.judges.factory import server_of
    from rubrica.recipes.evaluated import read_model
    from rubrica.recipes.options import ModelSource
    from rubrica.recipes.searching import Searching

    if server_of(model):
        raise UsageError(
            f"--model {model}: is a server; a white-box search needs the weights themselves (rubrica attack apply and "
            "rubrica eval --attack need none)"
        )
    known = read_model(model, ModelSource(model=model))
    tags = known.tags or (Tags() if think else None)
    wanted |= {
        "model": known.source.model,
        "tags": None if tags is None else tags.model_dump(mode="json"),
    }
    searching = validate(Searching, apply_overrides(wanted, settings), "rubrica attack search")
    if searching.judge is None and searching.limits.stop == "harm":
        raise UsageError("--stop harm: needs --judge, which says what is harmful")
    if searching.aim == "revision" and searching.tags is None:
        raise UsageError("--revision: needs --think, or a run whose model writes revisions")
    return searching


def _show(
    found: "Sequence[Searched]", items: "Sequence[Item]", searching: "Searching", out: Path, *, as_json: bool
) -> None:
    """Print what was found; on stderr what could not be searched."""
    rates = _rates(found, items)
    failed = [row for row in found if row.error]
    good = [row for row in found if not row.error]
    cases = good[:1] if searching.universal else found  # one search for all has the same counts in every row
    if as_json:
        print_json(
            {
                "method": searching.method.type,
                "model": searching.model,
                "items": len(found),
                "failed": len(failed),
                "estimates": [rate.model_dump(mode="json") for rate in rates],
                "forward": sum(row.forward for row in cases),
                "backward": sum(row.backward for row in cases),
                "judged": sum(row.judged for row in cases),
                "seconds": sum(row.seconds for row in cases),
                "path": str(out),
            }
        )
    else:
        for rate in rates:
            console().print(rate_line(rate))
        if searching.judge is not None and good:
            mean = sum(row.judged for row in cases) / len(good)
            console().print(f"each prompt had {mean:.1f} tries: answers that the judge was shown")
        unknown = sum(row.standing is not None and row.harmful is None for row in found)
        if unknown:
            note(f"{plural(unknown, 'answer')} without a verdict, in no rate")
        console().print(plain(f"{plural(len(found), 'prompt')}, test_cases.json in {out}"), soft_wrap=True)
    for row in failed[:5]:
        note(f"{row.item}: {row.error}")
    if len(failed) > 5:
        note(f"... and {len(failed) - 5} more; see searches.jsonl")


def _rates(found: "Sequence[Searched]", items: "Sequence[Item]") -> "list[Estimate]":
    """Success where it is known, and how often the target is written; requests are the clusters."""
    from rubrica.core.clustered import rate_by_cluster

    clusters = {item.id: item.cluster for item in items}
    rates = []
    for name, values in (
        ("attack success", [(row.item, row.harmful) for row in found if row.harmful is not None]),
        ("target reached", [(row.item, row.reached) for row in found if not row.error]),
    ):
        by_cluster: dict[Hashable, list[bool]] = {}
        for id, value in values:
            by_cluster.setdefault(clusters[id], []).append(value)
        if by_cluster:
            rates.append(rate_by_cluster(by_cluster, name=name))
    return rates
