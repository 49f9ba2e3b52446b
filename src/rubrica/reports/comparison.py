"""A comparison as tables: of the terminal and of Markdown, from one set of rows."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from rubrica.core.compared import Comparison, Contrast, Corrected
from rubrica.core.records import Estimate, Unmeasured
from rubrica.reports.markdown import escaped, table
from rubrica.reports.tables import one_line

Interval = Literal["score", "bootstrap"]


class Sheet(NamedTuple):
    """One table; columns of numbers are told from columns of text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    texts: tuple[int, ...] = (0, -1)
    """Columns of text, from either end."""
    notes: tuple[str, ...] = ()

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return column not in self.texts and column - len(self.columns) not in self.texts


def sheets(found: Comparison, interval: Interval = "score") -> list[Sheet]:
    """The tables of a comparison; a table without rows is left out."""
    parts = [
        *_by_metric(found.suites, found, interval),
        *_by_metric(found.drafts, found, interval),
        *_by_metric(found.groups, found, interval),
        _averages(found, interval),
        _corrected(found),
        _answers(found),
        _gates(found),
    ]
    return [part for part in parts if part.rows]


def remarks(found: Comparison) -> list[str]:
    """What is to be known beside the tables: what differs, what is missing."""
    lines = [f"differs: {text}" for text in found.differs]
    for side, label, only in (
        ("A", found.first.label, found.only[0]),
        ("B", found.second.label, found.only[1]),
    ):
        if only:
            lines.append(f"not compared, only in {side} ({label}): {', '.join(only)}")
    for match in found.matching:
        for side, count, names in zip("AB", match.only, match.examples, strict=True):
            if count:
                more = ", ..." if count > len(names) else ""
                lines.append(
                    f"{match.suite}: {_rows(count)} only in {side}, left out: {', '.join(names)}{more}"
                )
        for side, count in zip("AB", match.incomplete, strict=True):
            if count:
                lines.append(f"{match.suite}: {_rows(count)} not in every model of {side}, left out")
    for row in found.suites:
        if row.without_value:
            line = f"{row.suite}: {_rows(row.without_value)} without a value on some side, in no rate"
            if row.however_missing is not None:
                ends = ", ".join(f"{100 * end:+.1f}" for end in row.however_missing)
                line += f"; whatever they were, B-A of all would be in [{ends}]"
            lines.append(line)
        if row.finding == "not compared" and isinstance(row.difference, Unmeasured):
            lines.append(f"{row.suite}: {row.difference.reason}")
    return [one_line(line) for line in lines]


def markdown(found: Comparison, interval: Interval = "score") -> str:
    """Tables and remarks as GitHub-flavoured Markdown."""
    blocks = []
    for sheet in sheets(found, interval):
        left = [number for number in range(len(sheet.columns)) if not sheet.numeric(number)]
        blocks.append(f"**{escaped(sheet.title)}**\n\n{table(sheet.columns, sheet.rows, left)}")
        blocks += [f"*{escaped(note)}*" for note in sheet.notes]
    told = [f"- {escaped(line)}" for line in remarks(found)]
    return "\n\n".join([*blocks, *(["\n".join(told)] if told else [])]) + "\n"


def _by_metric(rows: Sequence[Contrast], found: Comparison, interval: Interval) -> list[Sheet]:
    """One table for each metric, so that every number in it is better in one direction."""
    return [
        _contrasts(metric, [row for row in rows if row.metric == metric], found, interval)
        for metric in dict.fromkeys(row.metric for row in rows)
    ]


def _contrasts(metric: str, rows: Sequence[Contrast], found: Comparison, interval: Interval) -> Sheet:
    better = "lower" if rows[0].lower_is_better else "higher"
    by = f" by {rows[0].group.partition(':')[0]}" if rows[0].group else ""
    title = f"{metric}{by}, {better} is better: {found.first.label} (A), {found.second.label} (B)"
    tests = sorted({row.test for row in rows if row.test})
    test = f"p: {'; '.join(tests)}. " if tests else ""
    note = f"{test}finds: smallest difference found with {found.power:.0%} power."
    lines = [
        (
            f"{row.suite}, {row.group.partition(':')[2]}" if row.group else row.suite,
            f"{row.pairs:,}",
            _value(row.first),
            _value(row.second),
            *_difference(row, interval),
            _p(row.p),
            _p(row.adjusted_p),
            "–" if row.detectable is None else f"{100 * row.detectable:.1f}",
            _finding(row, found),
        )
        for row in rows
    ]
    columns = ("suite", "pairs", "A", "B", "B-A", _level(found), "p", "Holm", "finds", "finding")
    return Sheet(title, columns, lines, notes=(note,))


def _averages(found: Comparison, interval: Interval) -> Sheet:
    columns = ("average", "goals", "A", "B", "B-A", _level(found), "p", "finding")
    lines = [
        (
            f"{row.metric}, {row.suite}",
            f"{row.clusters:,}",
            _value(row.first),
            _value(row.second),
            *_difference(row, interval),
            _p(row.p),
            _finding(row, found),
        )
        for row in found.averages
    ]
    note = "macro: mean over suites; pooled: every distinct goal counts once."
    return Sheet("Averages", columns, lines, notes=(note,))


def _corrected(found: Comparison) -> Sheet:
    columns = ("suite", "A", _level(found), "B", _level(found), "B-A", _level(found))
    lines = []
    reasons = []
    for row in (*found.suites, *found.drafts, *found.groups, *found.averages):
        if row.corrected is not None:
            parts = _parts(row.corrected)
            reasons += [part.reason for part in parts if isinstance(part, Unmeasured)]
            cells = [cell for part in parts for cell in (_value(part), _ends(part))]
            lines.append((f"{row.suite}, {row.group or row.metric}", *cells))
    notes = tuple(dict.fromkeys(reasons))
    return Sheet("Corrected for the judge's errors", columns, lines, (0,), notes)


def _parts(corrected: Corrected) -> tuple[Estimate | Unmeasured, ...]:
    return corrected.first, corrected.second, corrected.difference


def _answers(found: Comparison) -> Sheet:
    columns = ("answers", "rows", "A", "B", "B-A", _level(found))
    lines = []
    for row in found.answers:
        if not any(isinstance(each, Estimate) and each.value for each in (row.first, row.second)):
            continue
        tokens = row.metric == "tokens"
        show: Callable[[float], str] = (lambda value: f"{value:z,.0f}") if tokens else _percent
        values = [
            "–" if isinstance(each, Unmeasured) else show(each.value)
            for each in (row.first, row.second, row.difference)
        ]
        gap = row.difference
        ends = "–" if isinstance(gap, Unmeasured) else f"[{show(gap.low)}, {show(gap.high)}]"
        lines.append((f"{row.suite}, {row.metric}", f"{row.pairs:,}", *values, ends))
    return Sheet("What became of the answers", columns, lines, (0,))


def _gates(found: Comparison) -> Sheet:
    lines = [
        (
            gate.outcome + (" (passes)" if gate.passes and gate.outcome != "PASS" else ""),
            gate.suite,
            gate.gate,
            gate.reason,
        )
        for gate in found.gates
    ]
    return Sheet("Gates", ("outcome", "suite", "gate", "found"), lines, (0, 1, 2, 3))


def _finding(row: Contrast, found: Comparison) -> str:
    """Better and worse are shown; what is not shown may still be within the margin."""
    shown = {"no difference shown": "not shown", "not inferior": "not shown"}.get(row.finding, row.finding)
    if row.not_inferior and found.margin is not None and row.finding != "better":
        return f"{shown}, at most {100 * found.margin:g} worse"
    return shown


def _difference(row: Contrast, interval: Interval) -> tuple[str, str]:
    chosen = row.bootstrap if interval == "bootstrap" and row.bootstrap else row.difference
    if isinstance(chosen, Unmeasured):
        return "–", "–"
    return f"{100 * chosen.value:+z.1f}", _ends(chosen, sign="+")


def _value(found: Estimate | Unmeasured) -> str:
    return "–" if isinstance(found, Unmeasured) else _percent(found.value)


def _ends(found: Estimate | Unmeasured, sign: str = "") -> str:
    if isinstance(found, Unmeasured):
        return "–"
    return f"[{100 * found.low:{sign}z.1f}, {100 * found.high:{sign}z.1f}]"


def _percent(value: float) -> str:
    return f"{100 * value:z.1f}"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "<.0001" if value < 0.0001 else f"{value:.4f}".replace("0.", ".", 1)


def _level(found: Comparison) -> str:
    return f"{100 * found.level:g} %"


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"
