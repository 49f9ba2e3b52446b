"""What every trainer shares: metrics into the stage's file, progress, quiet logs, the newest checkpoint."""

import json
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments
from transformers.utils import logging as transformers_logging

from rubrica.core.run import Stage

Progress = Callable[[str, int, int], None]
"""Gets (what is done, how many are done, of how many)."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_QUIET = {"TRL_EXPERIMENTAL_SILENCE": "1", "TQDM_DISABLE": "1"}
"""rollout_func is experimental, we know; DPOTrainer shows a bar of its own."""
_NOT_METRICS = {"epoch", "total_flos", "num_tokens"}


class StageLog(TrainerCallback):  # type: ignore[misc]
    """Writes each logged step into ``metrics.jsonl`` and reports progress."""

    def __init__(self, stage: Stage, label: str, total: int, progress: Progress | None) -> None:
        self._stage, self._label, self._total, self._progress = stage, label, total, progress

    def on_log(
        self,
        args: Arguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        """Keep the finite numbers of one step. The closing summary of a run is no step."""
        if not logs or "train_runtime" in logs:
            return
        numbers = {
            name: float(value)
            for name, value in logs.items()
            if name not in _NOT_METRICS and isinstance(value, int | float) and math.isfinite(value)
        }
        self._stage.log(int(state.global_step), numbers)

    def on_step_end(
        self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Report the step."""
        if self._progress is not None:
            self._progress(self._label, int(state.global_step), self._total)


class _NoRows(logging.Filter):
    """Drops TRL's warning that prints a whole row, prompt and completion included."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "All reward functions returned None" not in record.getMessage()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' bars and notices off the terminal, and texts out of the logs."""
    import datasets

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    rows, switched = _NoRows(), {name: os.environ.get(name) for name in _QUIET}
    logger = logging.getLogger("trl.trainer.grpo_trainer")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logger.addFilter(rows)
    os.environ.update(_QUIET)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the libraries, about each other
            yield
    finally:
        logger.removeFilter(rows)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        datasets.enable_progress_bars()
        for name, value in switched.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def newest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """Return the newest complete checkpoint and its step.

    The trainer writes ``trainer_state.json`` last, so a checkpoint without it was torn by a kill.
    """
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        match = _CHECKPOINT.fullmatch(path.name)
        state = path / "trainer_state.json"
        if match and state.exists():
            try:
                json.loads(state.read_text(encoding="utf-8"))
            except ValueError:
                continue
            found.append((int(match[1]), path))
    if not found:
        return None
    step, path = max(found)
    return path, step


def silence(trainer: Trainer) -> None:
    """Take away the callback that prints every log row to stdout."""
    trainer.remove_callback(PrinterCallback)
