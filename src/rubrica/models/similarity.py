"""How near an answer is to a reference: cosine of TF-IDF vectors, or of sentence embeddings."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rubrica.core.errors import UsageError
from rubrica.models.embed import Embed, Vectors

Measure = Callable[[Sequence[tuple[str, str]]], list[float]]
"""(answer, reference) pairs to cosines in [-1, 1]; an empty text is near nothing: 0."""
WORDS, OVERLAP = 200, 50
"""Long texts are embedded in windows of so many words, each sharing so many with the one before: few encoders read
more than 384 tokens, and a prefix alone would hide the rest."""
_WORD = re.compile(r"\w+")


def tfidf(corpus: Sequence[str]) -> Measure:
    """Return the cosine of TF-IDF vectors with the document frequencies of ``corpus``.

    ``(1 + ln tf) (ln((1 + N) / (1 + df)) + 1)`` for each word, lower case: no model, no order of words, no synonyms.
    """
    frequency = Counter(word for text in corpus for word in set(_words(text)))
    idf = {word: math.log((1 + len(corpus)) / (1 + df)) + 1 for word, df in frequency.items()}
    rare = math.log(1 + len(corpus)) + 1

    def vector(text: str) -> dict[str, float]:
        return {
            word: (1 + math.log(count)) * idf.get(word, rare) for word, count in Counter(_words(text)).items()
        }

    return lambda pairs: [_sparse_cosine(vector(one), vector(two)) for one, two in pairs]


def embedded(embed: Embed) -> Measure:
    """Return the cosine of embeddings; a text beyond a window is the mean direction of its windows."""

    def measure(pairs: Sequence[tuple[str, str]]) -> list[float]:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair if text.strip()))
        units = dict(zip(texts, _directions(embed, texts), strict=True)) if texts else {}
        return [
            float(np.clip(units[one] @ units[two], -1.0, 1.0)) if one in units and two in units else 0.0
            for one, two in pairs
        ]

    return measure


def windows(text: str) -> list[str]:
    """Return the overlapping pieces of a text; a short one is its only piece, as it stands."""
    words = text.split()
    if len(words) <= WORDS:
        return [text]
    starts = range(0, len(words) - OVERLAP, WORDS - OVERLAP)
    return [" ".join(words[start : start + WORDS]) for start in starts]


def _directions(embed: Embed, texts: Sequence[str]) -> list[Vectors]:
    pieces = [windows(text) for text in texts]
    vectors = _units(embed([piece for some in pieces for piece in some]))
    if not np.isfinite(vectors).all():
        raise UsageError("embeddings: got values that are not finite; use another embedding model")
    ends = np.cumsum([len(some) for some in pieces])[:-1]
    return [_units(part.mean(axis=0)) for part in np.split(vectors, ends)]


def _units(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _sparse_cosine(one: Mapping[str, float], two: Mapping[str, float]) -> float:
    product = math.fsum(weight * two[word] for word, weight in one.items() if word in two)
    lengths = math.sqrt(math.fsum(w * w for w in one.values()) * math.fsum(w * w for w in two.values()))
    return min(1.0, product / lengths) if lengths else 0.0
