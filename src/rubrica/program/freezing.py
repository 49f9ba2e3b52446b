"""A frozen program carries the hashes of what was agreed on, and is refused when its content no longer fits them."""

import re

from rubrica.core.base import Record, Slug
from rubrica.core.config import content_hash, dump_yaml
from rubrica.core.programs import Constitution, Program

KEY = "frozen"
"""The block of a program's file that freezes it."""

_CANNOT_GO_ON = re.compile(r"^(?:\{|---|\.\.\.|%)", re.MULTILINE)
"""A mapping in braces, or marks of documents: a block behind them would be no part of the mapping."""


class Frozen(Record):
    """What a program was when it was frozen."""

    program: str
    """Hash of the whole program: questions, ids, clauses, tree and pooling."""
    constitution: str | None = None
    """Hash of the constitution, where it was found."""
    at: str = ""
    """Day, as YYYY-MM-DD."""
    by: str = ""
    questions: dict[Slug, str]
    """Hash of each question by id."""


def constitution_hash(constitution: Constitution) -> str:
    """Identity of a constitution; what is written at its default changes nothing."""
    return content_hash(constitution.model_dump(mode="json", exclude_defaults=True))


def broken_by(frozen: Frozen, now: Frozen) -> tuple[str, str] | None:
    """Return (id, what happened) of the first thing that differs; an empty id stands for the whole, None for nothing."""
    for id, digest in now.questions.items():
        if id not in frozen.questions:
            return id, f"question {id!r} was added"
        if frozen.questions[id] != digest:
            return id, f"question {id!r} was changed"
    if gone := [id for id in frozen.questions if id not in now.questions]:
        return "", f"question {gone[0]!r} was removed"
    if frozen.program != now.program:
        return "", "its ids, clauses, titles, tree or pooling were changed"
    if frozen.constitution and now.constitution and frozen.constitution != now.constitution:
        return "", "its constitution was changed"
    return None


def with_block(text: str, program: Program, frozen: Frozen) -> str:
    """Return the text of the program's file with the block at its end; a form that cannot go on is written anew."""
    if _CANNOT_GO_ON.search(text):
        text = dump_yaml(program.model_dump(mode="json", exclude_defaults=True))
    block = dump_yaml({KEY: frozen.model_dump(mode="json", exclude_defaults=True)})
    return f"{text.rstrip()}\n{block}"
