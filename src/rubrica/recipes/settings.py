"""The folder that one piece of work lies in: its settings say what it is, and the same settings go on with it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rubrica.core.config import Config, Json, dump_yaml, read_yaml, validate
from rubrica.core.errors import DataError, StorageError, UsageError
from rubrica.core.run import claim, environment, first_difference, write_atomic, write_json
from rubrica.core.store import Store

_BEFORE = {".lock", "environment.json", "store.sqlite", "store.sqlite-wal", "store.sqlite-shm"}
"""What a kill at the very start may leave."""
_PLANS = {"asked", "price"}
"""Kinds of records that say who will be asked; no answer is among them."""


class Settings(Config, ABC):
    """What a folder was made for."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Json]:
        """What must stay the same in one folder, so that what lies there belongs together."""


@contextmanager
def settings_folder(path: Path, settings: Settings, *, file: str, what: str, seed: int) -> Iterator[Store]:
    """Open a folder, new or begun, with its ``store.sqlite``; nobody else may be at work there.

    Other settings may take a folder in which nothing was kept yet, for example because the model could not be loaded.
    ``file`` is the name of the settings' file, ``what`` that of the work. ``UsageError`` where the folder holds other
    work or something else, ``StorageError`` where it cannot be written.
    """
    kept = path / file
    changed = _changed(kept, settings) if kept.exists() else None
    if not kept.exists() and path.exists() and not (path.is_dir() and _names(path) <= _BEFORE):
        raise UsageError(f"{path}: exists and holds no {what}; choose another --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = claim(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be created ({error.strerror}); choose another --out") from error
    with ExitStack() as opened:
        opened.enter_context(lock)
        if changed and _begun(path, file):
            raise UsageError(
                f"{path}: holds another {what} ({changed}); use the same settings to go on, or another --out"
            )
        if changed:
            for name in _BEFORE - {".lock"}:
                (path / name).unlink(missing_ok=True)
        store = opened.enter_context(Store(path / "store.sqlite"))
        if changed or not kept.exists():
            write_json(path / "environment.json", environment(settings, settings, seed))
        write_atomic(kept, dump_yaml(settings))  # last: marks the work as begun
        yield store


def _begun(path: Path, file: str) -> bool:
    """Whether anything was answered, judged or found in a folder; some work is kept in files of its own."""
    if _names(path) - _BEFORE - {file}:
        return True
    if not (path / "store.sqlite").is_file():
        return False
    with Store(path / "store.sqlite", read_only=True) as store:
        return any(store.count_verdicts()) or bool(store.kinds() - _PLANS)


def _names(path: Path) -> set[str]:
    """Names in a folder, empty folders left out."""
    return {each.name for each in path.iterdir() if not each.is_dir() or any(each.iterdir())}


def _changed(path: Path, settings: Settings) -> str | None:
    try:
        before = validate(type(settings), read_yaml(path), path)
    except DataError:
        return "made by another command or version"
    return first_difference(before.identity, settings.identity)
