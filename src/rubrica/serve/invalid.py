"""What is wrong with a request, in the words of the rest of the toolkit: field, what was found, what was expected.

A text that was sent is never repeated; names of fields are.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from rubrica.core.config import fields_at, in_our_words, place_of
from rubrica.core.errors import nearest

_FOUND: Final[Mapping[type, str]] = {
    **{bool: "a truth value", int: "a number", float: "a number", str: "a text", list: "a list"},
    **{dict: "a mapping", type(None): "null"},
}


def explain(error: RequestValidationError, form: type[BaseModel]) -> str:
    """Return the first three problems; ``form`` is what the body should have been."""
    problems: Sequence[ErrorDetails] = error.errors()
    said: dict[str, list[ErrorDetails]] = {}
    for problem in sorted(problems, key=lambda p: p["type"] != "extra_forbidden"):
        part, *loc = problem["loc"]
        place = place_of(error.body, loc, missing=problem["type"] == "missing") if part == "body" else loc
        said.setdefault(".".join(map(str, place)), []).append(problem)
    # Of ``text | messages``, that messages are no text explains nothing.
    telling = {where: found for where, found in said.items() if not _has_more(where, found, said)}
    shown = [f"{where or 'body'}: {_say(found, form)}" for where, found in list(telling.items())[:3]]
    more = f" (and {len(telling) - 3} more)" if len(telling) > 3 else ""
    return "; ".join(shown) + more


def _has_more(where: str, found: Sequence[ErrorDetails], said: Mapping[str, object]) -> bool:
    is_text = all(problem["type"] == "string_type" for problem in found)
    return is_text and any(other.startswith(f"{where}.") for other in said)


def _say(found: Sequence[ErrorDetails], form: type[BaseModel]) -> str:
    first = found[0]
    kind, got = first["type"], _FOUND.get(type(first["input"]), "something else")
    if kind == "extra_forbidden":
        part, *loc = first["loc"]
        known = fields_at(form, loc[:-1]) if part == "body" else set()
        return f"unknown key{nearest(str(loc[-1]), known)}"
    if kind == "json_invalid":
        return (
            f"not valid JSON ({first.get('ctx', {}).get('error', 'cut off')}) at character {first['loc'][-1]}"
        )
    words = list(dict.fromkeys(in_our_words(problem) for problem in found))
    message = " or ".join([words[0], *(word.removeprefix("expected ") for word in words[1:])])
    return f"{message}, got {got}" if kind.endswith(("_type", "_parsing")) else message
