"""``rubrica eval``: suites are answered, the answers judged, the rows counted.

A model answers everything before anybody judges, so that generator and judge need not share a device. Answers, verdicts
and rows lie in the store as they come; the same command run again does what is missing. Memory does not grow with the
number of items, but for a few bytes a row in the tally.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rubrica.core.clustered import binary
from rubrica.core.config import in_our_words, read_yaml
from rubrica.core.corrected import corrected_rate
from rubrica.core.errors import DataError, UsageError
from rubrica.core.evaluation import Item, ItemResult, Metric
from rubrica.core.ports import Generator
from rubrica.core.records import Estimate, EvalResult, Sampling
from rubrica.core.run import write_json, write_jsonl
from rubrica.core.store import Store
from rubrica.evals.tally import Tally
from rubrica.judges.budget import Budget, Purse
from rubrica.recipes.answering import CHUNK, RESPONSE, Answering, chunks
from rubrica.recipes.context import Progress, Surroundings
from rubrica.recipes.eval_report import write_report
from rubrica.recipes.evaluated import Opened
from rubrica.recipes.evaluation import (
    RESULT,
    RESULTS,
    ROWS,
    Asked,
    Elapsed,
    Evaluation,
    Extent,
    Phase,
    evaluation_folder,
    rows_of,
    stage_of,
)
from rubrica.recipes.judging import Asking, Rules, judge_texts
from rubrica.recipes.pending import FINAL, check_asking, open_asking, open_text
from rubrica.recipes.sources import Given, Source

if TYPE_CHECKING:
    from rubrica.recipes.continuations import ContinuationScorer

_JUDGED = {Metric.ASR, Metric.FRR}
"""Metrics of answers that a judge reads."""
REFUSAL = "refusal"
"""Program of the question that is asked about refusals."""


@dataclass
class _Work:
    """One evaluation on its way."""

    evaluation: Evaluation
    store: Store
    surroundings: Surroundings
    purse: Purse
    report: Progress
    opened: Callable[[int], Opened]
    asking: dict[Metric, Asking] = field(default_factory=dict)

    @property
    def rules(self) -> Rules:
        """How answers are taken."""
        given = self.evaluation
        return Rules(given.tags, given.protocol, given.reads, given.drafts)

    def who_judges(self, metric: Metric) -> Asking:
        """Return the judge of a metric, opened when the first answer needs one."""
        if metric not in self.asking:
            self.asking[metric] = open_asking(
                metric,
                self.evaluation.judge_of(metric),
                _program(self.evaluation, metric),
                self.store,
                self.surroundings,
                self.purse,
            )
        return self.asking[metric]

    @contextmanager
    def timed(self, suite: str, phase: Phase) -> Iterator[None]:
        """Add the time inside to the suite's."""
        started = time.perf_counter()
        yield
        before = self.store.get(Elapsed.KIND, phase, Elapsed, stage=suite) or Elapsed()
        seconds = before.seconds + time.perf_counter() - started
        self.store.put(Elapsed.KIND, phase, Elapsed(seconds=seconds), stage=suite)


def evaluate(
    evaluation: Evaluation,
    sources: list[Source],
    out: Path,
    surroundings: Surroundings,
    *,
    opened: Callable[[int], Opened],
    budget: Budget | None = None,
    progress: Progress = lambda what, done, total: None,
) -> list[EvalResult]:
    """Evaluate, or go on; return the results of every suite that ``out`` holds by now.

    ``opened`` gets the index of a model. Raises ``UsageError`` for a folder of another evaluation, ``JudgeError``
    and ``ModelError`` where judge or model cannot work, ``BudgetError`` at a cap; what was done by then is kept.
    """
    judged = [source for source in sources if source.metric in _JUDGED]
    for metric in {source.metric for source in judged}:
        check_asking(evaluation.judge_of(metric), _program(evaluation, metric), surroundings)
    with evaluation_folder(out, evaluation, seed=evaluation.sampling.seed) as store:
        purse = Purse(budget or Budget(), store, prefix="--max-")
        for source in sources:
            _check_extent(store, source.name, evaluation.limit)
        work = _Work(evaluation, store, surroundings, purse, progress, opened)
        for seed in range(len(evaluation.models)):
            _answer(work, judged, seed)
        for source in judged:
            store.put(Extent.KIND, source.name, Extent(limit=evaluation.limit))
            with work.timed(source.name, "judging"):
                for seed in range(len(evaluation.models)):
                    for trial in range(evaluation.trials):
                        _judge(work, source, seed, trial)
        for seed in range(len(evaluation.models)):
            _score(work, [source for source in sources if source not in judged], seed)
        with work.timed(sources[0].name, "reporting"):
            results = _results(work, sources, out)
            write_json(out / RESULTS, [result.model_dump(mode="json") for result in results])
            write_jsonl(out / ROWS, _rows(work, results))
            write_report(out, results)
    return results


def _check_extent(store: Store, suite: str, limit: int | None) -> None:
    """Rows that are there are of the first items up to some number; a result of fewer would count them, too."""
    before = store.get(Extent.KIND, suite, Extent)
    if before is None or limit is None or (before.limit is not None and before.limit <= limit):
        return
    held = "all items" if before.limit is None else f"the first {before.limit:,} items"
    raise UsageError(
        f"suite {suite}: this folder is about {held}, --limit asks for the first {limit:,}; leave --limit as it was, "
        "raise it, or use another --out"
    )


def _program(evaluation: Evaluation, metric: Metric) -> str:
    """What is asked about the answers of a metric."""
    return REFUSAL if metric is Metric.FRR else evaluation.program


def _answer(work: _Work, sources: list[Source], seed: int) -> None:
    """Have one model answer everything."""
    writer = cache(work.opened(seed).writer)
    given = work.evaluation
    for source in sources:
        if source.given is not None:
            _take(work, source, source.given())
            continue
        done, total = 0, source.size * given.trials
        for trial in range(given.trials):

            def report(new: int, name: str = source.name, total: int = total) -> None:
                nonlocal done
                done += new
                work.report(f"{name}: answers", done, total)

            sampling = Sampling(
                **given.sampling.model_dump(exclude={"seed"}), seed=1000 * given.sampling.seed + trial
            )
            stage = stage_of(source.name, seed, trial)
            with work.timed(source.name, "answering"):
                Answering(writer, work.store, stage, sampling, system=given.system).ask(
                    source.items(), report
                )


def _take(work: _Work, source: Source, given: Iterator[Given]) -> None:
    """Keep answers that are there already."""
    stage = stage_of(source.name, 0, 0)
    with work.timed(source.name, "answering"):
        for done, chunk in enumerate(chunks(given), 1):
            with work.store.batch():
                for item, response in chunk:
                    work.store.put(RESPONSE, item.id, response, stage=stage)
            work.report(f"{source.name}: reading", min(done * CHUNK, source.size), source.size)


def _score(work: _Work, sources: list[Source], seed: int) -> None:
    """Count right answers and preferences; they need no judge, and one answer each."""
    scorer = cache(work.opened(seed).scorer)
    for source in sources:
        items, stage = list(source.items()), stage_of(source.name, seed, 0)
        known = [work.store.get(RESULT, item.id, ItemResult, stage=stage) for item in items]
        if all(row is not None and row.standing in FINAL for row in known):
            continue
        done = 0

        def report(new: int, name: str = source.name, total: int = len(items)) -> None:
            nonlocal done
            done += new
            work.report(f"{name}: scoring", done, total)

        with work.timed(source.name, "answering"):
            model = scorer()
            work.store.put(Extent.KIND, source.name, Extent(limit=work.evaluation.limit))
            for row in _scored(work, source, items, model, seed, report):
                work.store.put(RESULT, row.item, row, stage=stage)


def _scored(
    work: _Work,
    source: Source,
    items: list[Item],
    model: "ContinuationScorer | Generator",
    seed: int,
    report: Callable[[int], None],
) -> Iterator[ItemResult]:
    from rubrica.recipes.capability import Asking as Put  # torch, only where it is used
    from rubrica.recipes.capability import questions_of, score_items
    from rubrica.recipes.continuations import ContinuationScorer
    from rubrica.recipes.preference import LINE, score_pairs

    if source.metric is Metric.PREFERENCE:
        if not isinstance(model, ContinuationScorer):
            raise UsageError(
                f"suite {source.name}: which text {model.name} prefers is read off likelihoods, which it does not "
                "tell; name a local model"
            )
        work.store.put(Asked.KIND, source.name, Asked(judge="likelihood", program=LINE))
        return score_pairs(items, model, work.store, seed=seed, report=report)
    given = work.evaluation
    chat = given.chat or not isinstance(model, ContinuationScorer)  # a server knows chats only
    put = Put(shots=given.shots, seed=given.sampling.seed, chat=chat, tags=given.tags)
    questions = questions_of(items, put, source.examples)
    judge = "likelihood" if questions.choices else "matching"
    work.store.put(Asked.KIND, source.name, Asked(judge=judge, program=questions.line))
    return score_items(items, questions, model, work.store, seed=seed, report=report)


def _judge(work: _Work, source: Source, seed: int, trial: int) -> None:
    """Judge what one model answered in one trial."""
    stage, done = stage_of(source.name, seed, trial), 0
    for chunk in chunks(source.items()):
        texts = [
            text for item in chunk if (text := open_text(work.store, stage, item, work.rules)) is not None
        ]
        if texts:
            for row in judge_texts(texts, work.who_judges(source.metric), work.rules, seed=seed, trial=trial):
                work.store.put(RESULT, row.item, row, stage=stage)
        done += len(chunk)
        work.report(f"{source.name}: judging", done, source.size)


def _results(work: _Work, sources: list[Source], out: Path) -> list[EvalResult]:
    """Count the rows of these suites; keep what the folder says of others."""
    given = work.evaluation
    found = {result.suite: result for result in read_results(out)} if (out / RESULTS).exists() else {}
    for source in sources:
        tally = Tally()
        for row in rows_of(work.store, source.name, len(given.models), given.trials):
            tally.add(row)
        judged = source.metric in _JUDGED
        asked = work.store.get(Asked.KIND, source.metric.value if judged else source.name, Asked)
        elapsed = work.store.all(Elapsed.KIND, Elapsed, stage=source.name)
        found[source.name] = EvalResult(
            label=given.label,
            model=", ".join(model.model for model in given.models),
            suite=source.name,
            judge=asked.judge if asked else "",
            protocol=asked.program if asked and not judged else given.protocol_line,
            seeds=tuple(range(len(given.models))),
            trials=given.trials if judged else 1,
            estimates=(*tally.estimates(), *_corrected(tally, given, source.metric, asked)),
            seconds=sum(phase.seconds for phase in elapsed),
            limit=given.limit,
            reasons=tally.reasons,
        )
    return list(found.values())


def _corrected(tally: Tally, given: Evaluation, metric: Metric, asked: Asked | None) -> Iterator[Estimate]:
    """Rates as they would be without the errors that a passport of this judge measured."""
    errors = given.errors(metric)
    if errors is None or asked is None or errors.judge != asked.judge:
        return
    if isinstance(errors.sensitivity, Estimate) and isinstance(errors.specificity, Estimate):
        for name in (metric.value, f"draft_{metric.value}"):
            one = tally.side(name)
            if one is not None and binary(one):
                found = corrected_rate(one, errors.sensitivity, errors.specificity, name=name)
                if isinstance(found, Estimate):
                    yield found


def _rows(work: _Work, results: list[EvalResult]) -> Iterator[ItemResult]:
    given = work.evaluation
    for result in results:
        yield from rows_of(work.store, result.suite, len(given.models), given.trials)


def read_results(folder: Path) -> list[EvalResult]:
    """Read what an evaluation found; ``UsageError`` where there is none, ``DataError`` where it is no list of results."""
    path = folder / RESULTS
    if not path.exists():
        raise UsageError(f"{folder}: no evaluation here (no {RESULTS}); expected the --out of rubrica eval")
    data = read_yaml(path)
    if not isinstance(data, list):
        raise DataError(path, "expected a list of results; run rubrica eval there again")
    try:
        return [EvalResult.model_validate(each) for each in data]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(path, f"{where}: {in_our_words(first)}; run the same rubrica eval again") from None
