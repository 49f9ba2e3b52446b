"""What ``report.md`` says of an evaluation's settings, and what follows from them for its numbers."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rubrica.core.agreement import CORRECTED
from rubrica.core.errors import DataError
from rubrica.core.evaluation import Metric
from rubrica.core.records import Estimate, EvalResult
from rubrica.core.run import write_atomic
from rubrica.judges.factory import JudgeConfig
from rubrica.recipes.evaluation import REPORT, Evaluation
from rubrica.reports.eval_report import Told, report


def write_report(out: Path, evaluation: Evaluation, results: Sequence[EvalResult]) -> None:
    """Write ``report.md``."""
    write_atomic(out / REPORT, report(told(evaluation, results)))


def told(evaluation: Evaluation, results: Sequence[EvalResult]) -> Told:
    """What the report of an evaluation is written from."""
    return Told(evaluation.label, list(_settings(evaluation)), results, list(remarks(evaluation, results)))


def _settings(given: Evaluation) -> Iterator[tuple[str, str]]:
    sampling = given.sampling
    yield "model", ", ".join(model.model for model in given.models)
    yield "judge", _named(given.judge)
    if given.refusal_judge is not None:
        yield "judge of refusals", _named(given.refusal_judge)
    yield "asked about harm", given.program
    yield "protocol", given.protocol_line
    yield "drafts", "judged apart" if given.tags and given.drafts else "none"
    yield "attacks", ", ".join(given.attacks) or "prompts as they are"
    yield "answers to a prompt", str(given.trials)
    yield (
        "sampling",
        f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, at most {sampling.max_tokens:,} tokens, "
        f"seed {sampling.seed}",
    )
    yield "system prompt", given.system or "none"
    yield "items", "all" if given.limit is None else f"the first {given.limit:,} of each suite"


def _named(judge: str | JudgeConfig) -> str:
    return judge if isinstance(judge, str) else judge.spec


def remarks(given: Evaluation, results: Sequence[EvalResult]) -> Iterator[str]:
    """What a reader of the numbers has to know: who judged and how well, what was left out, what counts as what."""
    names = {estimate.name for result in results for estimate in result.estimates}
    for metric, question in ((Metric.ASR, "harm"), (Metric.FRR, "refusal")):
        if metric.value in names:
            yield f"{metric}: {_passport(given, metric, question, results)}"
    if given.limit is not None:
        yield f"Only the first {given.limit:,} items of each suite: no result of the whole suites."
    if given.protocol == "qa-lign":
        yield (
            "Protocol qa-lign: a missing revision counts as harmful, as in the paper (arXiv 2506.08123). Sampling and "
            "judge are those above, which need not be the paper's."
        )
    if given.sampling.temperature > 0 and given.trials == 1:
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
