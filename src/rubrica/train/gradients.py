"""Gradients of single answers with respect to the parameters of a LoRA adapter, randomly projected.

For a linear layer z_t = W x_t inside an adapter, the gradient of log pi(y|x) with respect to W is sum_t (d log pi / d
z_t) x_t^T. One backward pass over a batch gives d log pi / d z_t of each answer, because answers do not touch each
other; each layer's gradients are projected as soon as they are there. So no whole gradient is ever held, and the
frozen weights get none.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, cast

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from rubrica.core.errors import ModelError
from rubrica.train.policy import Lora, Start
from rubrica.train.sft import IGNORED, TokenRow

_ADAPTERS = ("lora_A", "lora_B")


class Projects(Protocol):
    """What takes the gradients of a layer."""

    def project(self, name: str, gradients: Tensor) -> Tensor:
        """Return the share [B, D] of parameter ``name`` in the projection of ``gradients`` [B, P]."""


class Measured(NamedTuple):
    """What a model has to say about one answer to one prompt."""

    gradient: Tensor
    """[D] projected gradient of log pi(y|x); [0] where none was asked for."""
    state: Tensor
    """[H] last hidden state at the answer's last token."""
    log_prob: float
    """log pi(y|x), summed over the answer's tokens."""


class GradientModel:
    """A policy whose answers are measured. Nothing in it is trained."""

    def __init__(self, start: Start, lora: Lora, *, seed: int = 0) -> None:
        """Load ``start``; without an adapter of its own it gets a new one of the shape ``lora``, drawn from ``seed``.

        A new adapter changes no output, because its second matrix is zero; only that matrix then has a gradient.
        """
        try:
            # weights below an adapter keep their type: none of them is trained
            base = AutoModelForCausalLM.from_pretrained(
                str(start.model), dtype=start.dtype, trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"model {start.model}: cannot be loaded ({' '.join(str(error).split())[:300]})"
            ) from None
        self.model = with_adapter(base, start, lora, seed)
        if torch.cuda.is_available():
            self.model.to("cuda")
        self.model.eval().requires_grad_(False)
        self.model.enable_input_require_grads()
        self._layers = adapter_layers(self.model)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        """Parameters of the whole model."""
        self.adapted = sum(layer.weight.numel() for layer in self._layers.values())
        """Parameters that have a gradient."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return cast(torch.device, self.model.device)

    def measure(
        self, rows: Sequence[TokenRow], *, batch_size: int = 8, projector: Projects | None = None
    ) -> Iterator[list[tuple[int, Measured]]]:
        """Yield (place in ``rows``, what was measured) batch by batch, short rows first.

        Without a ``projector`` no gradient is computed.
        """
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt_ids) + len(rows[i].completion_ids))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            try:
                found = self._batch([rows[place] for place in places], projector)
            except torch.OutOfMemoryError as error:
                raise ModelError(
                    f"gradients: out of memory with {len(places)} answers; lower batch_size"
                ) from error
            yield list(zip(places, found, strict=True))

    def _batch(self, rows: Sequence[TokenRow], projector: Projects | None) -> list[Measured]:
        ids, mask, labels = (batch.to(self.device) for batch in padded(rows))
        taken: list[Tensor] = []
        states: list[Tensor] = []
        head = self.model.get_output_embeddings()
        hooks = [head.register_forward_pre_hook(lambda module, given: states.append(given[0].detach()))]
        if projector is not None:
            for name, layer in self._layers.items():
                hooks.append(layer.register_forward_hook(partial(_watch, name, projector, taken)))
        try:
            with torch.set_grad_enabled(projector is not None):
                logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                log_probs = completion_log_probs(logits, labels)
            if projector is not None:
                torch.autograd.backward(log_probs.sum())
        finally:
            for hook in hooks:
                hook.remove()
        last = mask.sum(dim=1) - 1
        state = states[0][torch.arange(len(rows), device=last.device), last].float().cpu()
        gradients = sum(taken, torch.zeros(len(rows), 0 if projector is None else 1, device=ids.device)).cpu()
        values = log_probs.detach().cpu().tolist()
        return [Measured(*found) for found in zip(gradients, state, values, strict=True)]


def with_adapter(base: PreTrainedModel, start: Start, lora: Lora, seed: int) -> PeftModel:
    """Put the policy's own adapter on ``base``, or a new one drawn from ``seed``."""
    if start.adapter is not None:
        return PeftModel.from_pretrained(base, str(start.adapter))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return cast(PeftModel, get_peft_model(base, (start.lora or lora).peft()))


def adapter_layers(model: PeftModel) -> dict[str, nn.Linear]:
    """Return the linear layers of the adapter by name; ``ModelError`` where it has none."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(part in _ADAPTERS for part in name.split("."))
    }
    if not found:
        raise ModelError("gradients: the adapter has no linear layer; check target_modules")
    return found


def padded(rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, attention mask and labels [B, T], padded on the right; prompts have no label."""
    width = max(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        whole = [*row.prompt_ids, *row.completion_ids]
        ids[number, : len(whole)] = torch.tensor(whole)
        mask[number, : len(whole)] = 1
        labels[number, len(row.prompt_ids) : len(whole)] = torch.tensor(row.completion_ids)
    return ids, mask, labels


def completion_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability [B] of the labelled tokens, summed; ``logits`` [B, T, V], ``labels`` [B, T]."""
    wanted = labels[:, 1:]
    seen = wanted != IGNORED
    found = logits[:, :-1].float().log_softmax(-1).gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
    return (found * seen).sum(dim=1)


def _watch(
    name: str, projector: Projects, taken: list[Tensor], layer: nn.Module, given: tuple[Tensor], out: Tensor
) -> None:
    """Have the gradient of ``layer`` projected when that of its output arrives."""
    x = given[0].detach()

    def project(gradient: Tensor) -> None:
        if not bool(gradient.any()):  # the first matrix of a new adapter
            return
        if x.ndim != 3:
            raise ModelError(
                f"gradients: layer {name} does not keep answers apart; its model is not supported"
            )
        each = torch.einsum("bto,bti->boi", gradient.float(), x.float())
        taken.append(projector.project(name, each.flatten(1)))

    out.register_hook(project)  # type: ignore[no-untyped-call]
