"""Rows of JSONL, JSON, CSV, Parquet and text files, one at a time, with the line they came from."""

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rubrica.core.errors import DataError, UsageError, nearest
from rubrica.core.sniff import encoding_hint, misnamed

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".csv.gz", ".tsv", ".parquet", ".txt")
_MAX_CELL = 16_000_000
_EXPECTED = ("one object on each line", "a list of objects")


class Row(NamedTuple):
    """One row: its line (its number in Parquet and JSON, from 1) and its values by column."""

    line: int
    values: Mapping[str, object]


def read_rows(path: str | Path, key: str = "") -> Iterator[Row]:
    """Yield the rows of a table, chosen by suffix.

    A line of ``.txt``, and a text in a list in JSON, is a row with the one column ``text``. In JSON, the list may stand
    under ``key``, or under whatever key where it is the only one. Raises ``UsageError`` for a file that is not there or
    of another kind, ``DataError`` with the line for what cannot be read, for what is no table whatever its name says
    (a Git LFS pointer, a web page), and for a file without rows.
    """
    path = Path(path)
    kind = _kind_of(path)
    reader = {"jsonl": _jsonl, "csv": _csv, "tsv": _csv, "parquet": _parquet, "txt": _text}
    yield from _guarded(path, _json(path, key) if kind == "json" else reader[kind](path))


def read_mapping(path: str | Path) -> Iterator[Row]:
    """Yield the texts of a JSON object of texts or lists of texts, as columns ``key``, ``value`` and ``number``.

    ``number`` counts the texts of a key from 0. Errors are those of :func:`read_rows`.
    """
    path = Path(path)
    if _kind_of(path) != "json":
        raise UsageError(f"{path}: expected a .json file that holds an object")
    yield from _guarded(path, _mapping(path))


def stem_of(path: Path) -> str:
    """Return the name of a file without the suffix of a table."""
    return path.name[: len(path.name) - len(_suffix(path) or "")]


def _suffix(path: Path) -> str | None:
    by_length = sorted(SUFFIXES, key=len, reverse=True)
    return next((suffix for suffix in by_length if path.name.lower().endswith(suffix)), None)


def _kind_of(path: Path) -> str:
    """Suffix without dot and ``.gz``; raises where it is none, or where the file is something else."""
    kind = _suffix(path)
    if not path.exists():
        raise UsageError(f"{path}: no such file; check the path")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; expected a file")
    if kind is None:
        raise UsageError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    try:
        problem = misnamed(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    if problem:
        raise DataError(path, problem)
    return kind.split(".")[1]


def _guarded(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    """Pass rows on; what goes wrong with the file becomes an error that names it."""
    found = False
    try:
        for row in rows:
            found = True
            yield row
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(path, f"damaged gzip file: {error}; make it anew") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not found:
        raise DataError(path, "empty: expected at least one row")


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path}: cannot be read ({error.strerror or error}); check its rights")


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
                    f"not UTF-8 text ({error.reason} at byte {error.start} of the line"
                    f"{encoding_hint(raw, error.start)}); save it as UTF-8",
                    number,
                ) from None


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            yield Row(number, _object(path, _decode(path, line.rstrip(), number), number))


def _json(path: Path, key: str) -> Iterator[Row]:
    data = _whole_file(path)
    if isinstance(data, dict) and key:
        if key not in data:
            raise DataError(path, f"no key {key!r}{nearest(key, data)}; keys: {', '.join(map(str, data))}")
        data = data[key]
    elif isinstance(data, dict):  # one list among other fields: {"name": ..., "examples": [...]}
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else data
    if not isinstance(data, list):
        raise DataError(path, f"expected a list of objects, got {_kind(data)}")
    for number, value in enumerate(data, 1):
        yield Row(number, {"text": value} if isinstance(value, str) else _object(path, value, number))


def _mapping(path: Path) -> Iterator[Row]:
    data = _object(path, _whole_file(path), None)
    for line, (key, value) in enumerate(data.items(), 1):
        for number, text in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(text, str):
                raise DataError(path, f"{key}: expected a text or a list of texts, got {_kind(text)}", line)
            yield Row(line, {"key": key, "value": text, "number": number})


def _whole_file(path: Path) -> object:
    return _decode(path, "".join(line for _, line in _lines(path)), None)


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


def _object(path: Path, value: object, line: int | None) -> dict[str, object]:
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
                if len(header) == 1 and (other := next((c for c in ";\t|" if c in header[0]), "")):
                    raise DataError(
                        path,
                        f"cells are separated by {other!r}, expected {separator!r}; save it with that",
                        line,
                    )
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
