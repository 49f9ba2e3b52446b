"""On which prompts a dimension or principle applies: by tags without a call, or by one question about the prompt.

What a judge did not answer is unknown, never guessed.
"""

from collections.abc import Iterator, Mapping
from functools import cache

from rubrica.core.config import content_hash
from rubrica.core.programs import Part, Program, Question, QuestionKind, When
from rubrica.core.records import Label, Verdict

PREFIX = "when."
"""Begins the id of every question about a prompt alone."""


@cache
def relevance_question(text: str) -> Question:
    """Return the gate that ``when.ask`` puts to the judge, with the empty text in place of an answer.

    It is protected, so TRUE and FALSE are all that it offers: whether a prompt is of some kind always has an answer.
    """
    id = PREFIX + content_hash(text, length=12)
    return Question(id=id, kind=QuestionKind.GATE, text=text, clause="when", protected=True)


def relevance_questions(program: Program) -> list[Question]:
    """Every distinct question about prompts that ``program`` asks, in order."""
    texts = [part.when.ask for part in _parts(program) if part.when is not None and part.when.ask is not None]
    return [relevance_question(text) for text in dict.fromkeys(texts)]


def shared_asks(program: Program) -> list[str]:
    """Ids of the questions about prompts on which more than one dimension or principle depends."""
    ids = [relevance_question(p.when.ask).id for p in _parts(program) if p.when and p.when.ask]
    return [id for id in dict.fromkeys(ids) if ids.count(id) > 1]


def tag_names(program: Program) -> tuple[str, ...]:
    """Names of the tags of prompts on which some part of ``program`` depends, sorted."""
    return tuple(sorted({name for part in _parts(program) if part.when for name in part.when.tags}))


def applies(
    when: When, tags: Mapping[str, str] | None, verdicts: Mapping[str, Verdict], known: Mapping[str, bool]
) -> bool | None:
    """Tell whether a part with this condition applies; None if unknown.

    ``tags`` are the prompt's, None where the prompt is not at hand; ``known`` overrules the verdicts, by id.
    """
    tagged: bool | None = True
    if when.tags:
        tagged = None if tags is None else all(tags.get(n, "") in values for n, values in when.tags.items())
    if when.ask is None or tagged is False:
        return tagged
    id = relevance_question(when.ask).id
    said = known.get(id, answer(verdicts.get(id)))
    return said if tagged or said is False else None


def answer(verdict: Verdict | None) -> bool | None:
    """Return what a verdict on a question about a prompt says; None if nothing."""
    label = None if verdict is None else verdict.label
    return label is Label.TRUE if label in (Label.TRUE, Label.FALSE) else None


def _parts(program: Program) -> Iterator[Part]:
    for principle in program.principles:
        yield principle
        yield from principle.dimensions
