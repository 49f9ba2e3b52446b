"""Several answers to one prompt, with what people or models gave each, from files of many shapes."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rubrica.core.data import Skipped, load_pairs, load_prompts, load_texts
from rubrica.core.errors import DataError, nearest
from rubrica.core.prompts import Prompt
from rubrica.core.tables import Row, read_rows

_LISTS = ("completions", "responses", "answers", "candidates", "generations", "outputs")
_TEXTS = ("response", "completion", "answer", "text", "content", "output")
RATINGS = ("rating", "score", "fine-grained_score", "overall_score", "reward", "rank")
"""Names of an answer's label."""
_RATING_LISTS = ("ratings", "scores", "rewards", "labels", "ranks")
_REFERENCES = ("reference", "reference_answer", "reference_response", "gold", "gold_answer", "best answer")
_NUMBERED = re.compile(r"(?:response|completion|output|answer)_(\w+)")
_BETTER = ("better_response_id", "preferred", "winner")
_SIDES = ("chosen", "rejected")
_MOST, _LONGEST = 20, 80
"""A column with so many different values at most, none longer, sorts prompts into categories."""
_LONG = "(long)"
"""Stands for a value that is no category."""
_NO_RATING = {"", "n/a", "na", "none", "null", "nan"}
_LARGEST = 1e100
"""Of a label either way: the variance of larger ones would overflow."""


class Answers(NamedTuple):
    """A prompt with two answers or more."""

    id: str
    prompt: Prompt
    texts: tuple[str, ...]
    labels: tuple[float | None, ...] | None
    """What each answer was given, higher is better: ratings, or 1 for a chosen and 0 for a rejected answer."""
    reference: str | None
    """An answer to compare with, where the row has one."""
    columns: dict[str, str]
    """Categories of the prompt: columns of few different short values, and its tags."""


class _Found(NamedTuple):
    """Answers of one prompt as they stand in the file."""

    row: Row
    id: str
    prompt: Prompt
    texts: tuple[str, ...]
    labels: tuple[float | None, ...] | None


def load_answers(
    path: str | Path,
    *,
    limit: int | None = None,
    rating: str | None = None,
    by: str | None = None,
    on_skip: Callable[[Skipped], None] | None = None,
) -> list[Answers]:
    """Read prompts with their answers from any file that ``load_prompts`` reads, in one of these forms:

    - ``chosen`` and ``rejected``, as ``load_pairs`` takes them, or each a list of texts;
    - a list ``completions`` (``responses``, ``answers`` ...) of texts, with a list ``ratings`` (``scores``,
      ``labels``; ``ranks``, 1 the best) or none, or of objects with ``response`` and ``rating`` (``score``,
      ``fine-grained_score``, ``overall_score``; ``rank``), as in UltraFeedback and Nectar;
    - columns ``response_0``, ``response_1`` ... with ``better_response_id``, or ``score_0`` ..., or neither;
    - one row an answer, ``prompt`` and ``response``, perhaps with a ``rating``; rows of one prompt belong together.

    ``rating`` names the field of the label otherwise (of pairs ``RATING_chosen`` and ``RATING_rejected``, or the other way
    round); ``by`` a column to keep among the categories however many
    values it has. Rows without two different answers go to ``on_skip`` or raise. ``UsageError`` for another form,
    ``DataError`` with file and line.
    """
    path = Path(path)
    first = next(read_rows(path))
    if by is not None and by not in first.values:
        raise DataError(
            path, f"no column {by!r}{nearest(by, first.values)}; columns: {', '.join(first.values)}"
        )
    found: list[_Found] = []
    for item in _reader(path, first, rating, on_skip, limit):
        if len(set(item.texts)) > 1:
            found.append(item)
            continue
        problem = f"{path}:{item.row.line}: needs two different answers to prompt {item.id!r}"
        if on_skip is None:
            raise DataError(path, "needs two different answers to a prompt", item.row.line)
        on_skip(Skipped(item.id, problem, item.row.line))
    if rating is not None and not any(label is not None for item in found for label in item.labels or ()):
        raise DataError(path, f"no answer has a field {rating!r}; columns: {', '.join(first.values)}")
    if not found:
        raise DataError(
            path, "no prompt with two different answers; a data map compares answers to one prompt"
        )
    standing = {
        name.casefold() for name in first.values
    }  # tags from columns, which may differ between answers
    columns = _categories([item.row for item in found], by)
    return [
        Answers(
            item.id,
            item.prompt,
            item.texts,
            item.labels,
            _reference(item.row),
            {k: v for k, v in item.prompt.tags.items() if k not in standing} | own,
        )
        for item, own in zip(found, columns, strict=True)
    ]


def _reader(
    path: Path, first: Row, rating: str | None, on_skip: Callable[[Skipped], None] | None, limit: int | None
) -> Iterable[_Found]:
    """Choose the form by the first row."""
    names = {name.casefold(): name for name in first.values}
    lists = next((names[n] for n in _LISTS if n in names and isinstance(first.values[names[n]], list)), None)
    numbered = [m[1] for name in first.values if (m := _NUMBERED.fullmatch(name.casefold()))]
    if {"chosen", "rejected"} <= names.keys():
        sides = (names["chosen"], names["rejected"])
        if all(_texts_only(first.values[side]) for side in sides):
            return _each(path, limit, lambda row: _sides(path, row, sides))
        return _pairs(path, on_skip, limit, rating)
    if lists is not None:
        return _each(path, limit, lambda row: _list(path, row, lists, rating))
    if len(numbered) > 1:
        return _each(path, limit, lambda row: _columns(path, row, numbered))
    if any(name in names for name in _TEXTS[:-1]) or "output" in names:
        return _grouped(path, rating, limit)
    raise DataError(
        path,
        "no answers: expected chosen and rejected, a list completions or responses, columns response_0 and response_1, "
        f"or one response a row; columns here: {', '.join(first.values)}",
        first.line,
    )


def _each(
    path: Path, limit: int | None, read: Callable[[Row], tuple[Sequence[str], Sequence[float | None] | None]]
) -> Iterator[_Found]:
    """One prompt a row."""
    for row, prompt in zip(islice(read_rows(path), limit), load_prompts(path, limit=limit), strict=True):
        texts, labels = read(row)
        yield _Found(row, prompt.id, prompt, tuple(texts), tuple(labels) if labels is not None else None)


def _pairs(
    path: Path, on_skip: Callable[[Skipped], None] | None, limit: int | None, rating: str | None
) -> Iterator[_Found]:
    left_out: set[int] = set()

    def skip(skipped: Skipped) -> None:
        left_out.add(skipped.line)
        if on_skip is not None:
            on_skip(skipped)

    pairs = load_pairs(path, limit=limit, on_skip=skip if on_skip else None)
    rows = (row for row in read_rows(path) if row.line not in left_out)
    for pair, row in zip(pairs, rows, strict=False):  # rows beyond the limit are left
        labels = (1.0, 0.0) if rating is None else tuple(_side(path, row, rating, s) for s in _SIDES)
        yield _Found(row, pair.id, pair.prompt, (pair.chosen, pair.rejected), labels)


def _side(path: Path, row: Row, rating: str, side: str) -> float | None:
    """The rating of one side of a pair."""
    names = (f"{rating}_{side}", f"{side}_{rating}")
    name = next((name for name in names if name in row.values), None)
    if name is None:
        columns = ", ".join(row.values)
        raise DataError(path, f"no column {names[0]!r} or {names[1]!r}; columns: {columns}", row.line)
    return _number(path, row, name, row.values[name])


def _texts_only(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _sides(path: Path, row: Row, names: tuple[str, str]) -> tuple[list[str], Sequence[float | None]]:
    chosen, rejected = (row.values.get(name) for name in names)
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        raise DataError(path, "chosen and rejected: expected lists of texts, as in the first row", row.line)
    labels = [1.0] * len(chosen) + [0.0] * len(rejected)
    return _all_texts(path, row, [*chosen, *rejected]), labels


def _list(
    path: Path, row: Row, name: str, rating: str | None
) -> tuple[list[str], Sequence[float | None] | None]:
    """A list of texts with a list of ratings beside it, or of objects that have both."""
    items = row.values.get(name)
    if not isinstance(items, list):
        raise DataError(path, f"{name}: expected a list, as in the first row", row.line)
    if not all(isinstance(item, Mapping) for item in items):
        names = [rating] if rating else _RATING_LISTS
        beside = next((n for n in names if isinstance(row.values.get(n), list)), None)
        if beside is None:
            return _all_texts(path, row, items), None
        labels = row.values[beside]
        if not isinstance(labels, list) or len(labels) != len(items):
            raise DataError(path, f"{beside}: expected one for each of {len(items)} {name}", row.line)
        return _all_texts(path, row, items), [_number(path, row, beside, label) for label in labels]
    field = next((n for n in _TEXTS if any(n in item for item in items)), None)
    if field is None:
        raise DataError(path, f"{name}: expected objects with {', '.join(_TEXTS[:3])}", row.line)
    label = next((n for n in ([rating] if rating else RATINGS) if any(n in item for item in items)), None)
    texts = _all_texts(path, row, [item.get(field) for item in items])
    if label is None:
        return texts, None
    return texts, [_number(path, row, label, item.get(label)) for item in items]


def _columns(
    path: Path, row: Row, suffixes: Sequence[str]
) -> tuple[list[str], Sequence[float | None] | None]:
    """Columns ``response_0`` ..., and which is better, or a score for each."""
    names = {name.casefold(): name for name in row.values}
    texts = [next(row.values[names[k]] for k in names if _is_numbered(k, suffix)) for suffix in suffixes]
    better = next((names[name] for name in _BETTER if name in names), None)
    if better is not None:
        best = str(row.values[better]).strip()
        if best not in suffixes:
            raise DataError(path, f"{better}: got {best!r}; expected one of {', '.join(suffixes)}", row.line)
        is_best = [float(suffix == best) for suffix in suffixes]
        return _all_texts(path, row, texts), is_best
    labels = [
        next((names[f"{n}_{suffix}"] for n in RATINGS if f"{n}_{suffix}" in names), None)
        for suffix in suffixes
    ]
    if not all(labels):
        return _all_texts(path, row, texts), None
    return _all_texts(path, row, texts), [_number(path, row, n, row.values[n]) for n in labels if n]


def _is_numbered(name: str, suffix: str) -> bool:
    match = _NUMBERED.fullmatch(name)
    return match is not None and match[1] == suffix


def _grouped(path: Path, rating: str | None, limit: int | None) -> Iterator[_Found]:
    """One answer a row; rows with the same conversation are answers to one prompt."""
    groups: dict[tuple[tuple[str, str], ...], list[tuple[Row, Prompt, str, float | None]]] = {}
    label: str | None = None
    for row, text in zip(read_rows(path), load_texts(path), strict=True):
        label = label or next((n for n in ([rating] if rating else RATINGS) if n in row.values), None)
        value = _number(path, row, label, row.values.get(label)) if label else None
        key = tuple((message.role, message.content) for message in text.prompt.messages)
        groups.setdefault(key, []).append((row, text.prompt, text.text, value))
    for members in islice(groups.values(), limit):
        row, prompt = members[0][:2]
        same = {k: v for k, v in row.values.items() if all(other.values.get(k) == v for other, *_ in members)}
        labels = tuple(value for *_, value in members) if label else None
        texts = tuple(text for _, _, text, _ in members)
        yield _Found(Row(row.line, same), prompt.id, prompt, texts, labels)


def _all_texts(path: Path, row: Row, values: Sequence[object]) -> list[str]:
    for value in values:
        if not isinstance(value, str):
            raise DataError(path, f"expected an answer that is a text, got {str(value)[:60]!r}", row.line)
    return [str(value) for value in values]


def _number(path: Path, row: Row, name: str, value: object) -> float | None:
    """A label as a number, higher is better; None where there is none. A rank counts downwards."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in _NO_RATING):
        return None
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except OverflowError:
        number = math.inf
    except ValueError:
        number = math.nan
    if not abs(number) <= _LARGEST:
        expected = "a number" if math.isnan(number) else f"a number of at most {_LARGEST:g} either way"
        raise DataError(path, f"{name}: expected {expected}, got {str(value)[:60]!r}", row.line)
    return -number if name.casefold() in ("rank", "ranks") else number


def _reference(row: Row) -> str | None:
    names = {name.casefold(): name for name in row.values}
    values = [row.values[names[name]] for name in _REFERENCES if name in names]
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def _categories(rows: Sequence[Row], by: str | None) -> list[dict[str, str]]:
    """Of each row the columns that sort the rows into a few categories, and ``by``."""
    values: dict[str, Counter[str]] = {}
    for row in rows:
        for name, value in row.values.items():
            values.setdefault(name, Counter())[_category(value)] += 1
    kept = [
        name
        for name, found in values.items()
        if name == by
        or (1 < len(found) <= min(_MOST, len(rows) // 2) and _LONG not in found and not _numeric(found))
    ]
    return [{name: _category(row.values.get(name)) for name in kept} for row in rows]


def _category(value: object) -> str:
    """The value as a short text."""
    if value is not None and not isinstance(value, str | bool | int):
        return _LONG
    text = "" if value is None else str(value).strip()
    return text if len(text) <= _LONGEST else _LONG


def _numeric(values: Iterable[str]) -> bool:
    return all(re.fullmatch(r"[-+]?\d+(?:\.\d+)?", value) for value in values)
