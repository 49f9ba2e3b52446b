"""Suspicions about a program that no rule of grammar can settle, as records to read and to count."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Literal

from rubrica.core.base import Record
from rubrica.core.config import key_lines
from rubrica.core.programs import Constitution, Op, Part, Program, Question
from rubrica.program.constitution import clauses
from rubrica.program.labels import is_constraint
from rubrica.program.program import dimensions, locations, problems, questions
from rubrica.program.rules import Refusal
from rubrica.program.similarity import overlap, trigram_overlap
from rubrica.program.wording import (
    claims_absence,
    is_negative,
    leading_words,
    normalized,
    out_of_sight,
    vague_words,
)

Severity = Literal["error", "warning", "info"]
Rule = (
    Refusal
    | Literal[
        "negative",
        "inverted",
        "near-duplicate",
        "vague",
        "leading",
        "long",
        "no-question-mark",
        "protected-hedge",
        "uncovered-clause",
        "no-grade",
        "no-constitution",
        "unanswerable",
        "unbalanced",
    ]
)

MAX_WORDS = 30
"""A question longer than this many words is reported: small judges lose its thread (ours)."""
NEAR_DUPLICATE = 0.7
"""Share of content words in common from which two questions are reported (Jaccard index; ours)."""
SAME_TRIGRAMS = 0.65
"""Share of letter trigrams in common from which they are (Dice index; ours, above all pairs of ``hhh``)."""
UNBALANCED = 3
"""A part with this many times the questions of its median sibling is reported (ours)."""
_FEW = 6
"""Fewer questions than this are never too many."""

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


Closeness = Callable[[list[str]], Mapping[tuple[int, int], float]]
"""Texts -> cosines of the pairs (i, j), i < j, that are close in meaning."""


def lint(
    program: Program,
    constitution: Constitution | None,
    path: Path | None = None,
    close: Closeness | None = None,
) -> list[Finding]:
    """Return the findings on a program, errors first; without ``constitution`` clauses go unchecked.

    With ``path``, the program's file, each names its line. ``close`` finds by embeddings what shares no words.
    """
    asked = [question for _, _, question in questions(program)]
    refused = list(problems(program, constitution))
    suspected = [
        *(finding for question in asked for finding in _wording(question)),
        *_repetitions(asked, close),
        *_gates_only(program),
        *_balance(program, asked),
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


def offers_no_na(text: str) -> bool:
    """True where the question has an answer for every text: it depends on no condition (*if*, *where* ...)."""
    return not _HEDGE.search(text)


def _finding(severity: Severity, rule: Rule, where: str, message: str) -> Finding:
    return Finding(severity=severity, rule=rule, where=where, message=message)


def _wording(question: Question) -> Iterator[Finding]:
    text, where = question.text, question.id
    fault = question.weight is not None and question.weight < 0
    if fault and claims_absence(text):
        message = "a fault (its weight is negative) that TRUE or A would deny; ask whether the fault is there"
        yield _finding("warning", "inverted", where, message)
    if not fault and is_negative(text):
        yield _finding(
            "warning", "negative", where, "the ideal answer seems to be no; ask so that TRUE or A is ideal"
        )
    if words := vague_words(text):
        message = f"vague ({', '.join(words)}); say what a judge can see in the answer"
        yield _finding("warning", "vague", where, message)
    if words := leading_words(text):
        yield _finding("warning", "leading", where, f"suggests its answer ({', '.join(words)})")
    if words := out_of_sight(text):
        message = f"asks about what a judge cannot see in request and answer ({', '.join(words)})"
        yield _finding("info", "unanswerable", where, message)
    if (length := len(text.split())) > MAX_WORDS:
        yield _finding("warning", "long", where, f"{length} words; try {MAX_WORDS} or fewer")
    if not text.rstrip().endswith(("?", "？")):
        yield _finding("warning", "no-question-mark", where, "does not end as a question")
    if question.protected and (hedge := _HEDGE.search(text)):
        message = f"protected, so it offers no NA, yet it depends on a condition ({hedge.group().lower()!r})"
        yield _finding("warning", "protected-hedge", where, message)


def _repetitions(asked: list[Question], close: Closeness | None) -> Iterator[Finding]:
    similar = close([question.text for question in asked]) if close else {}
    for (i, one), (j, two) in combinations(enumerate(asked), 2):
        if normalized(one.text) == normalized(two.text):
            continue
        words, letters = overlap(one.text, two.text), trigram_overlap(one.text, two.text)
        if words >= NEAR_DUPLICATE or letters >= SAME_TRIGRAMS:
            message = (
                f"shares {words:.0%} of its content words, {letters:.0%} of their letters, with {one.id!r}"
            )
            yield _finding("warning", "near-duplicate", two.id, message)
        elif (i, j) in similar:
            message = f"close in meaning to {one.id!r} (embeddings, cosine {similar[i, j]:.2f})"
            yield _finding("warning", "near-duplicate", two.id, message)


def _gates_only(program: Program) -> Iterator[Finding]:
    for _, dimension in dimensions(program):
        if dimension.questions and all(map(is_constraint, dimension.questions)):
            yield _finding(
                "info",
                "no-grade",
                dimension.id,
                "gates only: where they hold, no grade tells good from better",
            )


def _balance(program: Program, asked: list[Question]) -> Iterator[Finding]:
    """Parts whose number of questions or weight drowns that of their siblings."""
    sizes = {p.id: sum(len(d.questions) for d in p.dimensions) for p in program.principles}
    yield from _too_many("principle", sizes)
    yield from _too_many("dimension", {d.id: len(d.questions) for _, d in dimensions(program)})
    yield from _too_many("clause", Counter(question.clause for question in asked))
    groups: list[tuple[str, Op, Sequence[Part]]] = [("principle", program.pool, program.principles)]
    groups += [("dimension", p.pool, p.dimensions) for p in program.principles]
    for kind, pooled, parts in groups:
        weights = {part.id: part.weight or 1.0 for part in parts}
        total = sum(weights.values())
        for id, weight in weights.items():
            if pooled == "weighted" and len(parts) > 2 and 2 * weight > total:
                message = f"weighs {weight / total:.0%} of all: more than the other {kind}s together"
                yield _finding("info", "unbalanced", id, message)


def _too_many(kind: str, sizes: Mapping[str, int]) -> Iterator[Finding]:
    for id, size in sizes.items():
        others = [number for other, number in sizes.items() if other != id]
        middle = median(others) if others else size
        if size >= _FEW and size >= UNBALANCED * middle:
            message = f"{size} questions, where the median of the other {kind}s is {middle:g}"
            yield _finding("info", "unbalanced", id, message)


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
