"""Loading a checkpoint in Hugging Face format, and its identity. Shared by local judges and generators."""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Protocol, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from rubrica.core.config import Json, content_hash
from rubrica.core.errors import ModelError, UsageError

DTYPES = ("auto", "float32", "bfloat16", "float16")
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model"]


def load_checkpoint(
    folder: Path, *, dtype: str = "auto", device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load model (safetensors only, no remote code, in evaluation mode) and tokenizer.

    ``dtype`` is one of :data:`DTYPES`; ``device`` defaults to the accelerator if there is one. Raises
    :class:`UsageError` for another dtype, :class:`ModelError` for a checkpoint that cannot be loaded.
    """
    model, tokenizer, _ = _load(folder, AutoModelForCausalLM, "causal language model", dtype, device)
    return model, tokenizer


def load_classifier(
    folder: Path, *, dtype: str = "auto", device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a model with a head for sequence classification, as :func:`load_checkpoint` does.

    ``ModelError`` for a checkpoint without a trained head: the library would make up a random one.
    """
    what = "sequence-classification model"
    model, tokenizer, missing = _load(folder, AutoModelForSequenceClassification, what, dtype, device)
    if missing:
        raise ModelError(
            f"model {folder}: holds no {missing[0]}, so its head was never trained; expected a {what}, for example "
            "the folder that a reward-model stage wrote"
        )
    return model, tokenizer


def load_backbone(
    folder: Path, *, dtype: str = "auto", device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a model without any head, as :func:`load_checkpoint` does."""
    model, tokenizer, _ = _load(folder, AutoModel, "language model", dtype, device)
    return model, tokenizer


def load_description(folder: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerFast]:
    """Load configuration and tokenizer alone; ``ModelError`` where they cannot be."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=sys.maxsize)
        return AutoConfig.from_pretrained(folder), tokenizer
    except Exception as error:  # the tokenizer's own reader raises bare exceptions
        raise ModelError(
            f"model {folder}: cannot be loaded ({_line(error)}); expected a model in Hugging Face format"
        ) from error


def _load(
    folder: Path,
    kind: type[AutoModel] | type[AutoModelForCausalLM] | type[AutoModelForSequenceClassification],
    what: str,
    dtype: str,
    device: str | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, list[str]]:
    """Return model, tokenizer, and the names of weights that the checkpoint does not hold."""
    if dtype not in DTYPES:
        raise UsageError(f"model {folder}: dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    try:
        # whoever asks the model checks lengths; the tokenizer's own warning would only stand in the way
        tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=sys.maxsize)
        with _no_bars():
            model, loading = kind.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
        missing = sorted(cast(dict[str, list[str]], loading)["missing_keys"])
        return model.to(device or default_device()).eval(), tokenizer, missing
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model {folder}: out of memory on the device; use a smaller model or dtype"
        ) from error
    except Exception as error:  # the tokenizer's and the weights' own readers raise bare exceptions
        raise ModelError(
            f"model {folder}: cannot be loaded ({_line(error)}); expected a {what} "
            "in Hugging Face format with safetensors weights"
        ) from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the library's own progress bars, and its reports of weights without a place, off the terminal."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def checkpoint_folder(path_or_hub_id: str | Path, revision: str | None = None) -> Path:
    """Folder of a checkpoint; a hub id is downloaded, or found in the cache, first (None: its main branch)."""
    folder = Path(path_or_hub_id).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"model {folder}: no config.json in this folder; expected a model in Hugging Face format, for "
                "example RUN/stages/01-think-sft/model"
            )
        return folder
    if str(path_or_hub_id).startswith(("/", ".", "~")):
        raise ModelError(f"model {path_or_hub_id}: no such folder; check the path")
    try:
        return Path(snapshot_download(str(path_or_hub_id), revision=revision, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at {revision}" if revision else ""
        raise ModelError(
            f"model {path_or_hub_id}{at}: no such folder, and the hub does not give it ({_line(error)}); "
            "expected a folder or a hub id 'owner/name'"
        ) from error


def default_device() -> str:
    """The accelerator if torch sees one, else ``cpu``."""
    return str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "cpu"


def context_length(config: object) -> int | None:
    """Most positions that a model takes, or None where its configuration names no limit."""
    return cast("int | None", getattr(config, "max_position_embeddings", None))


def weights_hash(folder: Path) -> str:
    """SHA-256 over the safetensors files of ``folder``; a file is read again only when it has changed."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        stat = path.stat()
        digest.update(_file_hash(path.resolve(), stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()


def state_hash(model: torch.nn.Module) -> str:
    """SHA-256 over names and bytes of the weights of a model in memory."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Backend(Protocol):
    """The rules of a tokenizer."""

    def to_str(self) -> str:
        """All of them as JSON."""


class WithBackend(Protocol):
    """A fast tokenizer."""

    backend_tokenizer: Backend


def tokenizer_hash(tokenizer: WithBackend) -> str:
    """Hash of a tokenizer's vocabulary, merges and rules; truncation and padding do not count."""
    state = cast(dict[str, Json], json.loads(tokenizer.backend_tokenizer.to_str()))
    return content_hash({key: state[key] for key in sorted(state) if key not in ("truncation", "padding")})


@lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, mtime_ns: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
