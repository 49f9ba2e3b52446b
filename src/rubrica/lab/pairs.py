"""Labelled pairs of the lab: to each held-out request an answer as it should be and one that nobody should prefer.

The labels come from how the answers are made, not from the oracle or a judge, so that both can be measured on them.
"""

import random

from rubrica.core.records import Preference
from rubrica.lab.answers import bad_answer
from rubrica.lab.generator import KINDS, good_answer, prompts


def pairs(count: int, seed: int = 0) -> list[Preference]:
    """Draw about ``count`` pairs, as many of each kind of request."""
    rng = random.Random(f"pairs-{seed}")
    found: list[Preference] = []
    for kind in KINDS:
        for prompt in prompts(kind, "test", -(-count // len(KINDS)), seed):
            chosen = good_answer(prompt.tags, prompt.tags["core"], rng)
            rejected = bad_answer(prompt.tags, rng)
            if chosen != rejected:
                found.append(
                    Preference(id=prompt.id, prompt=prompt, chosen=chosen, rejected=rejected, source="lab")
                )
    return found
