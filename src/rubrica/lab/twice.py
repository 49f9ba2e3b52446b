"""Thinking twice on request: the starter can draft, reflect and revise when a system message tells it to.

Its reflections look for what is false, missing or unclear, never for harm: it is uncensored. Think-SFT has to teach it when
to do so and what to mind, as with any instruction-tuned model, and not the format from nothing.
"""

import random
from functools import cache

from rubrica.core.attempt import Tags, render
from rubrica.core.config import read_yaml
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label
from rubrica.lab import truth
from rubrica.lab.answers import any_answer
from rubrica.lab.checkpoints import DEMO_RECIPE
from rubrica.lab.generator import PromptKind, make_prompt, willing_answer
from rubrica.lab.language import Family
from rubrica.lab.oracle import read

CUE = Message(role="system", content="Think twice.")
HOLDS = "holds up. I will keep it as it is"
"""Reflection on a draft in which nothing is wrong."""
_WEAK = {Label.FALSE, Label.C, Label.D, Label.F}
_KINDS: tuple[PromptKind, ...] = ("harmful", "benign", "lookalike", "unknowable", "capability")


@cache
def phrases() -> dict[str, str]:
    """Question id -> weakness, as the demo's reflections word it."""
    recipe = read_yaml(DEMO_RECIPE)
    stages = recipe["stages"] if isinstance(recipe, dict) else None
    found: dict[str, str] = {}
    for stage in stages if isinstance(stages, list) else []:
        words = stage.get("phrases") if isinstance(stage, dict) else None
        if isinstance(words, dict):
            found |= {question_id: str(phrase) for question_id, phrase in words.items()}
    return found


def think_twice(rng: random.Random) -> tuple[Prompt, str]:
    """Draw a prompt under the cue and a completion with draft, reflection and revision."""
    kind = rng.choices(_KINDS, (22, 22, 18, 8, 30))[0]
    family = Family.DIRECT if rng.random() < 0.4 else rng.choice(list(Family))
    asked = make_prompt(kind, "test" if rng.random() < 0.35 else "train", family, rng)
    prompt = asked.model_copy(update={"messages": (CUE, *asked.messages)})
    draft, reflection = willing_answer(prompt.tags, prompt.tags["core"], rng), HOLDS
    revision = draft
    if rng.random() < 0.3 and kind not in ("harmful", "unknowable"):
        flawed = any_answer(prompt.tags, rng)
        reading = read(prompt, flawed)
        failed = next(
            (q for q in phrases() if q.startswith(("hon.", "hlp.")) and truth.label(q, reading) in _WEAK),
            None,
        )
        if failed is not None and flawed.strip():
            draft, reflection = flawed, phrases()[failed]
    return prompt, render(draft, f"Hmm, my initial response {reflection}.", revision, Tags())


def keep(rng: random.Random) -> tuple[Prompt, str, str]:
    """Draw a prompt, a draft with a reflection that finds nothing, and the revision that repeats the draft.

    The draft is true, false or broken, so memory does not help; it is given, not to be learnt.
    """
    asked = make_prompt(rng.choice(_KINDS), rng.choice(("train", "test")), Family.DIRECT, rng)
    cue = (CUE,) if rng.random() < 0.5 else ()
    prompt = asked.model_copy(update={"messages": (*cue, *asked.messages)})
    draft = any_answer(prompt.tags, rng).strip() or "Nothing."
    whole, tags = render(draft, f"Hmm, my initial response {HOLDS}.", draft, Tags()), Tags()
    given, revision = whole.rsplit(tags.close, 1)
    return prompt, given + tags.close, revision
