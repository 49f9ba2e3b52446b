"""Where the scores of a data map come from: a judge, a reward model, nearness to a reference, a column, or the labels.

Every score lies in the store as soon as it is there, so that the same command goes on after an interruption, and asks
nothing when only the region or the pairs are chosen otherwise. What cannot be scored has no score and a reason.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import FiniteFloat

from rubrica.core.answers import RATINGS, Answers
from rubrica.core.base import Record
from rubrica.core.config import Json, content_hash
from rubrica.core.data import load_texts
from rubrica.core.errors import ModelError, UsageError, nearest
from rubrica.core.ports import Generator, Judge, RewardModel, thresholds_of
from rubrica.core.programs import Program, QuestionKind
from rubrica.core.records import Outcome, Sampling, Scorecard, Usage
from rubrica.core.store import Store
from rubrica.judges.executor import Executor
from rubrica.judges.factory import JudgeConfig, server_of
from rubrica.judges.keys import text_hash
from rubrica.judges.reliability import value_of
from rubrica.models.similarity import Measure
from rubrica.program.labels import verdicts_of
from rubrica.program.program import questions
from rubrica.program.reward import RewardConfig
from rubrica.recipes.options import ModelSource
from rubrica.recipes.reward_scores import stored_scores
from rubrica.recipes.sampling import stored_texts
from rubrica.recipes.surroundings import default_surroundings
from rubrica.recipes.writer import server_writer

Kind = Literal["judge", "grades", "reward", "reference", "labels", "column"]
KINDS: tuple[Kind, ...] = ("judge", "grades", "reward", "reference", "labels", "column")
REFERENCE_TOKENS = 512
"""Longest reference that a model writes (own)."""
CHUNK = 256
"""Scores between two commits."""
_BROKEN = (Outcome.FAILED, Outcome.UNPARSEABLE, Outcome.ABSTAINED)
Progress = Callable[[int, int], None]


class Spec(NamedTuple):
    """``KIND`` or ``KIND:NAME``."""

    kind: Kind
    name: str
    """A model, or a column."""


class Scores(NamedTuple):
    """Scores of all answers of all prompts, in their order; None where there is none."""

    values: list[tuple[float | None, ...]]
    usage: Usage | None = None
    """What the judge cost."""
    reasons: tuple[str, ...] = ()
    """Why scores are missing, the most common reason first."""


class Score(Record):
    """One score in the store."""

    value: FiniteFloat


def read_scorer(text: str) -> Spec:
    """Read a scorer's spec; ``UsageError`` names the nearest kind, and what a kind needs."""
    given, _, name = text.partition(":")
    kind = next((known for known in KINDS if known == given), None)
    if kind is None:
        raise UsageError(f"--scorer: got {text!r}{nearest(given, KINDS)}; expected one of {', '.join(KINDS)}")
    if kind == "column" and not name:
        raise UsageError("--scorer column: needs the name of the field that holds the scores, column:NAME")
    if kind == "reward" and not name:
        raise UsageError(
            "--scorer reward: needs a model: reward:FOLDER, reward:OWNER/NAME, reward:vllm:MODEL@URL, or a YAML file with options"
        )
    if name and kind not in ("reward", "reference", "column"):
        raise UsageError(f"--scorer {kind}: takes no name, got {name!r}")
    return Spec(kind, name)


def judge_scores(
    given: Sequence[Answers],
    judge: Judge,
    store: Store,
    *,
    program: Program,
    grades: bool,
    progress: Progress | None = None,
) -> Scores:
    """Score every answer by the total of its scorecard, or with ``grades`` by the mean of its graded answers.

    A text without a total has no score; one with a graded question left unanswered has no mean. NA does not count.
    ``JudgeError`` as in the executor.
    """
    executor = Executor(
        judge,
        store,
        program=program,
        reward=RewardConfig(),
        thresholds=thresholds_of(judge),
        progress=progress,
    )
    cards = executor.score([(a.prompt, text) for a in given for text in a.texts], full=grades)
    values = [_mean_grade(card, program) if grades else card.total for card in cards]
    lost = (
        verdict.reason or verdict.outcome.value
        for card, value in zip(cards, values, strict=True)
        if value is None
        for verdict in verdicts_of(card).values()
        if verdict.outcome in _BROKEN
    )
    return Scores(_by_prompt(given, values), executor.usage, _common(lost))


def _mean_grade(card: Scorecard, program: Program) -> float | None:
    """Mean of the graded answers, in [-1, 1], expected where the judge gives probabilities; None if one is missing."""
    verdicts = verdicts_of(card)
    values: list[float] = []
    for _, _, question in questions(program):
        verdict = verdicts.get(question.id)
        if question.kind is not QuestionKind.GRADED or verdict is None:
            continue  # a question of a dimension that does not apply was not asked
        if verdict.label is None:
            return None
        if (value := value_of(question, verdict)) is not None:
            values.append(value)
    return math.fsum(values) / len(values) if values else None


def reward_scores(
    given: Sequence[Answers], model: RewardModel, store: Store, progress: Progress = lambda done, total: None
) -> Scores:
    """Score every answer by a reward model; a text that it cannot score has no score. Raises what the model raises."""
    items = [(a.prompt, text) for a in given for text in a.texts]
    found = stored_scores(store, model, items, progress, retries=1)
    values = [score if isinstance(score, float) else None for score in found]
    return Scores(_by_prompt(given, values), None, _common(str(s) for s in found if not isinstance(s, float)))


def reference_scores(
    given: Sequence[Answers],
    references: Sequence[str | None],
    measure: Measure,
    store: Store,
    name: str,
    progress: Progress | None = None,
) -> Scores:
    """Score every answer by its nearness to the prompt's reference; ``name`` identifies the measure in the store."""
    items = [(text, reference) for a, reference in zip(given, references, strict=True) for text in a.texts]
    keys = [None if r is None else content_hash([text, r], length=32) for text, r in items]

    def score(asked: Sequence[int]) -> list[float]:
        return measure([(text, reference or "") for text, reference in (items[i] for i in asked)])

    values = _stored(store, name, keys, score, progress)
    missing = sum(reference is None for reference in references)
    return Scores(_by_prompt(given, values), None, (f"no reference for {missing} prompts",) * bool(missing))


def load_references(path: Path, given: Sequence[Answers]) -> list[str | None]:
    """Return for each prompt the first answer to the same conversation in a file of prompts and responses."""
    known: dict[str, str] = {}
    for text in load_texts(path):
        known.setdefault(text_hash(text.prompt, ""), text.text)
    found = [known.get(text_hash(answers.prompt, "")) for answers in given]
    if not any(found):
        raise UsageError(
            f"--references {path}: answers none of the prompts; expected the same prompts, word for word"
        )
    return found


def write_references(
    given: Sequence[Answers], generator: Generator, store: Store, report: Progress
) -> list[str | None]:
    """Return a strong model's answer to each prompt at temperature 0; what the store holds is not written again."""
    prompts = {text_hash(a.prompt, ""): a.prompt for a in given}
    asked = [prompt.model_copy(update={"id": key}) for key, prompt in prompts.items()]
    sampling = Sampling(temperature=0.0, max_tokens=REFERENCE_TOKENS)
    found = stored_texts(store, generator.name, "reference", generator, asked, sampling, None, report)
    return [found[text_hash(a.prompt, "")].text for a in given]


def open_writer(model: str) -> Generator:
    """Open what writes references: ``openai:MODEL@URL``, a folder, a hub id, ``lab:teacher`` or ``interrupt:FILE``."""
    if server := server_of(model):
        return server_writer(server, JudgeConfig(spec=model))
    from rubrica.recipes.models import open_source  # torch, only where it is used

    return open_source(ModelSource(model=model), default_surroundings(), dtype="auto")


def label_scores(given: Sequence[Answers]) -> Scores:
    """Take labels as scores: a map of ratings, or of scores that were made elsewhere.

    ``UsageError`` where there are none, or none but one answer chosen and one rejected: all prompts would lie at one
    point.
    """
    known = {tuple(sorted(label for label in a.labels or () if label is not None)) for a in given}
    if known == {()}:
        raise UsageError(
            f"--scorer labels: no answer has one; expected a field {', '.join(RATINGS)}, or name it with --rating"
        )
    if known == {(0.0, 1.0)}:
        raise UsageError(
            "--scorer labels: one answer is chosen and one rejected, and no more is said, so all prompts would lie at one "
            "point; expected a field of ratings, or column:NAME, or another scorer"
        )
    return Scores([a.labels or (None,) * len(a.texts) for a in given], None, ("the file has none",))


def text_keys(given: Sequence[Answers]) -> list[str]:
    """Return a key for each answer in answer to its prompt."""
    return [text_hash(a.prompt, text) for a in given for text in a.texts]


def _stored(
    store: Store,
    name: str,
    keys: Sequence[str | None],
    score: Callable[[Sequence[int]], Sequence[float]],
    progress: Progress | None,
) -> list[float | None]:
    """Return the score of every key; what the store does not hold under ``name`` is computed in chunks and kept."""
    found: dict[str, float] = {}
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if key is not None and key not in found and key not in first:
            if (known := store.get("score", key, Score, stage=name)) is not None:
                found[key] = known.value
            else:
                first[key] = i
    missing, total = list(first.items()), len(found) + len(first)
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        with store.batch():
            for (key, _), value in zip(part, score([i for _, i in part]), strict=True):
                if not math.isfinite(value):
                    raise ModelError(f"scorer {name}: gave a score that is not finite; use another one")
                found[key] = value
                store.put("score", key, Score(value=value), stage=name)
        if progress is not None:
            progress(len(found), total)
    return [None if key is None else found[key] for key in keys]


def _by_prompt(given: Sequence[Answers], values: Sequence[float | None]) -> list[tuple[float | None, ...]]:
    left = iter(values)
    return [tuple(next(left) for _ in answers.texts) for answers in given]


def _common(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{count} answers: {reason}" for reason, count in Counter(reasons).most_common(3))


def cohort(given: Sequence[Answers]) -> str:
    """Return a hash of all prompts and answers: regions are ranks within it."""
    said: Json = list(text_keys(given))
    return content_hash(said)
