"""Rows of JSONL, JSON, CSV, Parquet and text files, one at a time, with the line they came from."""

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rubrica.core.errors import DataError, UsageError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".csv.gz", ".tsv", ".parquet", ".txt")
_MAX_CELL = 16_000_000
_EXPECTED = ("one object on each line", "a list of objects")


class Row(NamedTuple):
    """One row: its line (its number in Parquet and JSON, from 1) and its values by column."""

    line: int
    values: Mapping[str, object]


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yield the rows of a table, chosen by suffix. A line of ``.txt`` is a row with the one column ``text``.

    Raises ``UsageError`` for a file that is not there or of another kind, ``DataError`` with the line for
    what cannot be read, and for a file without rows.
    """
    path = Path(path)
    name = path.name.lower()
    kind = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), None)
    if not path.exists():
        raise UsageError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; expected a file")
    if kind is None:
        raise UsageError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    reader = {"json": _json, "jsonl": _jsonl, "csv": _csv, "tsv": _csv, "parquet": _parquet, "txt": _text}
    found = False
    try:
        for row in reader[kind.split(".")[1]](path):
            found = True
            yield row
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(path, f"damaged gzip file: {error}; make it anew") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error}); check its rights") from None
    if not found:
        raise DataError(path, "empty: expected at least one row")


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; a byte-order mark is dropped."""
    with _open(path) as file:
        for number, raw in enumerate(file, 1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    path,
                    f"not UTF-8 text ({error.reason} at byte {error.start} of the line); save it as UTF-8",
                    number,
                ) from None


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            yield Row(number, _object(path, _decode(path, line.rstrip(), number), number))


def _json(path: Path) -> Iterator[Row]:
    data = _decode(path, "".join(line for _, line in _lines(path)), None)
    if isinstance(data, dict):  # one list among other fields: {"name": ..., "examples": [...]}
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else data
    if not isinstance(data, list):
        raise DataError(path, f"expected a list of objects, got {_kind(data)}")
    for number, value in enumerate(data, 1):
        yield Row(number, _object(path, value, number))


def _decode(path: Path, text: str, line: int | None) -> object:
    try:
        found: object = json.loads(text)
    except json.JSONDecodeError as error:
        where = line or error.lineno
        ended = "; it ends there, so it may be cut off" if error.pos >= len(text) else ""
        raise DataError(
            path,
            f"not valid JSON: {error.msg} at column {error.colno}{ended}; expected {_EXPECTED[line is None]}",
            where,
        ) from None
    except (RecursionError, ValueError) as error:
        raise DataError(
            path, f"not readable as JSON: {error}; expected shallow objects and short numbers", line
        ) from None
    return _whole(found) if "\\ud" in text.casefold() else found


def _whole(value: object) -> object:
    """Replace halves of surrogate pairs, which JSON can escape and no UTF-8 file can hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(item) for name, item in value.items()}
    return value


def _object(path: Path, value: object, line: int) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DataError(path, f"expected an object with named fields, got {_kind(value)}", line)
    return value


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_MAX_CELL)
    separator = "\t" if path.name.lower().endswith(".tsv") else ","
    reader = csv.reader((line for _, line in _lines(path)), delimiter=separator, strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [name.strip() for name in cells]
                if twice := [name for name, count in Counter(header).items() if name and count > 1]:
                    raise DataError(path, f"column {twice[0]!r} is there twice; rename one", line)
            elif len(cells) != len(header):
                raise DataError(path, f"{len(cells)} cells, expected {len(header)} as in the header", line)
            else:
                yield Row(line, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(
            path, f"not valid CSV: {error}; put cells with quotes or line breaks in quotes", start
        ) from None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
    except pyarrow.ArrowException as error:
        raise DataError(
            path, f"not readable as Parquet: {' '.join(str(error).split())[:200]}; export it anew"
        ) from None


def _text(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            yield Row(number, {"text": line.strip()})


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return names.get(type(value), "a number or truth value")
