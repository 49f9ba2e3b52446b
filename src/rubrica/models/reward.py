"""Scalar reward models in this process: a sequence-classification model, or a head of ours over any language model.

A score is the raw logit of one label; nothing is squashed, because what can be told apart far out would be lost. The
text is the conversation with the answer as its last turn, in the model's own chat template; an encoder without one
gets prompt and answer as a pair. No remote code: a model whose head is code of its own is served elsewhere
(:mod:`rubrica.models.reward_server`), or its head is written down as a :class:`HeadFile`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from rubrica.checkpoint import (
    checkpoint_folder,
    context_length,
    load_backbone,
    load_classifier,
    load_description,
    tokenizer_hash,
    weights_hash,
)
from rubrica.control import ControlTokens, chat_control
from rubrica.core.config import content_hash
from rubrica.core.errors import ModelError, UsageError, nearest
from rubrica.core.prompts import Prompt

_VERSION = "1"
"""Of what this module does to a text; part of every fingerprint."""
Row = dict[str, list[int]]
"""One encoded text: ``input_ids`` and, for some encoders, ``token_type_ids``."""


class Logits(Protocol):
    """What a model answers."""

    logits: torch.Tensor
    """[texts, labels]"""


class Classifier(Protocol):
    """What is asked of a model."""

    def __call__(self, **inputs: torch.Tensor) -> Logits:
        """Read padded rows."""


class LinearHead(torch.nn.Module):
    """A linear head over the last hidden state of a text's last token: ``logits = W h + b``, or one score ``c (W h + b)``.

    ``W`` is [labels, hidden], ``b`` and ``c`` [labels]; ``c`` combines attributes with fixed weights.
    """

    def __init__(self, backbone: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.backbone = backbone
        weight = tensors["weight"]
        labels = weight.shape[0]
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", tensors.get("bias", torch.zeros(labels)).float())
        self.register_buffer("combine", tensors.get("combine", torch.eye(labels)).float().view(-1, labels))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> "_Answer":
        """Rows are padded on the right."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(dim=1) - 1].float()
        return _Answer((last @ self.weight.T + self.bias) @ self.combine.T)


class _Answer:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class HFRewardModel:
    """Implements :class:`rubrica.core.ports.RewardModel` with a folder or hub id in Hugging Face format."""

    def __init__(
        self,
        path: str | Path,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        label: int | str | None = None,
        head: str | Path | None = None,
        chat_template: str | None = None,
        batch_tokens: int = 16_384,
    ) -> None:
        """Load the model.

        ``label`` is the index or name of the label whose logit is the score; a model with one label needs none.
        ``head`` is a safetensors file for :class:`LinearHead` over the model at ``path`` (tensor ``weight``, perhaps
        ``bias`` and ``combine``). ``chat_template`` is a Jinja file instead of the tokenizer's. ``batch_tokens`` bounds
        rows times longest row of a batch.

        Raises :class:`ModelError` if it cannot be loaded or its head was never trained, :class:`UsageError` for a label
        that it does not have, a tokenizer without a chat template, or a head that does not fit.
        """
        folder = checkpoint_folder(path, revision)
        self._name, self._batch_tokens = str(path), batch_tokens
        if batch_tokens < 1:
            raise UsageError(f"reward model {path}: batch_tokens {batch_tokens}; expected at least 1")
        tensors = None if head is None else _read_head(Path(head).expanduser())
        load = load_classifier if tensors is None else load_backbone
        loaded, self._tokenizer = load(folder, dtype=dtype, device=device)
        self._config, self._device = loaded.config, loaded.device
        self._config.use_cache = False
        self._own_pad: int | None = self._config.get_text_config().pad_token_id
        if chat_template is not None:
            self._tokenizer.chat_template = _read_template(chat_template)
        self._pairs = _takes_pairs(self._tokenizer, self._name)
        self._label = _label_index(label, _labels(self._config, tensors, str(head)), self._name)
        self._model: Classifier = loaded
        if tensors is not None:
            self._model = LinearHead(loaded, tensors).to(loaded.device).eval()
        self._control = chat_control(self._tokenizer)
        self._context = context_length(self._config.get_text_config())
        self.fingerprint = content_hash(
            [
                "reward",
                _VERSION,
                weights_hash(folder),
                None if tensors is None else _tensors_hash(tensors),
                tokenizer_hash(self._tokenizer),
                self._tokenizer.chat_template or "pair",
                self._label,
                str(loaded.dtype),
            ]
        )
        """Hash of weights, head, tokenizer, template, label and precision."""

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, float | ModelError]]:
        """Yield ``(index, score)`` batch by batch, long texts first; a text beyond the context yields its error.

        A score does not depend on what else is in the call, up to rounding.
        """
        rows: list[tuple[int, Row]] = []
        for index, (prompt, text) in enumerate(items):
            row = self._encode(prompt, text)
            if isinstance(row, ModelError):
                yield index, row
            else:
                rows.append((index, row))
        for batch in _batches(rows, self._batch_tokens):
            for (index, _), score in zip(batch, self._logits([row for _, row in batch]), strict=True):
                if math.isfinite(score):
                    yield index, score
                else:
                    said = f"reward model {self._name}: gave {score} for a text; try dtype float32"
                    yield index, ModelError(said)

    def _encode(self, prompt: Prompt, text: str) -> Row | ModelError:
        if self._pairs:
            asked = "\n\n".join(self._control.disarm(message.content) for message in prompt.messages)
            encoded = self._tokenizer(asked, self._control.disarm(text))
            row = {name: list(ids) for name, ids in encoded.items() if name != "attention_mask"}
        else:
            try:
                row = {"input_ids": conversation_ids(self._tokenizer, self._control, prompt, text)}
            except ModelError as error:
                return error
        length = len(row["input_ids"])
        if not length or (self._context is not None and length > self._context):
            return ModelError(
                f"reward model {self._name}: prompt {prompt.id!r} with its answer has {length} tokens; expected 1 to "
                f"{self._context}"
            )
        return row

    def _logits(self, rows: Sequence[Row]) -> list[float]:
        """The chosen label's logit of each row, from one forward pass over all of them."""
        longest = max(len(row["input_ids"]) for row in rows)
        pad = self._pad(rows)
        inputs: dict[str, torch.Tensor] = {}
        for name in rows[0]:
            fill = pad if name == "input_ids" else 0
            inputs[name] = torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in rows])
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        inputs["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
        try:
            with torch.inference_mode():
                answer = self._model(**{name: tensor.to(self._device) for name, tensor in inputs.items()})
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"reward model {self._name}: out of memory with {len(rows)} texts of up to {longest} tokens; lower "
                "batch_tokens"
            ) from error
        return cast("list[float]", answer.logits[:, self._label].float().tolist())

    def _pad(self, rows: Sequence[Row]) -> int:
        """The token that fills up rows: the model looks for it to find where a text ends.

        A model that names none reads the very last token of a row that stands alone. So that it does in a batch as
        well, the filling is then a token that no row holds.
        """
        if self._own_pad is not None:
            return self._own_pad
        held = {token for row in rows for token in row["input_ids"]}
        free = next(token for token in range(len(held) + 1) if token not in held)
        self._config.get_text_config().pad_token_id = free
        return free


def check_reward_model(
    path: str | Path,
    *,
    revision: str | None = None,
    label: int | str | None = None,
    head: str | Path | None = None,
    chat_template: str | None = None,
) -> None:
    """Raise what :class:`HFRewardModel` would, as far as it can be known without the weights."""
    config, tokenizer = load_description(checkpoint_folder(path, revision))
    tensors = None if head is None else _read_head(Path(head).expanduser())
    if tensors is None and any(name.endswith("ForCausalLM") for name in config.architectures or ()):
        raise ModelError(
            f"reward model {path}: is a language model ({config.architectures[0]}) without a trained head; expected a "
            "sequence-classification model, for example the folder that a reward-model stage wrote"
        )
    if chat_template is not None:
        tokenizer.chat_template = _read_template(chat_template)
    _takes_pairs(tokenizer, str(path))
    _label_index(label, _labels(config, tensors, str(head)), str(path))


def conversation_ids(
    tokenizer: PreTrainedTokenizerFast, control: ControlTokens, prompt: Prompt, text: str
) -> list[int]:
    """Return the tokens of a conversation with ``text`` as its last turn; ``ModelError`` where the template refuses it.

    What prompt and text spell can produce no control token.
    """
    turns = [{"role": m.role, "content": control.disarm(m.content)} for m in prompt.messages]
    turns.append({"role": "assistant", "content": control.disarm(text)})
    try:
        rendered = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except (TemplateError, ValueError) as error:
        raise ModelError(
            f"prompt {prompt.id!r}: the reward model's chat template refuses it ({error})"
        ) from None
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _batches(rows: Sequence[tuple[int, Row]], batch_tokens: int) -> Iterator[list[tuple[int, Row]]]:
    """Rows of like length together; longest first, so that memory runs out at once or never."""
    ordered = sorted(rows, key=lambda pair: -len(pair[1]["input_ids"]))
    start = 0
    while start < len(ordered):
        count = max(1, batch_tokens // len(ordered[start][1]["input_ids"]))
        yield ordered[start : start + count]
        start += count


def _takes_pairs(tokenizer: PreTrainedTokenizerFast, name: str) -> bool:
    """Whether prompt and answer go in as a pair: an encoder's way where there is no chat template."""
    if tokenizer.chat_template:
        return False
    if tokenizer.sep_token is None:
        raise UsageError(
            f"reward model {name}: its tokenizer has neither a chat template nor a separator for pairs; name a Jinja "
            "file in chat_template"
        )
    return True


def _read_template(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"chat_template {path}: cannot be read ({error.strerror}); name a Jinja file"
        ) from None


def _labels(
    config: PreTrainedConfig, tensors: Mapping[str, torch.Tensor] | None, head: str
) -> Mapping[int, str]:
    """Names of the labels by index: the model's own, or the rows of a head, which have none."""
    if tensors is None:
        return cast("Mapping[int, str]", config.id2label)
    _check_head(tensors, config.get_text_config().hidden_size, head)
    return dict.fromkeys(range(1 if "combine" in tensors else len(tensors["weight"])), "")


def _label_index(label: int | str | None, labels: Mapping[int, str], model: str) -> int:
    """Index of the wanted label; ``labels`` are the names by index."""
    listed = ", ".join(f"{index} {name}".strip() for index, name in labels.items())
    if label is None and len(labels) != 1:
        raise UsageError(f"reward model {model}: has {len(labels)} labels ({listed}); name one in label")
    wanted = 0 if label is None else label
    for index, name in labels.items():
        if wanted in (index, name):
            return index
    close = nearest(wanted, labels.values()) if isinstance(wanted, str) else ""
    raise UsageError(f"reward model {model}: no label {wanted!r}{close}; expected one of {listed}")


def _read_head(path: Path) -> dict[str, torch.Tensor]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"head {path}: cannot be read ({error}); expected a safetensors file with a tensor 'weight'"
        ) from None


def _check_head(tensors: Mapping[str, torch.Tensor], hidden: int, path: str) -> None:
    if unknown := sorted(set(tensors) - {"weight", "bias", "combine"}):
        raise UsageError(f"head {path}: unknown tensor {unknown[0]!r}; expected weight, bias and combine")
    weight = tensors.get("weight")
    if weight is None or weight.ndim != 2 or weight.shape[1] != hidden:
        found = "no tensor 'weight'" if weight is None else f"weight of shape {tuple(weight.shape)}"
        raise UsageError(f"head {path}: {found}; expected [labels, {hidden}], the model's hidden size")
    for name in ("bias", "combine"):
        if name in tensors and tensors[name].shape != (weight.shape[0],):
            raise UsageError(
                f"head {path}: {name} of shape {tuple(tensors[name].shape)}; expected [{weight.shape[0]}], one number for "
                "each row of weight"
            )


def _tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    return content_hash([[name, tensors[name].float().tolist()] for name in sorted(tensors)])
