"""A table of a recipe: a file, or a dataset on the hub."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rubrica.core.errors import UsageError

ItemT = TypeVar("ItemT")


def on_hub(source: str) -> bool:
    """Tell whether ``source`` names a dataset on the hub: owner/name, where there is no such file."""
    path = Path(source).expanduser()
    return not path.exists() and not path.suffix and source.count("/") == 1


def read_source(source: str, what: str, load: Callable[[Path], Sequence[ItemT]]) -> Sequence[ItemT]:
    """Return what ``load`` reads from a file or, where there is no such file, from a hub dataset's train split."""
    if not on_hub(source):
        return load(Path(source).expanduser())
    import tempfile

    import datasets

    try:
        rows = datasets.load_dataset(source, split="train")
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"{what} {source!r}: no such file, and the hub does not give it ({first}); check the "
            "path, or the name owner/dataset"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / f"{source.replace('/', '--')}.parquet"
        rows.to_parquet(str(table))
        return load(table)
