"""Prompts, preference pairs and texts from files, with errors that name file and line."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from rubrica.core.config import Json, content_hash
from rubrica.core.criteria import questions_of
from rubrica.core.errors import DataError, UsageError, nearest
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Preference
from rubrica.core.tables import Row, read_rows
from rubrica.core.turns import as_answer, turns_of

_PROMPTS = (
    *("prompt", "goal", "question", "query", "instruction", "forbidden_prompt", "behavior"),
    *("prompt_text", "prompts_final", "input", "text", "messages"),
)
_COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": _PROMPTS,
    "response": ("response", "completion", "output", "answer", "generation"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "id": ("id",),
    "prompt_id": ("prompt_id", "behaviorid", "release_prompt_id"),
    "question_id": ("question_id", "question"),
    "label": ("label", "verdict", "grade"),
    "rater": ("rater", "annotator"),
}
_TAGS = (
    *("kind", "family", "category", "type", "label", "subset", "semanticcategory", "functionalcategory"),
    *("goal", "attack"),
)
"""``goal`` beside a prompt is the plain request that the prompt wraps."""


class Text(NamedTuple):
    """One text to judge in answer to a prompt."""

    id: str
    prompt: Prompt
    text: str


class Rating(NamedTuple):
    """What one rater answered to one question about one text."""

    text: Text
    question: str
    """Id of the question."""
    label: Label
    rater: str
    """Empty where the file names none."""
    where: str
    """File and line."""


class Skipped(NamedTuple):
    """A row that tells nothing."""

    id: str | None
    """The id that it gives itself."""
    problem: str
    """File, line and reason."""
    line: int


def load_prompts(
    path: str | Path, *, columns: Mapping[str, str] | None = None, limit: int | None = None
) -> list[Prompt]:
    """Read prompts from JSONL, JSON, CSV, TSV, Parquet or text (``.jsonl`` and ``.csv`` also gzipped).

    The prompt is a text or a list of chat messages. Its column is the first there is of ``prompt``, ``goal``,
    ``question``, ``query``, ``instruction`` and others, in any case; ``columns`` names it otherwise, for
    example ``{"prompt": "Goal", "id": "Index"}``. Without an id column, ids are content hashes. Raises
    ``UsageError`` and ``DataError`` (file, line, what was expected). Questions of a row for its prompt alone:
    :func:`rubrica.core.criteria.questions_of`.
    """
    return list(_prompts(Path(path), columns, limit))


def load_texts(
    path: str | Path, *, columns: Mapping[str, str] | None = None, limit: int | None = None
) -> list[Text]:
    """Read texts to judge: rows with a prompt and a ``response`` (``completion``, ``output``, ``answer`` ...).

    Two rows may answer the same prompt. Errors are those of :func:`load_prompts`.
    """
    return list(each_text(path, columns=columns, limit=limit))


def each_text(
    path: str | Path, *, columns: Mapping[str, str] | None = None, limit: int | None = None
) -> Iterator[Text]:
    """Yield what :func:`load_texts` returns, row by row: of the rows before, only their ids are kept."""
    path, ids = Path(path), _Ids(Path(path))
    for row, finder in _rows(path, columns, limit):
        response = finder.text(row, "response")
        messages = finder.messages(row)
        digest = content_hash(_json(messages))
        prompt = _prompt(path, row, finder.given_id(row, "prompt_id") or digest, messages)
        id = ids.take(row, finder.given_id(row, "id"), content_hash([digest, response]))
        yield Text(id, prompt, response)


def load_pairs(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    on_skip: Callable[[Skipped], None] | None = None,
) -> list[Preference]:
    """Read preference pairs: rows with ``chosen``, ``rejected`` and a prompt, or with two whole dialogues.

    Dialogues are lists of chat messages, or texts of turns ``Human:`` and ``Assistant:`` as in HH-RLHF; what
    they share up to a user's turn is the prompt. A pair with an empty or with two equal answers tells nothing:
    it is an error, or, with ``on_skip``, left out after a call with its line and the reason.
    """
    path, found, ids = Path(path), list[Preference](), _Ids(Path(path))
    for row, finder in _rows(path, columns, None):
        if limit is not None and len(found) >= limit:
            break
        messages, chosen, rejected = _split(row, finder)
        problem = "chosen and rejected are equal" if chosen == rejected else None
        problem = "empty answer" if not chosen.strip() or not rejected.strip() else problem
        if problem and on_skip:
            on_skip(Skipped(finder.given_id(row, "id"), f"{path}:{row.line}: {problem}", row.line))
            continue
        if problem:
            raise DataError(path, f"{problem}; expected two different answers", row.line)
        prompt = _prompt(path, row, content_hash(_json(messages)), messages)
        id = ids.take(row, finder.given_id(row, "id"), content_hash([prompt.id, chosen, rejected]))
        found.append(Preference(id=id, prompt=prompt, chosen=chosen, rejected=rejected, source=path.name))
    if not found:
        raise DataError(path, "no usable pair; expected rows whose chosen and rejected differ")
    return found


def load_labels(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    question: str = "",
    words: Mapping[str, Label] | None = None,
) -> list[Rating]:
    """Read ratings: rows with a prompt, a ``response``, a ``question_id``, a ``label`` and perhaps a ``rater``.

    A label is TRUE, FALSE, A, B, C, D, F or NA in any case, or a JSON boolean. Rows with the same prompt and response
    are about one text. A file without a column ``question_id`` is about ``question``, where one is given; ``words`` are
    what else its labels may be called. ``DataError`` for any other label, and for a rater who answers a question about
    a text twice.
    """
    path, found, seen = Path(path), list[Rating](), dict[tuple[str, str, str], int]()
    given = dict(columns or {})
    names = {name.casefold(): name for name in next(read_rows(path)).values}
    alone = bool(question) and "question_id" not in names.keys() | given.keys()
    if "prompt" not in given:
        # a column ``question`` is the id of the question here, never the prompt, unless there is one question
        known = [names[name] for name in _PROMPTS if name in names and (alone or name != "question")]
        given |= {"prompt": known[0]} if known else {}
    for row, finder in _rows(path, given, None):
        response, messages = finder.text(row, "response"), finder.messages(row)
        digest = content_hash(_json(messages))
        prompt = _prompt(path, row, finder.given_id(row, "prompt_id") or digest, messages)
        text = Text(content_hash([digest, response]), prompt, response)
        about = question if alone else finder.text(row, "question_id").strip()
        rater = finder.given_id(row, "rater") or ""
        if (first := seen.setdefault((text.id, about, rater), row.line)) != row.line:
            raise DataError(
                path,
                f"question {about!r} about this text is answered in line {first} too; keep one",
                row.line,
            )
        label = _label(finder, row, (words or {}) if alone else {})
        found.append(Rating(text, about, label, rater, f"{path}:{row.line}"))
    return found


def _label(finder: "_Finder", row: Row, words: Mapping[str, Label]) -> Label:
    """Where there are words, a boolean may mean what they say or the opposite; so it is refused."""
    value = finder.value(row, "label")
    said = str(value).strip()
    if said.casefold() in words:
        return words[said.casefold()]
    try:
        if isinstance(value, bool) and words:
            raise ValueError
        return Label(said.upper())
    except ValueError:
        expected = ", ".join([*words, *Label])
        raise DataError(finder.path, f"label {said[:40]!r}; expected one of {expected}", row.line) from None


def holds_pairs(path: str | Path) -> bool:
    """Return whether the first row of the file has the columns ``chosen`` and ``rejected``."""
    names = {name.casefold() for name in next(read_rows(path)).values}
    return {"chosen", "rejected"} <= names


class _Finder:
    """Finds fields in the columns of one file."""

    def __init__(self, path: Path, first: Row, columns: Mapping[str, str] | None) -> None:
        self.path, self._named = path, dict(columns or {})
        if unknown := [field for field in self._named if field not in _COLUMNS]:
            raise UsageError(f"columns: unknown field {unknown[0]!r}; expected one of {', '.join(_COLUMNS)}")
        for name in self._named.values():
            if name not in first.values:
                known = ", ".join(first.values)
                raise DataError(
                    path, f"no column {name!r}{nearest(name, first.values)}; columns: {known}", first.line
                )

    def column(self, row: Row, field: str) -> str | None:
        """Name of the column that holds ``field`` in this row, or None."""
        if field in self._named:
            return self._named[field]
        folded = {name.casefold(): name for name in row.values}
        return next((folded[name] for name in _COLUMNS[field] if name in folded), None)

    def value(self, row: Row, field: str) -> object:
        """Value of ``field``; ``DataError`` when there is none."""
        name = self.column(row, field)
        if name is not None and row.values.get(name, "") is None:
            raise DataError(
                self.path, f"{field}: column {name!r} is empty (null) in this row; fill it in", row.line
            )
        if name is None or name not in row.values:
            expected = ", ".join(_COLUMNS[field])
            known = ", ".join(map(str, row.values))
            raise DataError(
                self.path, f"no {field}: expected a column {expected}; columns here: {known}", row.line
            )
        return row.values[name]

    def text(self, row: Row, field: str) -> str:
        """Value of ``field`` as a text; empty ones pass."""
        value = self.value(row, field)
        if not isinstance(value, str):
            raise DataError(self.path, f"{field}: expected a text, got {str(value)[:60]!r}", row.line)
        return value

    def messages(self, row: Row) -> tuple[Message, ...]:
        """Prompt as chat messages that end with the user's."""
        value = self.value(row, "prompt")
        if not isinstance(value, list):
            value = self.text(row, "prompt")
            if not value.strip():
                raise DataError(self.path, "empty prompt; expected a text", row.line)
            value += self._alpaca_input(row)
        turns = as_messages(self.path, row, value)
        if not turns or turns[-1].role != "user":
            raise DataError(self.path, "expected messages that end with the user's turn", row.line)
        if not turns[-1].content.strip():
            raise DataError(self.path, "empty prompt; expected a text in the last message", row.line)
        return turns

    def _alpaca_input(self, row: Row) -> str:
        """Second half of a prompt in Alpaca's columns ``instruction`` and ``input``, after an empty line."""
        columns = {name.casefold(): name for name in row.values}
        if "input" not in columns or self.column(row, "prompt") != columns.get("instruction"):
            return ""
        given = row.values[columns["input"]]
        return f"\n\n{given}" if isinstance(given, str) and given.strip() else ""

    def given_id(self, row: Row, *fields: str) -> str | None:
        """Id that the row gives itself in the first of ``fields`` that it has, as a text."""
        names = [name for field in fields if (name := self.column(row, field))]
        value = row.values.get(names[0]) if names else None
        return str(value).strip() or None if isinstance(value, str | int) else None


class _Ids:
    """Keeps ids of one file distinct: a given one may come once, equal contents are numbered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, int] = {}
        self._repeats: Counter[str] = Counter()

    def take(self, row: Row, given: str | None, digest: str) -> str:
        if given is None:
            self._repeats[digest] += 1
            count = self._repeats[digest]
            return digest if count == 1 else f"{digest}-{count}"
        if given in self._lines:
            first = self._lines[given]
            raise DataError(
                self._path, f"duplicate id {given!r}, first in line {first}; give each row its own", row.line
            )
        self._lines[given] = row.line
        return given


def as_messages(path: Path, row: Row, value: object) -> tuple[Message, ...]:
    """Read a text (one user's turn) or a list of ``{"role", "content"}``; ``DataError`` for anything else."""
    turns = value if isinstance(value, list) else [{"role": "user", "content": value}]
    try:
        return tuple(Message.model_validate({k: turn[k] for k in ("role", "content")}) for turn in turns)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]
        raise DataError(
            path,
            f"not a chat message: {said['loc'][-1] if said['loc'] else ''} {said['msg']}; expected role (system, user, "
            "assistant) and content",
            row.line,
        ) from None
    except (TypeError, KeyError):
        raise DataError(path, "expected messages with role and content", row.line) from None


def _rows(path: Path, columns: Mapping[str, str] | None, limit: int | None) -> Iterator[tuple[Row, _Finder]]:
    finder: _Finder | None = None
    for number, row in enumerate(read_rows(path)):
        if limit is not None and number >= limit:
            return
        finder = finder or _Finder(path, row, columns)
        yield row, finder


def _prompts(path: Path, columns: Mapping[str, str] | None, limit: int | None) -> Iterator[Prompt]:
    ids = _Ids(path)
    for row, finder in _rows(path, columns, limit):
        messages = finder.messages(row)
        id = ids.take(row, finder.given_id(row, "id", "prompt_id"), content_hash(_json(messages)))
        yield _prompt(path, row, id, messages)


def _prompt(path: Path, row: Row, id: str, messages: tuple[Message, ...]) -> Prompt:
    columns = {str(name).casefold(): value for name, value in row.values.items()}
    tags = {
        name: str(value)
        for name, value in columns.items()
        if name in _TAGS and isinstance(value, str | int) and str(value).strip()
    }
    if tags.get("goal") == messages[-1].content:
        del tags["goal"]
    tags |= _own_tags(path, row)
    return Prompt(id=id, messages=messages, source=path.name, tags=tags, questions=questions_of(path, row))


def _own_tags(path: Path, row: Row) -> dict[str, str]:
    """Return the column ``tags``, a mapping or one as JSON in a cell; a column of anything else is not ours."""
    given = row.values.get("tags")
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise DataError(path, f"tags: not valid JSON: {given[:60]!r}", row.line) from None
    if not isinstance(given, Mapping):
        return {}
    for name, value in given.items():
        if isinstance(value, Mapping | list):
            raise DataError(path, f"tags: {name}: expected one text, got {str(value)[:60]!r}", row.line)
    return {str(name): str(value) for name, value in given.items() if value is not None}


def _json(messages: tuple[Message, ...]) -> list[Json]:
    return [[message.role, message.content] for message in messages]


def _split(row: Row, finder: _Finder) -> tuple[tuple[Message, ...], str, str]:
    """Return prompt, chosen and rejected answer of a pair in any of the three forms."""
    raw = [finder.value(row, field) for field in ("chosen", "rejected")]
    dialogues = [_dialogue(finder, row, value) for value in raw]
    one, two = dialogues
    if one is None or two is None:
        return finder.messages(row), finder.text(row, "chosen"), finder.text(row, "rejected")
    if len(one) == len(two) == 1 and finder.column(row, "prompt"):
        return finder.messages(row), one[0].content, two[0].content
    shared = 0
    while shared < min(len(one), len(two)) and one[shared] == two[shared]:
        shared += 1
    while shared and (one[shared - 1].role != "user" or shared in (len(one), len(two))):
        shared -= 1
    if not shared:
        raise DataError(
            finder.path, "the dialogues share no prompt: expected the same first turns in both", row.line
        )
    return one[:shared], as_answer(one[shared:]), as_answer(two[shared:])


def _dialogue(finder: _Finder, row: Row, value: object) -> tuple[Message, ...] | None:
    """Return the turns of a dialogue, or None for a plain answer."""
    if isinstance(value, list):
        return as_messages(finder.path, row, value)
    if not isinstance(value, str) or "\n\nAssistant:" not in value:
        return None
    return turns_of(value)
