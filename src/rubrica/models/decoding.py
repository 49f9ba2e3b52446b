"""Batched decoding with a key-value cache that drops finished rows.

Equal prompts are read once. The batch shrinks as rows end, which is where the time goes in small models. What
a row gets does not depend on its neighbours: random numbers belong to rows, not to batches.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

OnEnd = Callable[[Sequence[tuple[int, list[int]]]], None]
"""Gets (number of the row, its new tokens with the end token) of the rows that have just ended."""
Pick = Callable[[Tensor, Tensor, int], Tensor]
"""(logits [B, V], numbers of the rows [B], step) -> next tokens [B]."""


class WithLogits(Protocol):
    """Output of a model."""

    logits: Tensor


class Decoder(Protocol):
    """What is used of a ``transformers`` causal language model."""

    config: object

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        past_key_values: DynamicCache,
        use_cache: bool,
        logits_to_keep: int,
    ) -> WithLogits:
        """Forward pass over new tokens."""


class Completion(NamedTuple):
    """New tokens of one row, end token included when ``finished``."""

    ids: list[int]
    finished: bool


@torch.inference_mode()
def decode(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop: frozenset[int],
    pick: Pick,
    on_end: OnEnd | None = None,
) -> list[Completion]:
    """Continue every prompt (token ids, not empty) until a token of ``stop`` or ``max_tokens``.

    ``on_end`` hears of every row that ends by itself while others go on.
    """
    device = model.device
    distinct = {tuple(prompt): None for prompt in prompts}
    number = {prompt: index for index, prompt in enumerate(distinct)}
    cache, logits, mask = _prefill(model, list(distinct), max_tokens)
    spread = torch.tensor([number[tuple(prompt)] for prompt in prompts], device=device)
    if len(distinct) < len(prompts):
        cache.batch_select_indices(spread)
        logits, mask = logits[spread], mask[spread]
    width = mask.shape[1] - max_tokens
    padded = not bool(mask[:, :width].all())
    positions = mask[:, :width].sum(1, keepdim=True)
    rows = torch.arange(len(prompts), device=device)
    ends = torch.tensor(sorted(stop), device=device, dtype=torch.long)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    written = torch.zeros(len(prompts), max_tokens, dtype=torch.long, device=device)
    lengths = torch.full((len(prompts),), max_tokens, device=device)
    for step in range(max_tokens):
        tokens = pick(logits, rows, step)
        written[rows, step] = tokens
        ended = torch.isin(tokens, ends) & ~done
        lengths[rows[ended]] = step + 1
        done = done | ended
        if on_end is not None and bool(ended.any()):
            on_end([(row, written[row, : step + 1].tolist()) for row in rows[ended].tolist()])
        left = int((~done).sum())
        if left == 0 or step + 1 == max_tokens:
            break
        if left <= 0.9 * len(rows):  # dropping copies the cache, so a lone row may wait for others
            keep = torch.nonzero(~done)[:, 0]
            cache.batch_select_indices(keep)
            rows, mask, positions, tokens, done = (
                rows[keep],
                mask[keep],
                positions[keep],
                tokens[keep],
                done[keep],
            )
        logits = model(
            input_ids=tokens[:, None],
            attention_mask=mask[:, : width + step + 1] if padded else None,
            position_ids=positions + step,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    last = written.gather(1, lengths[:, None] - 1)[:, 0]
    finished = torch.isin(last, ends).tolist()
    return [
        Completion(ids[:length], end)
        for ids, length, end in zip(written.tolist(), lengths.tolist(), finished, strict=True)
    ]


def _prefill(
    model: Decoder, prompts: Sequence[tuple[int, ...]], max_tokens: int
) -> tuple[DynamicCache, Tensor, Tensor]:
    """Read left-padded prompts; return cache, next logits [B, V] and mask [B, T + max_tokens]."""
    width = max(map(len, prompts))
    ids = torch.tensor(
        [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device
    )
    mask = torch.ones(len(prompts), width + max_tokens, dtype=torch.long, device=model.device)
    for row, prompt in enumerate(prompts):
        mask[row, : width - len(prompt)] = 0
    seen = mask[:, :width]
    cache = DynamicCache(config=model.config)
    logits = model(
        input_ids=ids,
        attention_mask=None if bool(seen.all()) else seen,
        position_ids=(seen.cumsum(1) - 1).clamp_(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return cache, logits, mask


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """Pick the likeliest token."""
    return logits.argmax(-1)


def sampler(
    keys: Sequence[Hashable], *, temperature: float, top_p: float, seed: int, max_tokens: int
) -> Pick:
    """Pick at random by inverting the cumulative distribution of ``softmax(logits / temperature)``.

    Every row has random numbers of its own, drawn from ``(seed, keys[row])``: it gets the same tokens whatever
    rows stand beside it and whenever they end. ``top_p`` keeps the smallest set of likeliest tokens that
    holds this share (Holtzman et al. 2020, section 3.1).
    """
    drawn = torch.from_numpy(np.stack([uniforms(seed, key, max_tokens) for key in keys]))

    def pick(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        points = drawn.to(logits.device)[rows, step, None]
        return draw(shares_of(logits, temperature=temperature, top_p=top_p), points)[:, 0]

    return pick


def draw(shares: Tensor, points: Tensor) -> Tensor:
    """Tokens [B, N] at ``points`` [B, N] in [0, 1) of the cumulative sum of ``shares`` [B, V], which need not sum to 1."""
    total = shares.cumsum(-1)
    found = torch.searchsorted(total, points * total[:, -1:], right=True)
    return found.clamp(max=shares.shape[-1] - 1)


def shares_of(logits: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """``softmax(logits / temperature)`` in float64, 0 outside the smallest set of likeliest tokens that holds ``top_p``."""
    shares = (logits.double() / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = shares.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        shares = shares.scatter(-1, order, ordered.masked_fill(before >= top_p, 0.0))
    return shares


def uniforms(seed: int, key: Hashable, count: int) -> NDArray[np.float64]:
    """``count`` numbers in [0, 1) that depend on ``seed`` and ``key`` alone."""
    words = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, *repr(key).encode()]
    return np.random.default_rng(words).random(count)
