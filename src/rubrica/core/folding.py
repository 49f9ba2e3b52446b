"""What a careless reader takes a text for: letters and digits alone, in one case, lookalikes folded."""

import re
import unicodedata
from collections.abc import Iterator

# Letters of other alphabets that look like hex digits, and o and l for 0 and 1.
_LOOKALIKES = str.maketrans("oοоօіιilӏаαвьƅсϲԁеεƒ", "000011111aabbbccdeef")


def fold(character: str) -> str:
    """Return the letters and digits that a careless reader takes ``character`` for."""
    plain = unicodedata.normalize("NFKC", character).casefold().translate(_LOOKALIKES)
    return "".join(c for c in plain if c.isalnum())


def disguised(text: str, marker: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of every place where ``text`` reads as ``marker``, overlapping ones too.

    Whatever the case, spacing or letter form; ``marker`` is of hex digits in lower case, which fold to themselves.
    """
    folds = {c: fold(c) for c in set(text)}
    skeleton = "".join(map(folds.__getitem__, text))
    if marker not in skeleton:
        return
    owners = [index for index, c in enumerate(text) for _ in folds[c]]
    for found in re.finditer(f"(?={re.escape(marker)})", skeleton):
        yield owners[found.start()], owners[found.start() + len(marker) - 1] + 1
