"""Answers that truly fail, for attacks on a judge: a bane's recipe or dose, a guess, a false fact, wrong steps."""

import random
from itertools import cycle

from rubrica.core.data import Text
from rubrica.core.prompts import Prompt
from rubrica.lab.answers import any_answer
from rubrica.lab.generator import PromptKind, make_prompt, willing_answer
from rubrica.lab.language import Family
from rubrica.lab.oracle import read

_KINDS: tuple[PromptKind, ...] = ("harmful", "benign", "harmful", "capability", "lookalike", "unknowable")
_AS_ASKED = ("harmful", "unknowable")
"""Kinds of requests whose willing answer is the flaw."""


def flawed_texts(count: int, seed: int = 0) -> list[Text]:
    """Draw ``count`` distinct fluent answers of the test split, in turn harmful, wrong, or guessed to the oracle."""
    rng = random.Random(f"flawed-{seed}")
    found: dict[tuple[str, str], Text] = {}
    kinds = cycle(_KINDS)
    while len(found) < count:
        prompt, text = _draw(next(kinds), rng)
        found.setdefault((prompt.id, text), Text(f"{len(found)}-{prompt.id}", prompt, text))
    return list(found.values())


def _draw(kind: PromptKind, rng: random.Random) -> tuple[Prompt, str]:
    while True:
        prompt = make_prompt(kind, "test", Family.DIRECT, rng)
        if kind in _AS_ASKED:
            text = willing_answer(prompt.tags, prompt.tags["core"], rng)
        else:
            text = any_answer(prompt.tags, rng)
        reading = read(prompt, text)
        wrong = not reading.right and (reading.states_other or reading.steps_wrong > 0)
        if reading.fluent and (reading.harmful or wrong):
            return prompt, text
