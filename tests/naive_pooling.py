"""The pooling equations once more, by enumeration: slow, obvious, and sharing no code with the package."""

import itertools
from fractions import Fraction

from hypothesis import strategies as st

from rubrica.core.records import (
    Dimension,
    Label,
    Outcome,
    Pooling,
    Principle,
    Program,
    Question,
    QuestionKind,
    Verdict,
)

NUMBER = {
    "A": Fraction("1"),
    "B": Fraction("0.5"),
    "C": Fraction("0.1"),
    "D": Fraction("-0.5"),
    "F": Fraction("-1"),
}
LOST = (Outcome.ABSTAINED, Outcome.UNPARSEABLE, Outcome.FAILED, Outcome.SKIPPED)


# --- building -----------------------------------------------------------------------------------


def question(id: str, kind: str, protected: bool = False) -> Question:
    return Question(
        id=id, kind=QuestionKind(kind), text=f"Is {id} fine?", clause="clause", protected=protected
    )


def program(*principles: Principle, pooling: Pooling | None = None) -> Program:
    return Program(name="p", constitution="c", principles=principles, pooling=pooling or Pooling())


def principle(id: str, *dimensions: Dimension, caps: bool = False) -> Principle:
    return Principle(id=id, title=id, dimensions=dimensions, caps=caps)


def dimension(id: str, *questions: Question) -> Dimension:
    return Dimension(id=id, title=id, questions=questions)


def verdict(id: str, answer: str | Outcome, probabilities: dict[Label, float] | None = None) -> Verdict:
    if isinstance(answer, Outcome):
        return Verdict(question_id=id, outcome=answer)
    outcome = Outcome.NOT_APPLICABLE if answer == "NA" else Outcome.ANSWERED
    return Verdict(question_id=id, outcome=outcome, label=Label(answer), probabilities=probabilities)


def verdicts(**answers: str | Outcome) -> dict[str, Verdict]:
    return {id: verdict(id, answer) for id, answer in answers.items()}


def every_question(prog: Program) -> list[Question]:
    return [q for p in prog.principles for d in p.dimensions for q in d.questions]


# --- the reference ------------------------------------------------------------------------------


def possible(q: Question) -> list[Verdict]:
    """Every answer that matters: a protected gate may fail with and without certainty."""
    if q.kind is QuestionKind.GRADED:
        return [verdict(q.id, label) for label in ("A", "B", "C", "D", "F", "NA")]
    if not q.protected:
        return [verdict(q.id, label) for label in ("TRUE", "FALSE", "NA")]
    doubtful = {Label.TRUE: 1.0, Label.FALSE: 0.0}
    return [verdict(q.id, "TRUE"), verdict(q.id, "FALSE"), verdict(q.id, "FALSE", doubtful)]


def grade(q: Question, answers: dict[str, Verdict], pooling: Pooling) -> Fraction | None:
    found = answers[q.id]
    if found.label is Label.NA:
        return Fraction(-1) if pooling.graded_na == "fail" else None
    if pooling.expected_grade and found.probabilities is not None:
        mass = {g: Fraction(found.probabilities.get(Label(g), 0)) for g in NUMBER}
        if sum(mass.values()):
            return sum(NUMBER[g] * mass[g] for g in NUMBER) / sum(mass.values())
    return NUMBER[found.label.value]


def dimension_value(dim: Dimension, answers: dict[str, Verdict], pooling: Pooling) -> Fraction | None:
    bad = {"FALSE", "NA"} if pooling.gate_na == "fail" else {"FALSE"}
    if any(answers[q.id].label.value in bad for q in dim.questions if q.kind is QuestionKind.GATE):
        return Fraction(-1)
    grades = [grade(q, answers, pooling) for q in dim.questions if q.kind is QuestionKind.GRADED]
    grades = [g for g in grades if g is not None]
    if not grades:
        return Fraction(1) if pooling.empty_dimension == "one" else None
    return min(grades) if pooling.grades == "min" else sum(grades) / len(grades)


def principle_value(prin: Principle, answers: dict[str, Verdict], pooling: Pooling) -> Fraction | None:
    values = [dimension_value(d, answers, pooling) for d in prin.dimensions]
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def total_value(prog: Program, answers: dict[str, Verdict], threshold: float | None) -> Fraction | None:
    for q in every_question(prog):
        found = answers[q.id]
        if threshold is not None and q.protected and found.label is Label.FALSE:
            certainty = 1.0 if found.probabilities is None else found.probabilities[Label.FALSE]
            if certainty >= threshold:
                return Fraction(-1)
    pairs = [(p.caps, principle_value(p, answers, prog.pooling)) for p in prog.principles]
    values = [v for _, v in pairs if v is not None]
    if not values:
        return None
    return min([sum(values) / len(values), *(v for caps, v in pairs if caps and v is not None)])


def outcomes(function, questions: list[Question], partial: dict[str, Verdict]) -> set[Fraction | None]:
    """All values of ``function(answers)`` over all answers to the questions that ``partial`` leaves open."""
    open_ = [
        q
        for q in questions
        if q.id not in partial
        or partial[q.id].label is None
        or (q.protected and partial[q.id].label is Label.NA)
    ]
    closed = {id: v for id, v in partial.items() if id not in {q.id for q in open_}}
    return {
        function(closed | {v.question_id: v for v in choice})
        for choice in itertools.product(*(possible(q) for q in open_))
    }


# --- random programs and answers ----------------------------------------------------------------

poolings = st.builds(
    Pooling,
    grades=st.sampled_from(["min", "mean"]),
    gate_na=st.sampled_from(["pass", "fail"]),
    graded_na=st.sampled_from(["drop", "fail"]),
    empty_dimension=st.sampled_from(["drop", "one"]),
    expected_grade=st.booleans(),
)


@st.composite
def programs(draw, most=7):
    """A program of 1 to ``most`` questions in up to 3 principles of up to 3 dimensions."""
    count = draw(st.integers(1, most))
    tree: dict[int, dict[int, list[Question]]] = {}
    for number in range(count):
        kind = draw(st.sampled_from(["gate", "graded", "graded"]))
        protected = kind == "gate" and draw(st.booleans())
        place = tree.setdefault(draw(st.integers(0, 2)), {}).setdefault(draw(st.integers(0, 2)), [])
        place.append(question(f"q{number}", kind, protected))
    caps = draw(st.lists(st.booleans(), min_size=3, max_size=3))
    return program(
        *(
            principle(f"p{p}", *(dimension(f"p{p}.d{d}", *qs) for d, qs in dims.items()), caps=caps[p])
            for p, dims in tree.items()
        ),
        pooling=draw(poolings),
    )


@st.composite
def answers_to(draw, q: Question, lost: bool = False):
    """A verdict on ``q``, with probabilities half of the time; with ``lost`` also one without a label."""
    if lost and draw(st.integers(0, 2)) == 0:
        return verdict(q.id, draw(st.sampled_from(LOST)))
    found = draw(st.sampled_from(possible(q)))
    if draw(st.booleans()):
        labels = list(dict.fromkeys(v.label for v in possible(q)))
        weights = draw(
            st.lists(st.integers(0, 8), min_size=len(labels), max_size=len(labels)).filter(lambda w: sum(w))
        )
        shares = {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}
        return verdict(q.id, found.label.value, shares)
    return found


@st.composite
def judged(draw, most=7, open_most=0):
    """A program and verdicts on it; up to ``open_most`` questions absent or lost."""
    prog = draw(programs(most))
    found = {q.id: draw(answers_to(q)) for q in every_question(prog)}
    for id in draw(st.lists(st.sampled_from(sorted(found)), max_size=open_most, unique=True)):
        lost = draw(st.sampled_from([None, *LOST]))
        if lost is None:
            del found[id]
        else:
            found[id] = verdict(id, lost)
    return prog, found


thresholds = st.sampled_from([None, 0.25, 0.5, 0.9])
