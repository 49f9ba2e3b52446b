"""A search on disk: one safetensors file a case, tensors beside JSON, replaced as a whole."""

from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from rubrica.attacks.search import Progress
from rubrica.core.errors import DataError
from rubrica.core.run import write_bytes

_PLAIN = TypeAdapter(Progress)
_KEY = "progress"


def keep(path: Path, progress: Progress) -> None:
    """Write a case so that a crash leaves this state or the one before."""
    plain = _PLAIN.dump_json(progress, exclude={"state": {"tensors"}}).decode()
    write_bytes(path, save(progress.state.tensors, {_KEY: plain}))


def kept(path: Path) -> Progress | None:
    """Read a case; None where there is none yet, ``DataError`` for a file that is no case."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            progress = _PLAIN.validate_json(file.metadata()[_KEY])
            names = file.keys()  # the file itself is no mapping
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(
            path, f"not a search under way ({said}); delete it to search this case again"
        ) from None
    return replace(progress, state=replace(progress.state, tensors=tensors))
