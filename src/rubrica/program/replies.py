"""What a model is asked for a program, in words and as a JSON schema, and how its replies are read."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from rubrica.core.config import Json

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_TRAILING_COMMA = re.compile(r",(\s*[\]}])")
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}]')
_CLOSING = {"{": "}", "[": "]"}
_MAX_STARTS = 200
"""Brackets that are tried as the start of the JSON: a reply made of brackets must not take minutes."""
_MAX_MENDED = 5
"""Of those, the first so many whose JSON is mended."""

# Lengths are bounded, so that a model under a grammar comes to an end; quotes, backslashes and control characters
# are left out, because grammars made of these patterns do not escape them.
_Title = Annotated[str, StringConstraints(pattern=r'^[^"\\\x00-\x1f]{2,60}$')]
_Asking = Annotated[str, StringConstraints(pattern=r'^[^"\\\x00-\x1f?？]{8,240}[?？]$')]


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProposedDimension(_Reply):
    """One side of a principle, and the clauses that it serves."""

    title: _Title
    clauses: list[str] = Field(min_length=1, max_length=8)


class DimensionsReply(_Reply):
    """The reply to ``prompts/dimensions.txt``."""

    dimensions: list[ProposedDimension] = Field(min_length=1)


class ProposedQuestion(_Reply):
    """One question, and the clause that it serves."""

    text: _Asking
    clause: str


class QuestionsReply(_Reply):
    """The reply to ``prompts/questions.txt``."""

    gates: list[ProposedQuestion]
    graded: list[ProposedQuestion]


Schema = dict[str, JsonValue]


def dimensions_schema(clauses: Iterable[str], most: int) -> Schema:
    """JSON schema of a reply with at most ``most`` dimensions, each of which serves some of ``clauses`` (ids)."""
    schema = DimensionsReply.model_json_schema()
    schema["properties"]["dimensions"]["maxItems"] = most
    schema["$defs"]["ProposedDimension"]["properties"]["clauses"]["items"]["enum"] = list(clauses)
    return _bare(schema)


def questions_schema(clauses: Iterable[str], gates: int, graded: int) -> Schema:
    """JSON schema of a reply with so many gates and graded questions, each of which serves one of ``clauses``."""
    schema = QuestionsReply.model_json_schema()
    for key, number in (("gates", gates), ("graded", graded)):
        schema["properties"][key] |= {"minItems": number, "maxItems": number}
    schema["$defs"]["ProposedQuestion"]["properties"]["clause"]["enum"] = list(clauses)
    return _bare(schema)


def _bare(schema: Schema) -> Schema:
    """Leave out titles and descriptions: some servers refuse keys that constrain nothing."""

    def bare(node: JsonValue, names: bool) -> JsonValue:
        if isinstance(node, list):
            return [bare(item, False) for item in node]
        if not isinstance(node, dict):
            return node
        kept = {k: v for k, v in node.items() if names or k not in {"title", "description"}}
        return {key: bare(value, key in {"properties", "$defs"}) for key, value in kept.items()}

    return cast(Schema, bare(schema, False))


def template(name: str) -> str:
    """The text of ``prompts/NAME.txt``."""
    return (resources.files("rubrica.program") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace every ``{{name}}`` in one pass: what a value contains is never read as a placeholder.

    A placeholder without a value is a ``KeyError``: our own mistake.
    """
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def read_json(reply: str) -> Json:
    """The first JSON list or object in a reply, in a code fence or between sentences; ``ValueError`` if none.

    Commas before a closing bracket are forgiven, and a reply that was cut off counts up to its last whole part. Of
    nested candidates the outermost that parses is taken.
    """
    for number, start in enumerate([match.start() for match in re.finditer(r"[\[{]", reply)][:_MAX_STARTS]):
        for text in _readings(reply[start:], mend=number < _MAX_MENDED):
            try:
                value: Json = json.JSONDecoder().raw_decode(text)[0]
            except (ValueError, RecursionError):
                continue
            if value:
                return value
    raise ValueError("no JSON list or object in the reply")


def _readings(text: str, *, mend: bool) -> Iterator[str]:
    """The text as it is, without commas before a closing bracket, and closed behind its last whole part."""
    yield text
    if not mend:
        return
    bare = _TRAILING_COMMA.sub(r"\1", text)
    yield bare
    open_, end, needed = "", 0, ""
    for found in _STRING_OR_BRACKET.finditer(bare):
        if found[0] in _CLOSING:
            open_ = _CLOSING[found[0]] + open_
        elif found[0] == open_[:1]:
            open_ = open_[1:]
            end, needed = found.end(), open_
    if open_:
        yield bare[:end] + needed


def one_line(value: object) -> str:
    """A string of the reply on one line, without what cannot be printed; empty for anything but a string."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())
