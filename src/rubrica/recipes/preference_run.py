"""``rubrica eval preference``: a reward model, or a judge and its program, on suites of pairs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rubrica.checkpoint import checkpoint_folder
from rubrica.core.config import Json
from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Metric
from rubrica.core.ports import RewardModel
from rubrica.core.records import EvalResult
from rubrica.core.run import write_json, write_jsonl
from rubrica.core.store import Store
from rubrica.evals.tally import Tally
from rubrica.recipes.context import Surroundings
from rubrica.recipes.eval_report import write_report
from rubrica.recipes.evaluation import (
    RESULT,
    RESULTS,
    ROWS,
    SuiteSettings,
    evaluation_folder,
    rows_of,
    stage_of,
)
from rubrica.recipes.options import RewardModelSource
from rubrica.recipes.preference import score_pairs
from rubrica.recipes.reward_source import implied, served
from rubrica.recipes.sources import Source
from rubrica.recipes.text_reward import TextReward

KIND = "preference"
"""Kind under which the result of a finished suite lies in the store."""


class PreferenceSettings(SuiteSettings):
    """What ``rubrica eval preference`` was asked for: ``evaluation.yaml``."""

    reward: TextReward
    """The reward model, or the judge and its program."""

    @property
    def identity(self) -> dict[str, Json]:
        """What must stay the same in one folder; more suites may join."""
        return self.model_dump(mode="json", exclude={"suites", "data"})


def evaluate_preference(
    settings: PreferenceSettings,
    sources: Sequence[Source],
    out: Path,
    open_reward: Callable[[Store], RewardModel],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[EvalResult]:
    """Score every suite that is not done; return the results of all that the folder holds by now.

    ``UsageError`` for a suite without pairs and for a folder of another evaluation; else what the reward raises.
    """
    for source in sources:
        if source.metric is not Metric.PREFERENCE:
            raise UsageError(
                f"suite {source.name!r}: counts {source.metric}; expected a suite of preferences"
            )
    with evaluation_folder(out, settings) as store:
        model: RewardModel | None = None
        for source in sources:
            known = store.get(KIND, source.name, EvalResult)
            if known is None or any(each.name == "unjudged" for each in known.estimates):
                model = model or open_reward(store)
                store.put(KIND, source.name, _score(settings, source, model, store, progress))
        results = store.all(KIND, EvalResult)
        write_json(out / RESULTS, [result.model_dump(mode="json") for result in results])
        write_jsonl(out / ROWS, (row for result in results for row in rows_of(store, result.suite, 1, 1)))
        write_report(out, results)
    return results


def check_there(source: TextReward, surroundings: Surroundings) -> None:
    """Raise ``ModelError`` for a reward model whose folder or hub id is not there, before anything says that it was."""
    if isinstance(source, RewardModelSource) and not (served(source.model) or implied(source.model)):
        checkpoint_folder(surroundings.model(source.model), source.revision)


def _score(
    settings: PreferenceSettings,
    source: Source,
    model: RewardModel,
    store: Store,
    progress: Callable[[str, int, int], None],
) -> EvalResult:
    started, tally, done = time.perf_counter(), Tally(), 0

    def report(new: int) -> None:
        nonlocal done
        done += new
        progress(f"{source.name}: scoring", done, source.size)

    for row in score_pairs(list(source.items()), model, store, report=report):
        store.put(RESULT, row.item, row, stage=stage_of(source.name, 0, 0))
        tally.add(row)
    return EvalResult(
        label=settings.label,
        model=settings.label,
        suite=source.name,
        judge=model.fingerprint,
        protocol="the better text has the strictly higher score",
        seeds=(0,),
        trials=1,
        estimates=tuple(tally.estimates()),
        seconds=time.perf_counter() - started,
        limit=settings.limit,
        reasons=tally.reasons,
    )
