"""From the rows of a suite's files to items."""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rubrica.core.config import content_hash
from rubrica.core.data import as_messages, load_pairs
from rubrica.core.errors import DataError
from rubrica.core.evaluation import Item
from rubrica.core.prompts import Message, Prompt
from rubrica.core.tables import Row, read_mapping, read_rows, stem_of
from rubrica.core.turns import turns_of
from rubrica.evals.answer_key import choices_of
from rubrica.evals.fields import Fields
from rubrica.evals.requests import cluster_of
from rubrica.evals.suite import Join, Layout, Suite
from rubrica.program.safety import CONTEXT_RULE

_PLACE = "[INSERT PROMPT HERE]"


class Copy(NamedTuple):
    """A suite and what it is read from; it can be read again."""

    suite: Suite
    layout: Layout
    paths: tuple[Path, ...]
    joined: tuple[tuple[Join, Path], ...] = ()
    templates: Path | None = None
    rows: Callable[[], Iterator[Row]] | None = None
    """Rows that come from no file; ``paths`` then names them in errors."""


class Tally:
    """What was met while a suite was read; complete when its items are through."""

    def __init__(self) -> None:
        self.empty = 0
        """Rows without a prompt, or pairs that tell nothing, left out as the layout says."""
        self.duplicates: list[str] = []
        """Ids of items that repeat an earlier one word for word."""
        self.dropped = 0
        """Duplicates left out."""


class _Request(NamedTuple):
    messages: tuple[Message, ...]
    goal: str
    """The plain request behind a prompt that wraps it, with its context."""
    plain: str
    """What is really asked: the goal, or the prompt where there is none."""


def items_of(copy: Copy, tally: Tally) -> Iterator[Item]:
    """Yield the items of a suite's files in order, each with its own id. ``DataError`` names file and line."""
    if copy.layout.form == "dialogues":
        yield from _pair_items(copy, tally)
        return
    reader = _Reader(copy, tally)
    joined = [(join, _by_key(join, path)) for join, path in copy.joined]
    if copy.rows:
        yield from reader.items(copy.paths[0], copy.rows())
        return
    for path in copy.paths:
        mapping = copy.layout.form == "mapping"
        rows = read_mapping(path) if mapping else read_rows(path, copy.layout.rows)
        yield from reader.items(path, (_with_joined(path, row, joined) for row in rows))


def fits(layout: Layout, path: Path) -> DataError | None:
    """Return why the first row of the file does not have the columns of ``layout``; None where it does."""
    if layout.form != "table" or layout.join:
        return None
    try:
        Fields(layout, path, next(read_rows(path, layout.rows)))
    except DataError as error:
        return error
    return None


def _pair_items(copy: Copy, tally: Tally) -> Iterator[Item]:
    """Pairs of whole conversations; equal and empty answers count as ``empty``."""
    suite = copy.suite
    for path in copy.paths:

        def leave_out(_: object) -> None:
            tally.empty += 1

        columns = {"chosen": copy.layout.columns.right[0], "rejected": copy.layout.columns.wrong[0]}
        for pair in load_pairs(path, columns=columns, on_skip=leave_out):
            request = "\n\n".join(message.content for message in pair.prompt.messages)
            yield Item(
                id=pair.id,
                suite=suite.name,
                prompt=pair.prompt.model_copy(update={"source": suite.name}),
                cluster=cluster_of(request),
                choices=(pair.chosen, pair.rejected),
                correct=(0,),
            )


def _by_key(join: Join, path: Path) -> Mapping[str, Mapping[str, object]]:
    rows = read_mapping(path) if join.form == "mapping" else read_rows(path)
    found = {}
    for row in rows:
        if join.key not in row.values:
            columns = ", ".join(map(str, row.values))
            raise DataError(path, f"join: no column {join.key!r}; columns here: {columns}", row.line)
        found[str(row.values[join.key])] = row.values
    return found


def _with_joined(
    path: Path, row: Row, joined: Sequence[tuple[Join, Mapping[str, Mapping[str, object]]]]
) -> Row:
    values: dict[str, object] = {}
    for join, table in joined:
        key = str(row.values.get(join.on))
        if key in table:
            values.update(table[key])
        elif not join.optional:
            raise DataError(
                path,
                f"{join.on} {key[:60]!r} is not in {', '.join(join.files)}; take both of one version",
                row.line,
            )
    return Row(row.line, {**values, **row.values}) if joined else row


class _Reader:
    """Makes items of rows; keeps their ids distinct over all files of a suite."""

    def __init__(self, copy: Copy, tally: Tally) -> None:
        self._copy, self._tally = copy, tally
        self._templates = _templates(copy)
        self._first: dict[str, str] = {}
        self._lines: dict[str, int] = {}
        self._repeats: Counter[str] = Counter()

    def items(self, path: Path, rows: Iterator[Row]) -> Iterator[Item]:
        fields: Fields | None = None
        place = _place(path, self._copy.paths)
        for row in rows:
            fields = fields or Fields(self._copy.layout, path, row)
            if fields.keeps(row):
                yield from self._of_row(fields, row, place)

    def _of_row(self, fields: Fields, row: Row, place: str) -> Iterator[Item]:
        suite, layout = self._copy.suite, self._copy.layout
        request = _request(layout, fields, row)
        if request is None:
            self._tally.empty += 1
            return
        choices = choices_of(fields, row, layout.labels, layout.separator)
        given = fields.text(row, "id").strip()
        for number, messages in self._asked(request):
            prompt_id = content_hash([[message.role, message.content] for message in messages])
            digest = content_hash([prompt_id, list(choices.texts)])
            named = "-".join([place + given, *([] if number is None else [str(number)])]) if given else ""
            id = self._own(named, digest, fields.path, row)
            if self._repeated(id, digest) and suite.duplicates == "drop":
                self._tally.dropped += 1
                continue
            yield Item(
                id=id,
                suite=suite.name,
                prompt=Prompt(id=prompt_id, messages=messages, source=suite.name),
                goal="" if request.goal == messages[-1].content else request.goal,
                cluster=cluster_of(request.plain),
                category=fields.text(row, "category").strip(),
                attack=fields.text(row, "attack").strip() or suite.attack,
                target=fields.text(row, "target").strip(),
                answer=fields.text(row, "answer").strip(),
                choices=choices.texts,
                correct=choices.correct,
            )

    def _asked(self, request: _Request) -> Iterator[tuple[int | None, tuple[Message, ...]]]:
        """The request itself, or it in each of the templates that are drawn for it, with the template's number."""
        drawn = self._copy.layout.templates
        if drawn is None:
            yield None, request.messages
            return
        *before, last = request.messages
        draw = random.Random(f"{drawn.seed}:{request.plain}")
        for number in sorted(draw.sample(range(len(self._templates)), drawn.per_row)):
            text = self._templates[number]
            wrapped = text.replace(_PLACE, last.content) if _PLACE in text else f"{text}\n\n{last.content}"
            yield number, (*before, Message(role="user", content=wrapped))

    def _own(self, named: str, digest: str, path: Path, row: Row) -> str:
        if not named:
            self._repeats[digest] += 1
            count = self._repeats[digest]
            return digest if count == 1 else f"{digest}-{count}"
        if named in self._lines:
            said = f"duplicate id {named!r}, first in line {self._lines[named]}; give each row its own"
            raise DataError(path, said, row.line)
        self._lines[named] = row.line
        return named

    def _repeated(self, id: str, digest: str) -> bool:
        if self._first.setdefault(digest, id) == id:
            return False
        self._tally.duplicates.append(id)
        return True


def _place(path: Path, paths: Sequence[Path]) -> str:
    """What tells the ids of this file from those of the suite's other files."""
    if len(paths) < 2:
        return ""
    top = Path(os.path.commonpath([other.parent for other in paths]))
    return f"{path.relative_to(top).with_name(stem_of(path)).as_posix()}/"


def _templates(copy: Copy) -> list[str]:
    drawn = copy.layout.templates
    if drawn is None or copy.templates is None:
        return []
    found = []
    for row in read_rows(copy.templates):
        text = row.values.get(drawn.column)
        if not isinstance(text, str):
            columns = ", ".join(map(str, row.values))
            raise DataError(
                copy.templates, f"no text in column {drawn.column!r}; columns here: {columns}", row.line
            )
        found.append(text)
    if len(found) < drawn.per_row:
        raise DataError(copy.templates, f"{len(found)} templates, expected at least {drawn.per_row}")
    return found


def _request(layout: Layout, fields: Fields, row: Row) -> _Request | None:
    """What the row asks; None for a row without prompt that the layout says to leave out."""
    plain = fields.text(row, "goal").strip()
    context = fields.text(row, "context").strip()
    goal = f"{context}{CONTEXT_RULE}{plain}" if context and plain else plain
    if not layout.columns.prompt:
        messages = as_messages(fields.path, row, goal)
    elif isinstance(value := fields.raw(row, "prompt"), list) and value and isinstance(value[0], Mapping):
        messages = as_messages(fields.path, row, value)
    else:
        text = fields.text(row, "prompt")
        read = turns_of(text) if layout.turns else None
        messages = read or as_messages(fields.path, row, text)
        if read and len(read) > 1 and read[-1].role == "assistant" and not read[-1].content:
            messages = read[:-1]  # the place where the answer goes
    said = messages[-1].content.strip()
    if not said or messages[-1].role != "user":
        if layout.empty == "skip":
            return None
        problem = "a conversation that ends with the user's turn" if said else "a text, got an empty prompt"
        raise DataError(fields.path, f"expected {problem}", row.line)
    asked = "\n\n".join(message.content for message in messages)
    return _Request(messages, goal, goal or asked)
