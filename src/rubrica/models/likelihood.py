"""How likely given answers are under a causal language model of ``transformers``."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from rubrica.control import chat_control
from rubrica.core.errors import ModelError, UsageError
from rubrica.core.prompts import Prompt
from rubrica.models.hf import ChatTokenizer


class Row(NamedTuple):
    """One answer in token ids."""

    prompt_ids: list[int]
    answer_ids: list[int]
    """With the end token, where the answer ended."""


class Likelihood(NamedTuple):
    """Log-probability of one answer given its prompt."""

    total: float
    """Sum over the answer's tokens, in nats."""
    tokens: int

    @property
    def per_token(self) -> float:
        """Mean over the answer's tokens."""
        return self.total / self.tokens


class Output(Protocol):
    """What a forward pass gives."""

    logits: Tensor


class Causal(Protocol):
    """What is used of a model."""

    @property
    def device(self) -> torch.device:
        """Where it lies."""

    def __call__(self, *, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Output:
        """Logits (B, T, V)."""


def answer_rows(
    tokenizer: ChatTokenizer,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    finished: Sequence[bool] | None = None,
) -> list[Row]:
    """Return prompts, rendered by the chat template, and answers in token ids, with the end token if ``finished``.

    What prompts and answers spell can produce no control token. ``UsageError`` unless there is one text a prompt.
    """
    if len(prompts) != len(texts):
        raise UsageError(f"answers: {len(texts)} for {len(prompts)} prompts; expected one each")
    control, end = chat_control(tokenizer), tokenizer.eos_token_id
    if end is None:
        raise ModelError("the tokenizer has no end token; set eos_token in tokenizer_config.json")
    rows = []
    for index, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        turns = [{"role": m.role, "content": control.disarm(m.content)} for m in prompt.messages]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        answer = tokenizer.encode(control.disarm(text), add_special_tokens=False)
        ended = finished is None or finished[index]
        rows.append(
            Row(tokenizer.encode(rendered, add_special_tokens=False), [*answer, end] if ended else answer)
        )
    return rows


def likelihoods(model: Causal, rows: Sequence[Row], *, batch_size: int = 16) -> list[Likelihood]:
    """Return the likelihood of each row, in order; rows of like length share a batch.

    ``UsageError`` for a row without a prompt or an answer token.
    """
    for row in rows:
        if not row.prompt_ids or not row.answer_ids:
            raise UsageError("answers: one has no token, or its prompt has none; expected some text in both")
    order = sorted(
        range(len(rows)), key=lambda index: len(rows[index].prompt_ids) + len(rows[index].answer_ids)
    )
    found: dict[int, Likelihood] = {}
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        totals = _totals(model, [rows[index] for index in chosen])
        for index, total in zip(chosen, totals, strict=True):
            found[index] = Likelihood(total, len(rows[index].answer_ids))
    return [found[index] for index in range(len(rows))]


@torch.inference_mode()
def _totals(model: Causal, rows: Sequence[Row]) -> Iterator[float]:
    longest = max(len(row.prompt_ids) + len(row.answer_ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, answer = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for index, row in enumerate(rows):
        start, end = len(row.prompt_ids), len(row.prompt_ids) + len(row.answer_ids)
        ids[index, :end] = torch.tensor([*row.prompt_ids, *row.answer_ids])
        mask[index, :end], answer[index, start:end] = 1, True
    ids, mask, answer = ids.to(model.device), mask.to(model.device), answer.to(model.device)[:, 1:]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    kept = logits[answer].float()  # answers' positions alone, so that prompts cost no vocabulary-wide floats
    each = torch.gather(kept, 1, ids[:, 1:][answer][:, None])[:, 0] - kept.logsumexp(dim=-1)
    totals = torch.zeros(len(rows), dtype=torch.float64, device=each.device)
    totals.index_add_(0, answer.nonzero()[:, 0], each.double())
    return iter(cast("list[float]", totals.tolist()))
