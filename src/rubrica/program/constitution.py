"""Load a constitution, and say what changed between two versions of it."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from rubrica.core.base import Record
from rubrica.core.config import Json, key_line, read_yaml, validate
from rubrica.core.errors import DataError, UsageError, nearest
from rubrica.core.programs import Clause, Constitution, ConstitutionPrinciple

_SUFFIX = "-constitution"


class ClauseChange(Record):
    """One clause that two versions of a constitution do not share. ``old`` or ``new`` is None."""

    id: str
    old: Clause | None
    new: Clause | None


def library_names(*, constitutions: bool = False) -> list[str]:
    """Names of the programs (or constitutions) that ship with the package."""
    files = resources.files("rubrica.program") / "library"
    names = sorted(Path(f.name).stem for f in files.iterdir() if f.name.endswith(".yaml"))
    return [name for name in names if name.endswith(_SUFFIX) is constitutions]


def find(ref: str | Path, names: Sequence[str], what: str) -> Path:
    """Path of a library file or of the user's own; ``UsageError`` with the nearest name for neither."""
    if isinstance(ref, str) and ref in names:
        return Path(str(resources.files("rubrica.program") / "library" / f"{ref}.yaml"))
    path = Path(ref)
    if not path.is_file() and path.suffix not in {".yaml", ".yml"}:
        raise UsageError(
            f"no {what} called {str(ref)!r}{nearest(str(ref), names)}; "
            f"expected one of {', '.join(names)}, or the path of a YAML file"
        )
    return path


def clauses(constitution: Constitution) -> Iterator[tuple[ConstitutionPrinciple, Clause]]:
    """Every clause with its principle, in order."""
    for principle in constitution.principles:
        for clause in principle.clauses:
            yield principle, clause


def load_constitution(ref: str | Path) -> Constitution:
    """Load a constitution of the library (``hhh``) or a YAML file.

    ``UsageError`` for an unknown name; ``DataError`` with file and line for a file that is no constitution
    or gives two clauses one id.
    """
    names = library_names(constitutions=True)
    short = [name.removesuffix(_SUFFIX) for name in names]
    if isinstance(ref, str) and ref in (*short, *names):
        return _library(find(ref.removesuffix(_SUFFIX) + _SUFFIX, names, "constitution"))
    return _load(find(ref, short, "constitution"))


def _load(path: Path) -> Constitution:
    return parse_constitution(read_yaml(path), path)


_library = cache(_load)


def parse_constitution(data: Json, path: str | Path) -> Constitution:
    """Validate parsed YAML; ``path`` is named in errors."""
    constitution = validate(Constitution, data, path)
    seen: dict[str, str] = {}
    for p, principle in enumerate(constitution.principles):
        for c, clause in enumerate(principle.clauses):
            if clause.id in seen:
                line = key_line(path, ["principles", p, "clauses", c, "id"])
                raise DataError(path, f"clause id {clause.id!r} is used twice; give each its own", line)
            seen[clause.id] = clause.text
    return constitution


def diff_constitutions(old: Constitution, new: Constitution) -> list[ClauseChange]:
    """Clauses that were added, removed or changed (text, source or protection), by id; old order first."""
    before = {clause.id: clause for _, clause in clauses(old)}
    after = {clause.id: clause for _, clause in clauses(new)}
    ids = [*before, *(i for i in after if i not in before)]
    return [
        ClauseChange(id=i, old=before.get(i), new=after.get(i)) for i in ids if before.get(i) != after.get(i)
    ]
