"""Best-of-n: draw n answers of the base, keep the one with the highest reward (Stiennon et al. 2020, arXiv 2009.01325).

    KL(best of n || base) <= log n - (n - 1) / n

with equality where no two answers are equal and the reward has no ties (Beirami et al. 2024, arXiv 2401.01879).
"""

import math
from collections.abc import Sequence


def best(rewards: Sequence[float | None]) -> int:
    """Return the index of the highest reward, the first of equal ones; where none is known, 0: any draw of the base."""
    known = [(reward, -index) for index, reward in enumerate(rewards) if reward is not None]
    return -max(known)[1] if known else 0


def divergence_bound(n: int) -> float:
    """Return the most that best-of-n can be away from the base, in nats."""
    return math.log(n) - (n - 1) / n
