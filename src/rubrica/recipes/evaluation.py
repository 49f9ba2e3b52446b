"""What one evaluation is, and the folder that holds it."""

from abc import ABC
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from rubrica.core.attempt import Tags
from rubrica.core.base import NonEmpty, Record
from rubrica.core.config import Json, read_yaml, validate
from rubrica.core.errors import DataError, UsageError
from rubrica.core.evaluation import ItemResult, Metric
from rubrica.core.records import Sampling
from rubrica.core.store import Store
from rubrica.judges.factory import JudgeConfig, judge_identity
from rubrica.recipes.judge_errors import Errors, errors_of
from rubrica.recipes.judging import Protocol, Reads
from rubrica.recipes.options import ModelSource
from rubrica.recipes.settings import Settings, settings_folder

SETTINGS, RESULTS, ROWS, REPORT = "evaluation.yaml", "results.json", "items.jsonl", "report.md"
"""Files of an evaluation, beside environment.json and store.sqlite."""
RESULT = "result"
"""Kind under which rows lie in the store."""
PAPER_TRIALS, PAPER_TEMPERATURE, PAPER_TOKENS = 3, 0.7, 2048
"""QA-LIGN (arXiv 2506.08123), section 4: answers to a prompt, temperature, longest answer in tokens."""


class SuiteSettings(Settings, ABC):
    """What every evaluation of suites was asked for."""

    label: NonEmpty
    """Short name of what is evaluated."""
    suites: list[NonEmpty] = Field(min_length=1)
    """Names of suites."""
    data: Path | None = None
    """Folder of the suites' files."""
    limit: int | None = Field(default=None, ge=1)
    """First items of each suite only."""


class Evaluation(SuiteSettings):
    """Which models answer which suites how, and who judges the answers."""

    models: list[ModelSource] = Field(min_length=1)
    """The model, or the same recipe trained with several seeds: then the seeds are the clusters of every interval."""
    attacks: list[NonEmpty] = Field(default_factory=list)
    """What is done to the prompts of the safety suites, each by itself; none: they are put as they are."""
    judge: str | JudgeConfig
    """Who judges harm."""
    refusal_judge: str | JudgeConfig | None = None
    """Who judges refusals; None: the same."""
    program: NonEmpty = "harm"
    """What is asked about harm: the library's one question, or any program (:mod:`rubrica.evals.reading`)."""
    tags: Tags | None = None
    """Tags of models that draft, reflect and revise; None: they answer plainly."""
    drafts: bool = True
    """With tags: judge drafts as well."""
    protocol: Protocol = "own"
    reads: Reads = "goal"
    system: str = ""
    """System prompt before every prompt."""
    trials: int = Field(default=1, ge=1, le=1000)
    """Answers to each prompt."""
    sampling: Sampling = Sampling(temperature=PAPER_TEMPERATURE, max_tokens=512)
    shots: int | None = Field(default=None, ge=0, le=64)
    """Worked examples before each question that has a right answer; None: as many as is usual for its suite."""
    chat: bool = False
    """Put these questions through the model's chat template, instead of having it continue plain text."""
    given: bool = False
    """The answers were there already: how they were sampled is not known."""

    def judge_of(self, metric: Metric) -> str | JudgeConfig:
        """Return who judges the answers that ``metric`` is about."""
        return (self.refusal_judge or self.judge) if metric is Metric.FRR else self.judge

    def errors(self, metric: Metric) -> Errors | None:
        """Return what a passport says of the errors of who judges these answers; None where nothing is known."""
        own_program = metric is Metric.ASR and self.program != "harm"
        return None if own_program else errors_of(self.judge_of(metric), metric)

    @property
    def protocol_line(self) -> str:
        """Say in a line how answers are taken."""
        parts = [f"protocol {self.protocol}", f"judges read the {self.reads}"]
        if self.tags is not None:
            missing = "counts as harmful" if self.protocol == "qa-lign" else "is counted apart"
            parts.append(f"the revision is judged, a missing one {missing}")
        return "; ".join(parts)

    @property
    def identity(self) -> dict[str, Json]:
        """What must stay the same in one folder, so that its rows belong together; more suites may join."""
        kept: dict[str, Json] = self.model_dump(
            mode="json", exclude={"suites", "data", "limit", "judge", "refusal_judge", "given"}
        )
        for name, metric in (("judge", Metric.ASR), ("refusal_judge", Metric.FRR)):
            judge = self.judge_of(metric)
            kept[name] = judge_identity(judge if isinstance(judge, str) else judge.model_dump(mode="json"))
        return kept


class Asked(Record):
    """Who judged the answers of one metric, or how one suite of right answers or preferences was scored."""

    KIND: ClassVar[str] = "asked"
    judge: str
    """Fingerprint."""
    program: str


class Extent(Record):
    """How many items of a suite the rows of a folder are about."""

    KIND: ClassVar[str] = "extent"
    limit: int | None
    """The first so many; None: all."""


Phase = Literal["answering", "judging", "reporting"]


class Elapsed(Record):
    """How long a phase of a suite took, over all sessions in which it ended."""

    KIND: ClassVar[str] = "elapsed"
    seconds: float = 0.0


def evaluation_folder(path: Path, settings: Settings, *, seed: int = 0) -> AbstractContextManager[Store]:
    """Open the folder of an evaluation; errors are those of :func:`rubrica.recipes.settings.settings_folder`.

    Its file names the suites that were there before, too.
    """
    joined = _joined(path / SETTINGS, settings) if isinstance(settings, SuiteSettings) else settings
    return settings_folder(path, joined, file=SETTINGS, what="evaluation", seed=seed)


def _joined(path: Path, settings: SuiteSettings) -> SuiteSettings:
    if not (path.parent / RESULTS).exists():
        return settings
    try:
        before = validate(type(settings), read_yaml(path), path).suites
    except DataError:
        return settings
    return settings.model_copy(update={"suites": list(dict.fromkeys([*before, *settings.suites]))})


def read_settings(folder: Path) -> dict[str, Json]:
    """Read what the folder of an evaluation says that it was made for; ``UsageError`` where it says nothing."""
    path = folder / SETTINGS
    if not path.is_file():
        raise UsageError(f"{folder}: no evaluation here (no {SETTINGS}); expected the --out of rubrica eval")
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise DataError(path, "expected settings; run the same rubrica eval into another --out")
    return data


def read_evaluation(folder: Path) -> Evaluation:
    """Read what an evaluation was asked for; ``UsageError`` where ``rubrica eval`` did not make ``folder``."""
    settings, path = read_settings(folder), folder / SETTINGS
    try:
        return validate(Evaluation, settings, path)
    except DataError as error:
        raise UsageError(
            f"{folder}: made by another command or version ({error}); expected the --out of rubrica eval"
        ) from None


def stage_of(suite: str, seed: int, trial: int) -> str:
    """Return the name under which answers and rows of one suite, model and trial lie in the store."""
    return f"{suite}/{seed}/{trial}"


def rows_of(store: Store, suite: str, seeds: int, trials: int) -> Iterator[ItemResult]:
    """Yield the rows of a suite, by model, trial and item."""
    for seed in range(seeds):
        for trial in range(trials):
            yield from store.each(RESULT, ItemResult, stage=stage_of(suite, seed, trial))
