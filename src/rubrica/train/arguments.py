"""A recipe's ``trainer:`` mapping becomes TRL's own configuration, which checks it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch

from rubrica.core.config import Config, Json
from rubrica.core.errors import DataError, UsageError, nearest

ConfigT = TypeVar("ConfigT")


class Numerics(Config):
    """How numbers are held while training."""

    dtype: str = "bfloat16"
    """Type of the saved weights. Below float32 all trained weights are float32 under autocast to it."""

    def mixed(self) -> dict[str, object]:
        """Return the trainer's switches for autocast."""
        return {"bf16": self.dtype == "bfloat16", "fp16": self.dtype == "float16"}


def has_accelerator() -> bool:
    """Tell whether there is a GPU to train on."""
    return bool(torch.cuda.is_available())


def check_devices() -> None:
    """Refuse what the stages were not made for: several processes, or several GPUs in one (``UsageError``)."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise UsageError(
            f"align: started with {processes} processes; expected one, so start it without a launcher"
        )
    if torch.cuda.device_count() > 1:
        raise UsageError(
            f"align: {torch.cuda.device_count()} GPUs are visible; expected one, so set CUDA_VISIBLE_DEVICES=0"
        )


def trainer_arguments(
    config: type[ConfigT],
    options: Mapping[str, Json],
    *,
    defaults: Mapping[str, object],
    fixed: Mapping[str, object],
    source: str | Path,
) -> ConfigT:
    """Return ``config(**defaults, **options, **fixed)``.

    Raises ``DataError`` naming ``source`` for a key that ``config`` does not have (and the nearest that it
    has), one that the recipe sets elsewhere, or a value that ``config`` refuses.
    """
    assert dataclasses.is_dataclass(config)
    known = {field.name for field in dataclasses.fields(config) if field.init}
    for name in options:
        if name in fixed:
            raise DataError(source, f"trainer.{name}: is set by the recipe itself; remove it here")
        if name not in known:
            raise DataError(
                source,
                f"trainer.{name}: {config.__name__} has no such option{nearest(name, known - set(fixed))}; "
                "correct or remove it",
            )
    try:
        return config(**{**defaults, **options, **fixed})
    except (ValueError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            source, f"trainer: {config.__name__} refuses these options: {first}; correct them"
        ) from None


def common_defaults(numerics: Numerics) -> dict[str, object]:
    """Options of both trainers that a recipe may change."""
    gpu = has_accelerator()
    return {
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "gradient_checkpointing": False,
        "save_total_limit": 2,
        **numerics.mixed(),
    }


def common_fixed(output_dir: Path, seed: int) -> dict[str, object]:
    """Options of both trainers that a recipe may not change: the run's folder, its seed, what is written."""
    return {
        "output_dir": str(output_dir),
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "logging_first_step": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_only_model": False,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "push_to_hub": False,
        "remove_unused_columns": False,
    }
