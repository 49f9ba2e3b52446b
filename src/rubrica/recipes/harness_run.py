"""``rubrica eval harness``: suites under lm-evaluation-harness, in the folder that ``rubrica eval`` writes.

With ``check`` our own scorer answers the same questions with the same weights, and both are compared item by item.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from rubrica.core.base import Record
from rubrica.core.config import Json
from rubrica.core.errors import ModelError
from rubrica.core.evaluation import Item, Standing
from rubrica.core.records import EvalResult
from rubrica.core.run import write_json, write_jsonl
from rubrica.core.store import Store
from rubrica.evals.tally import Tally
from rubrica.recipes.capability import (
    Asking,
    Questions,
    continued,
    questions_of,
    score_items,
    stored_likelihoods,
)
from rubrica.recipes.continuations import ContinuationScorer
from rubrica.recipes.eval_report import write_report
from rubrica.recipes.evaluation import (
    RESULT,
    RESULTS,
    ROWS,
    SETTINGS,
    SuiteSettings,
    evaluation_folder,
    rows_of,
    stage_of,
)
from rubrica.recipes.harness import HarnessRun, check_task, choice_logprobs, harness_version, run_harness
from rubrica.recipes.options import ModelSource
from rubrica.recipes.sources import Source

KIND = "harness"
"""Kind under which the result of a finished suite lies in the store."""


class HarnessSettings(SuiteSettings):
    """What ``rubrica eval harness`` was asked for: ``evaluation.yaml``."""

    model: ModelSource
    """The model."""
    asking: Asking = Asking()
    """How questions are put."""
    dtype: str = "auto"
    """Of the weights."""
    batch_size: int = Field(default=8, ge=1)
    """Questions that go through the model together."""

    @property
    def identity(self) -> dict[str, Json]:
        """What must stay the same in one folder; more suites may join."""
        return self.model_dump(mode="json", exclude={"suites", "data", "batch_size"})


class Agreement(Record):
    """How our own scorer and the harness agree on the items of one suite."""

    suite: str
    items: int
    same: int
    """Items that both counted, in every way that both count, the same."""
    unanswered: int
    """Items that do not fit the context: the harness cuts their beginning, ours gives them no value."""
    differing: tuple[str, ...]
    """Ids of the others."""
    largest: float | None
    """Largest difference between log-probabilities of the same choice, in nats; None for written answers."""


class SuiteRun(Record):
    """A finished suite."""

    result: EvalResult
    truncated: int
    agreement: Agreement | None = None


def evaluate_harness(
    settings: HarnessSettings,
    sources: Sequence[Source],
    out: Path,
    open_model: Callable[[], ContinuationScorer],
    *,
    check: bool = False,
    quiet: bool = True,
) -> list[SuiteRun]:
    """Run every suite that the folder does not hold yet; return all that it holds by now.

    ``quiet`` keeps the harness's own progress bars off the terminal.
    ``UsageError`` without the harness, for a suite that it has no task for, and for a folder of another evaluation;
    ``ModelError`` where model or harness cannot work.
    """
    harness_version()
    for source in sources:
        check_task(source.name)
    scorers = [] if (out / SETTINGS).exists() else [open_model()]  # before a folder says that it was
    with evaluation_folder(out, settings, seed=settings.asking.seed) as store:
        for source in sources:
            done = store.get(KIND, source.name, SuiteRun)
            if done is None or (check and done.agreement is None):
                scorers = scorers or [open_model()]
                _run(settings, source, scorers[0], store, out, check=check, quiet=quiet)
        runs = store.all(KIND, SuiteRun)
        write_json(out / RESULTS, [run.result.model_dump(mode="json") for run in runs])
        write_jsonl(out / ROWS, (row for run in runs for row in rows_of(store, run.result.suite, 1, 1)))
        write_report(out, [run.result for run in runs])
    return runs


def _run(
    settings: HarnessSettings,
    source: Source,
    model: ContinuationScorer,
    store: Store,
    out: Path,
    *,
    check: bool,
    quiet: bool,
) -> None:
    """Run one suite and keep what was found."""
    started = time.perf_counter()
    name, items = source.name, list(source.items())
    questions = questions_of(items, settings.asking, source.examples)
    found = run_harness(out / "harness", items, questions, model, batch_size=settings.batch_size, quiet=quiet)
    tally = Tally()
    for row in found.results:
        tally.add(row)
    result = EvalResult(
        label=settings.label,
        model=settings.model.model,
        suite=name,
        judge=f"lm-evaluation-harness {harness_version()}",
        protocol=questions.line,
        seeds=(0,),
        trials=1,
        estimates=tuple(tally.estimates()),
        seconds=time.perf_counter() - started,
        limit=settings.limit,
        reasons=tally.reasons,
    )
    agreement = _compare(name, items, questions, model, store, found) if check else None
    with store.batch():
        for row in found.results:
            store.put(RESULT, row.item, row, stage=stage_of(name, 0, 0))
        run = SuiteRun(result=result, truncated=found.truncated, agreement=agreement)
        store.put(KIND, name, run)


def _compare(
    suite: str,
    items: Sequence[Item],
    questions: Questions,
    model: ContinuationScorer,
    store: Store,
    found: HarnessRun,
) -> Agreement:
    ours = list(score_items(items, questions, model, store))
    answered = [
        (mine, theirs)
        for mine, theirs in zip(ours, found.results, strict=True)
        if mine.standing is not Standing.UNANSWERED
    ]
    differing = [
        mine.item
        for mine, theirs in answered
        if any(mine.counts.get(name) != count for name, count in theirs.counts.items()) or not theirs.counts
    ]
    return Agreement(
        suite=suite,
        items=len(items),
        same=len(answered) - len(differing),
        unanswered=len(ours) - len(answered),
        differing=tuple(differing),
        largest=_largest(items, questions, model, store, found),
    )


def _largest(
    items: Sequence[Item],
    questions: Questions,
    model: ContinuationScorer,
    store: Store,
    found: HarnessRun,
) -> float | None:
    """Largest difference between two log-probabilities of one choice."""
    theirs = choice_logprobs(found.samples)
    if not items[0].choices or not theirs:
        return None
    asked = [continued(questions, item, model) for item in items]
    return max(
        (
            abs(a - b)
            for number, mine in enumerate(stored_likelihoods(asked, model, store))
            if not isinstance(mine, ModelError)
            for a, b in zip(mine.logprobs, theirs[number], strict=True)
        ),
        default=None,
    )
