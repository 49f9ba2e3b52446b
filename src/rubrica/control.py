"""Control tokens of a chat model, and how to keep a text from spelling one.

Prompts and completions are written by others. Rendered as they are, a ``<|im_end|>`` inside one of them would end
its turn, because a tokenizer looks for its control tokens in whatever text it gets.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, Protocol

_TURNS = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]


class AddedToken(Protocol):
    """A token that is matched before the tokenizer splits a text."""

    content: str
    special: bool


class ChatTokenizer(Protocol):
    """What is asked of a ``transformers`` tokenizer."""

    chat_template: str | None
    added_tokens_decoder: Mapping[int, AddedToken]

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: Literal[False], add_generation_prompt: bool
    ) -> str:
        """Render a conversation."""


class ControlTokens:
    """Spellings of control tokens, to be found in texts. Those of one character or of blanks do not count."""

    def __init__(self, spellings: Iterable[str]) -> None:
        found = {text for text in spellings if len(text.strip()) > 1}
        longest_first = sorted(found, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if found else None

    def cut(self, text: str) -> list[str]:
        """Cut ``text`` after the first character of everything that spells a control token."""
        # looked for at every position: tokens may overlap ("<|<|end|>")
        cuts, at = [0], 0
        while self._pattern and (found := self._pattern.search(text, at)):
            at = found.start() + 1
            cuts.append(at)
        return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True) if a < b]

    def disarm(self, text: str) -> str:
        """Return ``text`` with a blank in everything that spells a control token."""
        return " ".join(self.cut(text))


def chat_control(tokenizer: ChatTokenizer) -> ControlTokens:
    """Return the tokens that steer a chat: special ones, and added ones that the chat template writes around turns.

    Other added tokens are text: words of a language, HTML, the tags around a reflection.
    """
    frame = ""
    if tokenizer.chat_template:
        try:
            frame = tokenizer.apply_chat_template(_TURNS, tokenize=False, add_generation_prompt=False)
        except Exception:  # a template refuses in ways of its own; whoever renders a prompt is told
            frame = ""
    added = tokenizer.added_tokens_decoder.values()
    return ControlTokens(token.content for token in added if token.special or token.content in frame)
