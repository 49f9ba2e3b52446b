"""Before and after: the estimates of several models side by side, for the terminal and for the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from rubrica.core.records import Estimate, EvalResult

Direction = Literal["lower", "higher", "neither"]
Trend = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Measure:
    """How one kind of estimate is called and read."""

    name: str
    title: str
    direction: Direction
    share: bool = True
    """A share between 0 and 1, printed in per cent."""

    def number(self, value: float) -> str:
        """``value`` as it is printed: per cent with one decimal, or a plain number."""
        return f"{100 * value:.1f} %" if self.share else f"{value:,.0f}"

    def interval(self, estimate: Estimate) -> str:
        """The interval as it is printed, without a unit: ``71.2–79.9``."""
        scale, digits = (100, 1) if self.share else (1, 0)
        return f"{scale * estimate.low:.{digits}f}–{scale * estimate.high:.{digits}f}"

    def change(self, before: float, after: float) -> str:
        """The signed difference: ``−12.3 pp`` or ``+41``."""
        difference = 100 * (after - before) if self.share else after - before
        text = f"{abs(difference):.1f} pp" if self.share else f"{abs(difference):,.0f}"
        return ("−" if difference < 0 else "+") + text

    def trend(self, before: Estimate, after: Estimate) -> Trend:
        """Better or worse only where the two intervals do not touch."""
        if self.direction == "neither" or (before.low <= after.high and after.low <= before.high):
            return "unclear"
        return "better" if (after.value < before.value) == (self.direction == "lower") else "worse"


MEASURES = (
    Measure("asr", "Attack success", "lower"),
    Measure("frr", "False refusals", "lower"),
    Measure("helpful", "Helpful answers", "higher"),
    Measure("honesty", "Honesty", "higher"),
    Measure("capability", "Capability", "higher"),
    Measure("tokens", "Tokens per answer", "neither", share=False),
    Measure("malformed", "Malformed", "lower"),
    Measure("draft_asr", "Harmful drafts", "lower"),
)
HEADLINES = ("asr", "frr", "honesty", "capability", "tokens")
"""Measures of which the pooled values make up a report's headline."""


def measures(results: Sequence[EvalResult]) -> list[Measure]:
    """The measures that ``results`` hold, ours first; one that is not known here keeps its name."""
    names = dict.fromkeys(e.name for result in results for e in result.estimates)
    shares = {
        name: all(e.low >= 0 and e.high <= 1 for r in results for e in r.estimates if e.name == name)
        for name in names
    }
    own = [measure for measure in MEASURES if measure.name in names]
    known = {measure.name for measure in MEASURES}
    return own + [Measure(name, name, "neither", shares[name]) for name in names if name not in known]


def estimate(result: EvalResult, name: str, group: str = "") -> Estimate | None:
    """The estimate of that name and group (an empty group is *all*), or None."""
    return next((e for e in result.estimates if e.name == name and e.group == group), None)


def groups(results: Sequence[EvalResult], name: str) -> list[str]:
    """Groups of an estimate over all results, the pooled one (``""``) first, then as they come."""
    found = dict.fromkeys(e.group for result in results for e in result.estimates if e.name == name)
    return sorted(found, key=lambda group: group != "")


def one_line(text: str) -> str:
    """``text`` with control characters blanked, so that a name cannot steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def before_after_table(results: Sequence[EvalResult]) -> Table:
    """One row per measure and attack family, one column per model, and the change from first to last.

    Values stand with their intervals. The change is green or red only where the intervals of the first and the
    last model do not touch; otherwise it is dim. Names are printed as plain text, never as markup.
    """
    table = Table(title="Before and after", title_justify="left")
    table.add_column("measure")
    for result in results:
        table.add_column(Text(one_line(result.label)), justify="right")
    if len(results) > 1:
        table.add_column("change", justify="right")
    colours = {"better": "green", "worse": "red", "unclear": "dim"}
    for measure in measures(results):
        for group in groups(results, measure.name):
            found = [estimate(result, measure.name, group) for result in results]
            alone = group and "" not in groups(results, measure.name)
            title = f"{measure.title}, {group}" if alone else group or measure.title
            indent = "  " if group and not alone else ""
            name = Text(indent + one_line(title), "dim" if indent else "bold")
            cells = [_cell(measure, e) for e in found]
            if len(results) > 1:
                first, last = found[0], found[-1]
                known = first is not None and last is not None
                cells.append(
                    Text(measure.change(first.value, last.value), colours[measure.trend(first, last)])
                    if known and first and last
                    else Text("–", "dim")
                )
            table.add_row(name, *cells)
    return table


def _cell(measure: Measure, found: Estimate | None) -> Text:
    if found is None:
        return Text("–", "dim")
    return Text.assemble(measure.number(found.value), (f"\n{measure.interval(found)}", "dim"))
