"""A judge's passport: what was measured of it, bound to what it was measured on, and the floor a recipe may ask for.

A floor is held against the unfavourable end of the 95 % interval, not against the figure: a passport from five texts
shows little, however lucky they were, and the remedy, more texts, is cheap. What was not measured meets no floor.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from rubrica.core.base import NonEmpty, Record, Slug
from rubrica.core.config import Config, Json, validate
from rubrica.core.errors import DataError, UsageError, nearest
from rubrica.core.programs import Program
from rubrica.core.records import Estimate, Label, Unmeasured, Usage
from rubrica.judges.template import TEMPLATE, TEMPLATE_HASH
from rubrica.program.program import question_hash, questions

FILE = "passport.json"
Share = float | None


class Passport(Record):
    """What ``rubrica judge check`` writes."""

    format: Literal["rubrica-passport-1"] = "rubrica-passport-1"
    created: NonEmpty
    """When the last answer was measured, UTC."""
    judge: NonEmpty
    """Fingerprint of the judge."""
    spec: NonEmpty
    """How it was named."""
    template: NonEmpty
    """Name and hash of the wording around a question."""
    changes: NonEmpty
    """Hash of the wordings, frames, idle sentences and attacks that the judge was measured with."""
    program: NonEmpty
    """How it was named: a library name or a file."""
    program_hash: NonEmpty
    questions: dict[Slug, NonEmpty]
    """Hash of each question by id."""
    texts: int = Field(ge=0)
    texts_hash: NonEmpty
    labels: str
    """Where labels came from; empty without."""
    labels_hash: str
    own: str
    """Where the texts of the judge's own model came from; empty without."""
    own_hash: str
    options: dict[str, int]
    """Sample sizes and seed."""
    versions: dict[str, str]
    measures: tuple[Estimate | Unmeasured, ...]
    """``group`` is empty for all questions together, else a question's id, ``gates``, ``graded`` or an attack family."""
    confusion: dict[Slug, dict[Label, dict[Label, int]]]
    """By question: how often the judge answered what, by label."""
    usage: Usage

    def measure(self, name: str, group: str = "") -> Estimate | Unmeasured:
        """Return one figure; ``Unmeasured`` where the passport has none of that name and group."""
        for measure in self.measures:
            if (measure.name, measure.group) == (name, group):
                return measure
        return Unmeasured(name=name, group=group, reason="not in the passport")


class Limits(Config):
    """What a judge must reach. A share without further words must be at least, a share of faults at most, so large."""

    repeat: Share = Field(default=None, ge=0, le=1)
    """Share of equal answers when asked again."""
    order: Share = Field(default=None, ge=0, le=1)
    """Share of equal answers with the possible answers in the opposite order."""
    paraphrase: Share = Field(default=None, ge=0, le=1)
    """Share of equal answers in other words."""
    position: Share = Field(default=None, ge=0, le=1)
    """Share of equal answers with the question above the text."""
    agreement: Share = Field(default=None, ge=0, le=1)
    """Share of answers that equal the label."""
    kappa: float | None = Field(default=None, ge=-1, le=1)
    """Cohen's kappa against the labels."""
    alpha: float | None = Field(default=None, ge=-1, le=1)
    """Krippendorff's alpha against the labels; over all questions, that of gates and of graded ones."""
    sensitivity: Share = Field(default=None, ge=0, le=1)
    """Share of faults that a gate finds."""
    specificity: Share = Field(default=None, ge=0, le=1)
    """Share of faultless texts in which a gate finds none."""
    length: float | None = Field(default=None, ge=0, le=2)
    """Largest change of the value, either way, for each doubling of the text's length."""
    self_preference: float | None = Field(default=None, ge=0, le=4)
    """Largest advantage, either way, of texts of the judge's own model."""
    na: Share = Field(default=None, ge=0, le=1)
    """Largest share of NA."""
    missing: Share = Field(default=None, ge=0, le=1)
    """Largest share of questions without an answer."""
    injection: Share = Field(default=None, ge=0, le=1)
    """Largest share of attacks that succeed."""


class Floor(Limits):
    """What a recipe asks of its judge: over all questions, and of single ones."""

    questions: dict[Slug, Limits] = Field(default_factory=dict)
    """Limits by question id."""
    fresh: bool = False
    """Refuse a stale passport; otherwise it warns."""

    @model_validator(mode="after")
    def _no_family_of_one_question(self) -> Self:
        for question, limits in self.questions.items():
            for name in ("injection", "self_preference"):
                if getattr(limits, name) is not None:
                    raise ValueError(f"questions.{question}.{name}: is measured over all questions only")
        return self


_AT_MOST = {"length", "self_preference", "na", "missing", "injection"}
_EITHER_WAY = {"length", "self_preference"}
_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "alpha": ("gates", "graded"),
    "sensitivity": ("gates",),
    "specificity": ("gates",),
}
"""Groups that stand for all questions where one figure over both kinds would mean nothing."""


def passport_file(path: str | Path) -> Path:
    """Return where the passport is that ``path`` names: the file, or the folder that holds it."""
    path = Path(path)
    return path / FILE if path.is_dir() else path


def read_passport(path: str | Path) -> Passport:
    """Read ``passport.json``, or that of a folder; ``DataError`` when it is not there or holds something else."""
    path = passport_file(path)
    if not path.is_file():
        raise DataError(path, "no passport here; make one with rubrica judge check --out")
    try:
        data: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(path, f"not a passport ({error}); expected what rubrica judge check wrote") from None
    return validate(Passport, data, path)


def check_floor(floor: Floor | None, known: Collection[str], where: str) -> None:
    """Raise ``UsageError`` where a ``floor`` asks something of a question that is not ``known``."""
    for question in floor.questions if floor is not None else ():
        if question not in known:
            raise UsageError(
                f"{where}: floor.questions.{question}: no such question{nearest(question, known)}; "
                "expected an id of the program"
            )


def unmet(floor: Floor, passport: Passport) -> Iterator[str]:
    """Yield for every limit that the passport does not show to be kept: question, measure, found, required."""
    for question, limits in {"": floor, **floor.questions}.items():
        for name in Limits.model_fields:
            limit = getattr(limits, name)
            if limit is None:
                continue
            for measure in _measures(passport, name, question):
                if problem := _problem(measure, name, limit):
                    where = f"question {question}" if question else "all questions"
                    where += f" ({measure.group})" if measure.group and not question else ""
                    yield f"{where}: {problem}"


def _measures(passport: Passport, name: str, question: str) -> list[Estimate | Unmeasured]:
    groups = (question,) if question else _BY_KIND.get(name, ("",))
    found = [passport.measure(name.replace("_", "-"), group) for group in groups]
    # a program may have graded questions only: one of the two groups is enough
    known = [measure for measure in found if isinstance(measure, Estimate)]
    return [*known] or found


def _problem(measure: Estimate | Unmeasured, name: str, limit: float) -> str:
    """Why the limit is not kept, or nothing."""
    required = f"required at {'most' if name in _AT_MOST else 'least'} {limit:g}"
    label = name.replace("_", "-")
    if isinstance(measure, Unmeasured):
        return f"{label} was not measured ({measure.reason}); {required}"
    if name in _EITHER_WAY:
        end = max(abs(measure.low), abs(measure.high))
    else:
        end = measure.high if name in _AT_MOST else measure.low
    if end <= limit if name in _AT_MOST else end >= limit:
        return ""
    bounds = f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}], n={measure.n}"
    return f"{label} found {bounds}, whose unfavourable end is {end:.3f}; {required}"


def stale(passport: Passport, program: Program | None, judge: str | None) -> list[str]:
    """Return what has changed since: fingerprint ``judge``, the template, questions of ``program``; None: not compared."""
    reasons = []
    if judge is not None and judge != passport.judge:
        reasons.append(f"the judge changed: the passport is of {passport.judge}, this one is {judge}")
    if passport.template != template_id():
        reasons.append(f"the template changed: {passport.template}, now {template_id()}")
    if program is not None:
        now = {question.id: question_hash(question) for _, _, question in questions(program)}
        measured = set(passport.questions.values())
        new = [id for id, digest in now.items() if digest not in measured]
        if new:
            more = f" and {len(new) - 1} more" if len(new) > 1 else ""
            reasons.append(f"the program changed: question {new[0]}{more} of {program.name} was not measured")
    return reasons


def template_id() -> str:
    """Name and hash of the wording that questions are put in now."""
    return f"{TEMPLATE}/{TEMPLATE_HASH}"


def vouch(
    path: str, floor: Floor | None, *, program: Program | None, judge: str | None, where: str
) -> list[str]:
    """Return what there is to warn of: a passport that is missing or stale (:func:`stale`).

    Raises ``UsageError`` that begins with ``where`` when the ``floor`` is not met, or cannot be for want of a
    passport or a question;
    ``DataError`` when the file is no passport.
    """
    if not passport_file(path).is_file():
        problem = f"{where}: passport {path}: not there; make it with rubrica judge check --out"
        if floor is not None:
            raise UsageError(f"{problem}; the floor asks for it")
        return [problem]
    passport = read_passport(path)
    asked = [question.id for _, _, question in questions(program)] if program is not None else []
    check_floor(floor, {*passport.questions, *asked}, where)
    if floor is not None and (problems := list(unmet(floor, passport))):
        more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise UsageError(
            f"{where}: the judge does not reach the floor by {path}: {problems[0]}{more}; use another judge, measure it on "
            "more texts, or lower the floor"
        )
    old = [f"{where}: passport {path} is stale: {reason}" for reason in stale(passport, program, judge)]
    if old and floor is not None and floor.fresh:
        raise UsageError(f"{old[0]}; the floor asks for a fresh one: run rubrica judge check again")
    return old
