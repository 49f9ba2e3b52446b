"""A fence around text of the operator that nobody else can write.

    [[3f9a1c07d2e4: Keep to the rules. :3f9a1c07d2e4]]

The nonce is secret. Text of others gets a word in the middle of whatever reads as the nonce, in any disguise, and of
whatever has the fence's form under another nonce; what a model repeats of the fence is taken out of its answers.
"""

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

from rubrica.core.errors import UsageError
from rubrica.core.folding import disguised

QUOTED = "~not operator~"
"""Stands in the middle of a lookalike. Its first and last letters are no hex digits, so it completes no nonce."""
LONGEST = 4000
"""Characters behind an opening mark among which its closing mark is looked for in a model's answer."""
_HEX = "[0-9a-fA-F０-９ａ-ｆＡ-Ｆ]"
_SHAPE = re.compile(
    rf"[\[［【](?=\s?[\[［【]\s?{_HEX}{{6,64}}\s?[:：])|[:：](?=\s?{_HEX}{{6,64}}\s?[\]］】]\s?[\]］】])"
)


class Splice(NamedTuple):
    """Text to be put in at ``at`` characters from the beginning."""

    at: int
    text: str


class Fence:
    """One session's fence."""

    def __init__(self, nonce: str) -> None:
        """``nonce``: 8 to 64 hex digits in lower case; ``UsageError`` otherwise."""
        if not re.fullmatch("[0-9a-f]{8,64}", nonce):
            raise UsageError(f"nonce {nonce[:80]!r}: expected 8 to 64 hex digits in lower case")
        self.nonce, self.open, self.close = nonce, f"[[{nonce}:", f":{nonce}]]"

    def wrap(self, text: str) -> str:
        """Return ``text`` as one fenced line."""
        return f"{self.open} {' '.join(text.split())} {self.close}"

    def escapes(self, text: str) -> list[Splice]:
        """Return what has to be put into ``text`` of others so that no part of it can pass for the fence."""
        places = {start + 1 for start, _ in disguised(text, self.nonce)}
        places |= {found.end() for found in _SHAPE.finditer(text)}
        return [Splice(at, QUOTED) for at in sorted(places)]

    def strip(self, text: str) -> str:
        """Return a model's ``text`` without fenced text and without what else it says of the fence."""
        stripper = Stripper(self)
        return stripper.feed(text) + stripper.end()


class Stripper:
    """:meth:`Fence.strip` for a text that arrives in pieces, however it is cut."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence
        self._marks = re.compile("|".join(map(re.escape, (fence.open, fence.close, fence.nonce))))
        self._held, self._inside = "", False

    def feed(self, piece: str) -> str:
        """Take the next piece and return what can be shown by now."""
        self._held += piece
        shown = ""
        while True:
            if self._inside:
                found = self._held.find(self._fence.close)
                if found < 0 and len(self._held) < LONGEST + len(self._fence.close):
                    return shown
                self._inside = False
                if 0 <= found <= LONGEST:
                    self._held = self._held[found + len(self._fence.close) :]
                continue
            certain = len(self._held) - self._undecided()
            mark = self._marks.search(self._held)
            # a nonce at the end may turn out to be part of a longer mark
            if mark is None or (mark[0] == self._fence.nonce and mark.end() > certain):
                shown, self._held = shown + self._held[:certain], self._held[certain:]
                return shown
            shown, self._held = shown + self._held[: mark.start()], self._held[mark.end() :]
            self._inside = mark[0] == self._fence.open

    def end(self) -> str:
        """Return what was held back; fenced text that was cut off within is left out."""
        rest, self._held = "" if self._inside else self._held, ""
        return self._marks.sub("", rest)

    def _undecided(self) -> int:
        """Letters at the end that may be the beginning of a mark."""
        marks = (self._fence.open, self._fence.close, self._fence.nonce)
        longest = min(len(self._held), len(self._fence.open) - 1)
        for count in range(longest, 0, -1):
            tail = self._held[-count:]
            if any(len(mark) > count and mark.startswith(tail) for mark in marks):
                return count
        return 0


def new_nonce() -> str:
    """Return a random nonce for one session."""
    return secrets.token_hex(6)


def derived_nonce(secret: str, about: str) -> str:
    """Return the nonce that ``secret`` gives the conversation which ``about`` identifies (HMAC-SHA256)."""
    return hmac.digest(secret.encode(), about.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:12]
