"""Fitting a cascade's thresholds on labelled answers, and measuring it on texts that were not used for that."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rubrica.core.config import content_hash
from rubrica.core.errors import UsageError
from rubrica.core.ports import Judge
from rubrica.core.programs import Program, Question, QuestionKind
from rubrica.core.records import Estimate, Label, Query, Verdict
from rubrica.core.stats import wilson
from rubrica.core.store import Store
from rubrica.judges.asking import PATIENCE, Asker
from rubrica.judges.escalation import EXPENSIVE, Answer, Thresholds, certainty, fewest, fit_threshold
from rubrica.program.program import questions
from rubrica.recipes.passport_input import Given

OWN = 4
"""A question gets a threshold of its own from this many times the fewest answers on."""


class _Row(NamedTuple):
    """One question about one text: what both judges said, and the right label."""

    text: str
    question: Question
    cheap: Verdict
    expensive: Verdict
    right: Label

    @property
    def answer(self) -> Answer:
        return certainty(self.cheap), self.cheap.label is self.right


def fit_cascade(
    cheap: Judge,
    expensive: Judge,
    store: Store,
    given: Given,
    *,
    program: Program,
    target: float,
    level: float = 0.95,
    progress: Callable[[int, int], None] | None = None,
) -> Thresholds:
    """Ask both judges everything about the texts, fit on one half of the texts and measure on the other.

    What the store knows is not asked again. Raises ``UsageError`` where there are too few labels for the target,
    or the cheap judge gives no probabilities; ``JudgeError`` where a judge fails from the start.
    """
    pairs = [(text, question) for text in given.texts for _, _, question in questions(program)]
    labelled = given.labels.reference is not None or bool(given.labels.ratings)
    known = given.labels.of(pairs)
    _check_enough(
        [
            (text.id, question)
            for (text, question), right in zip(pairs, known, strict=True)
            if right is not None or not labelled
        ],
        target,
        level,
    )
    queries = [Query(prompt=text.prompt, text=text.text, question=question) for text, question in pairs]
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, 2 * len(queries))

    said = [
        Asker(judge, store, progress=step).ask(queries, patience=PATIENCE) for judge in (cheap, expensive)
    ]
    rights = known if labelled else [verdict.label for verdict in said[1]]
    rows = [
        _Row(text.id, question, a, b, right)
        for (text, question), a, b, right in zip(pairs, *said, rights, strict=True)
        if right is not None
    ]
    if not any(row.answer[0] for row in rows):
        raise UsageError(
            f"judge {cheap.fingerprint}: gives no probabilities, so nothing tells where it is unsure; use one in mode label"
        )
    fitting, held_out = ([row for row in rows if _half(row.text) == side] for side in (0, 1))
    thresholds = Thresholds(
        cheap=cheap.fingerprint,
        expensive=expensive.fingerprint,
        target=target,
        level=level,
        against=given.labels.source if labelled else EXPENSIVE,
        kinds={kind: _fit_kind(fitting, kind, target, level) for kind in {row.question.kind for row in rows}},
        questions=_fit_questions(fitting, target, level),
    )
    return thresholds.model_copy(update={"estimates": tuple(_measure(held_out, thresholds))})


def _half(text: str) -> int:
    return int(content_hash(["cascade", text]), 16) % 2


def _check_enough(asked: Sequence[tuple[str, Question]], target: float, level: float) -> None:
    """Refuse too few labels before anything is asked; how many get a probability is known only afterwards."""
    for kind in sorted({question.kind for _, question in asked}):
        _check_count(
            sum(question.kind is kind for text, question in asked if not _half(text)), kind, target, level
        )


def _check_count(count: int, kind: QuestionKind, target: float, level: float) -> None:
    least = fewest(target, level)
    if count < least:
        raise UsageError(
            f"cascade: {count} labelled answers to {kind} questions for fitting; a target of {target:g} "
            f"with confidence {level:g} needs at least {least}: give more labels, or lower --target-agreement"
        )


def _fit_kind(rows: Sequence[_Row], kind: QuestionKind, target: float, level: float) -> float:
    answers = [row.answer for row in rows if row.question.kind is kind and row.answer[0] > 0]
    _check_count(len(answers), kind, target, level)
    return fit_threshold(answers, target=target, level=level)


def _fit_questions(rows: Sequence[_Row], target: float, level: float) -> dict[str, float]:
    by_question: dict[str, list[Answer]] = {}
    for row in rows:
        if row.answer[0] > 0:
            by_question.setdefault(row.question.id, []).append(row.answer)
    least = OWN * fewest(target, level)
    return {
        id: fit_threshold(answers, target=target, level=level)
        for id, answers in by_question.items()
        if len(answers) >= least
    }


def _measure(rows: Sequence[_Row], thresholds: Thresholds) -> list[Estimate]:
    found: list[Estimate] = []
    groups = [("", list(rows))]
    groups += [(str(kind), [r for r in rows if r.question.kind is kind]) for kind in sorted(thresholds.kinds)]
    for group, members in groups:
        kept = [r for r in members if r.answer[0] >= thresholds.of(r.question)]
        ids = {id(row) for row in kept}
        counts = [("escalated", len(members) - len(kept), len(members))]
        for name, rows_, said in (
            ("kept answers that agree", kept, [r.cheap for r in kept]),
            ("cascade agrees", members, [r.cheap if id(r) in ids else r.expensive for r in members]),
            ("cheap agrees", members, [r.cheap for r in members]),
            ("expensive agrees", members, [r.expensive for r in members]),
        ):
            agrees = [v.label is r.right for r, v in zip(rows_, said, strict=True) if v.label is not None]
            counts.append((name, sum(agrees), len(agrees)))  # no answer is no disagreement
        found += [wilson(k, n, name=name, group=group) for name, k, n in counts if n]
    return found
