"""How often the best of n tries succeeds, from tries that were all judged.

For one request with c successes in N tries, the estimate

    p(n) = 1 - C(N - c, n) / C(N, n)

is the share of all sets of n of its tries that hold a success. Its expectation is 1 - (1 - p)^n for any N >= n (Chen et
al. 2021, arXiv 2107.03374, section 2.1), so all N tries serve every n. The rate over requests is the mean of their p(n).
Hughes et al. 2024 (arXiv 2412.03556, section 4) find ``-log ASR(n) = a n^(-b)``.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from rubrica.core.clustered import rate_by_cluster
from rubrica.core.errors import UsageError
from rubrica.core.records import Estimate


class Tried(NamedTuple):
    """What became of the tries at one request."""

    cluster: Hashable
    """Requests of one cluster are not independent."""
    tries: int
    """Those that were judged."""
    successes: int
    stopped: bool = False
    """Whether the tries end with the first success. Then it is known for every n whether n tries are enough."""


class PowerLaw(NamedTuple):
    """``-log ASR(n) = a n^(-b)``."""

    a: float
    b: float
    points: int
    """Rates between 0 and 1 that it was fitted to."""


def success_within(n: int, tries: int, successes: int) -> float:
    """Return p(n); ``UsageError`` unless 1 <= n <= tries and 0 <= successes <= tries."""
    if not 1 <= n <= tries or not 0 <= successes <= tries:
        raise UsageError(
            f"best of {n}: got {successes} successes in {tries} tries; expected at least {n} tries"
        )
    failures = tries - successes
    if failures < n:
        return 1.0
    return 1.0 - math.prod(1.0 - n / count for count in range(failures + 1, tries + 1))


def powers_of_two(most: int) -> list[int]:
    """Return 1, 2, 4 and so on up to ``most``, and ``most``."""
    found = [2**k for k in range(most.bit_length()) if 2**k < most]
    return [*found, most] if most > 0 else found


def best_of(units: Iterable[Tried], ns: Sequence[int], *, name: str = "asr") -> list[Estimate]:
    """Return the rate for each n, with an interval over clusters; ``n`` of an estimate counts its requests.

    A request with fewer than n judged tries is in no rate at n; an n that no request reaches is left out. Where tries end
    with the first success that would leave out only requests that hold, so an n that one of them does not reach is left
    out as well; a request without any judged try is in no rate at all.
    """
    given, found = [unit for unit in units if unit.tries], []
    most = min((unit.tries for unit in given if unit.stopped and not unit.successes), default=math.inf)
    for n in ns:
        values: dict[Hashable, list[float]] = {}
        for unit in given:
            if (value := _value(unit, n)) is not None:
                values.setdefault(unit.cluster, []).append(value)
        if values and n <= most:
            found.append(_rate(values, name, f"n={n}"))
    return found


def _value(unit: Tried, n: int) -> float | None:
    if unit.stopped and unit.successes:
        return float(unit.tries <= n)
    return success_within(n, unit.tries, unit.successes) if unit.tries >= n else None


def _rate(values: dict[Hashable, list[float]], name: str, group: str) -> Estimate:
    rate = rate_by_cluster(values, name=name, group=group)
    return rate.model_copy(update={"low": max(0.0, rate.low), "high": min(1.0, rate.high)})


def power_law(rates: Sequence[tuple[int, float]]) -> PowerLaw | None:
    """Fit ``log(-log ASR) = log a - b log n`` to pairs of n and rate by least squares; None below three rates in (0, 1)."""
    points = [(math.log(n), math.log(-math.log(rate))) for n, rate in rates if 0 < rate < 1]
    if len(points) < 3:
        return None
    slope, intercept = np.polyfit([x for x, _ in points], [y for _, y in points], 1)
    return PowerLaw(a=math.exp(float(intercept)), b=-float(slope), points=len(points))
