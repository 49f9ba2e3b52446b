"""Controls in the messages of OpenAI's protocol, whatever else these hold, and what a conversation's fence is.

A conversation is told by who asks and by its first user's turn, so that it keeps its fence as it grows, and nothing has
to be remembered between two requests.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rubrica.core.config import Json, content_hash
from rubrica.core.fence import Fence
from rubrica.core.pieces import Pieces
from rubrica.methods.interruptions import AugmentedTurn, Interrupter, Turn
from rubrica.recipes.interruptions import Fences, InterruptedModel, check_reading


class Prepared(NamedTuple):
    """What goes to the server."""

    value: Json
    """Messages, or a plain prompt."""
    fence: Fence | None
    """What is taken out of the answer."""
    controls: int


class MessageInterrupter:
    """Puts controls into requests."""

    def __init__(self, plan: InterruptedModel, pieces: Pieces) -> None:
        """``UsageError`` for a plan without a schedule for what is read."""
        check_reading(plan)
        self._plan, self._pieces, self._fences = plan, pieces, Fences(plan, fresh=True)

    def chat(self, messages: Json, who: str) -> Prepared:
        """Return the messages with their controls; what has another form than messages is returned as it is."""
        if not isinstance(messages, list) or not messages:
            return Prepared(messages, None, 0)
        rows = [message for message in messages if isinstance(message, dict)]
        if len(rows) < len(messages) or not all(isinstance(row.get("role"), str) for row in rows):
            return Prepared(messages, None, 0)
        turns = [Turn(_role(row), _texts(row.get("content"))) for row in rows]
        first = next((turn.texts for turn in turns if turn.role == "user"), ())
        fence = self._fences.of(content_hash([who, list(first)], length=32))
        found, state = Interrupter(self._plan, self._pieces, fence).apply(turns)
        return Prepared([_message(turn, rows) for turn in found], self._shown(fence), state.number)

    def text(self, prompt: Json, who: str) -> Prepared:
        """Return a plain prompt with its controls, its note in front; a list of tokens or prompts as it is."""
        if not isinstance(prompt, str):
            return Prepared(prompt, None, 0)
        fence = self._fences.of(content_hash([who, prompt[:64]], length=32))
        plan = self._plan.model_copy(update={"note_in": "user"})
        [turn], state = Interrupter(plan, self._pieces, fence).apply([Turn("user", (prompt,))])
        return Prepared(turn.texts[0], self._shown(fence), state.number)

    def _shown(self, fence: Fence) -> Fence | None:
        return fence if self._plan.fence else None


def _role(row: Mapping[str, Json]) -> str:
    return "tool" if row["role"] == "function" else str(row["role"])


def _texts(content: Json) -> tuple[str, ...]:
    if isinstance(content, str):
        return (content,)
    parts = content if isinstance(content, list) else []
    return tuple(text for part in parts if (text := _text(part)) is not None)


def _text(part: Json) -> str | None:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    return text if isinstance(text, str) else None


def _message(turn: AugmentedTurn, rows: Sequence[Mapping[str, Json]]) -> Json:
    if turn.origin is None:
        return {"role": turn.role, "content": turn.texts[0]}
    row = dict(rows[turn.origin])
    content, texts = row.get("content"), iter(turn.texts)
    if isinstance(content, str):
        row["content"] = turn.texts[0]
    elif isinstance(content, list):
        row["content"] = [
            {**part, "text": next(texts)} if isinstance(part, dict) and _text(part) is not None else part
            for part in content
        ]
    return row
