"""What a judge's errors do to rates and differences, undone as far as its sensitivity and specificity are known.

A rate is corrected by :func:`rubrica.core.agreement.rogan_gladen`. A difference of two rates that the same judge reports,
with the same errors on both sides, shrinks by Youden's index ``J = se + sp - 1``: the true one is ``d / J``. Where the judge errs
otherwise on one side (it is fooled by one model's style), no correction of this kind helps.
"""

import math

from rubrica.core.agreement import CORRECTED, rogan_gladen
from rubrica.core.clustered import Side, effective, mean, size, spread
from rubrica.core.records import Estimate, Unmeasured
from rubrica.core.stats import check_level, quantile


def corrected_rate(
    one: Side,
    sensitivity: Estimate,
    specificity: Estimate,
    *,
    level: float = 0.95,
    name: str = "rate",
    group: str = "",
) -> Estimate | Unmeasured:
    """Rate of one side of 0 and 1 as :func:`rogan_gladen` corrects it, on the effective number of values.

    Unmeasured also where a judge with these errors would hardly report such a rate: they are not those that it made here.
    """
    raw = mean(one)
    observations, _ = effective(raw * (1 - raw), spread((1.0, one)), level, one)
    shown = Estimate(
        name=name, group=group, value=raw, low=raw, high=raw, n=max(1, int(observations)), method=""
    )
    found = rogan_gladen(shown, sensitivity, specificity, level=level)
    if isinstance(found, Estimate) and found.high - found.low <= 1e-12:
        reason = (
            f"a judge that finds {sensitivity.value:.3f} of the cases and {1 - specificity.value:.3f} of the others "
            f"would hardly report {raw:.3f}; measure it on answers like these"
        )
        return Unmeasured(name=f"{name}{CORRECTED}", group=group, n=size(one), reason=reason)
    return found.model_copy(update={"n": size(one)})


def corrected_difference(
    raw: Estimate, sensitivity: Estimate, specificity: Estimate, *, level: float = 0.95
) -> Estimate | Unmeasured:
    """``d / J`` with the interval of ``raw`` (of the same ``level``) and the uncertainty of ``J`` put together.

    Delta method, each end by itself (MOVER, Zou and Donner 2008): an end of ``raw`` at distance ``h`` goes to
    ``sqrt((h / J)^2 + (z d / J^2)^2 (var se + var sp))``. Cut to [-1, 1]. Unmeasured where ``J <= 0``.
    """
    check_level(level)
    name, shares = f"{raw.name}{CORRECTED}", (sensitivity, specificity)
    youden = sum(share.value for share in shares) - 1
    if youden <= 0:
        reason = f"sensitivity {sensitivity.value:.3f} and specificity {specificity.value:.3f} together are no better than chance"
        return Unmeasured(name=name, group=raw.group, n=raw.n, reason=reason)
    value = max(-1.0, min(1.0, raw.value / youden))
    of_judge = quantile(level) * raw.value / youden**2 * math.sqrt(sum(map(_variance, shares)))
    below = math.hypot((raw.value - raw.low) / youden, of_judge)
    above = math.hypot((raw.high - raw.value) / youden, of_judge)
    return Estimate(
        name=name,
        group=raw.group,
        value=value,
        low=min(value, max(-1.0, raw.value / youden - below)),
        high=max(value, min(1.0, raw.value / youden + above)),
        n=raw.n,
        method=f"{raw.method}, mover",
    )


def _variance(share: Estimate) -> float:
    """Binomial variance of a share that was moved to the middle, so that one without an error is not certain."""
    p = (share.value * share.n + 1) / (share.n + 2)
    return p * (1 - p) / (share.n + 2)
