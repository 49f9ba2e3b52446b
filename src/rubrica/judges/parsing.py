"""Read a judge's reply: tolerant of form, never of meaning.

Accepted are one JSON object (in a code fence or behind prose too), a line ``score: X`` or a label alone, first
with a reason below it or last. Whatever else a reply says, two different labels, or a label that the question
does not offer, make it unparseable. Grade A+ and A- read as A, as in QA-LIGN (arXiv 2506.08123, footnote 1).
"""

import json
import re
from collections.abc import Collection
from typing import NamedTuple

from rubrica.core.records import Label

MAX_REPLY = 20_000
"""Longer replies are no verdict. Characters."""
_MAX_REASON = 2_000
_SHOWN = 60
"""Characters of a reply without a verdict that its reason shows."""

_SURFACES = {label.value.casefold(): label for label in Label} | {
    "a+": Label.A,
    "a-": Label.A,
    "n/a": Label.NA,
    "n.a": Label.NA,
    "not applicable": Label.NA,
    "yes": Label.TRUE,
    "no": Label.FALSE,
}
_KEYS = ("answer", "score", "label", "verdict", "grade", "rating")
_REASONS = ("reason", "reasoning", "rationale", "explanation", "justification", "because")
_EDGE = "[\\s*_`\"'()\\[\\].!#>-]*"
LABEL_WORD = "(A[+-]|" + "|".join(sorted(map(re.escape, _SURFACES), key=len, reverse=True)) + ")"
"""Pattern of one group: a label as judges spell it."""
_KEY = rf"(?:(?:my|the|final|overall)\s+)*(?:{'|'.join(_KEYS)})"
# At the start of the line or sentence only: "is the answer: A" is prose.
_ALONE = re.compile(rf"{_EDGE}{LABEL_WORD}{_EDGE}", re.IGNORECASE)
_KEYED = re.compile(rf"{_EDGE}{_KEY}[\s*_`\"']*(?:[:=]|\bis\b){_EDGE}{LABEL_WORD}{_EDGE}", re.IGNORECASE)
_INLINE = re.compile(
    rf"\b(?:{'|'.join(_KEYS)})[*_`\"']*\s*[:=][\s*_`\"'(\[]*{LABEL_WORD}(?![\w/+-])", re.IGNORECASE
)
_REASON_LINE = re.compile(rf"{_EDGE}(?:{'|'.join(_REASONS)})\b[*_`\"']*\s*[:=]?\s*", re.IGNORECASE)
_FENCE = re.compile(r"```[A-Za-z]*[ \t]*\n?(.*?)```", re.DOTALL)
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_PAIR = re.compile(rf"\s*({_STRING})\s*:\s*({_STRING}|true|false|True|False)\s*(,|\}})", re.DOTALL)


class Parsed(NamedTuple):
    """A label and the judge's reason; without a label, ``reason`` says why there is none."""

    label: Label | None
    reason: str


class _NoVerdict(Exception):
    """Why a reply does not parse."""


def label_of(surface: str, allowed: Collection[Label]) -> Label | None:
    """Return the allowed label that ``surface`` spells, or None. ``yes`` and ``no`` answer gates only."""
    label = _SURFACES.get(surface.strip().strip("\"'`*.").casefold())
    return label if label in allowed else None


def parse_reply(text: str, allowed: Collection[Label]) -> Parsed:
    """Read label and reason from a reply. Never raises, never guesses."""
    try:
        return _parse(text, allowed)
    except _NoVerdict as why:
        said = " ".join(text[:_MAX_REASON].split())
        said = said if len(said) <= _SHOWN else said[: _SHOWN - 1] + "…"
        return Parsed(None, f"{why}; it said {said!r}" if said else str(why))


def _parse(text: str, allowed: Collection[Label]) -> Parsed:
    if len(text) > MAX_REPLY:
        raise _NoVerdict(f"reply of {len(text)} characters, expected at most {MAX_REPLY}")
    body = text.strip()
    if not body.startswith("{"):  # a reasoning model; an object may quote the tags in its reason
        if "<think>" in body and "</think>" not in body:
            raise _NoVerdict("reply ends inside its reasoning")
        body = body.rpartition("</think>")[2].strip()
    fenced = _FENCE.fullmatch(body)
    if fenced:
        body = fenced[1].strip()
    if not body:
        raise _NoVerdict("empty reply")
    start = body.find("{")
    if start >= 0:
        return _from_object(body, start, allowed)
    return _from_lines(body, allowed)


def _from_object(body: str, start: int, allowed: Collection[Label]) -> Parsed:
    """Read the one object of a reply; only prose without a verdict of its own may stand before it."""
    pairs, end = _pairs(body, start)
    behind = body[end:].strip().removeprefix("```").strip(" \n.")
    if behind:
        raise _NoVerdict("text behind the JSON object")
    before = re.sub(r"```[A-Za-z]*\s*$", "", body[:start])
    labels = {_value(value, allowed) for key, value in pairs if key in _KEYS}
    labels |= _keyed_lines(before, allowed)
    if not labels:
        raise _NoVerdict(f"no key {' or '.join(_KEYS[:2])} in the JSON object")
    reason = next((v for k, v in pairs if k in _REASONS and isinstance(v, str)), "")
    return Parsed(_only(labels), reason.strip()[:_MAX_REASON])


def _pairs(body: str, start: int) -> tuple[list[tuple[str, object]], int]:
    """Decode the object at ``start`` as JSON, else as a flat object with single quotes."""
    decoder = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs)
    try:
        found, end = decoder.raw_decode(body, start)
        return [(str(key).strip().casefold(), value) for key, value in found], end
    except (ValueError, RecursionError):
        pass
    pairs: list[tuple[str, object]] = []
    at = start + 1
    while match := _PAIR.match(body, at):
        raw = match[2]
        value: object = raw[1:-1] if raw[0] in "\"'" else raw.casefold() == "true"
        pairs.append((match[1][1:-1].strip().casefold(), value))
        at = match.end()
        if match[3] == "}":
            return pairs, at
    raise _NoVerdict("the JSON object is cut off or not valid")


def _value(value: object, allowed: Collection[Label]) -> Label:
    if isinstance(value, bool):
        value = str(value)
    label = label_of(value, allowed) if isinstance(value, str) else None
    if label is None:
        raise _NoVerdict(f"{str(value)[:40]!r} is not among {', '.join(allowed)}")
    return label


def _from_lines(body: str, allowed: Collection[Label]) -> Parsed:
    """Read ``score: X`` or a label alone: the last line, or the first with a reason below it."""
    lines = [line for line in body.splitlines() if line.strip()]
    labels = _keyed_lines(body, allowed)
    tail = _INLINE.search(lines[-1])
    if _verdict_line(lines[-1]):
        reason = "\n".join(lines[:-1])
    elif _verdict_line(lines[0]) and _REASON_LINE.match(lines[1]):
        reason = "\n".join(lines[1:])
    elif tail and not lines[-1][tail.end() :].strip("\"'`*_)]}. "):
        reason = "\n".join([*lines[:-1], lines[-1][: tail.start()]])
    else:
        raise _NoVerdict("no label that stands by itself")
    reason = reason.strip()
    marked = _REASON_LINE.match(reason)
    return Parsed(_only(labels), (reason[marked.end() :] if marked else reason).strip()[:_MAX_REASON])


def _verdict_line(line: str) -> str | None:
    """Return the label's spelling when the line says nothing else."""
    found = _ALONE.fullmatch(line) or _KEYED.fullmatch(line)
    return found[1] if found else None


def _keyed_lines(body: str, allowed: Collection[Label]) -> set[Label]:
    """Return every label that a line of its own, or ``key: label`` anywhere, gives."""
    spelled = [_verdict_line(line) for line in body.splitlines()]
    spelled += [match[1] for match in _INLINE.finditer(body)]
    return {_value(word, allowed) for word in spelled if word is not None}


def _only(labels: set[Label]) -> Label:
    if len(labels) != 1:
        raise _NoVerdict(f"contradictory labels: {', '.join(sorted(labels))}")
    return next(iter(labels))
