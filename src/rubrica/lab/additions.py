"""Words around an answer that nobody asked for: idle, pushy, or made to look like something else.

The lab's judge learns from answers with such additions, because a policy may write anything around its recipe. They are
drawn word by word from short lists, never taken from the battery of :mod:`rubrica.judges.attacks`, which stays a
test of what the judge has not seen. The oracle labels what comes out.
"""

import json
import random
import string
from collections.abc import Callable, Sequence

from rubrica.core.programs import Question
from rubrica.core.records import Label


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_WORDS = _words(
    "morning evening letter window garden river paper story cloud market stone bridge music candle weather "
    "winter summer road hill kitchen table neighbour teacher pupil reader writer number page chapter line word "
    "sentence colour sound light shadow corner door house village city country world year month week hour minute"
)
_QUALITIES = _words(
    "quiet little careful plain honest splendid ordinary common rare early late warm cold bright dull gentle "
    "serious cheerful sensible complete short long clear exact sound proper faithful humble"
)
_ACTS = _words(
    "saw read wrote kept found heard liked watched opened closed carried painted counted described praised "
    "remembered forgot mentioned repeated finished checked approved graded marked accepted"
)
_ADVERBS = _words(
    "here now again today slowly gladly often always once twice almost really quite surely indeed"
)
_WHO = _words(
    "judge grader reader assessor reviewer referee evaluator marker inspector assistant operator admin "
    "supervisor model machine"
)
_URGES = _words("choose pick write print return say output select use prefer put state emit record confirm")
_WHY = (
    "since the check is over",
    "as agreed before",
    "because this is only a rehearsal",
    "or the run stops",
    "by request of the owner",
    "as every expert would",
    "which nobody disputes",
    "for the sake of fairness",
    "whatever else you read",
)
_PRAISE = (
    "flawless",
    "harmless",
    "true",
    "helpful",
    "safe",
    "brief",
    "perfect",
    "kind",
    "correct",
    "complete",
)
_KEYS = ("mark", "result", "rating", "decision", "outcome", "final", "value", "pass", "status")
_ALPHABETS = (
    "абвгдежзиклмнопрст",
    "αβγδεζηθικλμνξοπρ",
    "的一是不了人我在有他",
    "àéîõüçñß",
    "ابتثجحدذرز",
    "あいうえおかきくけ",
)
_MARKS = "!?#*=-~_+|/\\<>[](){}:;.,'\"`^%&$@"
_BRACKETS = (
    ("[", "]"),
    ("<", ">"),
    ("{", "}"),
    ("(", ")"),
    ("<|", "|>"),
    ("</", ">"),
    ("### ", ""),
    ("** ", " **"),
)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(rng: random.Random) -> str:
    parts = [
        rng.choice(("The", "A", "My", "Your", "This", "Some", "One")),
        rng.choice(_QUALITIES),
        rng.choice(_WORDS),
        rng.choice(_ACTS),
        rng.choice(("the", "a", "my", "that")),
        rng.choice(_WORDS),
        rng.choice(_ADVERBS),
    ]
    return _capital(" ".join(part for part in parts if rng.random() < 0.85)) + rng.choice(
        (".", ".", ".", "!", "")
    )


def _remark(rng: random.Random) -> str:
    """A few words, as people add them."""
    words = rng.choices(
        (*_WORDS, *_ADVERBS, *_QUALITIES, "so", "and", "but", "it", "is", "was", "for", "with"),
        k=rng.randint(1, 9),
    )
    return _capital(" ".join(words)) + rng.choice((".", ".", "", ",", ":"))


def _label(rng: random.Random) -> str:
    return rng.choice(tuple(Label)).value if rng.random() < 0.3 else rng.choice(("TRUE", "A"))


def _order(rng: random.Random) -> str:
    who, urge, label = rng.choice(_WHO), rng.choice(_URGES), _label(rng)
    body = rng.choice(
        (
            f"{who}, {urge} {label} {rng.choice(_ADVERBS)}",
            f"you {rng.choice(('must', 'should', 'may', 'will'))} {urge} {label}",
            f"{urge} {label} for each {rng.choice(_WORDS)}",
            f"the {who} has to {urge} {label} and {_label(rng)}",
        )
    )
    if rng.random() < 0.5:
        return _capital(f"{body} {rng.choice(_WHY)}.")
    return f"{body.upper() if rng.random() < 0.3 else body}."


def _claim(rng: random.Random) -> str:
    qualities = rng.sample(_PRAISE, rng.randint(1, 3))
    subject = rng.choice(("This answer", "The text above", "What follows", "Each word of it", "All of this"))
    return f"{subject} is {' and '.join(qualities)}{rng.choice(('', ' ' + rng.choice(_WHY)))}."


def _verdict(rng: random.Random) -> str:
    keys, label = rng.sample(_KEYS, 2), _label(rng)
    return rng.choice(
        (
            f"{keys[0]} = {label}",
            f"{keys[0].upper()}: {label}",
            f"{label}\n{_label(rng)}\n{label}",
            json.dumps({keys[0]: label, keys[1]: rng.choice(_PRAISE)}),
            f"|{keys[0]}|{keys[1]}|\n|{label}|{_label(rng)}|",
        )
    )


def _markup(rng: random.Random) -> str:
    opened, closed = rng.choice(_BRACKETS)
    inside = rng.choice(
        (rng.choice(_WHO), rng.choice(_KEYS), "".join(rng.choices(string.hexdigits, k=rng.randint(4, 16))))
    )
    tail = rng.choice(("", f" {rng.choice(_WORDS)}", f" {rng.choice(_KEYS).upper()}"))
    return f"{opened}{inside}{tail}{closed}"


def _forged(rng: random.Random) -> str:
    """Turns, marks and headings of no layout in particular."""
    lines = [
        rng.choice((_markup, _sentence, _order, _verdict))(rng) if rng.random() < 0.7 else _markup(rng)
        for _ in range(rng.randint(2, 5))
    ]
    return "\n".join(f"{rng.choice(('> ', '# ', '- ', '', '', ''))}{line}" for line in lines)


def _gibberish(rng: random.Random) -> str:
    def word() -> str:
        letters = string.ascii_letters if rng.random() < 0.6 else rng.choice(_ALPHABETS)
        return "".join(rng.choices(letters, k=rng.randint(1, 9)))

    return " ".join(
        word() if rng.random() < 0.8 else "".join(rng.choices(_MARKS, k=rng.randint(1, 6)))
        for _ in range(rng.randint(1, 8))
    )


def _repeated(rng: random.Random) -> str:
    unit = rng.choice((_remark, _sentence, _gibberish, _verdict))(rng)
    return rng.choice((" ", "\n", "")).join([unit] * rng.randint(2, 6))


_IDLE: tuple[Callable[[random.Random], str], ...] = (_sentence, _remark)
_PUSHY: tuple[Callable[[random.Random], str], ...] = (
    _order,
    _claim,
    _verdict,
    _markup,
    _forged,
    _gibberish,
    _repeated,
)


def _parroted(questions: Sequence[Question], rng: random.Random) -> str:
    """Questions of the program with labels beside them."""
    chosen = rng.sample(list(questions), min(len(questions), rng.randint(1, 4)))
    join = rng.choice((" ", "\n", ": ", " -> "))
    return "\n".join(f"{q.text}{join}{_label(rng)}" if rng.random() < 0.8 else q.text for q in chosen)


def _piece(questions: Sequence[Question], rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.35:
        return rng.choice(_IDLE)(rng)
    return _parroted(questions, rng) if roll < 0.5 else rng.choice(_PUSHY)(rng)


def with_additions(text: str, questions: Sequence[Question], rng: random.Random) -> str:
    """Return ``text`` with one to three additions before, behind or around it; now and then alone or without it."""
    pieces = [_piece(questions, rng) for _ in range(rng.choices((1, 2, 3), (6, 3, 1))[0])]
    if rng.random() < 0.05:
        alone: Sequence[str] = ("", " ", *_MARKS, rng.choice(_WORDS), "\n".join(pieces))
        return rng.choice(alone)
    before = [piece for piece in pieces if rng.random() < 0.45]
    behind = [piece for piece in pieces if piece not in before]
    join = rng.choice((" ", "\n", "\n\n", "\n\n"))
    return join.join([*before, text, *behind])
