"""What ``report.md`` says of an evaluation's settings, and what follows from them for its numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rubrica.core.agreement import CORRECTED
from rubrica.core.config import Json
from rubrica.core.errors import DataError
from rubrica.core.evaluation import Metric
from rubrica.core.records import Estimate, EvalResult
from rubrica.core.run import write_atomic
from rubrica.judges.factory import JudgeConfig
from rubrica.recipes.evaluation import REPORT, Evaluation, read_evaluation, read_settings
from rubrica.reports.eval_report import Told, report


def write_report(out: Path, results: Sequence[EvalResult]) -> None:
    """Write ``report.md``."""
    write_atomic(out / REPORT, report(told(out, results)))


def told(folder: Path, results: Sequence[EvalResult]) -> Told:
    """What the report of an evaluation is written from; of another command's folder its settings as they stand there.

    ``UsageError`` where none of ``rubrica eval`` and its commands made ``folder``.
    """
    settings = read_settings(folder)
    if "models" not in settings:
        return Told(
            str(settings.get("label", folder)),
            list(_plainly(settings)),
            results,
            [f"{line[0].upper()}{line[1:]}." for line in _limits(results)],
        )
    given = read_evaluation(folder)
    return Told(given.label, list(_settings(given, results)), results, list(remarks(given, results)))


def _plainly(settings: Json, name: str = "") -> Iterator[tuple[str, str]]:
    """Every setting that says something, by its path."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from _plainly(value, f"{name} {key}".strip())
    elif isinstance(settings, list):
        yield name, ", ".join(map(str, settings))
    elif settings is not None and name != "label":
        yield name.replace("_", " "), str(settings)


def _settings(given: Evaluation, results: Sequence[EvalResult]) -> Iterator[tuple[str, str]]:
    yield "model", ", ".join(model.model for model in given.models)
    if any(_read_by_judge(given, result) for result in results):
        yield from _judging(given)
    if not all(_read_by_judge(given, result) for result in results):
        yield "worked examples", "as many as is usual" if given.shots is None else str(given.shots)
        yield "questions", "through the chat template" if given.chat else "as text to continue"
    yield "system prompt", "not known" if given.given else given.system or "none"
    yield "items", "; ".join(_limits(results)) or "all"


def _read_by_judge(given: Evaluation, result: EvalResult) -> bool:
    """Whether a judge read the answers; else they were matched, or likelihoods read."""
    return result.protocol == given.protocol_line


def _judging(given: Evaluation) -> Iterator[tuple[str, str]]:
    sampling = given.sampling
    yield "judge", _named(given.judge)
    if given.refusal_judge is not None:
        yield "judge of refusals", _named(given.refusal_judge)
    yield "asked about harm", given.program
    yield "protocol", given.protocol_line
    yield "drafts", "judged apart" if given.tags and given.drafts else "none"
    if given.given:
        yield "sampling", "not known: the answers were there"
        return
    yield "attacks", ", ".join(given.attacks) or "prompts as they are"
    yield "answers to a prompt", str(given.trials)
    yield (
        "sampling",
        f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, at most {sampling.max_tokens:,} tokens, "
        f"seed {sampling.seed}",
    )


def _limits(results: Sequence[EvalResult]) -> Iterator[str]:
    """Which suites were not asked whole."""
    for limit in dict.fromkeys(result.limit for result in results if result.limit is not None):
        names = ", ".join(result.suite for result in results if result.limit == limit)
        yield f"only the first {limit:,} items of {names}: no result of the whole suite"


def _named(judge: str | JudgeConfig) -> str:
    return judge if isinstance(judge, str) else judge.spec


def remarks(given: Evaluation, results: Sequence[EvalResult]) -> Iterator[str]:
    """What a reader of the numbers has to know: who judged and how well, what was left out, what counts as what."""
    names = {estimate.name for result in results for estimate in result.estimates}
    for metric, question in ((Metric.ASR, "harm"), (Metric.FRR, "refusal")):
        if metric.value in names:
            yield f"{metric}: {_passport(given, metric, question, results)}"
    yield from (f"{line[0].upper()}{line[1:]}." for line in _limits(results))
    if given.protocol == "qa-lign":
        yield (
            "Protocol qa-lign: a missing revision counts as harmful, as in the paper (arXiv 2506.08123). Sampling and "
            "judge are those above, which need not be the paper's."
        )
    read = any(_read_by_judge(given, result) for result in results)
    if read and given.sampling.temperature > 0 and given.trials == 1 and not given.given:
        yield "One sampled answer to each prompt: another seed gives other answers."


def _passport(given: Evaluation, metric: Metric, question: str, results: Sequence[EvalResult]) -> str:
    """What is known of a judge's errors, and whether the rates could be corrected for them."""
    name = _named(given.judge_of(metric))
    try:
        errors = given.errors(metric)
    except DataError as error:
        return f"judged by {name}; its passport cannot be read: {error}."
    if errors is None:
        return (
            f"judged by {name}, of which no passport was given: its errors are not known here (rubrica judge check "
            f"--program {question}, then --passport)."
        )
    said = [
        f"{share.name} {share.value:.1%} [{share.low:.1%}, {share.high:.1%}], n={share.n}"
        if isinstance(share, Estimate)
        else f"{share.name} not measured ({share.reason})"
        for share in (errors.sensitivity, errors.specificity)
    ]
    measured = [result for result in results if any(each.name == metric.value for each in result.estimates)]
    others = {result.judge for result in measured} - {errors.judge}
    if others:
        end = (
            f"Rates are not corrected: the passport is of {errors.judge}, not of {', '.join(sorted(others))}."
        )
    elif all(any(each.name == f"{metric}{CORRECTED}" for each in result.estimates) for result in measured):
        end = "Rates corrected for these errors (Rogan and Gladen) stand beside the raw ones."
    else:
        end = "Where no corrected rate stands, a judge with these errors would hardly report the raw one."
    return f"judged by {name}; its passport of {errors.created} says {'; '.join(said)}. {end}"
