"""Batched decoding in which given tokens follow sampled ones: they enter the key-value cache, unsampled and uncounted.

A sampled token and what is forced behind it are read in one forward pass. Rows that have nothing forced at that step are
padded in front and the padding is masked, so a row's logits are those of a fresh pass over its own sequence. Models
whose attention slides over the cache count its places, masked ones too: for them rows must be decoded alone.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from rubrica.models.decoding import Decoder, Pick

Force = Callable[[int, int], Sequence[int]]
"""(number of the row, the token just sampled) -> ids that follow it; not asked about a row's last token."""


class Grown(NamedTuple):
    """What one step added to a row."""

    row: int
    token: int
    """Sampled."""
    forced: Sequence[int]
    ended: bool
    """The token ended the row."""


def slides(config: object) -> bool:
    """Whether the attention of some layer reaches back a limited number of tokens."""
    return any(layer.is_sliding for layer in DynamicCache(config=config).layers)


@torch.inference_mode()
def decode_forced(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop: frozenset[int],
    pick: Pick,
    force: Force,
) -> Iterator[list[Grown]]:
    """Continue every prompt (token ids, not empty) by at most ``max_tokens`` sampled tokens; yield step by step."""
    reader = _Reader(model, len(prompts))
    rows, chunks = list(range(len(prompts))), [list(prompt) for prompt in prompts]
    for number in range(1, max_tokens + 1):
        logits = reader.read(chunks)
        tokens = pick(logits, torch.tensor(rows, device=model.device), number - 1).tolist()
        grown = []
        for row, token in zip(rows, tokens, strict=True):
            ended = token in stop
            forced = () if ended or number == max_tokens else force(row, token)
            grown.append(Grown(row, token, forced, ended))
        yield grown
        keep = [place for place, one in enumerate(grown) if not one.ended]
        if not keep:
            return
        if len(keep) < len(rows):
            reader.keep(keep)
        rows = [rows[place] for place in keep]
        chunks = [[grown[place].token, *grown[place].forced] for place in keep]


class _Reader:
    """A cache over rows of different length; ``mask`` [B, columns] tells tokens from padding."""

    def __init__(self, model: Decoder, rows: int) -> None:
        self._model, self._cache = model, DynamicCache(config=model.config)
        self._mask = torch.zeros(rows, 0, dtype=torch.long, device=model.device)

    def read(self, chunks: Sequence[Sequence[int]]) -> Tensor:
        """Read the next tokens of every row; return the logits behind the last ones, [B, V]."""
        width = max(map(len, chunks))
        device = self._model.device
        ids = torch.tensor([[0] * (width - len(c)) + list(c) for c in chunks], device=device)
        new = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in chunks], device=device)
        if self._mask.shape[1] > 2 * int(self._mask.sum(1).max()):
            self._compact()
        before = self._mask.sum(1, keepdim=True)
        self._mask = torch.cat([self._mask, new], dim=1)
        return self._model(
            input_ids=ids,
            attention_mask=None if bool(self._mask.all()) else self._mask,
            position_ids=(before + new.cumsum(1) - 1).clamp_(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        """Drop the other rows."""
        chosen = torch.tensor(rows, device=self._model.device)
        self._cache.batch_select_indices(chosen)
        self._mask = self._mask[chosen]

    def _compact(self) -> None:
        """Move every row's padding to its front, and cut off what is padding in all rows."""
        longest = int(self._mask.sum(1).max())
        order = self._mask.argsort(dim=1, stable=True)[:, -longest:]
        self._mask = self._mask.gather(1, order)
        for layer in self._cache.layers:
            place = order[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys = layer.keys.gather(2, place)
            layer.values = layer.values.gather(2, place)
