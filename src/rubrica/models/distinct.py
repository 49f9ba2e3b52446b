"""How many distinct prefixes an algorithm has to put through a model: the least possible work."""

from collections.abc import Sequence


class Distinct:
    """Counts distinct prefixes behind a beginning that grows."""

    def __init__(self) -> None:
        self._known: set[tuple[int, ...]] = set()
        self.count = 0

    def need(self, path: Sequence[int]) -> None:
        """Every token of ``path``, behind the beginning, has to be read."""
        for length in range(len(path), 0, -1):
            prefix = tuple(path[:length])
            if prefix in self._known:
                break
            self._known.add(prefix)
            self.count += 1

    def advance(self, tokens: Sequence[int]) -> None:
        """The beginning becomes longer by ``tokens``; what is known behind them stays known."""
        count, head = len(tokens), tuple(tokens)
        self._known = {path[count:] for path in self._known if len(path) > count and path[:count] == head}
