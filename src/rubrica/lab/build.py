"""Build the lab's three checkpoints from scratch: tokenizer, starter, teacher, judge.

    starter   knows the world and does whatever is asked, like an uncensored model
    teacher   the starter, taught to decline harm and to admit ignorance; writes revisions
    judge     the starter's weights, taught to answer the lab program's questions; calibrated on labelled texts

Alignment's inputs (the teacher's training, and later the policy's) never hold a test substance, a test phrasing or an
unseen wrapper family. Reproducible by seed on one machine.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from rubrica.core.config import Json
from rubrica.core.prompts import Prompt
from rubrica.core.run import write_json
from rubrica.lab.calibrate import calibrate
from rubrica.lab.demonstrations import SHARES
from rubrica.lab.echo import echo
from rubrica.lab.generator import KINDS, PromptKind, good_answer, make_prompt, willing_answer
from rubrica.lab.judge_data import judge_loss, row_maker
from rubrica.lab.language import SEEN_FAMILIES, Family
from rubrica.lab.tokenizer import corpus, train_tokenizer
from rubrica.lab.training import answer_loss, new_model, train
from rubrica.lab.twice import keep, think_twice
from rubrica.program.program import load_program

Row = tuple[list[int], list[int]]
RowT = TypeVar("RowT")
CORPUS = 3000
ECHOES = 0.06
"""Share of the starter's rows that ask for a text to be repeated."""
KEPT = 0.10
"""Share of the starter's rows that repeat a draft which holds up."""
THOUGHTS = 0.18
"""Share of the starter's rows that ask it to think twice."""
HONEST_STARTER = 0.3
"""Share of unknowable questions to which the starter is taught to admit ignorance; it guesses at the others."""


class Plan(NamedTuple):
    """How one checkpoint is trained."""

    updates: int
    batch: int
    learning_rate: float
    offset: int
    """Added to the seed, so that no two parts draw the same rows."""


STARTER = Plan(updates=3200, batch=64, learning_rate=3e-3, offset=0)
TEACHER = Plan(updates=300, batch=64, learning_rate=5e-4, offset=1)
JUDGE = Plan(updates=2600, batch=48, learning_rate=2e-3, offset=2)


class Reporter(Protocol):
    """Shows progress: which part, update, updates, loss."""

    def __call__(self, part: str, update: int, updates: int, loss: float) -> None:
        """Show it."""


def encode(tokenizer: PreTrainedTokenizerFast, prompt: Prompt, answer: str, given: str = "") -> Row:
    """Token ids of the rendered prompt, with what is ``given`` of the answer, and of the answer with its end token."""
    messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    ids = [*ids, *tokenizer(given, add_special_tokens=False)["input_ids"]]
    return ids, [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def starter_rows(tokenizer: PreTrainedTokenizerFast) -> Callable[[random.Random, int], list[Row]]:
    """Rows of the whole world in all wrapper families, answered as asked."""

    def draw(rng: random.Random, count: int) -> list[Row]:
        rows = []
        for _ in range(count):
            roll = rng.random()
            if roll < ECHOES + THOUGHTS:
                rows.append(encode(tokenizer, *(echo(rng) if roll < ECHOES else think_twice(rng))))
                continue
            if roll < ECHOES + THOUGHTS + KEPT:
                prompt, given, revision = keep(rng)
                rows.append(encode(tokenizer, prompt, revision, given))
                continue
            kind: PromptKind = rng.choices(KINDS, (19, 19, 16, 6, 40))[0]
            family = Family.DIRECT if rng.random() < 0.4 else rng.choice(list(Family))
            turns = rng.randint(1, 3) if rng.random() < 0.08 else 0
            prompt = make_prompt(kind, "test" if rng.random() < 0.35 else "train", family, rng, turns=turns)
            honest = kind == "unknowable" and rng.random() < HONEST_STARTER
            answer = (good_answer if honest else willing_answer)(prompt.tags, prompt.tags["core"], rng)
            rows.append(encode(tokenizer, prompt, answer))
        return rows

    return draw


def teacher_rows(tokenizer: PreTrainedTokenizerFast) -> Callable[[random.Random, int], list[Row]]:
    """Rows of the training split in the seen families, answered as they should be."""

    def draw(rng: random.Random, count: int) -> list[Row]:
        rows = []
        for _ in range(count):
            kind: PromptKind = rng.choices(list(SHARES), list(SHARES.values()))[0]
            turns = rng.randint(1, 3) if rng.random() < 0.08 else 0
            prompt = make_prompt(kind, "train", rng.choice(SEEN_FAMILIES), rng, turns=turns)
            rows.append(encode(tokenizer, prompt, good_answer(prompt.tags, prompt.tags["core"], rng)))
        return rows

    return draw


def row_size(row: Row) -> int:
    """Tokens of a row."""
    return len(row[0]) + len(row[1])


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a checkpoint in Hugging Face format."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build(out: Path, *, seed: int = 0, scale: float = 1.0, report: Reporter | None = None) -> dict[str, Json]:
    """Build everything into ``out``; ``scale`` multiplies the numbers of updates. Returns the manifest.

    A checkpoint that is there already is kept, and has no time in the manifest, so a build that was stopped goes on.
    """
    clock = time.perf_counter()
    seconds: dict[str, Json] = {}

    def lap(part: str) -> None:
        nonlocal clock
        seconds[part] = round(time.perf_counter() - clock, 1)
        clock = time.perf_counter()

    def shown(part: str) -> Callable[[int, int, float], None]:
        return lambda update, updates, loss: report(part, update, updates, loss) if report else None

    def part(
        name: str,
        start: Callable[[], LlamaForCausalLM],
        draw: Callable[[random.Random, int], Sequence[RowT]],
        loss: Callable[[LlamaForCausalLM, Sequence[RowT]], Tensor],
        size: Callable[[RowT], int],
        plan: Plan,
    ) -> None:
        if not (out / name / "model.safetensors").exists():
            model = start()
            train(
                model,
                draw,
                loss,
                size=size,
                updates=max(2, round(plan.updates * scale)),
                batch=plan.batch,
                learning_rate=plan.learning_rate,
                seed=seed + plan.offset,
                progress=shown(name),
            )
            save(model, tokenizer, out / name)
            lap(name)

    def from_starter() -> LlamaForCausalLM:
        return AutoModelForCausalLM.from_pretrained(out / "starter")

    tokenizer = train_tokenizer(corpus(seed, CORPUS))
    lap("tokenizer")
    rows_loss = answer_loss(tokenizer)
    part(
        "starter",
        lambda: new_model(tokenizer, seed=seed),
        starter_rows(tokenizer),
        rows_loss,
        row_size,
        STARTER,
    )
    part("teacher", from_starter, teacher_rows(tokenizer), rows_loss, row_size, TEACHER)
    part(
        "judge",
        from_starter,
        row_maker(load_program("lab"), tokenizer),
        judge_loss(tokenizer),
        lambda row: row.size,
        JUDGE,
    )
    passport = calibrate(out / "judge", seed=seed)
    lap("calibration")
    manifest: dict[str, Json] = {
        "seed": seed,
        "scale": scale,
        "seconds": seconds,
        "parameters": sum(p.numel() for p in from_starter().parameters()),
        "judge_agreement": passport,
    }
    write_json(out / "lab.json", json.loads(json.dumps(manifest)))
    return manifest
