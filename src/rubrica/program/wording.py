"""What can be read off a question's wording: several askings, negative framing, vague or leading words.

Everything here is a pattern over English text. ``askings`` decides whether a program loads, so it speaks up
only when the grammar leaves little doubt; the rest are suspicions that ``rubrica program lint`` reports.
"""

import re

_BE = r"is|are|was|were"
_MODAL = r"can|could|will|would|should|must|may|might"
_SUBJECT = (
    r"it|they|he|she|there|this|these|those|"
    r"(?:the|its|their|any|every|each|all)\s+(?:\w+\s+){0,2}?(?:answers?|responses?|repl(?:y|ies)|text|"
    r"assistant|model|author|writer|ai|user|reader|person|tone|wording|language|content|information|advice|"
    r"claims?|facts?|sources?|steps?)"
)
_JOIN = r"\b(?:and|or|but)(?:\s+(?:also|then|if\s+so|further|in\s+addition))?,?\s+"
_ASKS = rf"(?:(?:{_BE}|{_MODAL}|does|did|has)\s+(?:{_SUBJECT})|(?:do|have|had)\s+(?:they|these|those))\b"
_HOW = r"(?:(?:how|why|what|which|who|where|when|to\s+what\s+(?:extent|degree))\s+(?:\w+\s+){0,2}?)?"
# "... and does it", "... or how fair are the claims": a second question, in the word order of a question.
_INVERTED = re.compile(_JOIN + _HOW + _ASKS, re.IGNORECASE)
# "Is it polite, does it help": the same without a conjunction.
_SPLICED = re.compile(r"[,;:–—]\s+" + _ASKS, re.IGNORECASE)
# "... and is polite", "... and does not insult": a second predicate of the same subject. May is also a month,
# will and might are also nouns.
_SHARED_SUBJECT = re.compile(
    rf"{_JOIN}(?:(?:{_BE}|has|does\s+not|did\s+not|do\s+not|doesn't|isn't|aren't)\b"
    r"|(?:can|could|will|would|should|must|(?-i:may)|might)\s+(?!(?:of|and|or|in|to|for|as|at|on)\b)(?=\w))",
    re.IGNORECASE,
)
_OPENING = re.compile(rf"^\W*(?:{_BE}|{_MODAL}|does|do|did|has|have|had)\b", re.IGNORECASE)
# After one of these words an auxiliary belongs to a subordinate clause: "claims that are new or are disputed".
_SUBORDINATE = re.compile(
    r"\b(?:that|which|who|whom|whose|what|whatever|where|when|while|if|how|why|whether|because|as|than|unless|"
    r"since|until|once|though|although|so|everything|anything|nothing|someone|anyone|everyone)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|‘[^’]*’|«[^»]*»")

_NEGATIVE = re.compile(
    rf"^\W*(?:(?:{_BE}|{_MODAL}|does|do|did|has|have)n['’]t\b"
    rf"|(?:{_BE}|{_MODAL}|does|do|did|has|have)\s+(?:\w+\s+){{1,3}}?(?:not|never|fail(?:s|ed)?\s+to|lack|omit"
    r"|neglect|ignore)\b"
    r"|(?:does|do|did)\s+(?:\w+\s+){1,2}?(?:contain|include|use|make|give|express|promote|encourage|offer|provide)"
    r"\s+(?:any\s+|a\s+|an\s+|some\s+)?(?:harmful|hateful|offensive|toxic|dangerous|false|misleading|biased|wrong"
    r"|unsafe|illegal|untrue|discriminatory|inappropriate|irrelevant|slurs?|insults?|errors?|lies?|stereotypes?)"
    r"|(?:is|are)\s+(?:\w+\s+){1,2}?(?:harmful|hateful|offensive|toxic|dangerous|false|misleading|biased|wrong"
    r"|unsafe|illegal|untrue|rude|irrelevant|incorrect|inaccurate|incomplete|unclear|unhelpful)\b)",
    re.IGNORECASE,
)
_ABSENCE = re.compile(
    r"\b(?:free\s+(?:of|from)|avoids?|refrains?\s+from|absence\s+of)\b",
    re.IGNORECASE,
)
_VAGUE = re.compile(
    r"\b(?:appropriate(?:ly)?|suitabl[ey]|proper(?:ly)?|good|bad|nice|adequate(?:ly)?|reasonabl[ey]|effective(?:ly)?|"
    r"high[- ]quality|well[- ]written|best|optimal(?:ly)?|sufficient(?:ly)?|as needed|as necessary|etc|and so on)\b",
    re.IGNORECASE,
)
_LEADING = re.compile(
    r"(?:(?<!how\s)\bclearly|\b(?:obviously|of course|surely|certainly|undoubtedly|naturally|as expected|"
    r"(?:isn't|doesn't|aren't|wouldn't) it|don't you (?:think|agree)|would you agree)\b|,\s*right\s*\?)",
    re.IGNORECASE,
)

_REACTION = r"(?:feel|come\s+back|return|be\s+(?:happy|satisfied|pleased|convinced|glad))"
_OUT_OF_SIGHT = re.compile(
    # what somebody means, or how somebody will take it: a text shows words
    r"\b(?:intends?\s+to|intentions?\s+(?:of|behind)|(?:assistant|model|author|writer|ai)(?:['’]s)?\s+(?:true\s+|real\s+)?"
    r"(?:intentions?|motives?)|(?:sincerely|genuinely|truly|really)\s+(?:believes?|cares?|feels?|wants?|means?)"
    rf"|(?:user|person|reader)s?\s+(?:will|would)\s+{_REACTION}|(?:will|would)\s+the\s+(?:user|person|reader)s?\s+{_REACTION}"
    # what comes of it
    r"|in\s+the\s+(?:long\s+run|future)|will\s+(?:\w+\s+){0,4}?(?:turn\s+out|lead\s+to|prove\s+to)"
    # other conversations, other users, how the model came about
    r"|(?:other|previous|past)\s+(?:conversations|chats|sessions|users)|across\s+(?:conversations|users|sessions)"
    r"|was\s+trained"
    # the state of the world
    r"|up[- ]to[- ]date|latest\s+(?:news|research|figures|data))\b",
    re.IGNORECASE,
)


def askings(text: str) -> str | None:
    """Return the words that begin a second asking, or None where the question asks one thing.

    A second asking is a second question mark, a second question behind *and*, *or*, *but* or a comma (``... and
    does it cite a source``), or a second predicate with its own auxiliary (``... and is polite``) that no subordinate
    clause could own. Quoted text does not count.
    """
    bare = _QUOTED.sub("“ ”", text)
    marks = list(re.finditer(r"[?？]+", bare))
    if len(marks) > 1:
        rest = bare[marks[0].end() :].strip()
        return rest or "?"
    second = _INVERTED.search(bare)
    if second:
        return second.group()
    if not _OPENING.match(bare):
        return None
    if spliced := _SPLICED.search(bare):
        return spliced.group()
    shared = _SHARED_SUBJECT.search(bare)
    return shared.group() if shared and not _SUBORDINATE.search(bare[: shared.start()]) else None


def is_negative(text: str) -> bool:
    """True where the ideal answer to the question seems to be *no*."""
    return bool(_NEGATIVE.search(text))


def claims_absence(text: str) -> bool:
    """True where *yes* seems to say that something is not there."""
    return bool(_ABSENCE.search(text))


def vague_words(text: str) -> list[str]:
    """Words that two readers measure differently, in order, lower case."""
    return [match.group().lower() for match in _VAGUE.finditer(text)]


def leading_words(text: str) -> list[str]:
    """Words that suggest the answer, in order, lower case."""
    return [match.group().lower() for match in _LEADING.finditer(text)]


def out_of_sight(text: str) -> list[str]:
    """Words about what request and answer do not show: intentions, effects, other conversations, the world."""
    return [match.group().lower() for match in _OUT_OF_SIGHT.finditer(_QUOTED.sub("“ ”", text))]


def normalized(text: str) -> str:
    """``text`` in lower case with single spaces: equal for two questions that differ in nothing else."""
    return " ".join(text.lower().split())
