"""Suspicions about a program that no rule of grammar can settle, as records to read and to count."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Literal

from rubrica.core.config import key_lines
from rubrica.core.records import Constitution, Program, Question, QuestionKind, Record
from rubrica.program.constitution import clauses
from rubrica.program.program import dimensions, locations, problems, questions
from rubrica.program.rules import Refusal
from rubrica.program.wording import is_negative, leading_words, normalized, vague_words

Severity = Literal["error", "warning", "info"]
Rule = (
    Refusal
    | Literal[
        "negative",
        "near-duplicate",
        "vague",
        "leading",
        "long",
        "no-question-mark",
        "protected-hedge",
        "uncovered-clause",
        "no-grade",
        "no-constitution",
    ]
)

MAX_WORDS = 30
"""A question longer than this many words is reported: small judges lose its thread (ours)."""
NEAR_DUPLICATE = 0.7
"""Share of content words in common from which two questions are reported (Jaccard index; ours)."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_STOP = frozenset(
    _WORD.findall(
        "a an and are as at be been by can could did do does for from had has have how in is it its of on or so "
        "than that the their them they this those to was well were what when where which who will with would "
        "answer response reply text"
    )
)
_HEDGE = re.compile(r"\b(?:if|where|when|whenever|in case)\b", re.IGNORECASE)


class Finding(Record):
    """One suspicion. Errors are what loading refuses; warnings deserve an edit; infos are for the eye."""

    severity: Severity
    rule: Rule
    where: str
    """Id of the question, dimension, principle or clause."""
    message: str
    line: int | None = None
    """Line of the program's file, where it is known."""


def lint(program: Program, constitution: Constitution | None, path: Path | None = None) -> list[Finding]:
    """Return the findings on a program, errors first; without ``constitution`` clauses go unchecked.

    With ``path``, the program's file, each names its line.
    """
    asked = [question for _, _, question in questions(program)]
    refused = list(problems(program, constitution))
    suspected = [
        *(finding for question in asked for finding in _wording(question)),
        *_repetitions(asked),
        *_gates_only(program),
        *_coverage(program, asked, constitution),
    ]
    found = [_finding("error", p.rule, p.where, p.message) for p in refused]
    order: dict[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    found += sorted(suspected, key=lambda finding: order[finding.severity])
    if path is None:
        return found
    places = locations(program)
    locs = [p.loc for p in refused] + [places.get(f.where, []) for f in found[len(refused) :]]
    lines = key_lines(path, locs)
    return [f.model_copy(update={"line": line}) for f, line in zip(found, lines, strict=True)]


@cache
def content_words(text: str) -> frozenset[str]:
    """The words of a question that carry its meaning, lower case."""
    return frozenset(word for word in _WORD.findall(text.lower()) if word not in _STOP)


def offers_no_na(text: str) -> bool:
    """True where the question has an answer for every text: it depends on no condition (*if*, *where* ...)."""
    return not _HEDGE.search(text)


def overlap(one: str, two: str) -> float:
    """Jaccard index of the content words of two questions, in [0, 1]."""
    left, right = content_words(one), content_words(two)
    return len(left & right) / len(left | right) if left | right else 0.0


def _finding(severity: Severity, rule: Rule, where: str, message: str) -> Finding:
    return Finding(severity=severity, rule=rule, where=where, message=message)


def _wording(question: Question) -> Iterator[Finding]:
    text, where = question.text, question.id
    if is_negative(text):
        yield _finding(
            "warning", "negative", where, "the ideal answer seems to be no; ask so that TRUE or A is ideal"
        )
    if words := vague_words(text):
        message = f"vague ({', '.join(words)}); say what a judge can see in the answer"
        yield _finding("warning", "vague", where, message)
    if words := leading_words(text):
        yield _finding("warning", "leading", where, f"suggests its answer ({', '.join(words)})")
    if (length := len(text.split())) > MAX_WORDS:
        yield _finding("warning", "long", where, f"{length} words; try {MAX_WORDS} or fewer")
    if not text.rstrip().endswith(("?", "？")):
        yield _finding("warning", "no-question-mark", where, "does not end as a question")
    if question.protected and (hedge := _HEDGE.search(text)):
        message = f"protected, so it offers no NA, yet it depends on a condition ({hedge.group().lower()!r})"
        yield _finding("warning", "protected-hedge", where, message)


def _repetitions(asked: list[Question]) -> Iterator[Finding]:
    for one, two in combinations(asked, 2):
        if normalized(one.text) == normalized(two.text):
            continue
        if (share := overlap(one.text, two.text)) >= NEAR_DUPLICATE:
            message = f"shares {share:.0%} of its content words with {one.id!r}"
            yield _finding("warning", "near-duplicate", two.id, message)


def _gates_only(program: Program) -> Iterator[Finding]:
    for _, dimension in dimensions(program):
        if all(question.kind is QuestionKind.GATE for question in dimension.questions):
            yield _finding(
                "info",
                "no-grade",
                dimension.id,
                "gates only: where they hold, no grade tells good from better",
            )


def _coverage(
    program: Program, asked: list[Question], constitution: Constitution | None
) -> Iterator[Finding]:
    if constitution is None:
        message = (
            f"constitution {program.constitution!r} was not found beside the program; clauses not checked"
        )
        yield _finding("info", "no-constitution", program.name, message)
        return
    served = {question.clause for question in asked}
    for _, clause in clauses(constitution):
        if clause.id not in served:
            yield _finding("warning", "uncovered-clause", clause.id, "no question asks about it")
