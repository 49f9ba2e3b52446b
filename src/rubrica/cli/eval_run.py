"""``rubrica eval --model ... --suite ... --out``: from what the flags say to an evaluation, and how it is shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rubrica.cli.output import how_to_go_on, labelled_bar, note, print_json
from rubrica.core.errors import UsageError

if TYPE_CHECKING:
    from rubrica.core.attempt import Tags
    from rubrica.core.config import Json
    from rubrica.judges.budget import Budget
    from rubrica.recipes.evaluated import Evaluated
    from rubrica.recipes.evaluation import Evaluation
    from rubrica.recipes.sources import Source


class Models(NamedTuple):
    """Who answers."""

    names: Sequence[str]
    responses: Path | None
    metric: str
    label: str | None
    dtype: str
    chat_template: str | None
    batch_size: int


class Prompts(NamedTuple):
    """What is asked."""

    suites: str
    own: Path | None
    data: Path | None
    attacks: Sequence[str]
    seed: int
    limit: int | None
    skip_missing: bool


class Judging(NamedTuple):
    """Who judges by what."""

    judge: str | None
    refusal_judge: str | None
    program: str
    protocol: str
    reads: str
    passports: Sequence[Path]


class Answers(NamedTuple):
    """How answers are sampled and taken."""

    think: bool
    system: str
    trials: int | None
    temperature: float
    top_p: float
    max_tokens: int | None
    shots: int | None
    chat: bool


def run(
    models: Models,
    prompts: Prompts,
    judging: Judging,
    answers: Answers,
    out: Path,
    budget: "Budget",
    *,
    as_json: bool,
) -> None:
    """Evaluate and print."""
    from rubrica.cli.eval_table import show
    from rubrica.recipes.evaluate import evaluate
    from rubrica.recipes.evaluated import opening
    from rubrica.recipes.surroundings import default_surroundings

    around, sources = default_surroundings(), _sources(models, prompts)
    evaluation = _evaluation(models, prompts, judging, answers, sources)
    for source in sources:
        if source.note:
            note(f"warning: {source.note}")
    with how_to_go_on("answers and verdicts up to here are kept"), labelled_bar() as progress:
        results = evaluate(
            evaluation,
            sources,
            out,
            around,
            opened=lambda seed: opening(evaluation.models[seed], models.dtype, models.batch_size, around),
            budget=budget,
            progress=progress,
        )
    if as_json:
        print_json([result.model_dump(mode="json") for result in results])
    else:
        note(f"{out}: report.md, results.json, items.jsonl")
        show(results)


def _evaluation(
    models: Models, prompts: Prompts, judging: Judging, answers: Answers, sources: "Sequence[Source]"
) -> "Evaluation":
    from rubrica.core.config import validate
    from rubrica.recipes.evaluation import PAPER_TOKENS, PAPER_TRIALS, Evaluation

    evaluated = [_model(name, models.chat_template) for name in models.names]
    tags = _tags(evaluated, think=answers.think)
    paper = judging.protocol == "qa-lign"
    return validate(
        Evaluation,
        {
            "label": models.label or _label(models),
            "models": [each.source.model_dump(mode="json") for each in evaluated]
            or [{"model": _file_model(models.responses)}],
            "suites": [source.name for source in sources],
            "data": None if prompts.data is None else str(prompts.data),
            "attacks": list(prompts.attacks),
            **_judges(judging, sources),
            "program": judging.program,
            "tags": None if tags is None else tags.model_dump(mode="json"),
            "protocol": judging.protocol,
            "reads": judging.reads,
            "system": answers.system,
            "trials": answers.trials or (PAPER_TRIALS if paper else 1),
            "sampling": {
                "temperature": answers.temperature,
                "top_p": answers.top_p,
                "max_tokens": answers.max_tokens or (PAPER_TOKENS if paper else 512),
                "seed": prompts.seed,
            },
            "shots": answers.shots,
            "chat": answers.chat,
            "limit": prompts.limit,
            "given": models.responses is not None,
        },
        "rubrica eval",
    )


def _judges(judging: Judging, sources: "Sequence[Source]") -> "dict[str, Json]":
    """Who judges harm and refusals, each with its passport."""
    from rubrica.core.evaluation import Metric
    from rubrica.recipes.judge_errors import read_errors

    judge = judge_setting(judging.judge or _default_judge(sources))
    refusal = judge_setting(judging.refusal_judge) if judging.refusal_judge else None
    for path in judging.passports:
        about = read_errors([path])
        if Metric.FRR in about:
            refusal = _with_passport(judge if refusal is None else refusal, path)
        if Metric.ASR in about:
            judge = _with_passport(judge, path)
    return {"judge": judge, "refusal_judge": refusal}


def _with_passport(judge: "Json", path: Path) -> "Json":
    return {**(judge if isinstance(judge, dict) else {"spec": judge}), "passport": str(path.resolve())}


def _file_model(path: Path | None) -> str:
    """Name a file of answers by its content too, so that another one is another evaluation."""
    import hashlib

    assert path is not None
    with path.open("rb") as file:
        return f"answers of {path} ({hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"


def _model(name: str, chat_template: str | None) -> "Evaluated":
    from rubrica.recipes.evaluated import read_model
    from rubrica.recipes.options import ModelSource

    return read_model(name, ModelSource(model=name, chat_template=chat_template))


def _tags(evaluated: "Sequence[Evaluated]", *, think: bool) -> "Tags | None":
    """Return the tags that all models write."""
    from rubrica.core.attempt import Tags

    found = {each.tags for each in evaluated} if evaluated else {None}
    if len(found) > 1:
        raise UsageError(
            "--model: some of these write draft and revision, others do not; evaluate them apart"
        )
    [tags] = found
    return tags or (Tags() if think else None)


def judge_setting(name: str) -> "Json":
    """A spec stays a text, so that evaluation.yaml reads as it was written; options of a file are taken in."""
    from rubrica.judges.factory import read_judge

    config = read_judge(name)
    return (
        config.spec if config.changed() == ["spec"] else config.model_dump(mode="json", exclude_defaults=True)
    )


def _label(models: Models) -> str:
    from rubrica.judges.factory import server_of

    served = ((name, server_of(name)) for name in models.names)
    named = [Path(server.model if server else name).name for name, server in served]
    return ",".join(dict.fromkeys(named or [models.responses.stem if models.responses else ""]))


def _default_judge(sources: "Sequence[Source]") -> str:
    """The lab's prompts are about a world that its oracle alone knows."""
    found = {source.judge for source in sources if source.judge}
    if len(found) > 1:
        raise UsageError(
            f"--judge: missing; these suites have no judge in common ({', '.join(sorted(found))})"
        )
    return next(iter(found), "embedded")


def _sources(models: Models, prompts: Prompts) -> "list[Source]":
    from rubrica.cli.eval_list import suite_names
    from rubrica.recipes.sources import answers_source, suite_sources

    if models.responses is not None:
        return [answers_source(models.responses, models.metric, prompts.limit)]
    return suite_sources(
        suite_names(prompts.suites),
        prompts.data,
        own=prompts.own,
        attacks=prompts.attacks,
        seed=prompts.seed,
        limit=prompts.limit,
        left_out=note if prompts.skip_missing else None,
    )
