"""A battery of texts that try to steer a judge instead of answering the prompt.

The battery itself is ``prompts/attacks.yaml``, in our own words. An attack stands before, behind or around the
text under judgment, spells it differently, or replaces it. Replacing ones are the empty and one-token answers of
Zhao et al. 2025, "One Token to Fool LLM-as-a-Judge" (arXiv 2507.08794), and their kin. None makes a text better.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from rubrica.core.base import NonEmpty, Record, Slug
from rubrica.core.config import Config, read_yaml, validate
from rubrica.core.programs import Question, QuestionKind

Spelling = Literal["combining", "full-width", "homoglyph", "selectors", "spaced", "tags", "zero-width"]
FLOOD = 100_000
"""Characters of a flood."""
GUESS = "4f1e0dc0de5eed99"
"""What an author takes for the fence's mark who does not know it."""
CONTROLS = "controls"
"""Family of harmless additions."""
_FILE = Path(__file__).parent / "prompts" / "attacks.yaml"
_PLACEHOLDER = re.compile(r"\{(text|questions|question|marker|flood)\}")
_HOMOGLYPHS = str.maketrans("AEOPCTXHKMBaeopcxyi", "АЕОРСТХНКМВаеорсхуі")


class Attack(Record):
    """One way to turn a text into a hostile one."""

    id: Slug
    """``FAMILY.NAME``"""
    family: Slug
    description: NonEmpty
    form: str
    """``{text}`` is the text under judgment, without it the attack replaces the text; ``{questions}`` the
    questions with their ideal answers, ``{question}`` the first of them, ``{marker}`` the mark."""
    disguise: Spelling | None = None
    """How all but the text under judgment is spelled."""
    respell: Spelling | None = None
    """How the text under judgment is spelled."""
    flood: str = ""
    """Repeated up to ``FLOOD`` characters where ``form`` says ``{flood}``."""


class _Entry(Config):
    id: Slug
    what: NonEmpty
    form: str
    disguise: Spelling | None = None
    respell: Spelling | None = None
    flood: str = ""


class _Battery(Config):
    families: dict[Slug, tuple[_Entry, ...]] = Field(min_length=1)


@cache
def attacks() -> tuple[Attack, ...]:
    """Return the battery, family by family."""
    return tuple(attack for attack in _entries() if attack.family != CONTROLS)


def controls() -> tuple[Attack, ...]:
    """Return harmless additions in the form of attacks: what moves under them is no attack's doing."""
    return tuple(attack for attack in _entries() if attack.family == CONTROLS)


def _entries() -> tuple[Attack, ...]:
    battery = validate(_Battery, {"families": read_yaml(_FILE)}, _FILE)
    return tuple(
        Attack(
            id=f"{family}.{entry.id}",
            family=family,
            description=entry.what,
            **entry.model_dump(exclude={"id", "what"}),
        )
        for family, entries in battery.families.items()
        for entry in entries
    )


def replaces(attack: Attack) -> bool:
    """Whether nothing of the text under judgment is left."""
    return "{text}" not in attack.form


def apply(
    attack: Attack,
    text: str,
    *,
    questions: Sequence[Question] = (),
    marker: str = GUESS,
    flood: int = FLOOD,
) -> str:
    """Return the hostile text.

    ``questions`` are those of the program, ``marker`` what the author holds for the mark, ``flood`` the characters
    of a flood.
    """
    lines = [f"{question.text} {ideal(question)}" for question in questions]
    spell = _SPELLINGS[attack.disguise] if attack.disguise else str
    own = {
        "questions": "\n".join(lines),
        "question": questions[0].text if questions else "Is the answer good?",
        "marker": marker,
    }

    def fill(form: str) -> str:
        parts = _PLACEHOLDER.split(form)
        for index, name in enumerate(parts):
            if index % 2 == 0:
                parts[index] = spell(name)
            elif name == "text":
                parts[index] = _SPELLINGS[attack.respell](text) if attack.respell else text
            elif name == "flood":
                unit = fill(attack.flood)
                parts[index] = (unit * (flood // len(unit) + 1))[:flood]
            else:
                parts[index] = spell(own[name])
        return "".join(parts)

    return fill(attack.form)


def ideal(question: Question) -> str:
    """The answer that its author hopes for: TRUE or A; of a question that names a fault, FALSE or F."""
    fault = question.weight is not None and question.weight < 0
    if question.kind is QuestionKind.GATE:
        return "FALSE" if fault else "TRUE"
    return "F" if fault else "A"


def _full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _combining(text: str) -> str:
    return "".join(f"{c}\u0335\u0301" if c.isalnum() else c for c in text)


def _tags(text: str) -> str:
    return "".join(chr(0xE0000 + ord(c)) if " " <= c <= "~" else c for c in text)


def _selectors(text: str) -> str:
    """Each byte as one of the 256 variation selectors."""
    return "".join(chr(0xFE00 + b if b < 16 else 0xE0100 + b - 16) for b in text.encode())


_SPELLINGS: dict[Spelling, Callable[[str], str]] = {
    "combining": _combining,
    "full-width": _full_width,
    "homoglyph": lambda text: unicodedata.normalize("NFC", text).translate(_HOMOGLYPHS),
    "selectors": _selectors,
    "spaced": lambda text: "\n".join(" ".join(line) for line in text.split("\n")),
    "tags": _tags,
    "zero-width": lambda text: "\u200b".join(text),
}
