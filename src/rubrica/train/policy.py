"""The model that a trainer starts from, and the directory that it leaves behind."""

import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rubrica.core.config import Config
from rubrica.core.errors import ModelError


class Lora(Config):
    """A low-rank adapter."""

    r: int
    """Rank."""
    alpha: int
    """Scale of the update is alpha / r."""
    dropout: float = 0.0
    """Dropout on its input."""
    target_modules: str | list[str] = "all-linear"
    """Which layers get one."""

    def peft(self, task_type: str = "CAUSAL_LM") -> LoraConfig:
        """Return peft's configuration."""
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            task_type=task_type,
        )


class Start(Config):
    """Where the weights of a stage come from."""

    model: Path
    """Folder of a full model; it is also the KL reference of full fine-tuning."""
    lora: Lora | None = None
    """Train an adapter on ``model``."""
    adapter: Path | None = None
    """Go on with this adapter on ``model`` instead of a new one."""
    dtype: str = "bfloat16"
    """Type of frozen and of saved weights."""

    def init_kwargs(self) -> dict[str, object]:
        """Options of ``from_pretrained``: trained weights are float32, those below an adapter ``dtype``."""
        dtype = self.dtype if self.lora is not None else "float32"
        return {"dtype": dtype, "trust_remote_code": False, "use_safetensors": True}


def open_policy(start: Start) -> tuple[str | PeftModel, LoraConfig | None]:
    """Return what TRL takes as ``model`` and ``peft_config``.

    A full model is passed as a path, because TRL reloads the KL reference from there. An adapter from an
    earlier stage is passed as an object: TRL then copies it as the reference, which is the SFT model.
    """
    if start.lora is None:
        return str(start.model), None
    if start.adapter is None:
        return str(start.model), start.lora.peft()
    base = AutoModelForCausalLM.from_pretrained(str(start.model), **start.init_kwargs())
    return PeftModel.from_pretrained(base, str(start.adapter), is_trainable=True), None


def save_policy(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    adapter: Path,
    dtype: str,
) -> None:
    """Write the finished model to ``folder``, adapter merged, and a bare copy of the adapter to ``adapter``.

    The model arrives under its name in one rename, so that a kill leaves no half of it.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(adapter), selected_adapters=["default"], safe_serialization=True)
        model.set_adapter("default")
        plain = model.merge_and_unload(adapter_names=["default"])
    else:
        plain = model
    kind = getattr(torch, dtype)
    if not isinstance(kind, torch.dtype):
        raise ModelError(f"dtype {dtype!r}: expected float32, bfloat16 or float16")
    plain.to(kind).save_pretrained(str(temporary), safe_serialization=True)
    tokenizer.save_pretrained(str(temporary))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
