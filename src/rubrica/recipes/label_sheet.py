"""Pairs to label as a table for people: written for a spreadsheet, read back with errors that name the line.

What a model or a user wrote must stay text there: a cell that a spreadsheet would take for a formula gets an apostrophe
in front, control characters are replaced. Only ids and labels are read back, so nothing is lost by that.
"""

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from rubrica.core.comparisons import Candidate, PairLabel
from rubrica.core.errors import DataError
from rubrica.core.run import write_atomic
from rubrica.core.tables import read_rows

COLUMNS = ("id", "label", "prompt", "first", "second")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LABELS: dict[str, Literal["first", "second"] | None] = {
    **dict.fromkeys(("first", "1", "a"), "first"),
    **dict.fromkeys(("second", "2", "b"), "second"),
    **dict.fromkeys(("tie", "skip", "neither"), None),
}
_MOST = 32_000
"""Characters of a cell that spreadsheets keep."""


def write_sheet(path: Path, pairs: Sequence[Candidate]) -> None:
    """Write the pairs with an empty column ``label``, to be filled with first, second, tie or skip."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for pair in pairs:
        turns = [
            f"{m.role}: {m.content}" if len(pair.prompt.messages) > 1 else m.content
            for m in pair.prompt.messages
        ]
        shown = ("\n\n".join(turns), pair.first, pair.second)
        writer.writerow([pair.id, "", *(cell(value) for value in shown)])
    # with the mark of UTF-8, without which some spreadsheets read another encoding
    write_atomic(path, "\ufeff" + text.getvalue())


def cell(text: str) -> str:
    """Return ``text`` as a cell that no spreadsheet runs, cut where it would be cut anyway."""
    plain = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    if len(plain) > _MOST:
        plain = plain[:_MOST] + " [cut]"
    return f"'{plain}" if plain.lstrip(" ").startswith(_FORMULA) else plain


def read_sheet(path: Path, known: Collection[str]) -> list[PairLabel]:
    """Return the labels of a filled sheet; rows without a label are left out.

    Columns ``id`` and ``label`` are read, and ``rater`` where there is one; the others may have changed. Raises
    ``DataError`` with the line for an id that is not in ``known``, a label of another kind, and a pair twice.
    """
    found: dict[str, PairLabel] = {}
    for row in read_rows(path):
        values = {str(name).strip().casefold(): value for name, value in row.values.items()}
        for column in ("id", "label"):
            if column not in values:
                raise DataError(
                    path,
                    f"no column {column!r}; expected {', '.join(COLUMNS)}, separated by commas",
                    row.line,
                )
        id, said = (str(values[name] or "").strip() for name in ("id", "label"))
        if id not in known:
            raise DataError(
                path, f"id {id[:40]!r} is of no selected pair; keep the ids as they were", row.line
            )
        if not said:
            continue
        if said.casefold() not in _LABELS:
            raise DataError(
                path, f"label {said[:40]!r}; expected first, second, tie, skip or nothing", row.line
            )
        if id in found:
            raise DataError(path, f"id {id!r} is there twice; keep one label for each pair", row.line)
        preferred = _LABELS[said.casefold()]
        rater = str(values.get("rater") or "").strip()
        found[id] = PairLabel(
            pair=id,
            preferred=preferred,
            by=rater or path.name,
            reason="" if preferred else said.casefold(),
        )
    return list(found.values())
