"""``rubrica eval preference``: how often a reward model, or a program, prefers the better text."""

from pathlib import Path
from typing import Annotated

import typer

from rubrica.cli.options import JsonFlag, MaxCalls, MaxMoney
from rubrica.cli.output import how_to_go_on, labelled_bar, note, print_json


def preference(
    suite: Annotated[str, typer.Option("--suite", metavar="NAMES", help="Suites of pairs, or preference.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Results; goes on from there.")],
    reward_model: Annotated[
        str | None,
        typer.Option(
            "--reward-model", metavar="MODEL", help="A folder, hub id, vllm:MODEL@URL or YAML file."
        ),
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", help="Who answers --program.")] = None,
    program: Annotated[
        str | None, typer.Option("--program", help="A library name or a YAML file, whose totals decide.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder with copies of the suites' files.")
    ] = None,
    suites: Annotated[
        Path | None, typer.Option("--suites", metavar="FILE", help="Your own suites, in the form of ours.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Name of the scorer in tables.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First items of each suite.")] = None,
    max_calls: MaxCalls = None,
    max_money: MaxMoney = None,
    as_json: JsonFlag = False,
) -> None:
    """Share of pairs in which a reward model, or a program's total, prefers the better text.

    What a model itself finds likelier: rubrica eval --model. The same command run again goes on.
    """
    from rubrica.cli.eval_list import suite_names
    from rubrica.cli.eval_table import show
    from rubrica.core.errors import UsageError
    from rubrica.judges.budget import Budget, Purse
    from rubrica.recipes.preference_run import PreferenceSettings, check_there, evaluate_preference
    from rubrica.recipes.reward_source import read_reward_model
    from rubrica.recipes.sources import suite_sources
    from rubrica.recipes.surroundings import default_surroundings
    from rubrica.recipes.text_reward import JudgeReward, TextReward, check_text_reward, open_text_reward

    around = default_surroundings()
    reward: TextReward
    if reward_model is not None and judge is None and program is None:
        reward = read_reward_model(reward_model, "--reward-model")
    elif reward_model is None and judge is not None and program is not None:
        reward = JudgeReward(judge=judge, program=program)
    else:
        raise UsageError("expected --reward-model MODEL, or --judge J with --program P")
    check_text_reward(reward, "--program", around)
    check_there(reward, around)
    names = suite_names(suite)
    sources = suite_sources(names, data, own=suites, limit=limit)
    named = reward_model or f"{program} by {judge}"
    settings = PreferenceSettings(
        label=label or named,
        reward=reward,
        suites=[source.name for source in sources],
        data=data,
        limit=limit,
    )
    budget = Budget(calls=max_calls, money=max_money)
    with how_to_go_on("scores and verdicts up to here are kept"), labelled_bar() as progress:
        results = evaluate_preference(
            settings,
            sources,
            out,
            lambda store: open_text_reward(
                reward, "--program", around, store, Purse(budget, store, prefix="--max-")
            ),
            progress,
        )
    if as_json:
        print_json([result.model_dump(mode="json") for result in results])
    else:
        note(f"{out}: report.md, results.json, items.jsonl")
        show(results)
