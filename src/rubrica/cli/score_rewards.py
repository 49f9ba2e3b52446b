"""``rubrica score --reward-model``: texts and pairs before a scalar reward model instead of a judge."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rubrica.cli.output import (
    console,
    error_line,
    how_to_go_on,
    note,
    plural,
    print_json,
    progress_bar,
    show_accuracy,
)

if TYPE_CHECKING:
    from rubrica.recipes.score_rewards import RewardReport


def score_by_reward_model(name: str, source: Path, out: Path, limit: int | None, *, as_json: bool) -> None:
    """Score the texts of a file; leave with exit code 1 if none got a score."""
    from rubrica.core.run import claim
    from rubrica.core.store import Store
    from rubrica.recipes.reward_source import open_reward_model, read_reward_model
    from rubrica.recipes.score import read_input, scoring_folder
    from rubrica.recipes.score_rewards import reward_report, score_rewards, write_scores
    from rubrica.recipes.surroundings import default_surroundings

    wanted, given = read_reward_model(name, "--reward-model"), read_input(source, limit)
    model = open_reward_model(wanted, default_surroundings().model)
    with claim(scoring_folder(out)), Store(out / "store.sqlite") as store:
        with how_to_go_on(f"scores so far are in {store.path}"), progress_bar("texts") as progress:
            scored = score_rewards(given.texts, model, store, progress)
    path = write_scores(scored, out)
    found = reward_report(scored, given, f"{wanted.model} {model.fingerprint}")
    for problem in found.skipped:
        note(f"left out {problem}")
    if as_json:
        print_json(found.model_dump(mode="json") | {"path": str(path)})
    else:
        _show(found)
        console().print(f"{path}", soft_wrap=True)
    for reason in found.reasons:
        note(f"without a score: {reason}")
    if found.mean is None:
        error_line("error: no text got a score")
        raise typer.Exit(1)


def _show(found: "RewardReport") -> None:
    out = console()
    out.print(f"{plural(found.texts, 'text')}, {found.without_score} without a score")
    if (mean := found.mean) is not None:
        out.print(f"mean score {mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}], n={mean.n}")
    if found.accuracy is not None:
        show_accuracy(found.accuracy, "scores")
