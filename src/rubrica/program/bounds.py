"""What a node can still become while answers are missing, for every way of pooling; exact and attained.

The members of a pool depend on different questions, so any combination of their values can occur; all pools are
monotone in each member (antitone in a fault), so their extremes lie where every member is at an end or has no value.
What is left to decide is which of the members that may have no value do; each function says why its choice is best.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

LOWEST, HIGHEST = Fraction(-1), Fraction(1)
Number = Fraction | int


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a node can still become: a value in [low, high], or none at all where ``may_be_none``.

    ``low`` and ``high`` are attained; both are None when the node certainly has no value.
    """

    low: Fraction | None
    high: Fraction | None
    may_be_none: bool

    @property
    def known(self) -> bool:
        """True when every possible answer to the missing questions gives the same result."""
        return self.low is None or (self.low == self.high and not self.may_be_none)

    @property
    def value(self) -> float | None:
        """The value, where it is known and exists."""
        return float(self.low) if self.known and self.low is not None else None

    def __or__(self, other: "Bounds") -> "Bounds":
        """What either of two nodes can become."""
        lows = [low for low in (self.low, other.low) if low is not None]
        highs = [high for high in (self.high, other.high) if high is not None]
        return Bounds(
            min(lows, default=None), max(highs, default=None), self.may_be_none or other.may_be_none
        )


NOTHING = Bounds(None, None, True)
UNKNOWN = Bounds(LOWEST, HIGHEST, False)
UNKNOWN_OR_NOTHING = Bounds(LOWEST, HIGHEST, True)
FAILED = Bounds(LOWEST, LOWEST, False)


def exactly(value: Fraction) -> Bounds:
    """Bounds of a value that is known."""
    return Bounds(value, value, False)


Member = tuple[Number, Bounds]
"""Weight (never 0) and bounds."""


def mean_bounds(members: Sequence[Bounds]) -> Bounds:
    """Mean over the members that have a value."""
    sure = [member.low for member in members if member.low is not None]
    if sure and all(m.low is m.high and (m.low is None or not m.may_be_none) for m in members):
        return exactly(sum(sure, Fraction(0)) / len(sure))  # nothing is open: no need to look for extremes
    return weighted_bounds([(1, member) for member in members])


def weighted_bounds(members: Sequence[Member]) -> Bounds:
    """Weighted mean of the merits with a value, less what the faults (weights below 0) take away.

    ``max(-1, (sum of w v over merits - sum of |w| (v + 1) over faults) / sum of w over merits)``: in shares
    ``m = (v + 1) / 2`` of the points met, ``sum of w m over all / sum of w over merits``, as in HealthBench (Arora et
    al., 2025, arXiv 2505.08775, section 3), kept from falling below 0. Dividing by the sum of ``|w|`` instead would let
    the absence of a fault pay. Without a merit there is no value.
    """
    merits = [member for member in members if member[0] > 0]
    faults = [member for member in members if member[0] < 0]
    # A fault that may have no value is worth the most without one, and costs the most at its high end.
    least = sum(-w * (b.low + 1) for w, b in faults if b.low is not None and not b.may_be_none)
    most = sum(-w * (b.high + 1) for w, b in faults if b.high is not None)
    low = _extreme(merits, most, high=False)
    high = _extreme(merits, least, high=True)
    return Bounds(
        None if low is None else max(LOWEST, low),
        None if high is None else max(LOWEST, high),
        all(member.may_be_none for _, member in merits),
    )


def _extreme(members: Sequence[Member], cost: Number, *, high: bool) -> Fraction | None:
    """Return the highest (or lowest) ``(sum of w v - cost) / sum of w``; None if no member has a value.

    A member pulls the quotient towards its own value, so beside the members that are sure to have one, the best choice
    takes the others in order of their values for as long as each improves it. If none is sure, one must begin: the
    highest; or, for the lowest quotient, whichever alone is lowest, for with a cost every further one would raise it.
    """
    total: Number = -cost
    count: Number = 0
    options: list[tuple[Number, Fraction]] = []
    for weight, member in members:
        end = member.high if high else member.low
        if end is None:
            continue
        if member.may_be_none:
            options.append((weight, end))
        else:
            total, count = total + weight * end, count + weight
    if options:
        options.sort(key=lambda option: option[1], reverse=high)
        if not count:
            best = 0 if high else min(range(len(options)), key=lambda i: options[i][1] - cost / options[i][0])
            weight, end = options.pop(best)
            total, count = total + weight * end, weight
        for weight, end in options:
            if end * count <= total if high else end * count >= total:
                break
            total, count = total + weight * end, count + weight
    return Fraction(total) / count if count else None


def min_bounds(members: Sequence[Bounds]) -> Bounds:
    """Minimum over the members that have a value."""
    lows = [member.low for member in members if member.low is not None]
    sure = [member.high for member in members if member.high is not None and not member.may_be_none]
    maybe = [member.high for member in members if member.high is not None and member.may_be_none]
    high = min(sure) if sure else max(maybe, default=None)
    return Bounds(min(lows, default=None), high, all(member.may_be_none for member in members))


Step = tuple[Fraction | None, Bounds]
"""Level from which a child is satisfied (None: it never counts as that) and bounds, in order of importance."""
TIE_BREAK = 6
"""How much more an earlier child counts within a band than the next one (ours; see :func:`lexicographic_value`)."""


def lexicographic_value(children: Sequence[tuple[Fraction | None, Fraction]]) -> Fraction:
    """Pool (level, value) pairs in order of importance: ``-1 + 2 (k + u) / (n + 1)``.

    n children have a level, k is how many of these reach theirs before the first that does not. So [-1, 1] falls into
    n + 1 bands, and satisfying one child more outweighs all that comes later. u in [0, 1] is the place within the band:
    the mean of ``(v + 1) / 2``, the first unsatisfied child first, those already satisfied last, each with 1/6 of the
    weight of the one before, so that one grade (0.4 of 2 or more) of an earlier child outweighs all later ones. Strictly
    monotone in every child. Source of the order: thresholded lexicographic ordering (Gabor, Kalmar and Szepesvari, ICML
    1998); the scale is ours, for no continuous one can represent it.
    """
    levels = [level for level, _ in children if level is not None]
    satisfied = 0
    while satisfied < len(children):
        level, value = children[satisfied]
        if level is None or value < level:
            break
        satisfied += 1
    order = [*children[satisfied:], *children[:satisfied]]
    weights = [Fraction(1, TIE_BREAK**place) for place in range(len(order))]
    shares = (weight * (value + 1) / 2 for weight, (_, value) in zip(weights, order, strict=True))
    place = sum(shares, Fraction(0)) / sum(weights, Fraction(0))
    return 2 * (satisfied + place) / (len(levels) + 1) - 1


def lexicographic_bounds(children: Sequence[Step]) -> Bounds:
    """Lexicographic pool of the children that have a value; the others leave the order, and with them their band.

    Whether a child has a value moves the number of bands, so all combinations are tried (a program may not have more
    than :data:`rubrica.program.rules.MAX_ORDERED` children here).
    """
    ends: list[Fraction] = []
    for present in product(*(_choices(bounds) for _, bounds in children)):
        kept = [child for child, there in zip(children, present, strict=True) if there]
        if kept:
            ends.append(lexicographic_value([(level, b.low) for level, b in kept if b.low is not None]))
            ends.append(lexicographic_value([(level, b.high) for level, b in kept if b.high is not None]))
    none = all(bounds.may_be_none for _, bounds in children)
    return Bounds(min(ends, default=None), max(ends, default=None), none)


def _choices(bounds: Bounds) -> tuple[bool, ...]:
    if bounds.low is None:
        return (False,)
    return (True, False) if bounds.may_be_none else (True,)


def capped_bounds(members: Sequence[tuple[bool, Number, Bounds]]) -> Bounds:
    """``min(every cap, weighted mean over all)`` over (is a cap, weight above 0, bounds).

    The low end is the lower of both parts' low ends. For the high end, a cap that may have no value is there only if
    it is worth more to the mean than it costs as a cap; if one is there, every higher one may be too without loss, so
    the prefixes of the caps in falling order are enough.
    """
    everyone = [(weight, bounds) for _, weight, bounds in members]
    caps = [(weight, bounds) for is_cap, weight, bounds in members if is_cap and bounds.high is not None]
    if not caps:
        return weighted_bounds(everyone)
    free = [(weight, bounds) for is_cap, weight, bounds in members if not is_cap]
    sure = [(w, b.high) for w, b in caps if b.high is not None and not b.may_be_none]
    maybe = [(w, b.high) for w, b in caps if b.high is not None and b.may_be_none]
    maybe.sort(key=lambda option: option[1], reverse=True)
    highs: list[Fraction] = []
    for present in range(len(maybe) + 1):
        fixed = [*sure, *maybe[:present]]
        mean = _extreme([*((w, exactly(high)) for w, high in fixed), *free], 0, high=True)
        if mean is not None:
            highs.append(min([mean, *(high for _, high in fixed)]))
    mean = _extreme(everyone, 0, high=False)
    lows = [low for low in (mean, min_bounds([b for _, b in caps]).low) if low is not None]
    none = all(bounds.may_be_none for _, _, bounds in members)
    return Bounds(min(lows, default=None), max(highs, default=None), none)


def gated_bounds(
    members: Sequence[Bounds], gates: Sequence[bool], pool: Callable[[Sequence[Bounds]], Bounds]
) -> Bounds:
    """-1 if a member that is a gate is worth -1, else the pool of all of them.

    A member at -1 never raises a pool, so the high end needs no gate at -1.
    """
    failing = [gate and member.low == LOWEST for gate, member in zip(gates, members, strict=True)]
    best = pool(members)
    if not any(failing):
        return best
    if any(fails and member == FAILED for fails, member in zip(failing, members, strict=True)):
        return FAILED
    return Bounds(LOWEST, LOWEST if best.high is None else best.high, best.may_be_none)
