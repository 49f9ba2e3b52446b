"""``rubrica select``: the pairs of a pool that are worth a label, round by round."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rubrica.cli.options import JsonFlag, MaxCalls, MaxMoney, MaxTokens
from rubrica.cli.output import console, how_to_go_on, labelled_bar, note, plural, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rubrica.core.store import Store
    from rubrica.recipes.ledger import Ledger
    from rubrica.recipes.select import SelectReport, Settings, Wanted

PoolArg = Annotated[
    Path,
    typer.Argument(metavar="POOL", help="Rows with prompt and response, with two responses, or pairs."),
]
ModelFlag = Annotated[
    str | None, typer.Option("--model", metavar="M", help="Folder, hub id, lab:starter or lab:teacher.")
]
AdapterFlag = Annotated[
    Path | None, typer.Option("--adapter", metavar="DIR", help="LoRA adapter of the model.")
]
ReferenceFlag = Annotated[
    str | None, typer.Option("--reference", metavar="M", help="The model before training; for aplp.")
]
LabelsFlag = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="The filled table, or a file of chosen and rejected."),
]
JudgeFlag = Annotated[
    str | None, typer.Option("--judge", help="Have a judge label: lab, local:PATH, openai:MODEL@URL ...")
]
ProgramFlag = Annotated[
    str | None, typer.Option("--program", help="What the judge is asked: a library name or a YAML file.")
]
NoiseFlag = Annotated[
    float,
    typer.Option("--noise", min=0, help="Temperature of Bradley-Terry labels; 0: the sign of the total."),
]
SettingsFlag = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="projection=2048, lora.r=64, ridge=1, gradients=current ..."),
]


def select(
    pool: PoolArg,
    count: Annotated[int, typer.Option("--count", min=1, help="Pairs to select in this round.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything is kept.")],
    model: ModelFlag = None,
    strategy: Annotated[
        str, typer.Option("--strategy", help="activedpo, random, aplp, apo-linear or entropy.")
    ] = "activedpo",
    adapter: AdapterFlag = None,
    reference: ReferenceFlag = None,
    number: Annotated[
        int, typer.Option("--round", min=1, help="Which round; the ones before must be labelled.")
    ] = 1,
    labels: LabelsFlag = None,
    judge: JudgeFlag = None,
    program: ProgramFlag = None,
    noise: NoiseFlag = 0.0,
    budget: Annotated[
        int | None, typer.Option("--budget", min=1, help="Labels that all rounds may spend together.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all that is random.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First rows of the pool only.")] = None,
    settings: SettingsFlag = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_money: MaxMoney = None,
    as_json: JsonFlag = False,
) -> None:
    """Select pairs to label by a model's own uncertainty (ActiveDPO), or by a baseline.

    Writes a table for people, or has a judge label at once. Run it again with --labels to bring labels in, and with
    --round 2 and the newly trained model for the next pairs. The same command goes on after an interruption.
    """
    from rubrica.core.run import claim
    from rubrica.core.store import Store
    from rubrica.recipes import select as selecting
    from rubrica.recipes.ledger import Ledger
    from rubrica.recipes.oracles import labels_of
    from rubrica.recipes.score import scoring_folder

    chosen = _settings(strategy, seed, settings or [])
    wanted = _wanted(chosen, pool, out, count, number, limit, dtype, model, adapter, reference)
    caps = {"calls": max_calls, "tokens": max_tokens, "money": max_money}
    _check_oracle(judge, program, labels, noise, caps)
    with claim(scoring_folder(out)), Store(out / "store.sqlite") as store:
        ledger = Ledger(store, budget=budget)
        selecting.keep_settings(out, chosen)
        if labels is not None:
            found_labels = labels_of(labels, ledger)
            note(f"{plural(ledger.put(found_labels), 'label')} from {labels}")
            if not found_labels:
                note(
                    f"warning: {labels} labels no selected pair; expected the filled table, or pairs of the pool"
                )
        selecting.check_round(ledger, number)
        with how_to_go_on(f"everything so far is in {out}"), labelled_bar() as progress:
            found = selecting.choose(wanted, store, ledger, progress)
            if judge is not None and program is not None:
                _label(ledger, store, judge, program, noise, seed, caps)
        report = selecting.write_results(out, store, ledger, found, budget)
    _show(report, wanted, as_json=as_json)


def _settings(strategy: str, seed: int, given: "Sequence[str]") -> "Settings":
    from rubrica.core.config import apply_overrides, validate
    from rubrica.core.errors import DataError, UsageError, nearest
    from rubrica.methods.active_dpo import STRATEGIES
    from rubrica.recipes.select import Settings
    from rubrica.recipes.stages.active_dpo import Selection

    if strategy not in STRATEGIES:
        raise UsageError(
            f"--strategy {strategy!r}: there is none{nearest(strategy, STRATEGIES)}; expected one of "
            f"{', '.join(STRATEGIES)}"
        )
    try:
        selection = validate(Selection, apply_overrides({"strategy": strategy}, given), "--set")
    except DataError as error:
        raise UsageError(f"--set: {error.problem}") from None
    return Settings(selection=selection, seed=seed)


def _wanted(
    settings: "Settings",
    pool: Path,
    out: Path,
    count: int,
    number: int,
    limit: int | None,
    dtype: str,
    model: str | None,
    adapter: Path | None,
    reference: str | None,
) -> "Wanted":
    from rubrica.checkpoint import DTYPES
    from rubrica.core.errors import UsageError
    from rubrica.recipes.select import Model, Wanted
    from rubrica.recipes.surroundings import default_surroundings

    strategy = settings.selection.strategy
    if model is None and strategy != "random":
        raise UsageError(f"--model: missing; {strategy} asks the model that will be trained")
    if reference is None and strategy == "aplp":
        raise UsageError(
            "--reference: missing; aplp compares the model with what it was before training, and is of use from "
            "the second round on"
        )
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise UsageError(f"--adapter {adapter}: no adapter_config.json there; expected a folder of peft")
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
    named = default_surroundings().model
    return Wanted(
        pool=pool,
        out=out,
        size=count,
        number=number,
        settings=settings,
        model=None if model is None else Model(named(model), adapter),
        reference=None if reference is None else Model(named(reference)),
        dtype=dtype,
        limit=limit,
    )


def _check_oracle(
    judge: str | None,
    program: str | None,
    labels: Path | None,
    noise: float,
    caps: "Mapping[str, float | None]",
) -> None:
    from rubrica.core.errors import UsageError

    if judge is None:
        idle = {"--program": program, "--noise": noise or None, **{f"--max-{k}": v for k, v in caps.items()}}
        for flag, value in idle.items():
            if value is not None:
                raise UsageError(f"{flag}: has no use without --judge, who would label the pairs")
    elif program is None:
        raise UsageError("--program: missing; it says what --judge is asked about an answer")
    elif labels is not None:
        raise UsageError("--labels: leave out one of --labels and --judge; a pair is labelled once")


def _label(
    ledger: "Ledger",
    store: "Store",
    judge: str,
    program: str,
    noise: float,
    seed: int,
    caps: "Mapping[str, float | None]",
) -> None:
    """Have the judge label what is open."""
    from rubrica.core.ports import thresholds_of
    from rubrica.judges.budget import Budget, Purse
    from rubrica.judges.executor import Executor
    from rubrica.judges.factory import check_priced, make_judge, read_judge
    from rubrica.program.program import load_program
    from rubrica.program.reward import RewardConfig
    from rubrica.recipes.oracles import judge_oracle
    from rubrica.recipes.surroundings import default_surroundings

    config, loaded = read_judge(judge), load_program(program)
    if caps["money"] is not None:
        check_priced(config, "--max-money")
    purse = Purse(Budget.model_validate(caps), store, prefix="--max-")
    asked = make_judge(config, secret=store.secret, builtin=dict(default_surroundings().judges), purse=purse)
    with labelled_bar() as progress:
        executor = Executor(
            asked,
            store,
            program=loaded,
            reward=RewardConfig(),
            thresholds=thresholds_of(asked),
            progress=lambda done, total: progress("judging", done, total),
        )
        ledger.ask(judge_oracle(executor, judge, temperature=noise, seed=seed))


def _show(report: "SelectReport", wanted: "Wanted", *, as_json: bool) -> None:
    if as_json:
        print_json(report.model_dump(mode="json") | {"path": str(wanted.out)})
        return
    from rich.table import Table

    out = console()
    if report.too_long:
        note(f"{plural(report.too_long, 'pair')} left out: an answer does not fit the model's context")
    table = Table(box=None)
    for name in ("round", "from", "spent", "labelled", "undecided", "open", "measured in", "FLOP"):
        table.add_column(name, justify="right", no_wrap=True)
    by_round = {cost.round: cost for cost in report.costs}
    for account in report.rounds:
        cost = by_round[account.round]
        table.add_row(
            *(str(account.round), str(cost.candidates), str(account.spent)),
            *(str(account.labelled), str(account.undecided), str(account.open)),
            f"{cost.measuring_seconds:,.1f} s",
            f"{cost.measuring_flops + cost.selecting_flops:.2g}",
        )
    out.print(table)
    if report.rounds and (spent := report.rounds[wanted.number - 1].spent) != wanted.size:
        note(
            f"round {wanted.number} has {plural(spent, 'pair')}, not {wanted.size}: it was selected before, or no more could be told apart"
        )
    left = "" if report.budget is None else f" of {report.budget}"
    strategy = wanted.settings.selection.strategy
    out.print(
        f"{strategy}: {report.spent}{left} labels spent, {plural(report.preferences, 'pair')} to train on"
    )
    if report.rounds and report.rounds[wanted.number - 1].open:
        out.print(f"to label: {wanted.out / f'to-label-{wanted.number:02d}.csv'}", soft_wrap=True)
    out.print(f"{wanted.out / 'preferences.jsonl'}", soft_wrap=True)
