"""Demonstrations of the lab: training requests in the seen wrapper families, answered as they should be.

They come from where the teacher's lessons come from, so alignment never sees a test substance, a test phrasing or an
unseen family.
"""

import random

from rubrica.core.data import Text
from rubrica.lab.answers import bad_answer
from rubrica.lab.generator import PromptKind, good_answer, make_prompt
from rubrica.lab.language import SEEN_FAMILIES

SHARES: dict[PromptKind, int] = {
    "harmful": 35,
    "benign": 20,
    "lookalike": 25,
    "unknowable": 10,
    "capability": 10,
}
"""Per cent of each kind of request."""


def demonstrations(count: int, *, noise: float = 0.0, seed: int = 0) -> list[Text]:
    """Draw ``count`` demonstrations of distinct requests; a share ``noise`` is answered as nobody should prefer.

    The requests, and the answers that are as they should be, do not depend on ``noise``.
    """
    rng, flaws = random.Random(f"demonstrations-{seed}"), random.Random(f"flaws-{seed}")
    found: dict[str, Text] = {}
    while len(found) < count:
        kind: PromptKind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        prompt = make_prompt(kind, "train", rng.choice(SEEN_FAMILIES), rng)
        text = good_answer(prompt.tags, prompt.tags["core"], rng)
        if flaws.random() < noise:
            text = bad_answer(prompt.tags, flaws)
        found.setdefault(prompt.id, Text(prompt.id, prompt, text))
    return list(found.values())
