"""For trainers that cannot leave a completion out: what becomes of a reward that is missing.

TRL takes None. verl, OpenRLHF and verifiers take numbers only; a missing reward then stops the step, or is a
number that somebody chose, and it is counted. It is never 0 by default.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from rubrica.core.errors import JudgeError, UsageError
from rubrica.core.prompts import Message
from rubrica.core.scoring import ScoredItem
from rubrica.integrations.client import Client

Prompt = str | tuple[Message, ...]
RAISE = "raise"


@cache
def client_at(url: str | None) -> Client:
    """Return the one client of this process for ``url``; None: the one that RUBRICA_URL names."""
    return Client(url)


def number(result: ScoredItem, missing: float | str = RAISE) -> float:
    """Return the reward, or ``missing`` where there is none; ``JudgeError`` if that is ``raise``."""
    if result.reward is not None:
        return result.reward
    if missing == RAISE:
        raise JudgeError(
            f"no reward: {result.reason}; mend the judge and go on from the last checkpoint (answers are stored), or "
            "choose a number with missing="
        )
    try:
        return float(missing)
    except ValueError:
        raise UsageError(f"missing: got {missing!r}; expected a number or {RAISE!r}") from None


def prompt_of(value: object, where: str) -> Prompt:
    """Return a prompt from a text or from chat messages of any trainer; ``UsageError`` names ``where``.

    A message's content may be a list of parts; their texts are joined.
    """
    if isinstance(value, str) and value.strip():
        return value
    # An array of messages, as datasets hand them out, is no Sequence.
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        turns = tuple(_message(turn, where) for turn in value)
        if turns:
            return turns
    raise UsageError(f"{where}: got {str(value)[:60]!r}; expected the prompt, as a text or as chat messages")


def _message(turn: object, where: str) -> Message:
    role, content = _field(turn, "role"), _field(turn, "content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        texts = [_field(part, "text") for part in content]
        content = "\n".join(str(text) for text in texts if text)
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise UsageError(
            f"{where}: got a message of role {str(role)[:20]!r}; expected role (system, user or assistant) and a text"
        )
    return Message(role=role, content=content)


def _field(thing: object, name: str) -> object:
    """A value of a mapping, or of an object."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
