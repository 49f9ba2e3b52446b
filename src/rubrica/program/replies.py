"""Fill prompt templates, and read JSON out of what a model wrote."""

import json
import re
from collections.abc import Mapping
from importlib import resources

from rubrica.core.config import Json

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_TRAILING_COMMA = re.compile(r",(\s*[\]}])")
_MAX_STARTS = 200
"""Brackets that are tried as the start of the JSON: a reply made of brackets must not take minutes."""


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

    Commas before a closing bracket are forgiven. Of nested candidates the outermost that parses is taken.
    """
    for text in (reply, _TRAILING_COMMA.sub(r"\1", reply)):
        for start in [match.start() for match in re.finditer(r"[\[{]", text)][:_MAX_STARTS]:
            try:
                value: Json = json.JSONDecoder().raw_decode(text, start)[0]
            except (ValueError, RecursionError):
                continue
            if value:
                return value
    raise ValueError("no JSON list or object in the reply")


def one_line(value: object) -> str:
    """A string of the reply on one line, without what cannot be printed; empty for anything but a string."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())
