"""``rubrica eval``: suites of prompts with known counts, and what became of a model's answers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from rubrica.cli.eval_export import export
from rubrica.cli.eval_harness import harness
from rubrica.cli.eval_judge import judge_answers
from rubrica.cli.eval_overlap import overlap
from rubrica.cli.eval_preference import preference
from rubrica.cli.options import JsonFlag, MaxCalls, MaxMoney
from rubrica.cli.output import Command
from rubrica.core.errors import UsageError

DataFlag = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder with copies of the suites' files.")
]
SuiteFlag = Annotated[
    str | None, typer.Option("--suite", metavar="NAMES", help="Suites and groups, with commas between them.")
]
SuitesFlag = Annotated[
    Path | None, typer.Option("--suites", metavar="FILE", help="Your own suites: YAML in the form of ours.")
]
ListedFlag = Annotated[
    bool, typer.Option("--list", help="Show the suites: what is in --data, where to get the rest.")
]
ModelFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A directory, hub id, lab:NAME, openai:MODEL@URL, decode:FILE, interrupt:FILE or a run of rubrica "
        "align. Several: the same recipe with other seeds.",
    ),
]
ResponsesFlag = Annotated[
    Path | None,
    typer.Option("--responses", metavar="FILE", help="Rows with prompt and response, instead of a model."),
]
MetricFlag = Annotated[Literal["asr", "frr"], typer.Option("--metric", help="Of --responses: asr or frr.")]
OutFlag = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Results; goes on from there.")
]
LabelFlag = Annotated[str | None, typer.Option("--label", help="Name of the model in tables.")]
JudgeFlag = Annotated[
    str | None, typer.Option("--judge", help="Who judges: embedded (default), prefix, any other judge.")
]
RefusalJudgeFlag = Annotated[
    str | None, typer.Option("--refusal-judge", help="Who judges refusals, if somebody else.")
]
PassportFlag = Annotated[
    list[Path] | None,
    typer.Option(
        "--passport",
        metavar="FILE",
        help="Correct rates for the errors in this passport.json of judge check; may be repeated.",
    ),
]
ProgramFlag = Annotated[
    str, typer.Option("--program", help="What is asked about harm: harm, or any program.")
]
AttackFlag = Annotated[
    list[str] | None,
    typer.Option("--attack", metavar="SPEC", help="Done to every safety prompt; rubrica attack list."),
]
ThinkFlag = Annotated[bool, typer.Option("--think", help="It writes draft, <think>, revision.")]
ProtocolFlag = Annotated[
    Literal["own", "qa-lign"],
    typer.Option("--protocol", help="own, or qa-lign: 3 trials, 2048 tokens, no revision is harm."),
]
ReadsFlag = Annotated[
    Literal["goal", "prompt"],
    typer.Option("--reads", help="What judges see of a wrapped prompt: goal or prompt."),
]
SystemFlag = Annotated[str, typer.Option("--system", help="System prompt.")]
TrialsFlag = Annotated[int | None, typer.Option("--trials", min=1, help="Answers to each prompt.")]
TemperatureFlag = Annotated[float, typer.Option("--temperature", min=0, help="Of the answers.")]
TopPFlag = Annotated[float, typer.Option("--top-p", min=0, max=1, help="Of the answers.")]
MaxTokensFlag = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer.")]
SeedFlag = Annotated[int, typer.Option("--seed", min=0, help="Seed of answers and attacks.")]
ShotsFlag = Annotated[
    int | None, typer.Option("--shots", min=0, help="Capability: worked examples; default the suite's.")
]
ChatFlag = Annotated[bool, typer.Option("--chat", help="Capability: ask through the chat template.")]
LimitFlag = Annotated[int | None, typer.Option("--limit", min=1, help="First items of each suite.")]
SkipMissingFlag = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out suites of which no file is there, and say so.")
]
DtypeFlag = Annotated[str, typer.Option("--dtype", help="Of a local model's weights.")]
ChatTemplateFlag = Annotated[
    str | None, typer.Option("--chat-template", metavar="FILE", help="Instead of the tokenizer's own.")
]
BatchSizeFlag = Annotated[
    int,
    typer.Option("--batch-size", min=1, help="Answers written together; calls at a time of a server."),
]
app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
app.command("judge", cls=Command)(judge_answers)
app.command("overlap", cls=Command)(overlap)
app.command("harness", cls=Command)(harness)
app.command("preference", cls=Command)(preference)
app.command("export", cls=Command)(export)


@app.callback()
def evaluate(
    context: typer.Context,
    suite: SuiteFlag = None,
    data: DataFlag = None,
    suites: SuitesFlag = None,
    listed: ListedFlag = False,
    model: ModelFlag = None,
    responses: ResponsesFlag = None,
    metric: MetricFlag = "asr",
    out: OutFlag = None,
    label: LabelFlag = None,
    judge: JudgeFlag = None,
    refusal_judge: RefusalJudgeFlag = None,
    passport: PassportFlag = None,
    program: ProgramFlag = "harm",
    attack: AttackFlag = None,
    think: ThinkFlag = False,
    protocol: ProtocolFlag = "own",
    reads: ReadsFlag = "goal",
    system: SystemFlag = "",
    trials: TrialsFlag = None,
    temperature: TemperatureFlag = 0.7,
    top_p: TopPFlag = 1.0,
    max_tokens: MaxTokensFlag = None,
    seed: SeedFlag = 0,
    shots: ShotsFlag = None,
    chat: ChatFlag = False,
    limit: LimitFlag = None,
    skip_missing: SkipMissingFlag = False,
    dtype: DtypeFlag = "auto",
    chat_template: ChatTemplateFlag = None,
    batch_size: BatchSizeFlag = 32,
    max_calls: MaxCalls = None,
    max_money: MaxMoney = None,
    as_json: JsonFlag = False,
) -> None:
    """Attack success, false refusal and capability on suites of prompts, with intervals.

    The same command run again goes on. --list shows the suites.
    """
    if context.invoked_subcommand is not None:
        return
    if listed:
        from rubrica.cli.eval_list import show_suites

        show_suites(suite, data, suites, as_json=as_json)
        return
    if out is None or not (model or responses) or not (suite or responses):
        given = {"--model or --responses": model or responses, "--suite": suite or responses, "--out": out}
        missing = ", ".join(flag for flag, value in given.items() if not value)
        raise UsageError(f"{missing}: missing; or --list, or a subcommand: rubrica eval --help")
    if model and responses:
        raise UsageError("--responses: stands in place of --model; give one of them")
    from rubrica.cli.eval_run import Answers, Judging, Models, Prompts, run
    from rubrica.judges.budget import Budget

    run(
        Models(model or [], responses, metric, label, dtype, chat_template, batch_size),
        Prompts(suite or "", suites, data, attack or [], seed, limit, skip_missing),
        Judging(judge, refusal_judge, program, protocol, reads, passport or []),
        Answers(think, system, trials, temperature, top_p, max_tokens, shots, chat),
        out,
        Budget(calls=max_calls, money=max_money),
        as_json=as_json,
    )
