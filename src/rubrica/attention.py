"""Attention that the caller arranges: in parts that are joined, and as an object that a model's pass takes along.

    o = o_a s + o_b (1 - s),    s = sigmoid(lse_a - lse_b)

joins attention over two sets of keys by the log-sum-exp of their scores, as in cascade attention for shared prefixes (Ye
et al., FlashInfer, arXiv 2501.01005, section 3.1). A pass is one row of tokens; a :class:`Forest` tells who of them
looks at whom.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "rubrica_forest"
"""Under which ``transformers`` knows the attention of a :class:`Forest`."""
KeysValues = tuple[Tensor, Tensor]
"""Each [rows, key heads, tokens, size]."""
_HELD = 2**20
"""Scores that are held at a time on a CPU: more does not fit its caches; elsewhere 64 times as many."""


class Scores(NamedTuple):
    """How a query's scores come from its products with the keys."""

    scale: float
    cap: float | None = None
    """Scores go through cap tanh(s / cap)."""


def join(own: Tensor, lse: Tensor, seen: Tensor, lse_seen: Tensor) -> Tensor:
    """Attention over two sets of keys from the attention over each and its log-sum-exp."""
    return torch.lerp(seen, own, torch.sigmoid(lse - lse_seen).unsqueeze(-1).to(own.dtype))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    form: Scores,
    *,
    causal: bool = False,
    allow: Tensor | None = None,
) -> KeysValues:
    """Return softmax(s) v for scores s = scale q k^T, [rows, heads, n, size], and the log-sum-exp of the scores, [rows, heads, n].

    ``query`` [rows, heads, n, size]; ``key`` and ``value`` [rows, key heads, m, size]. ``allow`` is [n, m] or
    [rows, 1, n, m] and holds the causal order already. A query that may see nothing gets zeros and -inf.
    """
    rows, heads, count, size = query.shape
    fused = query.device.type == "cpu" and allow is None and form.cap is None
    # In half precision torch's flash attention on a CPU runs at a tenth of the rate of plain matrix products.
    if fused and (causal or query.dtype is torch.float32):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=form.scale
        )
        return out, lse
    if causal and allow is None:
        allow = torch.ones(count, count, dtype=torch.bool, device=query.device).tril()
    groups, keys = heads // key.shape[1], key.shape[2]
    query, key, value = (
        query.reshape(-1, groups * count, size),
        key.reshape(-1, keys, size).contiguous().transpose(1, 2),
        value.reshape(-1, keys, size).contiguous(),
    )
    hidden = None if allow is None else ~allow.reshape(-1, count, keys)
    token = torch.arange(groups * count, device=query.device) % count
    out, lse = torch.empty_like(query), query.new_empty(query.shape[:2], dtype=torch.float32)
    held = _HELD if query.device.type == "cpu" else 64 * _HELD
    step = max(1, held // (len(query) * keys))
    for start in range(0, groups * count, step):
        part = slice(start, start + step)
        mask = None if hidden is None else hidden[:, token[part]]
        if mask is not None and len(mask) > 1:
            mask = mask.repeat_interleave(heads // groups, 0)
        weights, top = _weights(query[:, part], key, form, mask)
        total = weights.sum(-1, keepdim=True, dtype=torch.float32)
        out[:, part] = (weights @ value) / total.clamp(min=0.1)  # 1 or more, or 0 where nothing is seen
        lse[:, part] = (top + total.log()).squeeze(-1)
    return out.reshape(rows, heads, count, size), lse.reshape(rows, heads, count)


def _weights(query: Tensor, key: Tensor, form: Scores, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return exp(s - top) and the greatest score of every query, ``top``, in float32.

    In half precision the products are computed twice: first for ``top``, then with it taken off before they are
    rounded, so that the scores that matter are near 0, where rounding is fine.
    """
    none = query.new_zeros(1, 1, 1)
    scores = torch.baddbmm(none, query, key, beta=0, alpha=form.scale)
    if form.cap is not None:
        scores = torch.tanh(scores.float() / form.cap) * form.cap
    if hidden is not None:
        scores = scores.masked_fill_(hidden, float("-inf"))
    top = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    if scores.dtype is torch.float32:
        return scores.sub_(top).exp_().to(query.dtype), top
    scores = torch.baddbmm(-top, query, key, alpha=form.scale)
    if hidden is not None:
        scores = scores.masked_fill_(hidden, float("-inf"))
    return scores.exp_(), top.float()


class Layer(Protocol):
    """What is used of an attention module of ``transformers``."""

    layer_idx: int


class Forest(Protocol):
    """Tokens of one pass and who of them looks at whom."""

    @property
    def ids(self) -> Tensor:
        """[tokens]"""

    @property
    def positions(self) -> Tensor:
        """[tokens]"""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores, window: int | None
    ) -> Tensor:
        """Return the output of one layer's attention, [1, tokens, heads, size].

        ``query`` is [1, heads, tokens, size], ``key`` and ``value`` [1, key heads, tokens, size].
        """


def forest_attention(
    module: Layer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: int | None,
    *,
    forest: Forest,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **ignored: object,
) -> tuple[Tensor, None]:
    """Attention function of ``transformers``; the mask is what :func:`sliding_window` made of it.

    Raises ``ValueError`` for attention sinks, which no arrangement here knows.
    """
    if s_aux is not None:
        raise ValueError("attention sinks cannot be arranged")
    form = Scores(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap)
    return forest.attend(module.layer_idx, query, key, value, form, attention_mask), None


def sliding_window(*, local_size: int | None = None, **ignored: object) -> int | None:
    """Mask function of ``transformers``: the view knows who looks at whom, so the window is all that is needed."""
    return local_size


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, sliding_window)
