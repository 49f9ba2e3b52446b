"""A model's own tokens as pieces of text."""

import itertools
from typing import Protocol

from rubrica.core.errors import ModelError
from rubrica.core.pieces import Pieces


class Encoded(Protocol):
    """What a fast tokenizer gives with offsets."""

    def __getitem__(self, name: str) -> list[tuple[int, int]]:
        """Return (start, end) of every token."""


class OffsetTokenizer(Protocol):
    """A fast ``transformers`` tokenizer."""

    is_fast: bool

    def __call__(self, text: str, *, add_special_tokens: bool, return_offsets_mapping: bool) -> Encoded:
        """Encode ``text``."""


class IncrementalTokenizer(Protocol):
    """A ``transformers`` tokenizer that decodes."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """Text of token ids."""


def token_pieces(tokenizer: OffsetTokenizer) -> Pieces:
    """Return what cuts a text into this tokenizer's tokens; ``ModelError`` for one that knows no offsets."""
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer does not say where its tokens stand; use one with a tokenizer.json")

    def pieces(text: str) -> list[str]:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if not offsets:
            return [text] if text else []
        # from where a token begins to where the next one does: nothing between them is lost
        starts = list(itertools.accumulate((start for start, _ in offsets[1:]), max, initial=0))
        return [text[a:b] for a, b in itertools.pairwise([*starts, len(text)])]

    return pieces


class Unfolding:
    """Text of token ids as they come; a letter of which a token is missing waits for it."""

    def __init__(self, tokenizer: IncrementalTokenizer, *, skip_special_tokens: bool) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._ids: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        """Return the text that ``token`` adds."""
        self._ids.append(token)
        text = self._decode()
        if text.endswith("�"):
            return ""
        new = text[len(self._shown) :]
        if len(self._ids) > 16:  # some tokenizers drop a blank at the beginning, so a few stay as context
            self._ids = self._ids[-4:]
            text = self._decode()
        self._shown = text
        return new

    def end(self) -> str:
        """Return what waits for a token that will not come."""
        return self._decode()[len(self._shown) :]

    def _decode(self) -> str:
        return self._tokenizer.decode(
            self._ids, skip_special_tokens=self._skip, clean_up_tokenization_spaces=False
        )
