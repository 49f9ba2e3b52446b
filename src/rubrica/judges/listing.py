"""Several questions about one text in one call, answered as a list.

Each question stands behind a code that is derived from the store's secret, the text and the question, so that who
wrote the text cannot know it: an answer list that stands in the text, or that the judge copies from it, answers
nothing. What is read from the reply is read question by question; one that is missing, cut off, answered twice in
different ways or not with one of its own answers is no verdict here, and is asked again by itself.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources

from rubrica.core.prompts import Message
from rubrica.core.records import Label, Query
from rubrica.judges.hostile import one_line
from rubrica.judges.parsing import LABEL_WORD, MAX_REPLY, Parsed, label_of, parse_reply
from rubrica.judges.template import Mode, scale, segments

_FOLDER = resources.files("rubrica.judges").joinpath("prompts/list")
_PARTS = {
    name: _FOLDER.joinpath(f"{name}.txt").read_text(encoding="utf-8").strip()
    for name in ("system", "reply-label", "reply-reason")
}
LIST_HASH = hashlib.sha256("\0".join(_PARTS.values()).encode()).hexdigest()[:12]
"""Identity of this wording, part of the fingerprint of a judge that is asked so."""

LIST_TOKENS = 24
"""Room for one line of a list of labels."""
LETTERS = "bcdfghjkmnpqrstvwxz"
"""Of a code."""
LENGTH = 5
"""Of a code: 2.5 million, none of them a word."""
_CODE_KEYS = ("code", "id", "question")
_BETWEEN = r"[\s*_`\"':=>.)\]–-]+"
_BEFORE = r"[\s*_`\"'(\[{,>–-]*(?:\d+[.)]\s*[*_`\"'(\[]*)?"
_BEHIND = r"[\s*_`\"'.,;)\]}]*"


def codes(queries: Sequence[Query], secret: str) -> list[str]:
    """Return one code for each question: distinct, and none that occurs in the text or the conversation."""
    seen = "\n".join([queries[0].text, *(m.content for m in queries[0].prompt.messages)]).casefold()
    found: list[str] = []
    for query in queries:
        number = 0
        while (code := _code(secret, query, number)) in seen or code in found:
            number += 1
        found.append(code)
    return found


def _code(secret: str, query: Query, number: int) -> str:
    said = json.dumps([query.text, query.question.id, query.question.text, number]).encode()
    digest = hmac.new(secret.encode(), b"rubrica/judge/code/1" + said, hashlib.sha256).digest()
    return "".join(LETTERS[byte % len(LETTERS)] for byte in digest[:LENGTH])


def list_messages(
    queries: Sequence[Query], names: Sequence[str], marker: str, mode: Mode
) -> tuple[Message, ...]:
    """Return the turns that put all ``queries``, which share prompt and text, to a chat model."""
    shared = segments(queries[0], marker)
    asked = [
        f"{name}: {one_line(query.question.text, marker)}\n{scale(query.question)}"
        for name, query in zip(names, queries, strict=True)
    ]
    user = "\n\n".join([f"{shared.conversation}{shared.answer}QUESTIONS", *asked, _PARTS[f"reply-{mode}"]])
    return (
        Message(role="system", content=_PARTS["system"].replace("{marker}", marker)),
        Message(role="user", content=user),
    )


def read_list(text: str, asked: Mapping[str, Sequence[Label]], *, finished: bool) -> dict[str, Parsed]:
    """Read label and reason of every code (with its allowed labels) that the reply answers beyond doubt.

    Accepted are JSON objects with the code, in lines, a list or bare; one object from codes to labels; and lines
    ``CODE: LABEL``. ``finished`` False: the reply was cut off, so its last line counts for nothing.
    """
    if len(text) > MAX_REPLY * max(1, len(asked)):
        return {}
    body = text.strip()
    if not body.startswith(("{", "[")):  # a reasoning model
        if "<think>" in body and "</think>" not in body:
            return {}
        body = body.rpartition("</think>")[2]
    if not finished:
        body = body.rpartition("\n")[0]
    found: dict[str, list[Parsed]] = {code: [] for code in asked}
    lines = _objects(body, asked, found)
    shape = re.compile(f"{_BEFORE}({'|'.join(asked)}){_BETWEEN}{LABEL_WORD}{_BEHIND}", re.IGNORECASE)
    for line in lines.splitlines():
        if match := shape.fullmatch(line):
            code = match[1].casefold()
            found[code].append(Parsed(label_of(match[2], asked[code]), ""))
        else:  # a code beside anything else is a doubt, where the line may be an answer
            for code in asked:
                if re.search(rf"\b{code}\b", line, re.IGNORECASE):
                    found[code].append(Parsed(None, ""))
    return {
        code: entries[0]
        for code, entries in found.items()
        if entries and entries[0].label and len({entry.label for entry in entries}) == 1
    }


def _objects(body: str, asked: Mapping[str, Sequence[Label]], found: dict[str, list[Parsed]]) -> str:
    """Enter the answers of all JSON objects; return what stands outside them."""
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs)
    rest, at = [], 0
    while (start := body.find("{", at)) >= 0:
        rest.append(body[at:start])
        at = start + 1
        try:
            pairs, end = decoder.raw_decode(body, start)
        except (ValueError, RecursionError):
            continue
        if _enter(pairs, body[start:end], asked, found):
            at = end
    return "".join([*rest, body[at:]])


def _enter(
    pairs: Sequence[tuple[str, object]],
    written: str,
    asked: Mapping[str, Sequence[Label]],
    found: dict[str, list[Parsed]],
) -> bool:
    """Enter one object's answers; False when it is a frame around others."""
    named = [str(v).casefold() for k, v in pairs if k.casefold() in _CODE_KEYS and isinstance(v, str)]
    if len(named) == 1 and named[0] in asked:
        found[named[0]].append(parse_reply(written, asked[named[0]]))
        return True
    plain = [(k.casefold(), v) for k, v in pairs if k.casefold() in asked and isinstance(v, str | bool)]
    for code, value in plain:
        found[code].append(Parsed(label_of(str(value), asked[code]), ""))
    return bool(plain) or bool(named)
