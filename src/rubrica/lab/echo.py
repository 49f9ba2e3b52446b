"""Requests to say something again. A language model can repeat what stands in its context; the starter learns it here.

Without it a revision that keeps its draft would be written from memory, and what fine-tuning blurs in memory would be lost.
"""

import random

from rubrica.core.config import content_hash
from rubrica.core.prompts import Message, Prompt
from rubrica.lab.answers import any_answer
from rubrica.lab.generator import KINDS, request

_AGAIN = ("Say that again.", "Repeat your answer.", "Once more, please.", "What did you say?")
_AFTER = ("Repeat after me: {x}", "Say this: {x}", "Write this down: {x}")


def echo(rng: random.Random) -> tuple[Prompt, str]:
    """Draw a prompt that asks for a text to be repeated, and the text: true, false or broken, so memory does not help."""
    core, tags = request(rng.choice(KINDS), rng.choice(("train", "test")), rng)
    text = any_answer(tags | {"core": core}, rng)
    messages: tuple[Message, ...] = (Message(role="user", content=rng.choice(_AFTER).format(x=text)),)
    if rng.random() < 0.6:
        before = (Message(role="user", content=core), Message(role="assistant", content=text))
        messages = (*before, Message(role="user", content=rng.choice(_AGAIN)))
    return Prompt(
        id=f"echo-{content_hash([m.content for m in messages])}", messages=messages, source="lab"
    ), text
