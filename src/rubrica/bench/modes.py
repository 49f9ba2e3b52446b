"""What ways of asking the same questions cost, and how far their answers agree with each other."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Protocol, runtime_checkable

from pydantic import Field

from rubrica.core.agreement import cohen_kappa
from rubrica.core.base import Record
from rubrica.core.errors import JudgeError, UsageError
from rubrica.core.ports import Judge
from rubrica.core.records import Estimate, Query, Unmeasured, Verdict
from rubrica.core.stats import cluster_interval

Progress = Callable[[str, int, int], None]
"""(way, done, total) questions."""
Ways = Mapping[str, Callable[[], Judge]]
"""Name -> what makes the judge, called when its turn comes: two local judges need not be held at once."""


@runtime_checkable
class Counting(Protocol):
    """A judge that counts what it costs."""

    @property
    def calls(self) -> int:
        """Calls of a server, or passes through a model, up to now."""


@runtime_checkable
class Listing(Protocol):
    """A judge that is asked several questions in one call."""

    @property
    def again(self) -> int:
        """Questions that a list left in doubt, and that were asked by themselves, up to now."""


class Agreement(Record):
    """How the labels of one way agree with those of another."""

    equal: Estimate
    """Share of questions with the same label, NA included; clusters are the texts."""
    kappa: Estimate | Unmeasured
    """Cohen's kappa, chance taken within a question, resampled by text."""


class Way(Record):
    """One way of asking."""

    name: str
    judge: str
    """Fingerprint."""
    questions: int = Field(ge=0)
    unanswered: int = Field(ge=0)
    """Without a label: failed, unparseable, abstained."""
    calls: int | None
    """Calls of a server, or passes through a model; None where the judge does not count them."""
    again: int | None
    """Questions that a list left in doubt and that were asked by themselves; None for a judge without lists. Where it
    is all of them, an agreement says nothing about lists."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """From the first question to the last answer; loading a model is left out."""
    agreements: dict[str, Agreement | None]
    """With every earlier way, by its name, over the questions that both answer; None where there are none."""


def compare_ways(
    ways: Ways, queries: Sequence[Query], progress: Progress = lambda way, done, total: None
) -> list[Way]:
    """Ask all ``queries`` (those about a text next to each other) in every way, one way after the other.

    Raises ``UsageError`` for two ways that are the same judge, or no question; ``JudgeError`` of a judge that
    cannot work.
    """
    if not queries:
        raise UsageError("bench modes: no questions; give at least one text")
    found: list[Way] = []
    answers: dict[str, list[Verdict]] = {}
    for name, make in ways.items():
        judge = make()
        if twin := next((way.name for way in found if way.judge == judge.fingerprint), None):
            raise UsageError(
                f"{name}: the same judge in the same mode as {twin}; expected two ways of asking"
            )
        before, doubted, start = _calls(judge), _again(judge), time.perf_counter()
        verdicts = _answers(judge, queries, partial(progress, name))
        seconds, after = time.perf_counter() - start, _calls(judge)
        found.append(
            Way(
                name=name,
                judge=judge.fingerprint,
                questions=len(queries),
                unanswered=sum(verdict.label is None for verdict in verdicts),
                calls=None if before is None or after is None else after - before,
                again=None if doubted is None else (_again(judge) or 0) - doubted,
                prompt_tokens=sum(verdict.prompt_tokens for verdict in verdicts),
                completion_tokens=sum(verdict.completion_tokens for verdict in verdicts),
                seconds=seconds,
                agreements={
                    earlier: agreement_of(queries, given, verdicts) for earlier, given in answers.items()
                },
            )
        )
        answers[name] = verdicts
    return found


def agreement_of(
    queries: Sequence[Query], first: Sequence[Verdict], second: Sequence[Verdict]
) -> Agreement | None:
    """Compare the labels of two ways over the questions that both answer; None where there are none."""
    texts = _texts(queries)
    both = [
        (text, query.question.id, a.label, b.label)
        for text, query, a, b in zip(texts, queries, first, second, strict=True)
        if a.label is not None and b.label is not None
    ]
    if not both:
        return None
    clusters = {
        text: [float(a == b) for _, _, a, b in rows] for text, rows in groupby(both, key=lambda row: row[0])
    }
    return Agreement(
        equal=cluster_interval(clusters, name="same label"),
        kappa=cohen_kappa(
            [a for _, _, a, _ in both],
            [b for _, _, _, b in both],
            clusters=[text for text, _, _, _ in both],
            strata=[question for _, question, _, _ in both],
        ),
    )


def _answers(judge: Judge, queries: Sequence[Query], report: Callable[[int, int], None]) -> list[Verdict]:
    verdicts: dict[int, Verdict] = {}
    for index, verdict in judge.answer(queries):
        verdicts[index] = verdict
        report(len(verdicts), len(queries))
    if missing := len(queries) - len(verdicts):
        raise JudgeError(f"judge: gave no verdict on {missing} of {len(queries)} questions")
    return [verdicts[index] for index in range(len(queries))]


def _again(judge: Judge) -> int | None:
    return judge.again if isinstance(judge, Listing) else None


def _calls(judge: Judge) -> int | None:
    return judge.calls if isinstance(judge, Counting) else None


def _texts(queries: Sequence[Query]) -> list[int]:
    """Number of each query's text."""
    numbers: dict[tuple[int, str], int] = {}
    return [numbers.setdefault((id(query.prompt), query.text), len(numbers)) for query in queries]
