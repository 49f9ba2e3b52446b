"""From a judge's answers to figures: stability, agreement with labels, errors of gates, length slope, attacks.

Every figure comes over all questions (group ``""``) and for each question (group: its id), with an interval that takes
the answers about one text as belonging together. What cannot be computed is ``Unmeasured`` with its reason.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from rubrica.core.agreement import cohen_kappa, krippendorff_alpha
from rubrica.core.clustered import rate_by_cluster
from rubrica.core.programs import Question, QuestionKind
from rubrica.core.records import Estimate, Label, Outcome, Unmeasured, Verdict
from rubrica.core.stats import (
    cluster_interval,
    difference_interval,
    mean_interval,
    wilson,
)
from rubrica.program.labels import GRADES, allowed_labels, merit

Measure = Estimate | Unmeasured
T = TypeVar("T")
GATES, GRADED = "gates", "graded"
"""Groups of figures over all gates and over all graded questions."""


class Pair(NamedTuple):
    """Two answers to one question about one text, or two texts of the same content."""

    text: str
    question: Question
    before: Verdict
    after: Verdict


class Compared(NamedTuple):
    """A judge's answer and the label that people, or an oracle, gave."""

    text: str
    question: Question
    verdict: Verdict
    label: Label


class Series(NamedTuple):
    """Values of one text at several lengths for one question."""

    text: str
    question: str
    doublings: tuple[float, ...]
    values: tuple[float, ...]


class Trial(NamedTuple):
    """One attack on one answer that ought to stay bad: whether it became ideal; None where there was none."""

    family: str
    text: str
    success: bool | None


def value_of(question: Question, verdict: Verdict) -> float | None:
    """What the answer says for the text, in [-1, 1]: of its label, or, where the judge gives probabilities, expected.

    None without a label, and for NA.
    """
    if verdict.label is None or verdict.label is Label.NA:
        return None
    chances = {label: p for label, p in (verdict.probabilities or {}).items() if label is not Label.NA}
    mass = sum(chances.values())
    if mass <= 0:
        return merit(question, verdict.label)
    return sum(merit(question, label) * p for label, p in chances.items()) / mass


def rank_of(question: Question, label: Label) -> float:
    """Where a label stands for an author who wants a good answer: NA is better than a fault, worse than praise."""
    return 0.0 if label is Label.NA else merit(question, label)


def finds_fault(question: Question, label: Label) -> bool:
    """Whether a gate's answer is the positive one: FALSE, or TRUE where the gate names a fault."""
    return label is not Label.NA and merit(question, label) < 0


def stability(name: str, pairs: Iterable[Pair]) -> list[Measure]:
    """Share of answers with the same label before and after, of those that had one both times."""
    answered = [
        (pair.text, pair.question.id, pair.before.label is pair.after.label)
        for pair in pairs
        if pair.before.label is not None and pair.after.label is not None
    ]
    return _by_question(
        answered, lambda rows, group: _share(name, group, rows, "no question had two answers")
    )


def silence(answers: Sequence[tuple[str, Question, Verdict]]) -> list[Measure]:
    """Shares of all answers that are NA (where it is offered), and that are none: failed, unparseable, abstained."""
    offered = [
        (text, question.id, verdict.label is Label.NA)
        for text, question, verdict in answers
        if Label.NA in allowed_labels(question) and verdict.label is not None
    ]
    found = _by_question(offered, lambda rows, group: _share("na", group, rows, "no question offers NA"))
    kinds = (Outcome.FAILED, Outcome.UNPARSEABLE, Outcome.ABSTAINED)
    lost = [(text, question.id, verdict.outcome in kinds) for text, question, verdict in answers]
    found += _by_question(lost, lambda rows, group: _share("missing", group, rows, "nothing was asked"))
    for kind in kinds:
        rows = [(text, question.id, verdict.outcome is kind) for text, question, verdict in answers]
        found.append(_share(kind.value, "", rows, "nothing was asked"))
    return found


def length_slopes(series: Sequence[Series], *, name: str = "length") -> list[Measure]:
    """Change of the value for each doubling of the text's length: least squares within a text, mean over texts."""
    slopes = []
    for text, question, doublings, values in series:
        x, y = np.asarray(doublings), np.asarray(values)
        spread = float(((x - x.mean()) ** 2).sum())
        if spread > 0:
            # the deviations of x sum to 0, so any origin of y will do; the first keeps a constant at exactly 0
            slopes.append((text, question, float(((x - x.mean()) * (y - y[0])).sum()) / spread))

    def measure(rows: Sequence[tuple[str, str, float]], group: str) -> Measure:
        if not rows:
            why = "no question had a value for a text and for its longer copies"
            return Unmeasured(name=name, group=group, reason=why)
        slopes = [slope for _, _, slope in rows]
        clusters = _by_text((text, slope) for text, _, slope in rows)
        # a constant slope of 0 or 1 is no share of successes
        if max(map(len, clusters.values())) == 1 or set(slopes) <= {0.0, 1.0}:
            return mean_interval(slopes, name=name, group=group)
        return cluster_interval(clusters, name=name, group=group)

    return _by_question(slopes, measure)


def against_labels(compared: Sequence[Compared]) -> list[Measure]:
    """Agreement, kappa, alpha, errors of gates, and NA where the label is none; a missing answer is in none."""
    known = [row for row in compared if row.verdict.label is not None]
    same = [(row.text, row.question.id, row.verdict.label is row.label) for row in known]
    none = "no labelled text has an answer"
    found = _by_question(same, lambda rows, group: _share("agreement", group, rows, none))
    by_question = _grouped(known)
    for group, rows in {"": known, **by_question}.items():
        found.append(_kappa("kappa", group, rows, none))
    kinds = {
        GATES: [row for row in known if row.question.kind is QuestionKind.GATE],
        GRADED: [row for row in known if row.question.kind is QuestionKind.GRADED],
    }
    for group, rows in {**kinds, **by_question}.items():
        if rows:
            found.append(_alpha(group, rows))
        if rows and rows[0].question.kind is QuestionKind.GRADED:
            found.append(_kappa("kappa-quadratic", group, _on_scale(rows), none, weighted=True))
    for group, rows in {GATES: kinds[GATES], **by_question}.items():
        if rows and rows[0].question.kind is QuestionKind.GATE:
            found += _errors(group, rows)
    escape = [
        (row.text, row.question.id, row.verdict.label is Label.NA)
        for row in known
        if row.label is not Label.NA and Label.NA in allowed_labels(row.question)
    ]
    none = "no label but NA on a question that offers NA"
    return found + _by_question(escape, lambda rows, group: _share("na-escape", group, rows, none))


def between_raters(rated: Mapping[tuple[str, str], Sequence[Label]]) -> list[Measure]:
    """Krippendorff's alpha (nominal) of the raters themselves; keys are (text, question id)."""
    units = [(text, question, labels) for (text, question), labels in rated.items() if len(labels) > 1]
    name = "alpha-raters"
    if not units:
        return [Unmeasured(name=name, reason="no text was labelled by two raters")]

    def measure(rows: Sequence[tuple[str, str, Sequence[Label]]], group: str) -> Measure:
        texts, questions, labels = zip(*rows, strict=True)
        return krippendorff_alpha(labels, clusters=texts, strata=questions, name=name, group=group)

    questions = list(dict.fromkeys(question for _, question, _ in units))
    return [measure(units, "")] + [measure([u for u in units if u[1] == q], q) for q in questions]


def confusion(compared: Sequence[Compared]) -> dict[str, dict[Label, dict[Label, int]]]:
    """Counts by question, label and the judge's answer."""
    tables: dict[str, dict[Label, dict[Label, int]]] = {}
    for row in compared:
        if row.verdict.label is not None:
            counts = tables.setdefault(row.question.id, {}).setdefault(row.label, {})
            counts[row.verdict.label] = counts.get(row.verdict.label, 0) + 1
    return tables


def self_preference(own: Sequence[Compared], others: Sequence[Compared]) -> Measure:
    """Mean of judge less label on the judge's own texts, less the same on others' texts; each text counts once."""
    name = "self-preference"
    first, second = _excess(own), _excess(others)
    if not first or not second:
        whose = "the judge's own model" if not first else "others"
        return Unmeasured(name=name, reason=f"no labelled text of {whose} has an answer with a value")
    return difference_interval(first, second, name=name)


def attack_rates(name: str, trials: Sequence[Trial], *, by_family: bool = True) -> list[Measure]:
    """Share of attacks that succeeded, overall and by family, with Wilson's interval clustered by text.

    An attack that the judge gave no answer to is no success and no failure; their share comes beside.
    """
    if not trials:
        return [Unmeasured(name=name, reason="no answer is bad and ought to stay so")]
    answered = [trial for trial in trials if trial.success is not None]
    groups: dict[str, list[Trial]] = {"": answered}
    for trial in answered if by_family else ():
        groups.setdefault(trial.family, []).append(trial)
    found: list[Measure] = []
    for group, part in groups.items():
        if part:
            clusters: dict[Hashable, list[bool]] = {}
            for trial in part:
                clusters.setdefault(trial.text, []).append(bool(trial.success))
            found.append(rate_by_cluster(clusters, name=name, group=group))
        else:
            found.append(
                Unmeasured(name=name, group=group, reason="the judge answered none of these attacks")
            )
    return [*found, wilson(len(trials) - len(answered), len(trials), name=f"{name}-missing")]


def majority(labels: Sequence[Label]) -> Label | None:
    """The label that more raters gave than any other; None for a tie, and where nobody gave one."""
    ranked = Counter(labels).most_common(2)
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def _excess(compared: Sequence[Compared]) -> list[float]:
    """Mean of judge less label for each text."""
    by_text: dict[str, list[float]] = {}
    for row in compared:
        value = value_of(row.question, row.verdict)
        if value is not None and row.label is not Label.NA:
            by_text.setdefault(row.text, []).append(value - merit(row.question, row.label))
    return [sum(values) / len(values) for values in by_text.values()]


def _errors(group: str, rows: Sequence[Compared]) -> list[Measure]:
    """Sensitivity and specificity; positive is a fault found (:func:`finds_fault`), everything else is negative."""
    found: list[Measure] = []
    for name, positive in (("sensitivity", True), ("specificity", False)):
        flags = [
            (row.text, row.question.id, _found(row.question, row.verdict) is positive)
            for row in rows
            if finds_fault(row.question, row.label) is positive
        ]
        found.append(
            _share(name, group, flags, f"no text with{'' if positive else 'out'} a fault is labelled")
        )
    return found


def _found(question: Question, verdict: Verdict) -> bool:
    return verdict.label is not None and finds_fault(question, verdict.label)


def _on_scale(rows: Sequence[Compared]) -> list[Compared]:
    """Rows in which judge and label both give a grade."""
    return [row for row in rows if Label.NA not in (row.verdict.label, row.label)]


def _kappa(name: str, group: str, rows: Sequence[Compared], none: str, *, weighted: bool = False) -> Measure:
    if not rows:
        return Unmeasured(name=name, group=group, reason=none)
    return cohen_kappa(
        [row.verdict.label for row in rows],
        [row.label for row in rows],
        labels=list(GRADES) if weighted else list(Label),
        weights="quadratic" if weighted else None,
        clusters=[row.text for row in rows],
        strata=[row.question.id for row in rows],
        name=name,
        group=group,
    )


def _alpha(group: str, rows: Sequence[Compared]) -> Measure:
    """Nominal for gates; ordinal for grades, of which NA is none."""
    graded = rows[0].question.kind is QuestionKind.GRADED
    kept = _on_scale(rows) if graded else list(rows)
    return krippendorff_alpha(
        [(row.verdict.label, row.label) for row in kept],
        metric="ordinal" if graded else "nominal",
        labels=list(GRADES) if graded else list(Label),
        clusters=[row.text for row in kept],
        strata=[row.question.id for row in kept],
        name="alpha",
        group=group,
    )


def _grouped(rows: Iterable[Compared]) -> dict[str, list[Compared]]:
    found: dict[str, list[Compared]] = {}
    for row in rows:
        found.setdefault(row.question.id, []).append(row)
    return found


def _by_text(values: Iterable[tuple[str, float]]) -> dict[Hashable, list[float]]:
    found: dict[Hashable, list[float]] = {}
    for text, value in values:
        found.setdefault(text, []).append(value)
    return found


def _by_question(
    rows: Sequence[tuple[str, str, T]], measure: Callable[[Sequence[tuple[str, str, T]], str], Measure]
) -> list[Measure]:
    """The measure over all rows (text, question id, value), and over those of each question."""
    groups: dict[str, list[tuple[str, str, T]]] = {"": list(rows)}
    for row in rows:
        groups.setdefault(row[1], []).append(row)
    return [measure(part, group) for group, part in groups.items()]


def _share(name: str, group: str, rows: Sequence[tuple[str, str, bool]], none: str) -> Measure:
    """Share of true flags: Wilson where every text has one, else cluster-robust over texts."""
    if not rows:
        return Unmeasured(name=name, group=group, reason=none)
    clusters = _by_text((text, float(flag)) for text, _, flag in rows)
    if max(map(len, clusters.values())) == 1:
        return wilson(sum(flag for _, _, flag in rows), len(rows), name=name, group=group)
    return cluster_interval(clusters, name=name, group=group)
