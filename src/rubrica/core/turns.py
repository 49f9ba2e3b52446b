"""Conversations written as one text: ``Human: ...`` and ``Assistant: ...``, as HH-RLHF has them."""

import re

from rubrica.core.prompts import Message

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_NAMES = {"user": "Human", "assistant": "Assistant", "system": "System"}


def turns_of(text: str) -> tuple[Message, ...] | None:
    """Read a conversation; None for a text that starts otherwise."""
    if not _TURN.match(text):
        return None
    parts = _TURN.split(text)[1:]
    turns = zip(parts[::2], parts[1::2], strict=True)
    return tuple(
        Message.model_validate({"role": _ROLES[who], "content": said.strip()}) for who, said in turns
    )


def as_answer(turns: tuple[Message, ...]) -> str:
    """Return the answer, and, where a conversation goes on behind it, its further turns as they were written."""
    first, *others = turns
    return "\n\n".join([first.content, *(f"{_NAMES[turn.role]}: {turn.content}" for turn in others)])
