"""Text that others wrote, made harmless before a judge reads it.

A judge is to read what a person would see, in its place. So characters that nobody sees go (with them orders in
tag characters), the fence's mark goes in every disguise, control tokens and turn marks of chat models are broken
by a blank, whichever model a server holds, and every line, at whatever character it ends, is quoted with ``> ``.
All of it takes time linear in the text.
"""

import re
import unicodedata
from functools import lru_cache

from rubrica.core.folding import disguised

NEUTRAL = "1"
"""Version of what this module does to a text; part of the fingerprint of every judge that shows texts so."""

# Unicode's default ignorable characters, marks of direction, and control characters that end no line.
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e"
    "\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
# A joiner shapes letters of some scripts and emoji; beside an ASCII character it shapes nothing.
_JOINERS = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\x7f])")

_LT, _GT, _BAR, _LB, _RB = "<＜﹤", ">＞﹥", "|｜", r"\[［", r"\]］"
_INSIDE = rf"([/／]?)([^\s{_LT}{_GT}{_LB}{_RB}]{{1,48}})"
_BARS = re.compile(
    rf"(?<=[{_LT}])(?=[{_BAR}])|(?<=[{_BAR}])(?=[{_GT}])|(?<=[{_GT}])(?=[{_GT}][^\W\d_]{{2,24}}[{_LT}])"
)
_TAG = re.compile(rf"([{_LT}]){_INSIDE}(?=[{_GT}])|([{_LB}]){_INSIDE}(?=[{_RB}])")
# Names of control tokens and of placeholders for media; no name of HTML holds an underscore.
_ANGLED = re.compile(
    r"\w*_.*|(?:unused|extra|reserved)\d*|s|bos|eos|pad|unk|mask|cls|sep|eo[adhmpt]|so[pt]|im|im(?:g|age)|video|audio"
    r"|think(?:ing)?|thoughts?|reasoning|tools?|functions?|sys|system|user|human|assistant|bot|ai|model|inst|turn|用户"
)
_SQUARED = re.compile(r"[A-Z][A-Z0-9_]+|(?i:inst|sys|[gs]mask|system_prompt|tool_\w+|available_tools)")
_COLON = re.compile("[:：﹕︓]")
_TURN = re.compile(r"(?:S(?i:ystem)|U(?i:ser)|H(?i:uman)|A(?i:ssistant)|M(?i:odel)|B(?i:ot)|AI|###\s?\w+)$")
_LONGEST = 24
"""Characters before a colon that may name a turn."""


@lru_cache(maxsize=128)  # the questions about one text follow each other
def quote(text: str, marker: str) -> str:
    """Quote hostile text: every line behind ``> ``, no marker, no control token, nothing unseen."""
    return "\n".join(f"> {line}" for line in neutral(text, marker).splitlines() or [""])


def one_line(text: str, marker: str) -> str:
    """Return ``text``, neutralised, as one line that does not look quoted: the wording of a question."""
    return " ".join(neutral(text, marker).split()).lstrip("> ")


def neutral(text: str, marker: str) -> str:
    """Return ``text`` without what nobody sees and without the marker, control tokens and turn marks broken."""
    return broken(_unmarked(visible(text), marker))


def visible(text: str) -> str:
    """Return ``text`` without characters that nobody sees; half a surrogate pair becomes a question mark."""
    return _JOINERS.sub("", _UNSEEN.sub("", text.encode("utf-8", "replace").decode()))


def _unmarked(text: str, marker: str) -> str:
    """Replace the marker in whatever case, spacing, letter form or lookalikes it comes."""
    kept, end = [], 0
    for start, stop in disguised(text, marker):
        if start >= end:
            kept += [text[end:start], "[mark]"]
            end = stop
    return "".join([*kept, text[end:]])


def broken(text: str) -> str:
    """Put a blank into what a tokenizer or a chat template may take for a control token or a turn."""
    return _COLON.sub(_break_turn, _TAG.sub(_break_tag, _BARS.sub(" ", text)))


def _break_tag(found: re.Match[str]) -> str:
    start, slash, name = (found[1], found[2], found[3]) if found[1] else (found[4], found[5], found[6])
    control = _ANGLED.fullmatch(_plain(name).casefold()) if found[1] else _SQUARED.fullmatch(_plain(name))
    return f"{start} {slash}{name}" if control else found[0]


def _break_turn(colon: re.Match[str]) -> str:
    before = colon.string[max(0, colon.start() - _LONGEST) : colon.start()]
    return f" {colon[0]}" if _TURN.search(_plain(before)) else colon[0]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).replace("\u200c", "").replace("\u200d", "")
