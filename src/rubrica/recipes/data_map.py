"""A data map of a file: points, boundaries, suspects, checks, and pairs to train on."""

from collections.abc import Sequence

from rubrica.core.answers import Answers
from rubrica.core.clustered import rate_by_cluster
from rubrica.core.errors import UsageError
from rubrica.core.prompts import Message
from rubrica.core.records import Estimate, Unmeasured
from rubrica.methods.data_map import (
    Diagnosis,
    PairRule,
    Point,
    Region,
    Scored,
    by_stratum,
    diagnose,
    draw,
    pairs,
    select,
)
from rubrica.recipes.map_checks import Confound, Traits, confounds
from rubrica.recipes.map_files import (
    DataMap,
    MapReport,
    MapRow,
    RegionSummary,
    Scorer,
    Selection,
    Suspect,
    TrainingPair,
    Wanted,
)
from rubrica.recipes.map_scorers import Scores, cohort

LITTLE = 0.1
"""How far above chance scores must agree with labels before suspects mean much (ours)."""
SMALLEST = 9
"""Prompts of a stratum below which thirds say little (ours)."""


def make_map(
    given: Sequence[Answers], scores: Scores, scorer: Scorer, wanted: Wanted, source: str
) -> DataMap:
    """Draw the map of all prompts whose answers all have a score; ``UsageError`` if there are none."""
    of = {answers.id: answers for answers in given}
    entries = [
        Scored(a.id, known, a.labels, a.columns.get(wanted.by, "") if wanted.by else "")
        for a, values in zip(given, scores.values, strict=True)
        if len(known := tuple(value for value in values if value is not None)) == len(a.texts)
    ]
    if not entries:
        why = f": {scores.reasons[0]}" if scores.reasons else ""
        raise UsageError(f"data map: no prompt has a score for each of its answers{why}")
    points, boundaries = draw(entries)
    traits = [_traits(of[point.id]) for point in points]
    # labels that are the scores themselves cannot accuse each other
    diagnoses = [] if scorer.kind == "labels" else diagnose(points, wanted.tolerance)
    found = select(points, wanted.region, wanted.fraction, seed=wanted.seed)
    labelled = wanted.order_by == "labels" and any(point.labels is not None for point in found)
    pairs_of = [_training_pairs(point, of[point.id], wanted.rule, by_labels=labelled) for point in found]
    selected = [pair for some in pairs_of for pair in some]
    checks = confounds(points, traits)
    agreement, ties, total = _agreement(points, diagnoses)
    regions = {region: _region(points, diagnoses, region) for region in Region}
    suspects = _suspects([d for d in diagnoses if d.suspect], points, of)
    report = MapReport(
        source=source,
        cohort=cohort([of[point.id] for point in points]),
        scorer=scorer,
        prompts=len(points),
        answers=sum(len(point.scores) for point in points),
        left_out=len(given) - len(points),
        strata={name: len(members) for name, members in by_stratum([p.stratum for p in points]).items()},
        regions=regions,
        boundaries=tuple(boundaries),
        agreement=agreement,
        label_pairs=total,
        tied_pairs=ties,
        suspects=len(suspects),
        selection=Selection(
            region=str(wanted.region),
            fraction=wanted.fraction,
            rule=wanted.rule,
            ordered_by="labels" if labelled else "scores",
            prompts=len(found),
            pairs=len(selected),
            without_pair=sum(not some for some in pairs_of),
            seed=wanted.seed,
        ),
        confounds=tuple(checks),
        warnings=(),
        usage=scores.usage,
    )
    report = report.model_copy(update={"warnings": tuple(_warnings(report, scores))})
    by_id = {diagnosis.id: diagnosis for diagnosis in diagnoses}
    rows = [
        MapRow(
            **point.model_dump(),
            prompt=of[point.id].prompt.messages[-1].content,
            columns=of[point.id].columns,
            diagnosis=by_id.get(point.id),
        )
        for point in points
    ]
    return DataMap(report, rows, suspects, selected, of)


def _traits(answers: Answers) -> Traits:
    asked = sum(len(message.content) for message in answers.prompt.messages)
    return Traits(answers.columns, asked, tuple(map(len, answers.texts)))


def _training_pairs(point: Point, answers: Answers, rule: PairRule, *, by_labels: bool) -> list[TrainingPair]:
    """Pairs by label or by score; an empty answer teaches nothing and is in none."""
    values = point.labels or () if by_labels else point.scores
    values = values or (None,) * len(answers.texts)
    usable = [value if text.strip() else None for value, text in zip(values, answers.texts, strict=True)]
    found = pairs(usable, rule)
    return [
        TrainingPair(
            id=point.id if len(found) == 1 else f"{point.id}/{better}-{worse}",
            prompt=answers.prompt.messages,
            chosen=(Message(role="assistant", content=answers.texts[better]),),
            rejected=(Message(role="assistant", content=answers.texts[worse]),),
            score_chosen=point.scores[better],
            score_rejected=point.scores[worse],
            region=point.region,
        )
        for better, worse in found
        if answers.texts[better] != answers.texts[worse]
    ]


def _agreement(points: Sequence[Point], diagnoses: Sequence[Diagnosis]) -> tuple[Estimate | None, int, int]:
    """Return the share of label pairs that the scores order alike, the tied ones, and all of them."""
    of = {point.id: point for point in points}
    won: dict[object, list[bool]] = {}
    ties = total = 0
    for diagnosis in diagnoses:
        point = of.get(diagnosis.id)
        if point is None or point.labels is None:
            continue
        known = [(y, s) for y, s in zip(point.labels, point.scores, strict=True) if y is not None]
        gaps = [
            (a[1] - b[1]) * (1 if a[0] > b[0] else -1)
            for i, a in enumerate(known)
            for b in known[i + 1 :]
            if a[0] != b[0]
        ]
        ties, total = ties + gaps.count(0.0), total + len(gaps)
        won[point.id] = [gap > 0 for gap in gaps if gap != 0]
    found = rate_by_cluster(won, name="scores order as labels") if any(won.values()) else None
    return found, ties, total


def _region(points: Sequence[Point], diagnoses: Sequence[Diagnosis], region: Region) -> RegionSummary:
    inside = [point for point in points if point.region is region]
    return RegionSummary(
        prompts=len(inside),
        mean=sum(point.mean for point in inside) / len(inside) if inside else None,
        deviation=sum(point.variance**0.5 for point in inside) / len(inside) if inside else None,
        agreement=_agreement(inside, diagnoses)[0],
    )


def _suspects(
    diagnoses: Sequence[Diagnosis], points: Sequence[Point], of: dict[str, Answers]
) -> list[Suspect]:
    place = {point.id: point for point in points}
    mean = sum(point.mean for point in points) / len(points)
    values = [score for point in points for score in point.scores]
    deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    found = []
    for rank, diagnosis in enumerate(diagnoses, 1):
        texts = of[diagnosis.id].texts
        found.append(
            Suspect(
                **diagnosis.model_dump(),
                rank=rank,
                reason=_reason(diagnosis, place[diagnosis.id], deviation),
                prompt=of[diagnosis.id].prompt.messages[-1].content,
                labelled_better=texts[diagnosis.better],
                scored_better=texts[diagnosis.worse],
            )
        )
    return found


def _reason(diagnosis: Diagnosis, point: Point, deviation: float) -> str:
    labels = point.labels or ()
    scores = [f"{point.scores[i]:.4g}" for i in (diagnosis.worse, diagnosis.better)]
    given = [f"{labels[i]:g}" for i in (diagnosis.worse, diagnosis.better)]
    said = (
        f"the answer labelled {given[0]} scores {scores[0]}, the one labelled {given[1]} scores {scores[1]}: "
        f"{diagnosis.margin / deviation:.1f} standard deviations the other way"
    )
    if diagnosis.pairs > 1:
        said += f"; {diagnosis.inverted} of {diagnosis.pairs} pairs are ordered the other way"
    return said


def _warnings(report: MapReport, scores: Scores) -> list[str]:
    """What a reader must know before trusting the map."""
    found: list[str] = []
    if report.left_out:
        why = f" ({scores.reasons[0]})" if scores.reasons else ""
        found.append(
            f"{report.left_out} of {report.left_out + report.prompts} prompts are not on the map: an answer has no score{why}"
        )
    if (agreement := report.agreement) is not None and min(
        agreement.value, agreement.low + LITTLE
    ) < 0.5 + LITTLE:
        interval = f"{agreement.value:.1%} [{agreement.low:.1%}, {agreement.high:.1%}]"
        how = "no better than chance" if agreement.low <= 0.5 else "little better than chance"
        how = "worse than chance; do labels and scores point the same way?" if agreement.high < 0.5 else how
        found.append(f"the scores order {interval} of the labelled pairs as the labels do: {how}")
    tied = [boundary for boundary in report.boundaries if boundary.tied > 0.01 * report.prompts]
    for boundary in tied:
        within = f" within {boundary.stratum}" if boundary.stratum else ""
        found.append(
            f"{boundary.tied} prompts{within} lie exactly between {boundary.between}, so chance decided among them; a "
            "finer scorer (grades, a judge's probabilities, a reward model) tells them apart"
        )
    small = [name or "all" for name, size in report.strata.items() if size < SMALLEST]
    if small:
        found.append(
            f"strata of fewer than {SMALLEST} prompts, whose thirds say little: {', '.join(small[:5])}"
        )
    return found + [_confound_warning(confound) for confound in report.confounds if confound.warn]


def _confound_warning(confound: Confound) -> str:
    found: Estimate | Unmeasured = confound.found
    value = found.value if found.value is not None else 0.0
    if confound.of == "scores within prompts":
        which = "longer" if value > 0.5 else "shorter"
        share = value if value > 0.5 else 1 - value
        return f"of two answers to one prompt the {which} one scores higher in {share:.0%} of pairs: length may stand for quality"
    if confound.of == "region":
        return f"region goes with {confound.about} (Cramér's V {value:.2f}): the selection shifts its shares; --by draws the map within each"
    return f"{confound.of} goes with {confound.about} (Spearman {value:+.2f})"
