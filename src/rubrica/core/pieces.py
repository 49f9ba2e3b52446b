"""A text cut into tokens, and where between them something may be put in without splitting a word or a code block."""

import re
from collections.abc import Callable, Sequence

Pieces = Callable[[str], list[str]]
"""Cuts a text into the texts of its tokens; joined they are the text. A piece may be empty."""
_PIECE = re.compile(
    r"[\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff]"  # one letter of a script without blanks
    r"| ?[^\W\d_\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff]{1,7}| ?\d{1,3}|[^\S\n]{1,8}|\n{1,2}| ?(?:[^\w\s]|_)|."
)
_CODE = re.compile(r"^ {0,3}```", re.MULTILINE)


def estimated(text: str) -> list[str]:
    """Cut ``text`` about as a byte-pair tokenizer for English does, where the model's own is not at hand."""
    return _PIECE.findall(text)


def free_cuts(pieces: Sequence[str]) -> list[bool]:
    """Tell for each piece whether the place behind it splits neither a word nor a fenced block of code.

    The end of the text is free.
    """
    text = "".join(pieces)
    code = [found.start() for found in _CODE.finditer(text)]
    free, at, marks = [], 0, 0
    for piece in pieces:
        at += len(piece)
        while marks < len(code) and code[marks] < at:
            marks += 1
        between = at >= len(text) or (at > 0 and (text[at - 1].isspace() or text[at].isspace()))
        free.append(between and (marks % 2 == 0 or at >= len(text)))
    return free
