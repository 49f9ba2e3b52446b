"""The records that cross a layer: frozen, validated, without behaviour.

Three laws: a failure is never a number; no untyped mapping crosses a layer; text stays text
(stored records hold no tokens).
"""

from enum import StrEnum
from typing import Self

from pydantic import Field, FiniteFloat, model_validator

from rubrica.core.base import NonEmpty, Record, Slug
from rubrica.core.programs import Question
from rubrica.core.prompts import Prompt

# --- responses ----------------------------------------------------------------------------------


class Sampling(Record):
    """How a text was sampled."""

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=256, ge=1)
    seed: int = 0


class Response(Record):
    """One completion of one prompt."""

    id: NonEmpty
    prompt_id: NonEmpty
    text: str
    model: str
    sampling: Sampling
    tokens: int = Field(ge=0)
    finished: bool = True
    """False when the completion ran into ``max_tokens``."""


class Malformed(StrEnum):
    """Why a completion is no attempt."""

    NO_OPEN_TAG = "no_open_tag"
    NO_CLOSE_TAG = "no_close_tag"
    REPEATED_TAG = "repeated_tag"
    EMPTY_DRAFT = "empty_draft"
    EMPTY_REFLECTION = "empty_reflection"
    EMPTY_REVISION = "empty_revision"
    TRUNCATED = "truncated"


class Attempt(Record):
    """A completion parsed into draft, reflection and revision, or the reason why it does not parse."""

    draft: str = ""
    reflection: str = ""
    revision: str = ""
    malformed: Malformed | None = None


# --- judging ------------------------------------------------------------------------------------


class Price(Record):
    """US dollars for a million tokens. There is no built-in list, because prices change."""

    prompt: float = Field(ge=0, allow_inf_nan=False)
    """Of tokens that the judge reads."""
    completion: float = Field(ge=0, allow_inf_nan=False)
    """Of tokens that it writes."""


class Wording(StrEnum):
    """How the fixed words around a question are put. All but the first measure a judge; none is used to judge."""

    STANDARD = "standard"
    OPTIONS_REVERSED = "options-reversed"
    """The possible answers in the opposite order."""
    REWORDED = "reworded"
    """The instruction in other words."""
    QUESTION_FIRST = "question-first"
    """The question above conversation and answer instead of below."""


class Query(Record):
    """One question about one text in answer to one prompt."""

    prompt: Prompt
    text: str
    question: Question
    wording: Wording = Wording.STANDARD
    """A judge that cannot put it otherwise says so in its ``wordings`` (:class:`rubrica.core.ports.Rewordable`)."""


class Outcome(StrEnum):
    """What became of a question. Only ``answered`` and ``not_applicable`` carry a label."""

    ANSWERED = "answered"
    NOT_APPLICABLE = "not_applicable"
    ABSTAINED = "abstained"
    UNPARSEABLE = "unparseable"
    FAILED = "failed"
    SKIPPED = "skipped"


class Label(StrEnum):
    """The answers a judge may give."""

    TRUE = "TRUE"
    FALSE = "FALSE"
    A = "A"
    B = "B"
    C = "C"
    D = "D"
    F = "F"
    NA = "NA"


class Verdict(Record):
    """The answer to one question about one text. A verdict without a label is never a number."""

    question_id: Slug
    outcome: Outcome
    label: Label | None = None
    probabilities: dict[Label, FiniteFloat] | None = None
    """Calibrated probabilities of the allowed labels; they sum to 1 where known."""
    reason: str = ""
    judge: str = ""
    """Fingerprint of the judge that answered, template included."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @model_validator(mode="after")
    def _label_fits_outcome(self) -> Self:
        match self.outcome:
            case Outcome.ANSWERED:
                fits = self.label is not None and self.label is not Label.NA
            case Outcome.NOT_APPLICABLE:
                fits = self.label is Label.NA
            case _:
                fits = self.label is None and self.probabilities is None
        if not fits:
            raise ValueError(
                f"verdict on {self.question_id!r}: outcome {self.outcome} cannot carry {self.label}"
            )
        return self


class DimensionScore(Record):
    """Value of one dimension and the verdicts below it. ``value`` is None when it has none or is unknown."""

    id: Slug
    value: FiniteFloat | None
    known: bool
    """True when no missing answer could change ``value`` (a known None means *not applicable*)."""
    verdicts: tuple[Verdict, ...]
    relevant: bool | None = True
    """Whether the dimension applies to the prompt; None when that is unknown."""
    relevance: Verdict | None = None
    """The answer to the question that ``when.ask`` puts, where it was asked."""


class PrincipleScore(Record):
    """Value of one principle and its dimensions."""

    id: Slug
    value: FiniteFloat | None
    known: bool
    dimensions: tuple[DimensionScore, ...]
    relevant: bool | None = True
    relevance: Verdict | None = None


class Scorecard(Record):
    """The tree of verdicts of one text with the value at every node; the only source of a reward."""

    program: str
    """Content hash of the program."""
    judge: str
    principles: tuple[PrincipleScore, ...]
    total: FiniteFloat | None
    """None when some possible answer to a missing question would change it."""
    vetoed_by: tuple[Slug, ...] = ()
    """Protected gates that failed with enough certainty to set the total to -1."""


class VetoThresholds(Record):
    """With which fitted thresholds a judge's verdicts became totals."""

    judge: str
    thresholds: dict[Slug, float]
    """Probability of FALSE from which a protected gate vetoes, by question id."""


class Preference(Record):
    """A pair of answers to one prompt, one of them preferred."""

    id: NonEmpty
    prompt: Prompt
    chosen: NonEmpty
    rejected: NonEmpty
    weight: float = Field(default=1.0, ge=0)
    gap: FiniteFloat | None = None
    """Score of the chosen answer minus that of the rejected one, where they were scored."""
    confidence: float | None = Field(default=None, ge=0, le=1)
    source: str = ""


# --- stages -------------------------------------------------------------------------------------


class ThinkExample(Record):
    """One row of stage 2: how a draft became a reflection and a revision, kept or dropped."""

    id: NonEmpty
    prompt_id: NonEmpty
    draft: Response
    draft_card: str
    """Id of the draft's scorecard in the store."""
    weakness: Slug | None
    """Question that the reflection is about; None when no question failed."""
    reflection: str
    confirmed: bool | None = None
    """Whether the reference judge agrees that the draft has this weakness; None when not checked."""
    revision: str = ""
    revision_card: str | None = None
    cured: bool | None = None
    """Whether the reference judge finds the weakness gone from the revision; None when not checked."""
    dropped: str | None = None
    """Why the row is not trained on; None when it is."""


class Rollout(Record):
    """One completion of GRPO with the reward that trained the model."""

    id: NonEmpty
    stage: str
    step: int = Field(ge=0)
    prompt_id: NonEmpty
    response: Response
    attempt: Attempt
    draft_card: str | None = None
    revision_card: str | None = None
    reward_model: str | None = None
    """Fingerprint of the reward model that gave r1 and r2; None where they are totals of scorecards."""
    r1: FiniteFloat | None = None
    """Total of the draft's scorecard, or its normalised score."""
    r2: FiniteFloat | None = None
    """Total of the revision's scorecard, or its normalised score."""
    reward: FiniteFloat | None = None
    """None: no signal (a total or a score is missing after the retries)."""


# --- results ------------------------------------------------------------------------------------


class Estimate(Record):
    """A number with its interval: ``value`` in [low, high], from ``n`` observations."""

    name: NonEmpty
    group: str = ""
    """Attack family, question, principle ... the thing the number is about."""
    value: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    n: int = Field(ge=0)
    method: str
    """How the interval was made: ``wilson``, ``cluster-t`` ..."""


class Unmeasured(Record):
    """A number that does not exist, or was not measured, and why. Never nan, never a stand-in."""

    name: NonEmpty
    group: str = ""
    value: None = None
    n: int = Field(default=0, ge=0)
    reason: NonEmpty


class Usage(Record):
    """What judging cost."""

    asked: int = 0
    skipped: int = 0
    """Not asked because the answer could not change the requested result."""
    irrelevant: int = 0
    """Not asked because the dimension or principle does not apply to the prompt."""
    cached: int = 0
    """Taken from the verdict store or from an identical text."""
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    """Seconds of all calls together; ``busy / seconds`` is the mean number of calls under way."""


class Expense(Record):
    """One line of a run's account: what one judge answered to one question, summed over texts."""

    judge: str
    """Fingerprint of the judge, or name of the model that was asked."""
    question_id: Slug
    answer: NonEmpty
    """A label, another outcome, ``cached`` (known before) or ``irrelevant`` (no matter of this prompt): not asked."""
    count: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """Time of the calls, which may have been under way together."""


class PricedJudge(Record):
    """What the tokens of a judge cost, as the run was told."""

    judge: str
    """Fingerprint of the judge."""
    price: Price | None


class EvalResult(Record):
    """What an evaluation of one model printed."""

    label: NonEmpty
    """Short name of the model: ``starter``, ``think-sft``, ``qa-lign`` ..."""
    model: str
    suite: str
    judge: str
    protocol: str
    seeds: tuple[int, ...]
    trials: int
    estimates: tuple[Estimate, ...]
    seconds: float
    limit: int | None = None
    """Only the first items of the suite, as many as this; None: all."""
    reasons: dict[str, str] = Field(default_factory=dict)
    """Why answers have no value, by standing: what the first of each said."""
