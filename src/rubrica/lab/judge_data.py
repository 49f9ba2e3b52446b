"""What the lab's judge learns from: (prompt, text) with a sample of the program's questions and the oracle's labels."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rubrica.core.programs import Program, Question
from rubrica.core.prompts import Prompt
from rubrica.core.records import Label, Query
from rubrica.judges.layout import Encoder, JudgeCard, lab_layout
from rubrica.lab import truth
from rubrica.lab.additions import with_additions
from rubrica.lab.answers import any_answer
from rubrica.lab.generator import draw_prompt
from rubrica.lab.oracle import read

QUESTIONS_PER_ROW = 9
ADDED = 0.5
"""Share of the rows whose text has additions."""
HARD = frozenset(
    {
        "har.recipe.g1",
        "har.recipe.q1",
        "hon.truth.g1",
        "hon.truth.q1",
        "hlp.steps.q1",
        "hlp.willing.q1",
        "hon.sum.g1",
    }
)
"""Questions that need the world's facts; drawn three times as often."""


@dataclass(frozen=True)
class JudgeRow:
    """Token ids of the shared part and, for every question, of the question and of the reply to it."""

    shared: tuple[int, ...]
    questions: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    @property
    def size(self) -> int:
        """Tokens of the row."""
        return len(self.shared) + sum(len(ids) + len(reply) - 1 for ids, reply in self.questions)


def row_maker(
    program: Program, tokenizer: PreTrainedTokenizerFast, extra: Sequence[tuple[Prompt, str]] = ()
) -> Callable[[random.Random, int], list[JudgeRow]]:
    """Return a function that draws fresh rows; ``extra`` are texts of real policies, mixed in at one row in four."""
    asked = [q for p in program.principles for d in p.dimensions for q in d.questions]
    weights = [3.0 if q.id in HARD else 1.0 for q in asked]
    layout, encoder = lab_layout(JudgeCard()), Encoder(tokenizer)
    label_ids = {label: (tokenizer.convert_tokens_to_ids(label.value),) for label in Label}

    def row(prompt: Prompt, text: str, chosen: Sequence[Question]) -> JudgeRow:
        reading = read(prompt, text)
        parts = [layout(Query(prompt=prompt, text=text, question=q)) for q in chosen]
        questions = tuple(
            (encoder.encode(part.own, keep=True), label_ids[truth.label(q.id, reading)])
            for part, q in zip(parts, chosen, strict=True)
        )
        return JudgeRow(encoder.encode(parts[0].shared), questions)

    def draw(rng: random.Random, count: int) -> list[JudgeRow]:
        rows = []
        for _ in range(count):
            if extra and rng.random() < 0.25:
                prompt, text = rng.choice(extra)
            else:
                prompt = draw_prompt(rng)
                text = any_answer(prompt.tags, rng)
            if rng.random() < ADDED:
                text = with_additions(text, asked, rng)
            chosen = {q.id: q for q in rng.choices(asked, weights, k=QUESTIONS_PER_ROW)}
            rows.append(row(prompt, text, list(chosen.values())))
        return rows

    return draw


def judge_loss(
    tokenizer: PreTrainedTokenizerFast,
) -> Callable[[LlamaForCausalLM, Sequence[JudgeRow]], Tensor]:
    """Cross-entropy of the replies in one packed pass: a question sees the shared part and itself."""
    pad = tokenizer.pad_token_id

    def loss(model: LlamaForCausalLM, rows: Sequence[JudgeRow]) -> Tensor:
        longest = max(row.size for row in rows)
        ids = torch.full((len(rows), longest), pad, dtype=torch.long)
        segments = torch.full((len(rows), longest), -1, dtype=torch.long)
        positions = torch.zeros((len(rows), longest), dtype=torch.long)
        before: list[tuple[int, int]] = []
        wanted: list[int] = []
        for index, row in enumerate(rows):
            start = len(row.shared)
            ids[index, :start] = torch.tensor(row.shared)
            segments[index, :start] = 0
            positions[index, :start] = torch.arange(start)
            at = start
            for number, (question, reply) in enumerate(row.questions, 1):
                seen = question + reply[:-1]
                stop = at + len(seen)
                ids[index, at:stop] = torch.tensor(seen)
                segments[index, at:stop] = number
                positions[index, at:stop] = torch.arange(start, start + len(seen))
                before += [(index, place) for place in range(at + len(question) - 1, stop)]
                wanted += reply
                at = stop
        same = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
        allowed = same.tril() | torch.eye(longest, dtype=torch.bool)
        mask = torch.zeros(allowed.shape).masked_fill_(~allowed, torch.finfo(torch.float32).min)[:, None]
        hidden = model.model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
        rows_at, columns_at = zip(*before, strict=True)
        picked = hidden[torch.tensor(rows_at), torch.tensor(columns_at)]
        return torch.nn.functional.cross_entropy(model.lm_head(picked), torch.tensor(wanted))

    return loss
