"""What the pictures of a data map show."""

import math
from pathlib import Path

from rubrica.core.records import Estimate
from rubrica.methods.data_map import Region
from rubrica.recipes.map_files import PAGE, PICTURE, PLOT, DataMap, MapReport
from rubrica.reports.data_map import Answer, Dot, Page, write_page, write_plots

_SCORES = {
    "judge": "score (total of the scorecard)",
    "grades": "score (mean of the graded answers)",
    "reward": "reward",
    "reference": "nearness to the reference",
    "labels": "label",
    "column": "score",
}


def write_pictures(found: DataMap, out: Path) -> None:
    """Write ``map.svg``, ``map.png`` and ``map.html``."""
    dots, page = dots_of(found), _page(found.report)
    write_plots(dots, page, out / PLOT, out / PICTURE)
    write_page(dots, page, out / PAGE)


def dots_of(found: DataMap) -> list[Dot]:
    """Return what is drawn of each prompt."""
    suspects = {suspect.id: suspect for suspect in found.suspects}
    dots = []
    for row in found.rows:
        texts, labels = found.answers[row.id].texts, row.labels or (None,) * len(row.scores)
        dots.append(
            Dot(
                id=row.id,
                deviation=math.sqrt(row.variance),
                mean=row.mean,
                region=row.region.value,
                stratum=row.stratum,
                prompt=_conversation(found, row.id),
                answers=tuple(map(Answer, texts, row.scores, labels)),
                rank=suspects[row.id].rank if row.id in suspects else 0,
                reason=suspects[row.id].reason if row.id in suspects else "",
                columns=row.columns,
            )
        )
    return dots


def _conversation(found: DataMap, id: str) -> str:
    messages = found.answers[id].prompt.messages
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def _page(report: MapReport) -> Page:
    ends = {boundary.between: boundary.value for boundary in report.boundaries}
    variance, mean = ends.get("high-variance and the rest"), ends.get("high-average and low-average")
    known = len(report.strata) == 1 and variance is not None and mean is not None
    return Page(
        title=report.source,
        facts=_facts(report),
        warnings=report.warnings,
        boundaries=(math.sqrt(variance), mean)
        if known and variance is not None and mean is not None
        else None,
        score=_SCORES[report.scorer.kind],
    )


def _facts(report: MapReport) -> list[tuple[str, str]]:
    facts = [
        ("prompts", f"{report.prompts:,}"),
        ("answers", f"{report.answers:,}"),
        *((region.value, f"{report.regions[region].prompts:,}") for region in Region),
        ("scorer", report.scorer.name),
    ]
    if report.scorer.references:
        facts.append(("references", report.scorer.references))
    if isinstance(report.agreement, Estimate):
        found = report.agreement
        facts.append(("scores order as labels", f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"))
        facts.append(("suspects", f"{report.suspects:,}"))
    return [*facts, ("selected", f"{report.selection.prompts:,} prompts, {report.selection.pairs:,} pairs")]
