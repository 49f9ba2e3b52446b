"""``report.md`` of an evaluation: what was evaluated, how, what came out, and what the numbers do not say."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rubrica.core.agreement import CORRECTED
from rubrica.core.evaluation import ANY_ATTACK, Metric, Standing
from rubrica.core.records import Estimate, EvalResult
from rubrica.reports.markdown import escaped, table

TITLES = {
    Metric.ASR: "attack success",
    Metric.FRR: "false refusals",
    Metric.ACCURACY: "accuracy",
    Metric.PREFERENCE: "preference",
}
SHARES = {
    Standing.ABSTAINED: "the judge would not say",
    Standing.UNJUDGED: "the judge failed or was not understood",
    Standing.NO_REVISION: "no revision",
    Standing.UNANSWERED: "no answer",
}
LOWER = {Metric.ASR, Metric.FRR}
"""Metrics of which less is better."""
TOKENS = "tokens"
_LONGEST = 200
"""Letters of a reason that are shown."""


def metric_of(result: EvalResult) -> Metric | None:
    """What a suite counts; None where nothing has a value."""
    names = {estimate.name for estimate in result.estimates}
    found = (metric for metric in Metric if {metric.value, f"draft_{metric.value}"} & names)
    return next(found, None)


def whole(result: EvalResult, name: str) -> Estimate | None:
    """The estimate of that name over the whole suite."""
    return next((each for each in result.estimates if each.name == name and not each.group), None)


def interval(found: Estimate) -> str:
    """``12.3 [10.1, 14.9]``, in per cent."""
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


class Section(NamedTuple):
    """One table of the report."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int]
    """Columns of text."""


class Told(NamedTuple):
    """What an evaluation's report is written from."""

    label: str
    settings: Sequence[tuple[str, str]]
    """What was asked for."""
    results: Sequence[EvalResult]
    remarks: Sequence[str]
    """What holds for this evaluation."""


def report(told: Told) -> str:
    """Return the report as Markdown."""
    parts = [f"# Evaluation of {escaped(told.label)}"]
    for section in sections(told):
        parts += [f"## {section.title}", table(section.columns, section.rows, section.texts)]
    parts += ["## What to know", "\n".join(f"- {escaped(line)}" for line in notes(told))]
    return "\n\n".join(parts) + "\n"


def sections(told: Told) -> list[Section]:
    """The tables; one without rows is left out."""
    results = told.results
    found = [
        _rates(results),
        Section(
            "Answers without a value",
            ("suite", "why", "% of answers", "answers", "the first"),
            [
                (result.suite, said, interval(share), f"{share.n:,}", _first(result, standing))
                for result in results
                for standing, said in SHARES.items()
                if (share := whole(result, standing.value))
            ],
            (0, 1, 4),
        ),
        *(_groups(results, kind) for kind in ("category", "attack")),
        Section("Also counted", ("suite", "what", "value", "n"), list(_others(results)), (0, 1)),
        Section("Settings", ("setting", "value"), told.settings, (0, 1)),
        Section(
            "Who judged",
            ("suite", "judge", "protocol"),
            [(result.suite, result.judge or "–", result.protocol) for result in results],
            (0, 1, 2),
        ),
    ]
    return [section for section in found if section.rows]


def notes(told: Told) -> list[str]:
    """What to know before a number is quoted."""
    return [*told.remarks, *_coverage(told.results)]


def _rates(results: Sequence[EvalResult]) -> Section:
    rows = []
    for result in results:
        metric = metric_of(result)
        found = whole(result, metric.value) if metric else None
        draft = whole(result, f"draft_{metric.value}") if metric else None
        corrected = whole(result, f"{metric.value}{CORRECTED}") if metric else None
        arrow = "" if metric is None else " ↓" if metric in LOWER else " ↑"
        rows.append(
            (
                result.suite,
                f"{TITLES[metric]}{arrow}" if metric else "nothing has a value",
                interval(found) if found else "–",
                f"{found.n:,}" if found else "0",
                interval(corrected) if corrected else "–",
                interval(draft) if draft else "–",
            )
        )
    columns = ("suite", "rate", "% [95 % interval]", "n", "corrected, %", "drafts, %")
    keep = [n for n in range(6) if n < 4 or any(row[n] != "–" for row in rows)]
    return Section("Rates", [columns[n] for n in keep], [[row[n] for n in keep] for row in rows], (0, 1))


def _first(result: EvalResult, standing: Standing) -> str:
    """What the first answer of that standing said, in a line."""
    said = " ".join(result.reasons.get(standing.value, "").split())
    return f"{said[:_LONGEST]} ..." if len(said) > _LONGEST else said or "–"


def _groups(results: Sequence[EvalResult], kind: str) -> Section:
    rows = []
    for result in results:
        rows += [
            (result.suite, found.group.partition(":")[2], interval(found), f"{found.n:,}")
            for found in result.estimates
            if found.group.startswith(f"{kind}:") and not _is_all(found, result)
        ]
        if kind == "attack" and (worst := whole(result, ANY_ATTACK)):
            rows.append((result.suite, "requests that fell to any of them", interval(worst), f"{worst.n:,}"))
    return Section(f"By {kind}", ("suite", kind, "% [95 % interval]", "n"), rows, (0, 1))


def _is_all(found: Estimate, result: EvalResult) -> bool:
    """Whether a group holds the whole suite."""
    every = whole(result, found.name)
    return every is not None and every.n == found.n


def _others(results: Sequence[EvalResult]) -> Iterator[tuple[str, str, str, str]]:
    """Other ways to count, and the length of answers."""
    shown = {name for metric in Metric for name in (metric.value, f"draft_{metric.value}")}
    shown |= {f"{name}{CORRECTED}" for name in shown}
    shown |= {standing.value for standing in SHARES} | {ANY_ATTACK}
    for result in results:
        for found in result.estimates:
            if not found.group and found.name not in shown:
                tokens = found.name == TOKENS
                value = f"{found.value:,.0f} [{found.low:,.0f}, {found.high:,.0f}]"
                what = "tokens of an answer" if tokens else f"{found.name}, %"
                yield result.suite, what, value if tokens else interval(found), f"{found.n:,}"


def _coverage(results: Sequence[EvalResult]) -> Iterator[str]:
    models = max((len(result.seeds) for result in results), default=1)
    if models > 1:
        yield (
            f"Intervals are over {models} models, taken as training seeds of one recipe. They do not cover errors of "
            "the judge."
        )
    else:
        yield (
            "Intervals are about items like these, put to this checkpoint, with this sampling, read by this judge. "
            "They cover neither the judge's errors nor another training of the same recipe."
        )
    if any(whole(result, ANY_ATTACK) for result in results):
        yield (
            "Under several attacks the rate of a suite is a mean that depends on which attacks are in the list: read "
            "them one by one. A request fell if one of its prompts succeeded; more attacks can only raise that rate. "
            "Requests of which a prompt has no value are not in it."
        )
    if any(result.trials > 1 for result in results):
        yield "Trials of one prompt, and attacks on one request, are one cluster."
    if any(whole(result, standing.value) for result in results for standing in SHARES):
        yield "What has no value is in no rate: a failure is neither a refusal nor a success."
