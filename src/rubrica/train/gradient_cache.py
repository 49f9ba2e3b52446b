"""What was measured of answers, kept in safetensors as it comes: a killed job measures nothing twice."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rubrica.core.config import content_hash
from rubrica.core.errors import StorageError
from rubrica.train.gradients import GradientModel, Measured
from rubrica.train.projection import Projector
from rubrica.train.sft import TokenRow

_KEYS = "keys"


class Projection(NamedTuple):
    """How gradients are projected."""

    dimension: int
    seed: int


class GradientCache:
    """One folder for one model and projection; each batch is a file, which appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, found: Mapping[str, Measured]) -> None:
        """Keep a batch of answers by their keys."""
        path = self._folder / f"{content_hash([*sorted(found)])}.safetensors"
        temporary = path.with_suffix(".tmp")
        tensors = {
            "gradient": torch.stack([measured.gradient for measured in found.values()]),
            "state": torch.stack([measured.state for measured in found.values()]),
            "log_prob": torch.tensor([measured.log_prob for measured in found.values()], dtype=torch.float64),
        }
        try:
            save_file(tensors, temporary, metadata={_KEYS: json.dumps(list(found))})
            temporary.replace(path)
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be written ({error.strerror or error}); free some space, then run the same "
                "command again"
            ) from error

    def all(self) -> dict[str, Measured]:
        """Return everything that is kept, by key; ``StorageError`` for a damaged file."""
        found: dict[str, Measured] = {}
        for path in sorted(self._folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    keys: list[str] = json.loads((file.metadata() or {})[_KEYS])
                    columns = [file.get_tensor(name) for name in ("gradient", "state", "log_prob")]
            except (SafetensorError, KeyError, ValueError, OSError) as error:
                raise StorageError(
                    f"{path}: damaged ({str(error)[:100]}); delete the file, and it is measured anew"
                ) from error
            gradients, states, log_probs = columns
            for key, gradient, state, log_prob in zip(keys, gradients, states, log_probs, strict=True):
                found[key] = Measured(gradient, state, float(log_prob))
        return found


def measured(
    open_model: Callable[[], GradientModel],
    rows: Mapping[str, TokenRow],
    cache: GradientCache,
    *,
    projection: Projection | None,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Measured], list[str]]:
    """Return what was measured of each of ``rows`` by key, and which of them were not known before.

    The model is opened only for those.

    Without a ``projection`` no gradient is computed. ``progress`` gets (answers measured, of how many).
    """
    report = progress or (lambda done, total: None)
    found = {key: kept for key, kept in cache.all().items() if key in rows}
    missing = [key for key in rows if key not in found]
    report(len(found), len(rows))
    if missing:
        model = open_model()
        projector = None if projection is None else Projector(*projection, model.device)
        wanted = [rows[key] for key in missing]
        for batch in model.measure(wanted, batch_size=batch_size, projector=projector):
            fresh = {missing[place]: what for place, what in batch}
            cache.put(fresh)
            found |= fresh
            report(len(found), len(rows))
    return {key: found[key] for key in rows}, missing
