"""Training on preference pairs by TRL's DPOTrainer, with the losses of :mod:`rubrica.losses.pairs`.

Rows arrive as token ids, so every stage sees the same sequence for the same text. The reference's
log-probabilities are computed once, before the first update, and its weights are let go.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from rubrica.core.config import Config, Json
from rubrica.core.errors import TrainingError
from rubrica.core.run import Stage
from rubrica.losses.pairs import Link, length_margin, linked, ratio_margin
from rubrica.train.arguments import Numerics, common_defaults, common_fixed, trainer_arguments
from rubrica.train.callbacks import Progress, StageLog, quiet
from rubrica.train.policy import Start, open_policy
from rubrica.train.running import laid_out, rows_an_update, run_trainer

_OURS = (
    *("beta", "loss_weights", "label_smoothing", "ld_alpha", "discopop_tau", "f_divergence_type"),
    *(
        "f_alpha_divergence_coef",
        "use_weighting",
        "sync_ref_model",
        "ref_model_mixup_alpha",
        "ref_model_sync_steps",
    ),
)
"""Options of DPOConfig about losses and references that are ours to set."""

_EXTRA = {"weight", "offset"}
"""Columns of ours."""


class PairLoss(Config):
    """Which loss; defaults are DPO's."""

    margin: Literal["ratio", "length"] = "ratio"
    """``ratio``: against the reference (DPO); ``length``: per token, without a reference (SimPO)."""
    link: Link = "sigmoid"
    """From margin to loss."""
    beta: float = 0.1
    """Scale of the margin."""
    gamma: float = 0.0
    """Target margin of all pairs."""
    weight_power: float | None = None
    """None: rows weigh what they say; a: (weight / mean weight of the update) ** a."""
    sft: float = 0.0
    """Times the mean negative log-likelihood a token of the chosen answers, added to the loss."""


class PairRow(NamedTuple):
    """One pair; both answers with their end token."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    weight: float = 1.0
    offset: float = 0.0
    """Target margin of this pair, on top of ``gamma``."""

    @property
    def size(self) -> int:
        """Tokens of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def pair_arguments(
    options: Mapping[str, Json], numerics: Numerics, output_dir: Path, seed: int, source: str | Path
) -> DPOConfig:
    """Return DPOConfig; ours unless ``options`` say otherwise: one epoch, learning rate 1e-6, batches of 16."""
    defaults = {
        **common_defaults(numerics),
        "learning_rate": 1e-6,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 16,
        "max_length": None,
        "save_steps": 50,
    }
    fields = DPOConfig.__dataclass_fields__
    fixed = {
        **common_fixed(output_dir, seed),
        "train_sampling_strategy": "sequential",
        "precompute_ref_log_probs": True,
        **{name: fields[name].default for name in _OURS},
        "loss_type": ["sigmoid"],
        "padding_free": False,
    }
    return trainer_arguments(DPOConfig, options, defaults=defaults, fixed=fixed, source=source)


def relative_weights(weights: Sequence[float], size: int, power: float | None) -> list[float]:
    """Return ``(weight / mean of its update) ** power`` for updates of ``size`` rows; None: as they are.

    Where all weights of an update are 0, each pair counts once.
    """
    if power is None:
        return list(weights)
    found: list[float] = []
    for start in range(0, len(weights), size):
        part = weights[start : start + size]
        mean = sum(part) / len(part)
        found += [(weight / mean) ** power for weight in part] if mean > 0 else [1.0] * len(part)
    return found


def train_pairs(
    start: Start,
    rows: Sequence[PairRow],
    tokenizer: PreTrainedTokenizerBase,
    stage: Stage,
    loss: PairLoss,
    options: Mapping[str, Json],
    *,
    seed: int,
    source: str | Path = "recipe",
    reference: Path | None = None,
    progress: Progress | None = None,
    label: str = "dpo",
) -> dict[str, float]:
    """Train, write ``stage.model_dir`` and return steps, first and last loss, last accuracy; continues after a kill.

    ``reference``: another model than the one that training starts from. Rows longer than ``max_length`` must be
    left out before. Raises ``TrainingError`` without rows, ``DataError`` on options that DPOConfig refuses.
    """
    if not rows:
        raise TrainingError(f"{stage.name}: got no pair; expected at least one")
    with quiet():
        args = pair_arguments(options, Numerics(dtype=start.dtype), stage.checkpoints, seed, source)
        ordered, updates = laid_out(rows, args, seed)
        weights = relative_weights([row.weight for row in ordered], rows_an_update(args), loss.weight_power)
        model, peft_config = open_policy(start)
        if isinstance(model, str):
            args.model_init_kwargs = start.init_kwargs()
        trainer = _PairTrainer(
            loss,
            model=model,
            ref_model=None if reference is None else _frozen(reference, start),
            args=args,
            data_collator=_Collator(pad_token_id=tokenizer.pad_token_id),
            train_dataset=_dataset(ordered, weights),
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[StageLog(stage, f"{label}: training", updates, progress)],
        )
        steps = run_trainer(trainer, tokenizer, stage, start)
    logged = [row.metrics for row in stage.metrics() if "loss" in row.metrics]
    if not logged:
        raise TrainingError(f"{stage.name}: no finite loss was logged; lower trainer.learning_rate")
    return {
        "steps": float(steps),
        "first_loss": logged[0]["loss"],
        "last_loss": logged[-1]["loss"],
        "last_accuracy": logged[-1]["pairs/accuracy"],
    }


def _frozen(folder: Path, start: Start) -> torch.nn.Module:
    kwargs = {**start.init_kwargs(), "dtype": "float32"}
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(str(folder), **kwargs)
    return model


def _dataset(rows: Sequence[PairRow], weights: Sequence[float]) -> Dataset:
    return Dataset.from_list(
        [{**row._asdict(), "weight": weight} for row, weight in zip(rows, weights, strict=True)]
    )


class _Collator(DataCollatorForPreference):  # type: ignore[misc]
    """Adds weights and offsets to TRL's batch."""

    def torch_call(self, examples: list[dict[str, object]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = super().torch_call(examples)
        for name in _EXTRA & set(examples[0]):  # the reference is shown neither
            batch[name] = torch.tensor([example[name] for example in examples], dtype=torch.float32)
        return batch


class _PairTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer for rows that are tokens already, with our loss and nothing more than it in the metrics."""

    def __init__(self, loss: PairLoss, **kwargs: object) -> None:
        self._loss = loss
        super().__init__(**kwargs)
        self.ref_model = None

    def _prepare_dataset(self, dataset: Dataset, *unused: object) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if self._loss.margin == "length":
            return dataset
        bare = super()._precompute_ref_logps(dataset.remove_columns(list(_EXTRA)), name, batch_size)
        return concatenate_datasets([bare, dataset.select_columns(list(_EXTRA))], axis=1)

    def _compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool
    ) -> Tensor:
        mask = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            labels=labels,
            fused_lm_head=True,
        )
        shifted = mask[:, 1:]
        summed = outputs.log_probs[:, -shifted.shape[1] :].sum(dim=1)
        chosen, rejected = summed.chunk(2)
        tokens, rejected_tokens = shifted.sum(dim=1).chunk(2)
        loss = self._loss
        if loss.margin == "ratio":
            reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
            margin = ratio_margin(chosen, rejected, *reference, loss.beta)
        else:
            margin = length_margin(chosen, rejected, tokens, rejected_tokens, loss.beta)
        value = (inputs["weight"] * linked(margin - loss.gamma - inputs["offset"], loss.link)).mean()
        if loss.sft:
            value = value - loss.sft * chosen.sum() / tokens.sum()
        self._keep(margin.detach(), chosen.detach(), rejected.detach())
        return value

    def _keep(self, margin: Tensor, chosen: Tensor, rejected: Tensor) -> None:
        kept = self._metrics["train"]
        kept["pairs/margin"].append(float(margin.mean()))
        kept["pairs/accuracy"].append(float((margin > 0).float().mean()))
        kept["pairs/chosen_log_prob"].append(float(chosen.mean()))
        kept["pairs/rejected_log_prob"].append(float(rejected.mean()))
