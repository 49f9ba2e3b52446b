"""Where the lab's checkpoints lie: in the package, or in the folder that RUBRICA_LAB names."""

import os
from pathlib import Path

from rubrica.core.errors import UsageError, nearest

NAMES = ("starter", "teacher", "judge")
VARIABLE = "RUBRICA_LAB"
DEMO_RECIPE = Path(__file__).with_name("demo.yaml")
"""What ``rubrica demo`` runs."""


def folder() -> Path:
    """Folder of the three checkpoints."""
    return Path(os.environ.get(VARIABLE) or Path(__file__).parent / "checkpoints")


def checkpoint(name: str) -> Path:
    """Return the directory of ``starter``, ``teacher`` or ``judge``; ``UsageError`` if it is not there."""
    if name not in NAMES:
        raise UsageError(f"lab model {name!r}{nearest(name, NAMES)}; expected one of {', '.join(NAMES)}")
    path = folder() / name
    if not (path / "model.safetensors").exists():
        raise UsageError(f"{path}: no checkpoint here; build the lab with rubrica lab build --out {folder()}")
    return path
