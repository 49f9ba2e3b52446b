"""The error tree.

RubricaError
├── UsageError       the caller can mend it: a wrong key, file, flag or value    exit 2
│   └── DataError    names the file and the line                               exit 2
├── JudgeError       a judge cannot be used, or the failure budget is spent      exit 1
├── BudgetError      the run's cap on calls, tokens, money or hours is reached    exit 1
├── ModelError       a model cannot be loaded or cannot do what was asked        exit 1
│   └── ModelUnusable  its server cannot work at all: wrong key, nobody there   exit 1
├── StorageError     the run folder cannot be read or written: disk full ...     exit 1
├── TrainingError    a stage stopped: non-finite reward, no usable example ...   exit 1
└── Interrupted      told to stop; what was finished is kept                     exit 1

Every message says which object, what it got, what was expected and what to do.
The command line prints the message on one line, without a traceback unless ``--debug``.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path


class RubricaError(Exception):
    """Root of all errors that Rubrica raises on purpose."""

    exit_code = 1


class UsageError(RubricaError):
    """The caller can mend it."""

    exit_code = 2


class DataError(UsageError):
    """A file holds something else than it should; names the file and, where known, the line."""

    def __init__(self, path: str | Path, problem: str, line: int | None = None) -> None:
        self.path, self.problem, self.line = str(path), problem, line
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {problem}")


class JudgeError(RubricaError):
    """The judge cannot be used at all, or failed more often than the run's budget allows."""


class BudgetError(RubricaError):
    """A cap is reached; everything answered so far is stored. ``cap`` is its name: calls, tokens, money, hours."""

    def __init__(self, cap: str, message: str) -> None:
        super().__init__(message)
        self.cap = cap


class ModelError(RubricaError):
    """A model cannot be loaded, or cannot do what was asked of it."""


class ModelUnusable(ModelError):
    """A model's server cannot work at all: nobody listens, wrong key, no such model. Asking for the next is useless."""


class StorageError(RubricaError):
    """The run folder or its store cannot be read or written."""


class TrainingError(RubricaError):
    """A training stage had to stop."""


class Interrupted(RubricaError):
    """The work was told to stop; what was finished is kept."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest of ``choices``, or an empty string."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
