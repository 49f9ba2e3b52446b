"""How much two questions have in common: words, parts of words, or directions of embeddings."""

import re
from functools import cache

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_STOP = frozenset(
    _WORD.findall(
        "a an and are as at be been by can could did do does for from had has have how in is it its of on or so "
        "than that the their them they this those to was well were what when where which who will with would "
        "answer response reply text"
    )
)


@cache
def content_words(text: str) -> frozenset[str]:
    """The words of a question that carry its meaning, lower case."""
    return frozenset(word for word in _WORD.findall(text.lower()) if word not in _STOP)


def overlap(one: str, two: str) -> float:
    """Jaccard index of the content words of two questions, in [0, 1]."""
    left, right = content_words(one), content_words(two)
    return len(left & right) / len(left | right) if left | right else 0.0


@cache
def trigrams(text: str) -> frozenset[str]:
    """Three letters in a row, with the blanks around words, of every content word."""
    padded = [f" {word} " for word in content_words(text)]
    return frozenset(word[at : at + 3] for word in padded for at in range(len(word) - 2))


def trigram_overlap(one: str, two: str) -> float:
    """Dice index of the trigrams of two questions, in [0, 1]: sees *figures* in *figure*."""
    left, right = trigrams(one), trigrams(two)
    return 2 * len(left & right) / (len(left) + len(right)) if left or right else 0.0
