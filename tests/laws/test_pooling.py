"""Laws of pooling, against enumeration (naive_pooling)."""

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from naive_pooling import (
    LOST,
    PROMPT,
    answers_to,
    dimension,
    dimension_value,
    every_question,
    everything_asked,
    judged,
    outcomes,
    pooled,
    principle,
    principle_value,
    program,
    question,
    thresholds,
    total_value,
    verdict,
    verdicts,
)
from rubrica.core.programs import Pooling, When
from rubrica.core.records import Label, Outcome
from rubrica.program.bounds import (
    NOTHING,
    Bounds,
    capped_bounds,
    gated_bounds,
    lexicographic_bounds,
    lexicographic_value,
    mean_bounds,
    min_bounds,
    weighted_bounds,
)
from rubrica.program.pooling import pool, settled, total_bounds
from rubrica.program.relevance import relevance_questions
from rubrica.program.undecided import undecided
from rubrica.program.valuation import Veto

THOROUGH = settings(max_examples=100, deadline=None)


def veto_at(threshold):
    return None if threshold is None else Veto(default=threshold)


def as_float(value):
    return None if value is None else float(value)


# --- complete answers ---------------------------------------------------------------------------


@given(judged(most=12), thresholds)
@THOROUGH
def test_complete_answers_give_the_equations(case, threshold):
    prog, found = case
    card = pool(prog, found, veto=veto_at(threshold), prompt=PROMPT)
    assert card.total == as_float(total_value(prog, found, threshold))
    for prin, score in zip(prog.principles, card.principles, strict=True):
        assert score.known
        assert score.value == as_float(principle_value(prin, found, prog.pooling))
        for dim, part in zip(prin.dimensions, score.dimensions, strict=True):
            assert part.known
            assert part.value == as_float(dimension_value(dim, found, prog.pooling))
    assert undecided(prog, found, veto=veto_at(threshold), prompt=PROMPT) == []


@given(judged(most=12, open_most=4), thresholds)
@THOROUGH
def test_every_value_lies_between_minus_one_and_one(case, threshold):
    prog, found = case
    card = pool(prog, found, veto=veto_at(threshold), prompt=PROMPT)
    dims = [d.value for p in card.principles for d in p.dimensions]
    for value in [card.total, *(p.value for p in card.principles), *dims]:
        assert value is None or -1 <= value <= 1


BETTER = {"A": 5, "B": 4, "C": 3, "D": 2, "F": 1, "TRUE": 5, "FALSE": 1}


@given(judged(most=10), thresholds, st.data())
@THOROUGH
def test_a_better_answer_never_lowers_the_total(case, threshold, data):
    prog, found = case
    q = data.draw(st.sampled_from(every_question(prog)))
    labels = ("FALSE", "TRUE") if q.kind == "gate" else tuple("ABCDF")
    two = data.draw(st.lists(st.sampled_from(labels), min_size=2, max_size=2))
    worse, better = sorted(two, key=BETTER.get, reverse=q.weight is not None and q.weight < 0)
    low, high = (
        pool(prog, found | {q.id: verdict(q.id, label)}, veto=veto_at(threshold), prompt=PROMPT).total
        for label in (worse, better)
    )
    assume(low is not None and high is not None)
    assert low <= high


@given(judged(most=10, open_most=3, ops=("min", "mean", "weighted")), thresholds, st.randoms())
@THOROUGH
def test_order_never_matters_without_a_lexicographic_node(case, threshold, random):
    prog, found = case

    def shuffled(items):
        return tuple(random.sample(items, len(items)))

    def mixed(part):
        below = "dimensions" if hasattr(part, "dimensions") else "questions"
        children = getattr(part, below)
        children = children if below == "questions" else [mixed(child) for child in children]
        return part.model_copy(update={below: shuffled(children)})

    other = prog.model_copy(update={"principles": shuffled([mixed(p) for p in prog.principles])})
    first, second = (pool(p, found, veto=veto_at(threshold), prompt=PROMPT) for p in (prog, other))
    assert first.total == second.total
    assert set(first.vetoed_by) == set(second.vetoed_by)
    assert {p.id: (p.value, p.known) for p in first.principles} == {
        p.id: (p.value, p.known) for p in second.principles
    }
    assert set(undecided(prog, found, veto=veto_at(threshold), prompt=PROMPT)) == set(
        undecided(other, found, veto=veto_at(threshold), prompt=PROMPT)
    )


# --- missing answers ----------------------------------------------------------------------------


def bounds(values):
    """What enumeration leaves possible."""
    numbers = [value for value in values if value is not None]
    return Bounds(min(numbers, default=None), max(numbers, default=None), None in values)


@given(judged(most=7, open_most=4), thresholds)
@settings(max_examples=150, deadline=None)
def test_bounds_and_values_are_those_of_every_completion(case, threshold):
    prog, found = case
    card = pool(prog, found, veto=veto_at(threshold), prompt=PROMPT)
    totals = outcomes(lambda a: total_value(prog, a, threshold), everything_asked(prog), found)
    assert total_bounds(prog, found, veto=veto_at(threshold), prompt=PROMPT) == bounds(totals)
    assert settled(prog, found, veto=veto_at(threshold), prompt=PROMPT) == (len(totals) == 1)
    assert card.total == (as_float(totals.pop()) if len(totals) == 1 else None)
    about = relevance_questions(prog)
    for prin, score in zip(prog.principles, card.principles, strict=True):
        questions = [*about, *(q for d in prin.dimensions for q in d.questions)]
        values = outcomes(lambda a, p=prin: principle_value(p, a, prog.pooling), questions, found)
        assert score.known == (len(values) == 1)
        assert score.value == (as_float(values.pop()) if len(values) == 1 else None)
        for dim, part in zip(prin.dimensions, score.dimensions, strict=True):
            values = outcomes(
                lambda a, d=dim: dimension_value(d, a, prog.pooling), [*about, *dim.questions], found
            )
            assert part.known == (len(values) == 1)
            assert part.value == (as_float(values.pop()) if len(values) == 1 else None)


@given(judged(most=7, open_most=4), thresholds)
@settings(max_examples=100, deadline=None)
def test_what_is_not_undecided_cannot_change_the_total(case, threshold):
    prog, found = case
    open_ = undecided(prog, found, veto=veto_at(threshold), prompt=PROMPT)
    totals = outcomes(lambda a: total_value(prog, a, threshold), everything_asked(prog), found)
    assert (open_ == []) == (len(totals) == 1)
    asked = [q for q in everything_asked(prog) if q.id in open_]
    rest = [q for q in everything_asked(prog) if q.id not in open_]

    def over_the_rest(answers):
        return frozenset(outcomes(lambda a: total_value(prog, a, threshold), rest, answers))

    known = {id: v for id, v in found.items() if id not in open_}
    # whatever the undecided questions get, the answers to the rest make no difference
    for inner in outcomes(lambda a: over_the_rest(known | a), asked, {}):
        assert len(inner) == 1


@given(judged(most=10, open_most=3), thresholds, st.data())
@THOROUGH
def test_losing_an_answer_gives_the_same_total_or_none(case, threshold, data):
    prog, found = case
    before = pool(prog, found, veto=veto_at(threshold), prompt=PROMPT).total
    lost = data.draw(st.sampled_from(everything_asked(prog))).id
    for outcome in LOST:
        answers = found | {lost: verdict(lost, outcome)}
        after = pool(prog, answers, veto=veto_at(threshold), prompt=PROMPT).total
        assert after is None or after == before


@st.composite
def uncertain(draw):
    """A node as (flag, weight, level, bounds); its bounds may be those of a node that certainly has no value."""
    low, high = sorted(draw(st.tuples(*[st.integers(-4, 4).map(lambda n: Fraction(n, 4))] * 2)))
    none = draw(st.booleans())
    bounds = NOTHING if none and draw(st.integers(0, 3)) == 0 else Bounds(low, high, none)
    weight = draw(st.sampled_from([-3, -1, Fraction(-1, 2), Fraction(1, 3), 1, 1, 2, 5]))
    level = draw(st.sampled_from([None, Fraction(-1, 2), Fraction(1, 2), Fraction(1)]))
    return draw(st.booleans()), weight, level, bounds


def capped(children):
    """Of (flag, weight, level, value): the weighted mean, bounded by those with the flag."""
    return min([pooled("weighted", numbers(children)), *(v for is_cap, _, _, v in children if is_cap)])


def gated(children):
    failed = any(is_gate and v == -1 for is_gate, _, _, v in children)
    return Fraction(-1) if failed else pooled("mean", numbers(children))


def numbers(children):
    return [(weight, level, value) for _, weight, level, value in children]


@given(st.lists(uncertain(), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_bounds_of_every_pool_are_attained_and_exact(nodes):
    """Each pool is monotone, so its extremes lie where every member is at an end or absent: enumerate those."""
    merits = [(flag, abs(weight), level, bounds) for flag, weight, level, bounds in nodes]
    members = [bounds for *_, bounds in nodes]
    flags = [flag for flag, *_ in nodes]
    for found, function, chosen in (
        (mean_bounds(members), lambda c: pooled("mean", numbers(c)), nodes),
        (min_bounds(members), lambda c: pooled("min", numbers(c)), nodes),
        (
            weighted_bounds([(w, b) for _, w, _, b in nodes]),
            lambda c: pooled("weighted", numbers(c)),
            nodes,
        ),
        (
            lexicographic_bounds([(level, b) for _, _, level, b in nodes]),
            lambda c: pooled("lexicographic", numbers(c)),
            nodes,
        ),
        (capped_bounds([(flag, w, b) for flag, w, _, b in merits]), capped, merits),
        (gated_bounds(members, flags, mean_bounds), gated, nodes),
    ):
        ends = [
            [*dict.fromkeys(end for end in (b.low, b.high) if end is not None), *[None] * b.may_be_none]
            for *_, b in chosen
        ]
        values = set()
        for choice in product(*ends):
            children = [
                (flag, w, level, v)
                for (flag, w, level, _), v in zip(chosen, choice, strict=True)
                if v is not None
            ]
            values.add(function(children) if children else None)
        assert found == bounds(values)


@given(st.lists(uncertain(), min_size=2, max_size=5), st.data())
@THOROUGH
def test_a_lexicographic_value_rises_with_each_child_and_most_with_the_first_to_be_satisfied(nodes, data):
    pairs = [(level, b.low or Fraction(0)) for _, _, level, b in nodes]
    place = data.draw(st.integers(0, len(pairs) - 1))
    level, value = pairs[place]
    assume(value < 1)
    higher = [*pairs[:place], (level, value + Fraction(1, 10**6)), *pairs[place + 1 :]]
    assert lexicographic_value(higher) > lexicographic_value(pairs)
    # satisfying the first child that was not outweighs the best that all others can do without it
    first = next((i for i, (lv, v) in enumerate(pairs) if lv is not None and v < lv), None)
    if first is not None and all(lv is not None for lv, _ in pairs[:first]):
        without = [pairs[i] if i == first else (lv, Fraction(1)) for i, (lv, _) in enumerate(pairs)]
        least = [
            (lv, lv if lv is not None and i <= first else Fraction(-1)) for i, (lv, _) in enumerate(pairs)
        ]
        assert lexicographic_value(least) > lexicographic_value(without)


def test_the_levels_of_two_children_by_hand():
    """Safety first, level 0.5, then help: three texts, worked out on paper (one level: two bands)."""
    half, one = Fraction(1, 2), Fraction(1)
    # unsafe (-1), helpful (1): k=0, u = (0 + 1/6) / (7/6) = 1/7
    assert lexicographic_value([(half, -one), (None, one)]) == 2 * Fraction(1, 7) / 2 - 1
    # safe (0.5), useless (-1): k=1, help comes first now: u = (0 + 0.75/6) / (7/6) = 3/28
    assert lexicographic_value([(half, half), (None, -one)]) == 2 * (1 + Fraction(3, 28)) / 2 - 1
    assert lexicographic_value([(half, one), (None, one)]) == 1


def test_the_points_of_a_rubric_by_hand():
    """Points +5 met, +3 unmet, -4: (5 - 4) / 8 with the fault, 5 / 8 without; never below 0 (value -1)."""
    prog = program(
        principle(
            "p",
            dimension(
                "d",
                question("x", "gate", weight=5),
                question("y", "gate", weight=3),
                question("z", "gate", weight=-4),
                pool="weighted",
            ),
        )
    )
    assert pool(prog, verdicts(x="TRUE", y="FALSE", z="FALSE")).total == 2 * 5 / 8 - 1
    assert pool(prog, verdicts(x="TRUE", y="FALSE", z="TRUE")).total == 2 * 1 / 8 - 1
    assert pool(prog, verdicts(x="FALSE", y="TRUE", z="TRUE")).total == -1
    assert pool(prog, verdicts(x="TRUE", y="TRUE", z="FALSE")).total == 1  # an absent fault adds nothing
    assert pool(prog, verdicts(x="TRUE", y="TRUE", z="NA")).total == 1
    assert pool(prog, verdicts(x="TRUE", y="NA", z="TRUE")).total == pytest.approx(2 * 1 / 5 - 1)
    assert pool(prog, verdicts(x="NA", y="NA", z="TRUE")).total is None  # nothing to take it from
    # the two merits are lost and the fault outweighs them: the last merit cannot matter
    assert undecided(prog, verdicts(x="FALSE", z="TRUE")) == []
    assert pool(prog, verdicts(x="FALSE", z="TRUE")).total == -1


def test_the_worst_single_merit_is_not_the_one_of_the_lowest_value():
    """A fault costs 2. Alone, -0.5 of weight 5 is worth -0.9; 0 of weight 1 is worth -2, cut to -1; together -0.75."""
    low = Bounds(Fraction(-1, 2), Fraction(-1, 2), True)
    zero = Bounds(Fraction(0), Fraction(0), True)
    fault = Bounds(Fraction(1), Fraction(1), False)
    found = weighted_bounds([(5, low), (1, zero), (-1, fault)])
    assert (found.low, found.high) == (-1, Fraction(-3, 4))


def test_parts_that_hang_on_one_question_apply_together():
    """d = 1 and e = -1 apply both or not, and f = 0: the total is 0 either way, whatever the judge would say."""
    when = When(ask="Does the prompt ask for code?")
    prog = program(
        principle(
            "p",
            dimension("d", question("x", "graded"), when=when),
            dimension("e", question("y", "graded"), when=when),
            dimension("f", question("g", "gate", weight=1), question("h", "gate", weight=1), pool="weighted"),
        )
    )
    found = verdicts(x="A", y="F", g="TRUE", h="FALSE")
    assert pool(prog, found, prompt=PROMPT).total == 0
    assert undecided(prog, found, prompt=PROMPT) == []
    assert pool(prog, verdicts(x="A", y="D", g="TRUE", h="FALSE"), prompt=PROMPT).total is None


def test_what_stands_above_a_minimum_is_not_asked_and_what_may_fall_below_is():
    def case(sibling):
        return program(
            principle(
                "p",
                dimension("d", question("x", "graded"), question("y", "graded"), pool="mean"),
                dimension("e", question("z", "graded")),
                pool="min",
            ),
            pooling=Pooling(graded_na="fail"),
        ), verdicts(x="A", z=sibling)

    assert undecided(*case("B")) == ["y"]  # d lies in [0, 1], e is 0.5
    assert undecided(*case("D")) == []  # e is -0.5
    assert pool(*case("D")).total == -0.5


def test_a_level_is_the_number_that_was_written():
    """C is worth a tenth; 0.1 as a float is a little more."""
    prog = program(
        principle(
            "p",
            dimension("d", question("x", "graded"), level=0.1),
            dimension("e", question("y", "graded")),
            pool="lexicographic",
        )
    )
    assert pool(prog, verdicts(x="C", y="F")).total > 0
    assert pool(prog, verdicts(x="D", y="A")).total < 0


def test_a_missing_question_is_recorded_as_skipped():
    prog = program(principle("p", dimension("d", question("g", "gate"), question("x", "graded"))))
    card = pool(prog, verdicts(g="FALSE"), judge="j")
    assert card.total == -1
    skipped = card.principles[0].dimensions[0].verdicts[1]
    assert (skipped.question_id, skipped.outcome, skipped.judge) == ("x", Outcome.SKIPPED, "j")


# --- NA: docs/decisions/na-policy.md, row by row --------------------------------------------------


def two_dimensions(pooling=None, protected=False):
    """Dimension d with a gate and two grades under test, and e = B beside it in the same principle."""
    return program(
        principle(
            "p",
            dimension(
                "d", question("g", "gate", protected), question("x", "graded"), question("y", "graded")
            ),
            dimension("e", question("z", "graded")),
        ),
        pooling=pooling,
    )


NA_TABLE = [
    # pooling, answers to g x y, value of d, total (mean of d and e=0.5)
    ({}, ("NA", "A", "B"), 0.5, 0.5),
    ({"gate_na": "fail"}, ("NA", "A", "B"), -1, -0.25),
    ({}, ("TRUE", "NA", "C"), 0.1, 0.3),
    ({"grades": "mean"}, ("TRUE", "A", "NA"), 1, 0.75),
    ({"graded_na": "fail"}, ("TRUE", "NA", "C"), -1, -0.25),
    ({"grades": "mean", "graded_na": "fail"}, ("TRUE", "A", "NA"), 0, 0.25),
    ({}, ("TRUE", "NA", "NA"), None, 0.5),
    ({"empty_dimension": "one"}, ("TRUE", "NA", "NA"), 1, 0.75),
    ({}, ("NA", "NA", "NA"), None, 0.5),
    ({}, ("FALSE", "NA", "NA"), -1, -0.25),
    ({"graded_na": "fail", "empty_dimension": "one"}, ("TRUE", "NA", "NA"), -1, -0.25),
]


@pytest.mark.parametrize(("fields", "answers", "value", "total"), NA_TABLE)
def test_na_truth_table(fields, answers, value, total):
    found = verdicts(**dict(zip("gxy", answers, strict=True)), z="B")
    card = pool(two_dimensions(Pooling(**fields)), found)
    assert card.principles[0].dimensions[0].value == value
    assert card.principles[0].dimensions[0].known
    assert card.total == pytest.approx(total)


def test_a_principle_without_value_leaves_the_mean_and_does_not_cap():
    prog = program(
        principle("harmless", dimension("h", question("x", "graded")), caps=True),
        principle("helpful", dimension("u", question("y", "graded"))),
    )
    assert pool(prog, verdicts(x="D", y="A")).total == -0.5  # min(-0.5, mean 0.25)
    assert pool(prog, verdicts(x="NA", y="A")).total == 1
    nothing = pool(prog, verdicts(x="NA", y="NA"))
    assert nothing.total is None
    assert settled(prog, verdicts(x="NA", y="NA"))


def test_na_on_a_protected_gate_is_no_answer():
    prog = two_dimensions(protected=True)
    found = verdicts(g="NA", x="A", y="A", z="A")
    assert pool(prog, found).total is None
    assert undecided(prog, found) == ["g"]


def test_a_label_of_the_other_kind_is_no_answer():
    prog = two_dimensions()
    assert undecided(prog, verdicts(g="A", x="TRUE", y="A", z="A")) == ["g", "x"]


def test_a_dimension_of_gates_alone_counts_only_when_one_fails():
    prog = program(
        principle("p", dimension("d", question("g", "gate")), dimension("e", question("x", "graded")))
    )
    assert pool(prog, verdicts(g="TRUE", x="B")).total == 0.5
    assert pool(prog, verdicts(g="FALSE", x="B")).total == -0.25


# --- expected grades and the veto -----------------------------------------------------------------


def test_expected_grade_renormalises_over_the_grades():
    prog = program(
        principle("p", dimension("d", question("x", "graded"))), pooling=Pooling(expected_grade=True)
    )
    shares = {Label.A: 0.3, Label.B: 0.1, Label.NA: 0.6}
    # label A: (0.3 * 1 + 0.1 * 0.5) / 0.4 = 0.875
    assert pool(prog, {"x": verdict("x", "A", shares)}).total == pytest.approx(0.875)
    assert pool(prog, {"x": verdict("x", "NA", shares)}).total is None
    assert pool(prog, verdicts(x="B")).total == 0.5
    assert pool(prog, {"x": verdict("x", "B", {Label.NA: 1.0})}).total == 0.5


def veto_case(probability):
    prog = program(
        principle("p", dimension("d", question("g", "gate", True), question("x", "graded")), caps=True),
        principle("q", dimension("e", question("y", "graded"))),
    )
    shares = None if probability is None else {Label.FALSE: probability, Label.TRUE: 1 - probability}
    return prog, {"g": verdict("g", "FALSE", shares), **verdicts(x="A", y="A")}


@pytest.mark.parametrize(
    ("probability", "threshold", "vetoes"),
    [(None, 0.5, True), (None, 1.0, True), (0.8, 0.8, True), (0.79, 0.8, False), (None, 1.5, False)],
)
def test_a_protected_gate_vetoes_from_its_threshold_on(probability, threshold, vetoes):
    prog, found = veto_case(probability)
    card = pool(prog, found, veto=Veto(default=0.01, thresholds={"g": threshold}))
    assert card.vetoed_by == (("g",) if vetoes else ())
    # d = -1 caps the total at -1 as well, so compare in a program where the gate's principle does not cap
    uncapped = prog.model_copy(
        update={"principles": tuple(p.model_copy(update={"caps": False}) for p in prog.principles)}
    )
    total = pool(uncapped, found, veto=Veto(thresholds={"g": threshold})).total
    assert total == (-1 if vetoes else 0)  # without veto an ordinary failed gate: mean(-1, 1)


def test_without_a_veto_rule_a_protected_gate_is_an_ordinary_gate():
    prog, found = veto_case(None)
    uncapped = prog.model_copy(
        update={"principles": tuple(p.model_copy(update={"caps": False}) for p in prog.principles)}
    )
    card = pool(uncapped, found)
    assert (card.total, card.vetoed_by) == (0, ())


def test_one_veto_settles_everything_and_an_open_one_keeps_the_total_open():
    prog = program(
        principle(
            "p",
            dimension("d", question("g", "gate"), question("h", "gate", True)),
            dimension("e", question("x", "graded")),
        )
    )
    assert undecided(prog, verdicts(h="FALSE"), veto=Veto()) == []
    # d has failed by g already, but h could still veto
    assert undecided(prog, verdicts(g="FALSE", x="A"), veto=Veto()) == ["h"]
    assert undecided(prog, verdicts(g="FALSE", x="A"), veto=Veto(default=1.5)) == []
    assert undecided(prog, verdicts(g="FALSE", x="A")) == []


@given(judged(most=8, open_most=2), st.data())
@THOROUGH
def test_replacing_an_unknown_by_an_answer_lands_within_what_was_possible(case, data):
    prog, found = case
    before = pool(prog, found, prompt=PROMPT).total
    q = data.draw(st.sampled_from(everything_asked(prog)))
    if q.id in found and found[q.id].label is not None:
        return
    after = pool(prog, found | {q.id: data.draw(answers_to(q))}, prompt=PROMPT).total
    assert before is None or after == before
