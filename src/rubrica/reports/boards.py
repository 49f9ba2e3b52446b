"""Methods by sets as Markdown and as LaTeX, from one set of cells: mean and interval in per cent, the best in bold."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from rubrica.core.boards import MACRO, Board, Boards, Lead
from rubrica.core.evaluation import Metric
from rubrica.core.records import Estimate, Unmeasured
from rubrica.reports.eval_report import TITLES
from rubrica.reports.markdown import escaped, raw_table
from rubrica.reports.tables import one_line


class _Cell(NamedTuple):
    """What stands in a table."""

    value: str
    interval: str
    bold: bool
    note: str
    """Letter of the remark that says why there is no value."""


class _Sheet(NamedTuple):
    """One table, whatever it is written in; all plain text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[_Cell]]]
    notes: Sequence[str]


def markdown(found: Boards) -> str:
    """Tables and remarks as GitHub-flavoured Markdown."""
    blocks = []
    for sheet in _sheets(found):
        rows = [[escaped(name), *map(_markdown_cell, cells)] for name, cells in sheet.rows]
        blocks.append(f"**{escaped(sheet.title)}**")
        blocks.append(raw_table(["method", *map(escaped, sheet.columns)], rows))
        blocks += [f"*{escaped(note)}*" for note in sheet.notes]
    blocks.append("\n".join(f"- {escaped(line)}" for line in remarks(found)))
    return "\n\n".join(block for block in blocks if block) + "\n"


def latex(found: Boards) -> str:
    """Tables as LaTeX, one ``table`` each; they need the package booktabs."""
    lines = ["% needs \\usepackage{booktabs}; letters beyond ASCII need LuaLaTeX or XeLaTeX"]
    for sheet in _sheets(found):
        lines += [
            r"\begin{table}",
            r"\centering",
            r"\small",
            rf"\caption{{{escaped_latex(sheet.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(sheet.columns)}}}",
            r"\toprule",
            _latex_line(["method", *sheet.columns]),
            r"\midrule",
        ]
        for name, cells in sheet.rows:
            lines.append(_latex_line([name], [_latex_value(cell) for cell in cells]))
            if any(cell.interval for cell in cells):
                intervals = [rf"{{\scriptsize {cell.interval}}}" if cell.interval else "" for cell in cells]
                lines.append(_latex_line([""], intervals))
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par\smallskip{{\footnotesize {escaped_latex(note)}}}" for note in sheet.notes]
        lines.append(r"\end{table}")
    lines += [f"% {one_line(line)}" for line in remarks(found)]
    return "\n".join(lines) + "\n"


def remarks(found: Boards) -> list[str]:
    """Who judged, how many seeds, in what the evaluations differ."""
    lines = [
        f"{method.label}: {method.models} seeds; intervals and tests are over seeds too"
        for method in found.methods
        if method.models > 1
    ]
    for method in found.methods:
        missing = [
            f"{each.suite} {each.count:,} of {each.answers:,}"
            for each in found.missing
            if each.method == method.label
        ]
        if missing:
            lines.append(f"{method.label}: answers without a value, in no rate: {', '.join(missing)}")
    judges: dict[tuple[str, str], list[str]] = {}
    for each in found.judged:
        judges.setdefault((each.judge, each.protocol), []).append(each.suite)
    lines += [
        f"judged by {judge or 'nobody known'} ({protocol}): {', '.join(suites)}"
        for (judge, protocol), suites in judges.items()
    ]
    if any(method.models == 1 for method in found.methods):
        lines.append(
            "With one seed an interval is about this checkpoint; it never covers errors of the judge."
        )
    return [one_line(line) for line in (*lines, *(f"differs: {line}" for line in found.differs))]


def measure(name: str) -> str:
    """A measure in words."""
    metric = Metric(name.removeprefix("draft_"))
    return f"{TITLES[metric]} of drafts" if name.startswith("draft_") else TITLES[metric]


def percent(value: float) -> str:
    """``12.3``."""
    return f"{100 * value:.1f}"


# --- one sheet ------------------------------------------------------------------------------------


def _sheets(found: Boards) -> list[_Sheet]:
    return [_sheet(board, found.level) for board in (*found.boards, *found.drafts)]


def _sheet(board: Board, level: float) -> _Sheet:
    shown = {(lead.column, lead.best) for lead in board.leads if lead.shown}
    reasons: dict[str, str] = {}
    rows = []
    for row in board.rows:
        cells = [
            _cell(cell, (column, row.method) in shown, reasons)
            for column, cell in zip(board.columns, row.cells, strict=True)
        ]
        rows.append((row.method, cells))
    better = "lower is better" if board.lower_is_better else "higher is better"
    notes = [f"{letter}: {reason}" for reason, letter in reasons.items()]
    if board.leads:
        notes = [_bold(board, level), *map(_said, board.leads), *notes]
    title = f"{measure(board.metric)}, % with {100 * level:g} % intervals; {better}"
    return _Sheet(title, board.columns, rows, notes)


def _cell(found: Estimate | Unmeasured, bold: bool, reasons: dict[str, str]) -> _Cell:
    if isinstance(found, Unmeasured):
        return _Cell("–", "", False, reasons.setdefault(found.reason, _letter(len(reasons))))
    return _Cell(percent(found.value), f"[{percent(found.low)}, {percent(found.high)}]", bold, "")


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else str(number + 1)


def _bold(board: Board, level: float) -> str:
    sets = [lead for lead in board.leads if lead.column != MACRO and lead.p is not None]
    holm = f", Holm over {len(sets)} sets" if len(sets) > 1 else ""
    mean = "; macro, the mean over sets, is tested by itself" if MACRO in board.columns else ""
    return (
        f"Bold: the best, where its difference to the second best is significant (paired test over the items that both "
        f"answered{holm}, p at most {1 - level:.2g}{mean}). Nothing in bold: not shown, which is not equal."
    )


def _said(lead: Lead) -> str:
    gap = lead.difference
    if isinstance(gap, Unmeasured):
        return f"{lead.column}: {lead.best} against {lead.second}: {gap.reason}"
    p = "no test" if lead.adjusted_p is None else f"p = {lead.adjusted_p:.2g}"
    size = f"{percent(abs(gap.value))} points"
    return f"{lead.column}: {lead.best} against {lead.second}, {size}, {p} ({lead.test}, {gap.n:,} pairs)"


def _markdown_cell(cell: _Cell) -> str:
    value = f"**{cell.value}**" if cell.bold else cell.value
    return f"{value} {escaped(cell.interval)}".strip() + (f" ({cell.note})" if cell.note else "")


# --- LaTeX ----------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "–": r"\textendash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}
"""Brackets stand in braces, because after a line's end they would be read as its option."""


def escaped_latex(text: str) -> str:
    """``text`` as LaTeX shows it: nothing in it is a command."""
    whole = "".join(_LATEX.get(c, c) for c in one_line(text))
    return re.sub("-(?=-)", "-{}", whole)  # two hyphens would become a dash


def _latex_line(texts: Sequence[str], cells: Sequence[str] = ()) -> str:
    return " & ".join([*map(escaped_latex, texts), *cells]) + r" \\"


def _latex_value(cell: _Cell) -> str:
    value = escaped_latex(cell.value)
    if cell.note:
        return f"{value}\\textsuperscript{{{cell.note}}}"
    return rf"\textbf{{{value}}}" if cell.bold else value
