"""Gates: what a model must show beside its baseline before it may pass, from a YAML file.

A gate is held against an interval, so that it has three outcomes: the interval lies on the good side (PASS), on the bad one
(FAIL), or on both (UNDECIDED: too few items to tell). A gate over all suites holds for each by itself.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from rubrica.core.base import NonEmpty
from rubrica.core.clustered import numbered, rate, side
from rubrica.core.compared import Comparison, Contrast, GateResult, Outcome
from rubrica.core.config import Config, key_line, load_config
from rubrica.core.errors import DataError, nearest
from rubrica.core.evaluation import Metric, Standing
from rubrica.core.power import needed_for_bound
from rubrica.core.records import Estimate, Unmeasured
from rubrica.recipes.comparable import Loaded
from rubrica.recipes.compare import AVERAGES, Interval, shown_interval
from rubrica.recipes.contrast import lower_is_better
from rubrica.recipes.eval_columns import SHARES, TOKENS
from rubrica.recipes.matching import align

MEASURES = (
    *(metric.value for metric in Metric),
    *(f"draft_{metric.value}" for metric in Metric),
    *(share.value for share in SHARES),
    TOKENS,
)
Undecided = Literal["fail", "pass"]
_FACTS = {Standing.UNJUDGED.value, Standing.ABSTAINED.value, Standing.UNANSWERED.value}
_LIMITS = ("max", "min", "not_worse_by", "better_by")


class Gate(Config):
    """One requirement; exactly one of max, min, not_worse_by and better_by."""

    metric: NonEmpty
    """What is measured: asr, frr, accuracy, preference, a draft_ of these, a share of answers without a value, tokens."""
    suite: NonEmpty | None = None
    """One suite, or ``macro`` or ``pooled`` for an average in comparison; None: every suite that has the metric."""
    group: str = ""
    """``category:NAME`` or ``attack:NAME``; only with --by."""
    max: float | None = None
    """Largest value of the second side, over all its answers."""
    min: float | None = None
    """Smallest value of the second side, over all its answers."""
    not_worse_by: float | None = Field(default=None, ge=0)
    """Largest loss against the first side, over matched items."""
    better_by: float | None = Field(default=None, ge=0)
    """Smallest gain over the first side, over matched items."""
    on: Literal["interval", "point"] | None = None
    """Whether the interval is held against the limit, or the bare value. None: the interval, but for unjudged, abstained
    and unanswered, which are facts of this evaluation and no estimates."""
    min_n: int = Field(default=1, ge=1)
    """Fewer values leave the gate undecided."""
    undecided: Undecided | None = None
    """Whether it passes undecided; None: as the file says for all."""

    @model_validator(mode="after")
    def _one_limit_of_a_known_measure(self) -> Self:
        if self.metric not in MEASURES:
            raise ValueError(
                f"metric: unknown {self.metric!r}{nearest(self.metric, MEASURES)}; expected one of {', '.join(MEASURES)}"
            )
        given = [name for name in _LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a gate on {self.metric}: got {' and '.join(given) or 'no limit'}; expected one of {', '.join(_LIMITS)}"
            )
        if never := self._never(given[0], getattr(self, given[0])):
            raise ValueError(f"a gate on {self.metric}: {never}")
        if self.group and self.compared is None:
            raise ValueError(f"a gate on {self.metric}: group goes with not_worse_by or better_by only")
        return self

    def _never(self, name: str, limit: float) -> str:
        """Why nothing can fail, or nothing can pass; empty for a gate that tests something."""
        most = math.inf if self.metric == TOKENS else 1.0
        upper, is_paired = name in ("max", "not_worse_by"), name in ("not_worse_by", "better_by")
        found = f"{name} is {limit:g}, and nothing can "
        expected = "a positive number" if self.metric == TOKENS else "a share such as 0.05"
        if limit >= most if upper or is_paired else limit <= 0:
            return f"{found}{'pass' if name == 'better_by' else 'fail'} that; expected {expected}"
        if limit < 0 if upper else limit > most:
            return f"{found}pass that; expected {expected}"
        if not is_paired and not self.bare and limit == (0 if upper else most):
            return f"{found}pass that: an interval never ends there; say on: point, or leave room"
        return ""

    @property
    def bare(self) -> bool:
        """Whether the value alone decides."""
        return self.on == "point" or (self.on is None and self.metric in _FACTS)

    @property
    def compared(self) -> float | None:
        """The limit of a difference; None where the gate is on the second side alone."""
        return self.not_worse_by if self.not_worse_by is not None else self.better_by


class Policy(Config):
    """The file that ``rubrica compare --policy`` reads."""

    gates: list[Gate] = Field(min_length=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    """Of every interval."""
    undecided: Undecided = "fail"
    """What becomes of gates that the items cannot decide."""


def load_policy(path: Path) -> Policy:
    """Read a policy; ``DataError`` names line, key and nearest choice."""
    return load_config(Policy, path)


def check(
    policy: Policy, path: Path, comparison: Comparison, sides: tuple[Loaded, Loaded], interval: Interval
) -> tuple[GateResult, ...]:
    """Hold a comparison, and the answers of its second side, against a policy.

    ``DataError`` for a gate that nothing was measured for: it must not pass.
    """
    found, second = [], sides[1]
    for number, gate in enumerate(policy.gates):
        lines = list(_absolute(gate, policy, second) if gate.compared is None else _paired(gate, comparison))
        if lines:
            lines += _lacking(gate, sides, {suite for suite, _, _ in lines})
        else:
            line = key_line(path, ["gates", number])
            raise DataError(path, f"gates.{number}: {_nothing(gate, comparison, second)}", line)
        for suite, value, n in lines:
            shown = shown_interval(value, interval) if isinstance(value, Contrast) else value
            outcome, reason = _judged(gate, shown, n, in_favour=_sign(gate))
            lets = (gate.undecided or policy.undecided) == "pass"
            passes = outcome == "PASS" or (outcome == "UNDECIDED" and lets)
            found.append(
                GateResult(
                    gate=_said(gate),
                    suite=suite,
                    metric=gate.metric,
                    outcome=outcome,
                    passes=passes,
                    reason=reason,
                )
            )
    return tuple(found)


_Line = tuple[str, Contrast | Estimate | Unmeasured, int]
"""Suite, what was measured, number of values."""


def _absolute(gate: Gate, policy: Policy, second: Loaded) -> Iterator[_Line]:
    """The second side's own value in each suite, over all its answers."""
    names = second.models[0].suites
    for name, columns in names.items():
        own = gate.metric in (columns.metric.value, f"draft_{columns.metric.value}", *_ANY_SUITE)
        if not own or gate.suite not in (None, name) or any(name not in m.suites for m in second.models):
            continue
        aligned = align(second.models, name)
        table = aligned.table(gate.metric)
        known = ~np.isnan(table).any(axis=1)
        if not known.any():
            if gate.metric.startswith("draft_") and gate.suite is None:
                continue
            why = "no answer has a value"
            yield name, Unmeasured(name=gate.metric, reason=why), 0
            continue
        one = side(table[known], numbered(aligned.clusters.view(np.int64)[known]))
        yield name, rate(one, level=policy.level, name=gate.metric), int(known.sum())


def _lacking(gate: Gate, sides: tuple[Loaded, Loaded], measured: set[str]) -> Iterator[_Line]:
    """Suites that a gate on every suite is about and that a side lacks: what was not evaluated is not passed."""
    if gate.suite is not None or gate.group or gate.metric not in set(Metric):
        return
    first = sides[0].models
    known = {
        name: each.metric for side in sides for model in side.models for name, each in model.suites.items()
    }
    for name, metric in known.items():
        if metric.value == gate.metric and name not in measured:
            baseline = gate.compared is not None and any(name not in model.suites for model in first)
            reason = f"the {'first' if baseline else 'second'} side lacks the suite; evaluate it there"
            yield name, Unmeasured(name=gate.metric, reason=reason), 0


_ANY_SUITE = (*(share.value for share in SHARES), TOKENS)


def _paired(gate: Gate, comparison: Comparison) -> Iterator[_Line]:
    """The difference in each suite, or in an average."""
    averages = {row.suite for row in comparison.averages}
    rows = (
        *comparison.suites,
        *comparison.drafts,
        *comparison.groups,
        *comparison.averages,
        *comparison.answers,
    )
    for row in rows:
        wanted = row.suite not in averages if gate.suite is None else row.suite == gate.suite
        if wanted and row.metric == gate.metric and row.group == gate.group:
            yield row.suite, row, row.pairs


def _sign(gate: Gate) -> int:
    """1 where a smaller number is better for the gate, else -1."""
    if gate.compared is not None:
        return 1 if lower_is_better(gate.metric) else -1
    return 1 if gate.max is not None else -1


def _limit(gate: Gate) -> tuple[str, float]:
    """Name and value of the one limit."""
    return next((name, value) for name in _LIMITS if (value := getattr(gate, name)) is not None)


def _judged(gate: Gate, found: Estimate | Unmeasured, n: int, *, in_favour: int) -> tuple[Outcome, str]:
    """Outcome and reason. All is turned so that less is better and the limit is an upper one."""
    if isinstance(found, Unmeasured):
        return "UNDECIDED", f"not measured: {found.reason}"
    name, limit = _limit(gate)
    bound = limit if name in ("max", "not_worse_by") else -limit
    value = in_favour * found.value
    low, high = sorted((in_favour * found.low, in_favour * found.high))
    if gate.bare:
        low = high = value
    share = gate.metric != TOKENS
    shown = (
        f"{_number(found.value, share)} [{_number(found.low, share)}, {_number(found.high, share)}], n={n}"
    )
    if n < gate.min_n:
        return "UNDECIDED", f"{shown}; asked for at least {gate.min_n}"
    # better_by 0 asks for more than no difference
    kept = high < bound if name == "better_by" else high <= bound
    broken = low >= bound if name == "better_by" else low > bound
    if kept:
        return "PASS", shown
    if broken:
        return "FAIL", shown
    return "UNDECIDED", shown + _more(gate, found, limit)


def _more(gate: Gate, found: Estimate, limit: float) -> str:
    """How many items would tell, were the value to stay."""
    if gate.compared is not None or not 0 < limit < 1 or gate.metric == TOKENS:
        return "; more items would tell"
    needed = needed_for_bound(found.value, limit)
    return "; more items would tell" if needed is None else f"; about {needed:,} independent items would tell"


def _number(value: float, share: bool) -> str:
    return f"{100 * value:.1f} %" if share else f"{value:,.1f}"


def _said(gate: Gate) -> str:
    name, limit = _limit(gate)
    where = " ".join(part for part in (gate.suite or "", gate.group) if part)
    point = " on point" if gate.bare else ""
    return f"{gate.metric}{' of ' + where if where else ''} {name} {limit:g}{point}"


def _nothing(gate: Gate, comparison: Comparison, second: Loaded) -> str:
    """Why a gate applies to nothing."""
    rows = (*comparison.suites, *comparison.averages)
    known = {row.suite for row in rows} if gate.compared is not None else set(second.models[0].suites)
    if gate.suite in AVERAGES and gate.compared is None:
        return f"{gate.suite} goes with not_worse_by or better_by only"
    if gate.suite in AVERAGES and gate.suite not in known:
        return f"{gate.suite} is an average over several suites of {gate.metric}; both sides share fewer than two"
    if gate.suite is not None and gate.suite not in known:
        return (
            f"no suite {gate.suite!r}{nearest(gate.suite, known)}; expected one of {', '.join(sorted(known))}"
        )
    groups = sorted({row.group for row in comparison.groups})
    if gate.group and groups:
        more = ", ..." if len(groups) > 5 else ""
        return f"no group {gate.group!r}{nearest(gate.group, groups)} was compared; expected one of {', '.join(groups[:5])}{more}"
    if gate.group:
        return f"no group {gate.group!r} was compared; compare with --by {gate.group.partition(':')[0]}"
    return f"nothing with metric {gate.metric} was measured; evaluate a suite that has it, or remove the gate"
