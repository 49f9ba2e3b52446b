"""One small training loop for the lab's own checkpoints: AdamW, warm-up and cosine, gradient clipping."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

RowT = TypeVar("RowT")
Progress = Callable[[int, int, float], None]
"""Called with (update, updates, loss)."""


def new_model(
    tokenizer: PreTrainedTokenizerFast, *, layers: int = 4, width: int = 128, seed: int = 0
) -> LlamaForCausalLM:
    """Return an untrained Llama of fewer than 0.9 M parameters with a context of 1,024 tokens."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=320,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def train(
    model: LlamaForCausalLM,
    draw: Callable[[random.Random, int], Sequence[RowT]],
    loss: Callable[[LlamaForCausalLM, Sequence[RowT]], Tensor],
    *,
    size: Callable[[RowT], int],
    updates: int,
    batch: int,
    learning_rate: float,
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Minimise ``loss`` over batches of rows of like ``size``; ``draw(rng, n)`` gives n fresh rows."""
    rng = random.Random(seed)
    batches = _bucketed(draw, size, batch, rng)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    warmup = max(1, updates // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda u: (
            (u + 1) / warmup
            if u < warmup
            else 0.05 + 0.475 * (1 + math.cos(math.pi * (u - warmup) / (updates - warmup)))
        ),
    )
    model.train()
    for update in range(updates):
        value = loss(model, next(batches))
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if progress is not None:
            progress(update + 1, updates, float(value.detach()))
    model.eval()


def _bucketed(
    draw: Callable[[random.Random, int], Sequence[RowT]],
    size: Callable[[RowT], int],
    batch: int,
    rng: random.Random,
) -> Iterator[list[RowT]]:
    """Sort 16 batches' worth of rows by size and deal them out in random order: little padding, fresh mixtures."""
    while True:
        rows = sorted(draw(rng, 16 * batch), key=size)
        starts = list(range(0, len(rows), batch))
        rng.shuffle(starts)
        for start in starts:
            yield rows[start : start + batch]


def answer_loss(
    tokenizer: PreTrainedTokenizerFast,
) -> Callable[[LlamaForCausalLM, Sequence[tuple[list[int], list[int]]]], Tensor]:
    """Cross-entropy of the completions of (prompt ids, completion ids) rows, prompts masked, right padding."""
    pad = tokenizer.pad_token_id

    def loss(model: LlamaForCausalLM, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        longest = max(len(p) + len(c) for p, c in rows)
        ids = torch.full((len(rows), longest), pad, dtype=torch.long)
        labels = torch.full((len(rows), longest), -100, dtype=torch.long)
        for index, (prompt, completion) in enumerate(rows):
            end = len(prompt) + len(completion)
            ids[index, :end] = torch.tensor(prompt + completion)
            labels[index, len(prompt) : end] = torch.tensor(completion)
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]  # causal: right padding needs no mask
        wanted = labels[:, 1:]
        keep = wanted != -100
        return torch.nn.functional.cross_entropy(model.lm_head(hidden[keep]), wanted[keep])

    return loss
