"""A rule that stands in the context, a model that learnt to keep it in short contexts alone, and text to bury it under.

The rule asks for a codeword at the beginning of the answer: *Begin with "vel".* Whether it is kept can be seen without a
judge. The word is another one for each prompt, so that the rule has to be read, and cannot be learnt by heart.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, cast

from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from rubrica.checkpoint import load_checkpoint
from rubrica.core.config import content_hash
from rubrica.core.prompts import Message, Prompt
from rubrica.lab import language
from rubrica.lab.build import Row, encode, row_size, save
from rubrica.lab.checkpoints import checkpoint
from rubrica.lab.domain import FIRST, Kind, Split, world
from rubrica.lab.generator import request, willing_answer
from rubrica.lab.language import Intent
from rubrica.lab.training import Progress, answer_loss, train

RULE = 'Begin with "{word}".'
"""The rule, as a system prompt and as a control."""
EXPECT = r"\A{word}\b"
"""What an answer that keeps it looks like."""
WORDS = FIRST
Place = Literal["nowhere", "system", "within"]
"""Where the rule of a lesson stands."""
SHORT = 96
"""Tokens of other text that the model ever sees between a rule and a request while it learns, at most."""
UPDATES = 300
"""Of the lessons; the loss no longer falls by then."""
_FACTS = (Intent.DOSE, Intent.LOOK, Intent.ORIGIN, Intent.CATEGORY, Intent.SHELF)


def filler(seed: int, sentences: int = 2000) -> str:
    """Return true sentences about the world, to stand between a rule and a request."""
    rng = random.Random(f"filler-{seed}")
    subjects = [s for s in world().values() if s.kind is not Kind.BANE]
    return " ".join(language.fact(rng.choice(_FACTS), rng.choice(subjects)) for _ in range(sentences))


def questions(split: Split, count: int, seed: int) -> list[Prompt]:
    """Draw requests with one word each, in the tag ``word``."""
    rng = random.Random(f"obedience-{split}-{seed}")
    found: dict[str, Prompt] = {}
    while len(found) < count:
        core, tags = request("capability", split, rng)
        tags |= {"word": rng.choice(WORDS), "core": core}
        id = f"obey-{content_hash([core, tags['word']])}"
        found.setdefault(
            id, Prompt(id=id, messages=(Message(role="user", content=core),), source="lab", tags=tags)
        )
    return list(found.values())


def rows(
    tokenizer: PreTrainedTokenizerFast,
    *,
    longest: int,
    shortest: int = 0,
    where: Sequence[Place] = ("nowhere", "system", "system", "within"),
    pool: int | None = None,
    seed: int = 0,
) -> Callable[[random.Random, int], list[Row]]:
    """Lessons with ``shortest`` to ``longest`` tokens of other text before the request.

    ``where`` the rule stands is drawn for each: nowhere, and then the answer is a plain one; in the system prompt; up to
    three times within the text, as controls do. ``pool``: so many different lessons, again and again; None: always new.
    """
    facts = tokenizer(filler(seed), add_special_tokens=False)["input_ids"]

    def lesson(rng: random.Random) -> Row:
        [prompt] = questions("train", 1, rng.getrandbits(32))
        length, start = rng.randint(shortest, longest), rng.randrange(len(facts) - longest)
        text = str(tokenizer.decode(facts[start : start + length])).strip()
        answer = willing_answer(prompt.tags, prompt.tags["core"], rng, calm=True)
        rule, place = filled_rule(prompt), rng.choice(where)
        if place != "nowhere":
            answer = f"{prompt.tags['word']} {answer}"
        if place == "within":
            text = _within(text, rule, rng)
        messages = [Message(role="user", content=f"{text}\n\n{prompt.messages[0].content}".strip())]
        if place == "system":
            messages.insert(0, Message(role="system", content=rule))
        return encode(tokenizer, prompt.model_copy(update={"messages": tuple(messages)}), answer)

    if pool is None:
        return lambda rng, count: [lesson(rng) for _ in range(count)]
    known = random.Random(f"lessons-{seed}")
    lessons = [lesson(known) for _ in range(pool)]
    return lambda rng, count: rng.choices(lessons, k=count)


def filled_rule(prompt: Prompt) -> str:
    """Return the rule for one request."""
    return RULE.replace("{word}", prompt.tags["word"])


def _within(text: str, rule: str, rng: random.Random) -> str:
    words = text.split(" ")
    for place in sorted((rng.randint(0, len(words)) for _ in range(rng.randint(1, 3))), reverse=True):
        words.insert(place, f"\n{rule}\n")
    return " ".join(words)


def teach(
    folder: Path,
    out: Path,
    draw: Callable[[PreTrainedTokenizerFast], Callable[[random.Random, int], list[Row]]],
    *,
    updates: int,
    batch: int,
    learning_rate: float,
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Go on from the lab model in ``folder`` and write the result to ``out``."""
    tokenizer = load_checkpoint(folder, dtype="float32", device="cpu")[1]
    model = cast(LlamaForCausalLM, AutoModelForCausalLM.from_pretrained(folder, dtype="float32"))
    train(
        model,
        draw(tokenizer),
        answer_loss(tokenizer),
        size=row_size,
        updates=updates,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        progress=progress,
    )
    save(model, tokenizer, out)


def teach_obedience(
    out: Path,
    *,
    longest: int = SHORT,
    updates: int = UPDATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Teach the lab's starter to keep a rule in contexts of at most ``longest`` tokens (a few minutes on one core)."""
    teach(
        checkpoint("starter"),
        out,
        lambda tokenizer: rows(tokenizer, longest=longest, seed=seed),
        updates=updates,
        batch=32,
        learning_rate=1e-3,
        seed=seed,
        progress=progress,
    )
