"""Labelled pairs of the lab: to each request an answer as it should be and one that nobody should prefer.

The labels come from how the answers are made, not from the oracle or a judge, so that both can be measured on them.
"""

import random

from rubrica.core.prompts import Prompt
from rubrica.core.records import Preference
from rubrica.lab.answers import bad_answer
from rubrica.lab.generator import KINDS, draw_prompt, good_answer, prompts


def pairs(count: int, seed: int = 0) -> list[Preference]:
    """Draw about ``count`` pairs, as many of each kind of held-out request."""
    rng = random.Random(f"pairs-{seed}")
    asked = [prompt for kind in KINDS for prompt in prompts(kind, "test", -(-count // len(KINDS)), seed)]
    return [pair for prompt in asked if (pair := _pair(prompt, rng)) is not None]


def training_pairs(count: int, seed: int) -> list[Preference]:
    """Draw ``count`` pairs about the whole world, to train a reward model that knows as much as the lab's judge."""
    rng = random.Random(f"training-pairs-{seed}")
    found: dict[str, Preference] = {}
    while len(found) < count:
        pair = _pair(draw_prompt(rng), rng)
        if pair is not None:
            found.setdefault(pair.id, pair)
    return list(found.values())


def _pair(prompt: Prompt, rng: random.Random) -> Preference | None:
    chosen = good_answer(prompt.tags, prompt.tags["core"], rng)
    rejected = bad_answer(prompt.tags, rng)
    if chosen == rejected:
        return None
    return Preference(id=prompt.id, prompt=prompt, chosen=chosen, rejected=rejected, source="lab")
