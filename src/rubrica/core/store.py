"""The run's SQLite store: verdicts, prompts, responses, scorecards, rollouts. The truth of a run.

WAL mode with one connection behind a lock: readers (the studio, a report) never block the writer, and a
``kill -9`` loses at most the transaction that was open. JSONL and Parquet are exports.
"""

import os
import secrets
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from pydantic import BaseModel, ValidationError

from rubrica.core.base import Record
from rubrica.core.errors import StorageError, UsageError
from rubrica.core.records import Expense, Outcome, Verdict

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts(key TEXT PRIMARY KEY, verdict TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures(key TEXT NOT NULL, verdict TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS records(
    kind TEXT NOT NULL, id TEXT NOT NULL, stage TEXT NOT NULL, step INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY(kind, stage, id));
CREATE TABLE IF NOT EXISTS account(
    judge TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, count INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY(judge, question, answer)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_step ON records(kind, stage, step);
"""
_REUSABLE = {Outcome.ANSWERED, Outcome.NOT_APPLICABLE, Outcome.ABSTAINED}
_PAGE = 1000
"""Records read at a time."""
RecordT = TypeVar("RecordT", bound=BaseModel)


def _remedy(said: str) -> str:
    if any(word in said for word in ("full", "I/O", "space", "quota", "too large")):
        return "free some space there, then run the same command again (align and demo: with --resume)"
    if "locked" in said:
        return "another process writes there; wait for it, or stop it"
    return "check the path: its folder must be there, and writable"


@contextmanager
def _storage(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(f"{path}: cannot {doing}: {error}; {_remedy(str(error))}") from error
    except sqlite3.DatabaseError as error:
        raise StorageError(
            f"{path}: cannot {doing}: {error}; it is no Rubrica store, or it is damaged: choose another --out"
        ) from error


def _read_only_uri(path: Path) -> str:
    """URI for reading; a store at rest in a directory that cannot be written needs no shared-memory file."""
    at_rest = not path.with_name(path.name + "-wal").exists()
    immutable = "&immutable=1" if at_rest and not os.access(path.parent, os.W_OK) else ""
    return f"{path.resolve().as_uri()}?mode=ro{immutable}"


class Closing(ABC):
    """Something that is closed at the end of a ``with`` block."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class Store(Closing):
    """One SQLite file. Use as a context manager, or call :meth:`close`."""

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        """Open or create the store; ``StorageError`` if that fails, ``UsageError`` on a newer schema."""
        self.path = Path(path)
        self._lock = threading.RLock()
        self._depth = 0
        if read_only and not self.path.exists():
            raise UsageError(f"{path}: no store here; expected the store.sqlite of a run: check the path")
        with _storage(self.path, "open"):
            target = _read_only_uri(self.path) if read_only else str(self.path)
            self._db = sqlite3.connect(
                target, uri=read_only, check_same_thread=False, timeout=30, isolation_level=None
            )
        try:
            self._prepare(read_only)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, read_only: bool) -> None:
        with _storage(self.path, "open"):
            if not read_only:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.executescript(_SCHEMA)
                for setting in (("schema", str(SCHEMA_VERSION)), ("secret", secrets.token_hex(16))):
                    self._db.execute("INSERT OR IGNORE INTO meta VALUES(?, ?)", setting)
            found = int(self.meta("schema") or 0)
        if found > SCHEMA_VERSION:
            raise UsageError(
                f"{self.path}: written by a newer Rubrica (schema {found} > {SCHEMA_VERSION}); upgrade rubrica"
            )

    def close(self) -> None:
        """Close the connection; everything outside an open batch is already durable."""
        self._db.close()

    def meta(self, key: str) -> str | None:
        """Return one value of the store's own settings."""
        with self._lock:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    @property
    def secret(self) -> str:
        """Random hex from which judges derive the marker that fences text; never part of a verdict's key."""
        return self.meta("secret") or ""

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Group writes into one transaction; an exception inside still commits what was written before it."""
        with self._lock, _storage(self.path, "write"):
            if self._depth == 0:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0 and self._db.in_transaction:
                    self._db.execute("COMMIT")

    # --- verdicts ---

    def put_verdict(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict. Failed and unparseable ones go to the failures' log and are asked again."""
        table = "verdicts" if verdict.outcome in _REUSABLE else "failures"
        with self._lock, _storage(self.path, "write a verdict"):
            self._db.execute(
                f"INSERT OR REPLACE INTO {table} VALUES(?, ?, ?)",
                (key, verdict.model_dump_json(exclude_defaults=True), time.time()),
            )

    def verdicts(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """Return the reusable verdicts that are known for ``keys``."""
        found: dict[str, Verdict] = {}
        with self._lock, _storage(self.path, "read"):
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = self._db.execute(f"SELECT key, verdict FROM verdicts WHERE key IN ({marks})", part)
                found |= {key: self._load("verdict", Verdict, text) for key, text in rows}
        return found

    def count_verdicts(self) -> tuple[int, int]:
        """Return (reusable verdicts, failures logged)."""
        with self._lock, _storage(self.path, "read"):
            counts = [
                self._db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("verdicts", "failures")
            ]
        return counts[0], counts[1]

    # --- account ---

    def charge(self, expense: Expense) -> None:
        """Add to the account of (judge, question, answer)."""
        with self._lock, _storage(self.path, "write the account"):
            self._db.execute(
                "INSERT INTO account VALUES(?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "count = count + excluded.count, prompt_tokens = prompt_tokens + excluded.prompt_tokens, "
                "completion_tokens = completion_tokens + excluded.completion_tokens, "
                "seconds = seconds + excluded.seconds",
                tuple(expense.model_dump().values()),
            )

    def account(self) -> list[Expense]:
        """Return the lines of the account; none for a store that an earlier version wrote."""
        with self._lock, _storage(self.path, "read"):
            if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'account'").fetchone():
                return []
            rows = self._db.execute("SELECT * FROM account ORDER BY judge, question, answer").fetchall()
        return [Expense(**dict(zip(Expense.model_fields, row, strict=True))) for row in rows]

    # --- records ---

    def put(self, kind: str, id: str, record: Record, *, stage: str = "", step: int = 0) -> None:
        """Keep a record under (kind, stage, id), replacing an earlier one."""
        with self._lock, _storage(self.path, "write a record"):
            self._db.execute(
                "INSERT OR REPLACE INTO records VALUES(?, ?, ?, ?, ?)",
                (kind, id, stage, step, record.model_dump_json()),
            )

    def get(self, kind: str, id: str, model: type[RecordT], *, stage: str = "") -> RecordT | None:
        """Return one record, or None."""
        with self._lock, _storage(self.path, "read"):
            row = self._db.execute(
                "SELECT record FROM records WHERE kind = ? AND stage = ? AND id = ?", (kind, stage, id)
            ).fetchone()
        return self._load(kind, model, row[0]) if row else None

    def kinds(self) -> set[str]:
        """Return the kinds of which there are records."""
        with self._lock, _storage(self.path, "read"):
            return {row[0] for row in self._db.execute("SELECT DISTINCT kind FROM records")}

    def holds(self, kind: str) -> bool:
        """Tell whether there is any record of a kind."""
        with self._lock, _storage(self.path, "read"):
            row = self._db.execute("SELECT 1 FROM records WHERE kind = ? LIMIT 1", (kind,)).fetchone()
        return row is not None

    def all(
        self, kind: str, model: type[RecordT], *, stage: str | None = None, step: int | None = None
    ) -> list[RecordT]:
        """Return all records of a kind in order of step and id."""
        query, args = "SELECT record FROM records WHERE kind = ?", [kind]
        if stage is not None:
            query, args = query + " AND stage = ?", [*args, stage]
        if step is not None:
            query, args = query + " AND step = ?", [*args, str(step)]
        with self._lock, _storage(self.path, "read"):
            rows = self._db.execute(query + " ORDER BY step, id", args).fetchall()
        return [self._load(kind, model, row[0]) for row in rows]

    def each(self, kind: str, model: type[RecordT], *, stage: str) -> Iterator[RecordT]:
        """Yield the records of one stage by id, however many there are; what is added behind the last one follows."""
        last = ""
        while True:
            with self._lock, _storage(self.path, "read"):
                rows = self._db.execute(
                    "SELECT id, record FROM records WHERE kind = ? AND stage = ? AND id > ? ORDER BY id LIMIT ?",
                    (kind, stage, last, _PAGE),
                ).fetchall()
            yield from (self._load(kind, model, text) for _, text in rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def forget(self, kind: str, *, stage: str, after_step: int) -> int:
        """Delete records of steps that a resumed stage will compute again; return how many."""
        with self._lock, _storage(self.path, "write"):
            return self._db.execute(
                "DELETE FROM records WHERE kind = ? AND stage = ? AND step > ?", (kind, stage, after_step)
            ).rowcount

    def _load(self, kind: str, model: type[RecordT], text: str) -> RecordT:
        try:
            return model.model_validate_json(text)
        except ValidationError as error:
            raise StorageError(
                f"{self.path}: a {kind} record does not fit this version: {error.errors()[0]['msg']}; use the "
                "version of rubrica in environment.json, or another --out"
            ) from None
