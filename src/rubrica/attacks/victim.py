"""A model under attack: how likely a target is behind given contexts, and which way that changes with the input.

The loss is the mean cross-entropy of the target's tokens (GCG, 2307.15043, equations 2 and 3, divided by the number
of tokens). Shapes: B candidates, S slot, T target, V vocabulary, D embedding.
"""

import copy
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, NotRequired, Protocol, TypedDict, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from rubrica.checkpoint import context_length
from rubrica.core.errors import ModelError, UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.models.decoding import Decoder, WithLogits
from rubrica.models.hf import ChatTokenizer, HFGenerator

_SHARE = 0.1
"""Of the device's memory, for one batch of candidates."""


class Tokens(TypedDict):
    """Texts as a tokenizer cuts them."""

    input_ids: list[list[int]]
    offset_mapping: NotRequired[list[list[tuple[int, int]]]]
    """First and last place of each token in its text."""


class Tokenizer(ChatTokenizer, Protocol):
    """What an attack needs of a fast tokenizer of ``transformers``."""

    def __call__(
        self, text: list[str], *, add_special_tokens: bool, return_offsets_mapping: bool = False
    ) -> Tokens:
        """Token ids of texts, and where in the text each stands."""

    def __len__(self) -> int:
        """Tokens, added ones included."""


class Scores(NamedTuple):
    """What a model makes of candidates, on the CPU."""

    losses: Tensor
    """Mean cross-entropy of the target in nats, [B]."""
    reached: Tensor
    """Greedy decoding writes the target, [B]."""


class Spent:
    """Sequences that went through a model; a gradient is one of each.

    What sequences have in common is part of each of them, however often it is read: so a search that goes on counts as
    one without interruption does.
    """

    def __init__(self, forward: int = 0, backward: int = 0) -> None:
        self.forward, self.backward = forward, backward


class Victim:
    """A causal language model of ``transformers`` with its chat format; its weights stay as they are."""

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, generator: HFGenerator, *, batch_size: int | None = None
    ) -> None:
        """``batch_size``: candidates that are read at once; None: as the device's memory allows."""
        self.model, self.tokenizer, self.generator = cast(nn.Module, model), tokenizer, generator
        self.model.requires_grad_(False).eval()
        self.device, self.context = model.device, context_length(model.config)
        self.spent = Spent()
        self._config, self._batch_size = model.config, batch_size
        self._prefix: tuple[tuple[int, ...], DynamicCache] | None = None
        layers = DynamicCache(config=model.config).layers
        self._keeps_prefixes = not any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)
        self.table = self._embeddings()
        self._anchor = self.encode(["x"])[0]
        self._anchored = self._decode(self._anchor)

    def _embeddings(self) -> Tensor:
        """What the model reads for each token, [V, D]; some models scale what their table holds."""
        module = cast("Callable[[], nn.Embedding]", self.model.get_input_embeddings)()
        if type(module) is nn.Embedding:
            return module.weight.detach()
        with torch.no_grad():
            read: Tensor = module(torch.arange(module.num_embeddings, device=self.device))
        return read

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts in which all is written out, control tokens too."""
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids as it reads behind other text: some tokenizers drop a blank at the very beginning."""
        both = self._decode([*self._anchor, *ids])
        return both[len(self._anchored) :] if both.startswith(self._anchored) else self._decode(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def render(self, earlier: Sequence[Message], content: str) -> str:
        """Text that stands before the answer to ``content``, in which nothing can spell a control token."""
        messages = (*earlier, Message(role="user", content=content))
        return self.generator.render(Prompt(id="attack", messages=messages))

    def fits(self, tokens: int) -> bool:
        """Whether the model takes so many tokens."""
        return self.context is None or tokens <= self.context

    def check_length(self, tokens: int, what: str) -> None:
        """Raise ``UsageError`` for more tokens than the model takes."""
        if not self.fits(tokens):
            raise UsageError(
                f"{what}: {tokens} tokens with the target exceed the context of {self.generator.name} ({self.context}); "
                "shorten the prompt, the target or the attack"
            )

    def losses(self, contexts: Sequence[Sequence[int]], target: Sequence[int], shared: int = 0) -> Scores:
        """Score ``target`` behind each context; the first ``shared`` tokens are the same in all, and read once.

        A loss that is no number counts as infinite; ``ModelError`` where none is finite. A context's loss is that of a plain pass over it: rows are padded behind the target, where nothing looks.
        """
        order = sorted(range(len(contexts)), key=lambda index: len(contexts[index]))
        losses, reached = torch.zeros(len(contexts)), torch.zeros(len(contexts), dtype=torch.bool)
        at = 0
        while at < len(order):
            rows = self._rows(len(contexts[order[-1]]) + len(target), len(target))
            chosen = order[at : at + rows]
            try:
                found = self._read([contexts[i] for i in chosen], target, shared)
            except torch.OutOfMemoryError as error:
                if len(chosen) == 1:
                    raise ModelError(
                        f"attack on {self.generator.name}: out of memory with one candidate; use a smaller dtype"
                    ) from error
                self._batch_size = len(chosen) // 2
                continue
            index = torch.tensor(chosen)
            losses[index], reached[index] = found.losses.to(losses), found.reached.cpu()
            at += len(chosen)
        losses = losses.nan_to_num(nan=torch.inf)
        if not bool(losses.isfinite().any()):
            raise ModelError(
                f"attack on {self.generator.name}: no candidate has a finite loss; load the weights as float32 or bfloat16"
            )
        return Scores(losses, reached)

    @torch.no_grad()
    def _read(self, contexts: Sequence[Sequence[int]], target: Sequence[int], shared: int) -> Scores:
        lengths = [len(context) - shared for context in contexts]
        width = max(lengths)
        rows = [
            [*context[shared:], *target, *[target[-1]] * (width - length)]
            for context, length in zip(contexts, lengths, strict=True)
        ]
        embeds = self.table[torch.tensor(rows, device=self.device)]
        keep = len(target) + 1 + width - min(lengths)
        logits = self._logits(list(contexts[0][:shared]), embeds, keep)
        starts = torch.tensor(lengths, device=self.device) - min(lengths)
        places = starts[:, None] + torch.arange(len(target), device=self.device)
        kept = logits.gather(1, places[:, :, None].expand(-1, -1, logits.shape[2]))
        goal = torch.tensor(list(target), device=self.device).expand(len(rows), -1)
        self.spent.forward += len(rows)
        return Scores(_cross_entropy(kept, goal), (kept.argmax(-1) == goal).all(1))

    def soft_losses(
        self, before: Sequence[int], slots: Tensor, after: Sequence[int], target: Sequence[int]
    ) -> Tensor:
        """Loss [B] of ``target`` behind slots given as embeddings [B, S, D]; gradients flow into them."""
        tail = self.table[torch.tensor([*after, *target], device=self.device)]
        rows = torch.cat([slots, tail.expand(slots.shape[0], -1, -1)], dim=1)
        logits = self._logits(list(before), rows, len(target) + 1)[:, : len(target)]
        self.spent.forward += slots.shape[0]
        return _cross_entropy(
            logits, torch.tensor(list(target), device=self.device).expand(slots.shape[0], -1)
        )

    def _logits(self, prefix: list[int], embeds: Tensor, keep: int) -> Tensor:
        """Logits [B, keep, V] of the last places of rows that stand behind one prefix."""
        if not self._keeps_prefixes and prefix:
            before = self.table[torch.tensor(prefix, device=self.device)]
            embeds, prefix = torch.cat([before.expand(embeds.shape[0], -1, -1), embeds], dim=1), []
        cache = self._after(tuple(prefix), embeds.shape[0])
        positions = torch.arange(len(prefix), len(prefix) + embeds.shape[1], device=self.device)
        found: WithLogits = self.model(
            inputs_embeds=embeds,
            position_ids=positions.expand(embeds.shape[0], -1),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=keep,
        )
        return found.logits

    def _after(self, prefix: tuple[int, ...], rows: int) -> DynamicCache | None:
        """Keys and values of ``prefix`` for so many rows; the last prefix is kept."""
        if not prefix:
            return None
        if self._prefix is None or self._prefix[0] != prefix:
            cache = DynamicCache(config=self._config)
            with torch.no_grad():
                embeds = self.table[torch.tensor([prefix], device=self.device)]
                positions = torch.arange(len(prefix), device=self.device)[None]
                self.model(
                    inputs_embeds=embeds,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            self._prefix = prefix, cache
        found = copy.deepcopy(self._prefix[1])
        found.batch_repeat_interleave(rows)
        return found

    def _rows(self, length: int, target: int) -> int:
        """How many candidates of this length fit; the same on every run, so that a resumed one adds up alike."""
        if self._batch_size is not None:
            return self._batch_size
        size = self.table.element_size()
        hidden = self.table.shape[1]
        layers = cast("int", getattr(self._config, "num_hidden_layers", 32))
        inner = cast("int | None", getattr(self._config, "intermediate_size", None)) or 4 * hidden
        row = length * (2 * layers * hidden + 4 * inner + 8 * hidden) * size
        row += (target + 1) * self.table.shape[0] * (size + 8)
        return max(1, int(_SHARE * _memory(self.device) / row))


def _memory(device: torch.device) -> int:
    """Bytes of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cross_entropy(logits: Tensor, goal: Tensor) -> Tensor:
    """Mean over T of ``-log p(goal)``: [B, T, V] and [B, T] to [B], in single precision at least."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -wide.log_softmax(-1).gather(-1, goal[..., None])[..., 0].mean(1)
