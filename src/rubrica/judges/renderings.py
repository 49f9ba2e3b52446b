"""Can an attack be taken for anything but the text that it is in? Read what a judge is shown with other eyes.

An attack is put where others' text stands: the answer, the prompt, each earlier turn, the question. The message
is then compared with the same message around calm text, by readers who know nothing of how texts are neutralised:
one who splits lines at every character that may end one, one who looks for the mark, one who looks for what
nobody sees, and chat formats of common families, exact and behind a compatibility normalizer, which look for
their control tokens and turns. Whatever they find more than in the calm message is a confusion.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field

from rubrica.core.base import Record, Slug
from rubrica.core.config import Config, read_yaml, validate
from rubrica.core.programs import Question, QuestionKind
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Query, Wording
from rubrica.judges.attacks import Attack, apply, attacks
from rubrica.judges.template import chat_messages, fence_marker

Place = Literal["answer", "prompt", "system-turn", "user-turn", "assistant-turn", "question"]
PLACES: tuple[Place, ...] = ("answer", "prompt", "system-turn", "user-turn", "assistant-turn", "question")
BASES = ("Fine.", "", "One\r\ntwo\n", "<", "می‌خواهم ²")
"""Texts that the attacks are applied to."""
CALM = "calm"
_FLOOD = 1_000
_FILE = Path(__file__).parent / "prompts" / "chat-families.yaml"
_ENDS = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_QUESTION = Question(id="q", kind=QuestionKind.GATE, text="Is the answer kind?", clause="c")


class ChatFamily(Config):
    """How a family of chat models writes turns."""

    template: str
    """Jinja template over ``messages``."""
    marks: tuple[str, ...]
    """Control tokens, and words that mark a turn."""
    system: bool = True
    """Whether there is a turn of the system; else its words stand before the user's."""


class _Families(Config):
    families: dict[Slug, ChatFamily] = Field(min_length=1)


class Confusion(Record):
    """One rendering in which an attack may be taken for something else."""

    attack: Slug
    place: Place
    base: str
    reader: str
    """``lines``, ``mark``, ``unseen``, a family of chat models, or ``tokens``: the judge itself."""
    found: str


class Renderings(Record):
    """How many messages were read, and where an attack could be confused."""

    read: int
    confused: tuple[Confusion, ...]


@runtime_checkable
class Tokenized(Protocol):
    """A judge that can tell which control tokens it is shown."""

    def control_tokens(self, query: Query) -> tuple[int, ...]:
        """Ids of the control tokens that the judge reads for ``query``, in order."""


Reader = Callable[[Sequence[Message]], Iterator[str]]
"""Yields all in a message that has a meaning of its own, for one way of reading."""
OWN = "tokens"
"""Name of the reader that is the judge itself."""


@cache
def families() -> dict[str, ChatFamily]:
    """Return the chat formats by name."""
    return dict(validate(_Families, {"families": read_yaml(_FILE)}, _FILE).families)


def check_renderings(
    battery: Sequence[Attack] | None = None,
    *,
    secret: str = "secret",
    judge: Tokenized | None = None,
    bases: Sequence[str] = BASES,
    wording: Wording = Wording.STANDARD,
) -> Renderings:
    """Put every attack into every place and read what is shown; a ``judge`` adds its own tokens as a reader.

    The author of the attacks is taken to know the mark.
    """
    marker = fence_marker(secret)
    readers = _readers(marker)

    def read(query: Query) -> dict[str, list[str]]:
        messages = chat_messages(query, marker)
        found = {name: list(reader(messages)) for name, reader in readers.items()}
        return found if judge is None else found | {OWN: [*map(str, judge.control_tokens(query))]}

    calm = {place: read(_query(place, CALM, wording)) for place in PLACES}
    count, confused = 0, []
    for attack, place, base in product(attacks() if battery is None else battery, PLACES, bases):
        text = apply(attack, base, questions=[_QUESTION], marker=marker, flood=_FLOOD)
        if place == "question" and not text.strip():
            continue  # a question cannot be blank
        for name, found in read(_query(place, text, wording)).items():
            count += 1
            if found != (expected := calm[place][name]):
                odd = next((f for f in found if f not in expected), "another order or number")[:80]
                confused.append(Confusion(attack=attack.id, place=place, base=base, reader=name, found=odd))
    return Renderings(read=count, confused=tuple(confused))


def _query(place: Place, text: str, wording: Wording) -> Query:
    """A query with ``text`` in one place and calm text in the others."""

    def said(role: Literal["system", "user", "assistant"], at: Place) -> Message:
        return Message(role=role, content=text if place == at else CALM)

    turns: tuple[Message, ...] = (said("user", "prompt"),)
    if place.endswith("-turn"):
        earlier = (said("system", "system-turn"), said("user", "user-turn"))
        turns = (*earlier, said("assistant", "assistant-turn"), *turns)
    question = _QUESTION.model_copy(update={"text": text if place == "question" else CALM})
    return Query(
        prompt=Prompt(id="p", messages=turns),
        text=text if place == "answer" else CALM,
        question=question,
        wording=wording,
    )


def _readers(marker: str) -> dict[str, Reader]:
    plain: dict[str, Reader] = {"lines": _lines, "mark": lambda said: _marks(said, marker), "unseen": _unseen}
    return plain | {name: _family_reader(family) for name, family in families().items()}


def _lines(messages: Sequence[Message]) -> Iterator[str]:
    """Every line that is not quoted; of the line below QUESTION, which may be hostile, only that it is there."""
    asked = False
    for message in messages:
        for line in _ENDS.split(message.content):
            if not line.startswith("> "):
                yield "the question" if asked else line
            asked = line == "QUESTION"


def _marks(messages: Sequence[Message], marker: str) -> Iterator[str]:
    """The mark, once for each time that a careless reader sees it."""
    for message in messages:
        folded = unicodedata.normalize("NFKD", message.content).casefold()
        yield from re.findall(marker, "".join(c for c in folded if c.isalnum()))


def _unseen(messages: Sequence[Message]) -> Iterator[str]:
    """Control and format characters, but for line feeds and for joiners between letters of their scripts."""
    for message in messages:
        text = message.content
        for found in re.finditer(r"[^\n -~]", text):
            c, at = found[0], found.start()
            joins = c in "\u200c\u200d" and not (text[at - 1] + text[at + 1 : at + 2]).isascii()
            hidden = (
                unicodedata.category(c) in ("Cc", "Cf", "Cs")
                or "\ufe00" <= c <= "\ufe0f"
                or c >= "\U000e0000"
            )
            if hidden and not joins:
                yield f"U+{ord(c):04X}"


def _family_reader(family: ChatFamily) -> Reader:
    """Control tokens and turns in the rendered conversation, exact and behind a compatibility normalizer."""
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = jinja.from_string(family.template)
    exact, lenient = (_any_of(marks) for marks in (family.marks, [*map(_compatible, family.marks)]))

    def read(messages: Sequence[Message]) -> Iterator[str]:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        if not family.system:
            turns = [{"role": "user", "content": "\n\n".join(m.content for m in messages)}]
        shown = template.render(messages=turns)
        yield from exact.findall(shown)
        yield from lenient.findall(_compatible(shown))

    return read


def _any_of(marks: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)))


def _compatible(text: str) -> str:
    """Compatibility forms folded, format characters and combining marks gone."""
    if text.isascii():
        return text
    folded = unicodedata.normalize("NFKC", text)
    return "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Mn"))
