"""The claims table as it is handed on: a line a claim, without the numbers behind it.

The last full table of this repository is ``benchmarks/claims.json``; a wheel carries it inside.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import FiniteFloat, TypeAdapter

from rubrica.claims.finding import Finding, Verdict
from rubrica.core.base import Record
from rubrica.core.errors import DataError
from rubrica.core.records import EvalResult

KEPT = "claims.json"
_HERE = Path(__file__).parent
RATES = {
    ("asr", ""): "attack success",
    ("asr", "unseen wrappers"): "under unseen wrappers",
    ("draft_asr", ""): "harmful drafts",
    ("frr", ""): "false refusals",
    ("helpful", ""): "helpful answers right",
    ("honesty", ""): "honesty on unknowable questions",
    ("capability", ""): "capability",
    ("malformed", ""): "malformed",
    ("tokens", ""): "tokens an answer",
}
"""Rates of models, by name and group, and what they are called."""
HEADS = ("claim", "paper", "estimate", "95 % interval", "seeds", "verdict", "time", "date")
_PLACES = (_HERE / KEPT, _HERE.parents[2] / "benchmarks" / KEPT)


class Line(Record):
    """What became of a claim."""

    id: str
    claim: str
    paper: str
    estimate: FiniteFloat
    """Mean over the seeds; above 0 it supports the claim."""
    low: FiniteFloat | None
    """Ends of the 95 % t interval over the seeds; none for a single one."""
    high: FiniteFloat | None
    seeds: int
    verdict: Verdict
    seconds: float
    """Sum over the seeds of all that the claim's experiment needed."""
    date: str


def line(found: Finding) -> Line:
    """Return a finding without what lies behind it."""
    plain = {name: getattr(found, name) for name in Line.model_fields if name != "seeds"}
    return Line(**plain, seeds=len(found.seeds))


LINES = TypeAdapter(tuple[Line, ...])


def kept_lines() -> tuple[Line, ...]:
    """Return the last full table; ``DataError`` if it is not there or not a table."""
    path = next((place for place in _PLACES if place.exists()), _PLACES[-1])
    try:
        return LINES.validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(path, f"not a claims table ({error})") from None


def cells(each: Line) -> tuple[str, ...]:
    """Return a line as people read it."""
    alone = each.low is None or each.high is None
    interval = "none: one seed" if alone else f"[{each.low:+.3f}, {each.high:+.3f}]"
    number = f"{each.estimate:+.3f}", interval, str(each.seeds)
    return each.claim, each.paper, *number, each.verdict, f"{each.seconds:,.0f} s", each.date


def markdown(lines: Sequence[Line]) -> str:
    """Return the table as Markdown."""
    return _table(HEADS, [cells(each) for each in lines])


def models_markdown(models: Sequence[EvalResult]) -> str:
    """Return the rates of models with their intervals, a line a model, as Markdown."""
    rows = []
    for model in models:
        found = {
            (e.name, e.group): f"{e.value:.{n}f} [{e.low:.{n}f}, {e.high:.{n}f}]"
            for e in model.estimates
            for n in (3 if e.high <= 1 else 1,)
        }
        rows.append([model.label, *(found.get(key, "") for key in RATES)])
    return _table(["", *RATES.values()], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(heads)
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in (heads, rule, *rows)
    )
