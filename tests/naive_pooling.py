"""The pooling equations once more, by enumeration: slow, obvious, and sharing no code with the package."""

import itertools
from fractions import Fraction

from hypothesis import strategies as st

from rubrica.core.programs import Dimension, Part, Pooling, Principle, Program, Question, QuestionKind, When
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Outcome, Verdict
from rubrica.program.relevance import relevance_question, relevance_questions

NUMBER = {
    "A": Fraction("1"),
    "B": Fraction("0.5"),
    "C": Fraction("0.1"),
    "D": Fraction("-0.5"),
    "F": Fraction("-1"),
}
LOST = (Outcome.ABSTAINED, Outcome.UNPARSEABLE, Outcome.FAILED, Outcome.SKIPPED)


# --- building -----------------------------------------------------------------------------------


PROMPT = Prompt(id="p", messages=(Message(role="user", content="p"),), tags={"kind": "x"})
"""The prompt of all random programs; those with ``when`` look at its tag."""


def question(id: str, kind: str, protected: bool = False, **fields: float | None) -> Question:
    return Question(
        id=id, kind=QuestionKind(kind), text=f"Is {id} fine?", clause="clause", protected=protected, **fields
    )


def program(*principles: Principle, pooling: Pooling | None = None, pool: str = "mean") -> Program:
    return Program(name="p", constitution="c", principles=principles, pooling=pooling or Pooling(), pool=pool)


def principle(id: str, *dimensions: Dimension, **fields: object) -> Principle:
    return Principle(id=id, title=id, dimensions=dimensions, **fields)


def dimension(id: str, *questions: Question, **fields: object) -> Dimension:
    return Dimension(id=id, title=id, questions=questions, **fields)


def verdict(id: str, answer: str | Outcome, probabilities: dict[Label, float] | None = None) -> Verdict:
    if isinstance(answer, Outcome):
        return Verdict(question_id=id, outcome=answer)
    outcome = Outcome.NOT_APPLICABLE if answer == "NA" else Outcome.ANSWERED
    return Verdict(question_id=id, outcome=outcome, label=Label(answer), probabilities=probabilities)


def verdicts(**answers: str | Outcome) -> dict[str, Verdict]:
    return {id: verdict(id, answer) for id, answer in answers.items()}


def every_question(prog: Program) -> list[Question]:
    return [q for p in prog.principles for d in p.dimensions for q in d.questions]


def everything_asked(prog: Program) -> list[Question]:
    """Questions about the prompt, then those about the text."""
    return [*relevance_questions(prog), *every_question(prog)]


# --- the reference ------------------------------------------------------------------------------


def possible(q: Question) -> list[Verdict]:
    """Every answer that matters: a protected gate may fail with and without certainty."""
    if q.kind is QuestionKind.GRADED:
        return [verdict(q.id, label) for label in ("A", "B", "C", "D", "F", "NA")]
    if not q.protected:
        return [verdict(q.id, label) for label in ("TRUE", "FALSE", "NA")]
    if q.id.startswith("when."):
        return [verdict(q.id, "TRUE"), verdict(q.id, "FALSE")]
    doubtful = {Label.TRUE: 1.0, Label.FALSE: 0.0}
    return [verdict(q.id, "TRUE"), verdict(q.id, "FALSE"), verdict(q.id, "FALSE", doubtful)]


Child = tuple[Fraction | None, Fraction | None, Fraction | None]
"""Weight, level, value."""


def decimal(number: float | None) -> Fraction | None:
    return None if number is None else Fraction(str(number))


def pooled(op: str, children: list[Child]) -> Fraction | None:
    there = [(1 if w is None else w, level, v) for w, level, v in children if v is not None]
    values = [v for _, _, v in there]
    if op == "min":
        return min(values, default=None)
    if op == "mean":
        return sum(values) / len(values) if values else None
    if op == "weighted":
        possible_points = sum(w for w, _, _ in there if w > 0)
        points = sum(w * (v + 1) / 2 for w, _, v in there)
        return 2 * max(Fraction(0), points / possible_points) - 1 if possible_points else None
    return lexicographic([(level, v) for _, level, v in there]) if there else None


def lexicographic(children: list[tuple[Fraction | None, Fraction]]) -> Fraction:
    done = 0
    for level, v in children:
        if level is None or v < level:
            break
        done += 1
    bands = 1 + sum(level is not None for level, _ in children)
    digits = [v for _, v in children[done:] + children[:done]]
    worth = Fraction(0)
    best = Fraction(0)
    for v in digits:  # read as digits of a number to the base 6, the first the most significant
        worth, best = worth * 6 + (v + 1) / 2, best * 6 + 1
    return 2 * (done + worth / best) / bands - 1


def counts(q: Question) -> bool:
    return q.kind is QuestionKind.GRADED or q.weight is not None


def grade(q: Question, answers: dict[str, Verdict], pooling: Pooling) -> Fraction | None:
    found = answers[q.id]
    numbers = NUMBER if q.kind is QuestionKind.GRADED else {"TRUE": Fraction(1), "FALSE": Fraction(-1)}
    if found.label is Label.NA:
        policy = pooling.graded_na if q.kind is QuestionKind.GRADED else pooling.gate_na
        worst = Fraction(1) if q.weight is not None and q.weight < 0 else Fraction(-1)
        return worst if policy == "fail" else None
    if pooling.expected_grade and found.probabilities is not None:
        mass = {g: Fraction(found.probabilities.get(Label(g), 0)) for g in numbers}
        if sum(mass.values()):
            return sum(numbers[g] * mass[g] for g in numbers) / sum(mass.values())
    return numbers[found.label.value]


def there(part: Part, answers: dict[str, Verdict]) -> bool:
    """Whether a dimension or principle applies to PROMPT."""
    if part.when is None:
        return True
    if any(PROMPT.tags.get(name, "") not in values for name, values in part.when.tags.items()):
        return False
    return part.when.ask is None or answers[relevance_question(part.when.ask).id].label is Label.TRUE


def dimension_value(dim: Dimension, answers: dict[str, Verdict], pooling: Pooling) -> Fraction | None:
    if not there(dim, answers):
        return None
    bad = {"FALSE", "NA"} if pooling.gate_na == "fail" else {"FALSE"}
    if any(answers[q.id].label.value in bad for q in dim.questions if not counts(q)):
        return Fraction(-1)
    children = [
        (decimal(q.weight), decimal(q.level), grade(q, answers, pooling)) for q in dim.questions if counts(q)
    ]
    value = pooled(dim.pool or pooling.grades, children)
    return Fraction(1) if value is None and pooling.empty_dimension == "one" and dim.questions else value


def parts_value(op: str, parts: list[tuple[Part, Fraction | None]]) -> Fraction | None:
    if any(part.gate and value == -1 for part, value in parts):
        return Fraction(-1)
    return pooled(op, [(decimal(part.weight), decimal(part.level), value) for part, value in parts])


def principle_value(prin: Principle, answers: dict[str, Verdict], pooling: Pooling) -> Fraction | None:
    if not there(prin, answers):
        return None
    return parts_value(prin.pool, [(d, dimension_value(d, answers, pooling)) for d in prin.dimensions])


def total_value(prog: Program, answers: dict[str, Verdict], threshold: float | None) -> Fraction | None:
    for prin in prog.principles:
        for dim in prin.dimensions:
            for q in dim.questions:
                found = answers[q.id]
                if threshold is None or not q.protected or found.label is not Label.FALSE:
                    continue
                certainty = 1.0 if found.probabilities is None else found.probabilities[Label.FALSE]
                if certainty >= threshold and there(prin, answers) and there(dim, answers):
                    return Fraction(-1)
    values = [(p, principle_value(p, answers, prog.pooling)) for p in prog.principles]
    total = parts_value(prog.pool, values)
    return None if total is None else min([total, *(v for p, v in values if p.caps and v is not None)])


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


OPS = ("min", "mean", "weighted", "lexicographic")
weights = st.sampled_from([None, 0.1, 0.5, 2, 3])
points = st.sampled_from([-7, -2, -1, -0.1, 0.5, 2])
levels = st.sampled_from([-0.5, 0.1, 0.5, 1])
ASKS = ("Does the prompt ask for code?", "Is the prompt in verse?")
whens = st.one_of(
    st.just(When(tags={"kind": ("x", "z")})),
    st.just(When(tags={"kind": ("y",)})),
    st.just(When(tags={"other": ("",)}, ask=ASKS[0])),
    st.sampled_from(ASKS).map(lambda ask: When(ask=ask)),
)


@st.composite
def programs(draw, most=7, ops=OPS, conditions=True):
    """A program of 1 to ``most`` questions in up to 3 principles of up to 3 dimensions, with ops at every node.

    One in four is plain: QA-LIGN's ops, no gates but questions, no conditions.
    """
    plain = draw(st.sampled_from([False, False, False, True]))
    conditions = conditions and not plain
    ops = ("mean",) if plain else ops
    count = draw(st.integers(1, most))
    tree: dict[int, dict[int, list[tuple[str, str, bool]]]] = {}
    for number in range(count):
        kind = draw(st.sampled_from(["gate", "graded", "graded"]))
        protected = kind == "gate" and draw(st.booleans())
        place = tree.setdefault(draw(st.integers(0, 2)), {}).setdefault(draw(st.integers(0, 2)), [])
        place.append((f"q{number}", kind, protected))

    def counted(op: str, last: bool) -> dict[str, object]:
        """Weight or level of a child below ``op``."""
        if op == "weighted":
            return {"weight": draw(weights)}
        if op == "lexicographic":
            return {"level": None if last and draw(st.booleans()) else draw(levels)}
        return {}

    def part(op: str, last: bool) -> dict[str, object]:
        fields = counted(op, last)
        if not plain:
            fields["gate"] = draw(st.integers(0, 4)) == 0
        if conditions and draw(st.integers(0, 3)) == 0:
            fields["when"] = draw(whens)
        return fields

    def asked(op: str, places: list[tuple[str, str, bool]]) -> list[Question]:
        found = []
        for index, (id, kind, protected) in enumerate(places):
            fields = {} if kind == "gate" else counted(op, index == len(places) - 1)
            if op == "weighted" and not protected and draw(st.booleans()):
                fields = {"weight": draw(points)}
            found.append(question(id, kind, protected, **fields))
        return found

    top = draw(st.sampled_from(ops))
    principles = []
    for number, (p, dims) in enumerate(tree.items()):
        op = draw(st.sampled_from(ops))
        below = []
        for place, (d, places) in enumerate(dims.items()):
            own = None if plain else draw(st.sampled_from([*ops, "weighted", None]))
            questions = asked(own or "", places)
            below.append(dimension(f"p{p}.d{d}", *questions, pool=own, **part(op, place == len(dims) - 1)))
        caps = top in ("mean", "weighted") and draw(st.booleans())
        fields = part(top, number == len(tree) - 1)
        principles.append(principle(f"p{p}", *below, pool=op, caps=caps, **fields))
    return program(*principles, pooling=draw(poolings), pool=top)


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
def judged(draw, most=7, open_most=0, **options):
    """A program and verdicts on it; up to ``open_most`` questions absent or lost."""
    prog = draw(programs(most, **options))
    found = {q.id: draw(answers_to(q)) for q in everything_asked(prog)}
    count = draw(st.integers(0, min(open_most, len(found))))
    ids = st.lists(st.sampled_from(sorted(found)), min_size=count, max_size=count, unique=True)
    for id in draw(ids):
        lost = draw(st.sampled_from([None, *LOST]))
        if lost is None:
            del found[id]
        else:
            found[id] = verdict(id, lost)
    return prog, found


thresholds = st.sampled_from([None, 0.25, 0.5, 0.9])
