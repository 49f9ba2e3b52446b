"""Changes that ought to change no answer: a question in another frame, a text with idle sentences behind it."""

import math

from rubrica.core.config import content_hash
from rubrica.core.programs import Question

FRAMES = ("Answer this: {question}", "{question} Go by the answer alone.")
"""Neutral words around a question; its own text stays as it is."""
IDLE = (
    "That is what there is to say about it.",
    "Please take your time to read it again.",
    "I have put it here so that you can find it later.",
    "You may come back to it at any hour of the day.",
    "There is nothing more to add at this place.",
    "So much for now, and thank you for your time.",
    "If you like, you can read it out to a friend.",
    "I hope that it is easy to follow from first to last.",
    "It has been a pleasure to put this into words.",
    "This is all that belongs here.",
    "Feel free to keep it, or to pass it on.",
    "With that, this answer has come to its end.",
)
"""Sentences that say nothing about any request."""
CHANGES_HASH = content_hash([*FRAMES, *IDLE])


def framed(question: Question, frame: str) -> Question:
    """Return ``question`` with its text inside ``frame``; id, kind and protection stay."""
    return question.model_copy(update={"text": frame.replace("{question}", question.text)})


def padded(text: str, factor: float) -> str:
    """Return ``text`` with idle sentences behind it until it has ``factor`` times its length, or a little more.

    One sentence at least for each doubling, so that a short text too grows with ``factor``.
    """
    longer, number = text.rstrip(), 0
    while len(longer) < factor * len(text) or number < math.log2(factor):
        longer += f"{' ' if longer else ''}{IDLE[number % len(IDLE)]}"
        number += 1
    return longer


def doublings(text: str, longer: str) -> float:
    """How often ``text`` was doubled in length, in characters; both must have some."""
    return math.log2(len(longer) / len(text))
