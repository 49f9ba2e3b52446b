"""Diff and lint of programs, against definitions by sets of what is asked."""

from hypothesis import given
from hypothesis import strategies as st

from rubrica.core.programs import (
    Clause,
    Constitution,
    ConstitutionPrinciple,
    Dimension,
    Pooling,
    Principle,
    Program,
    Question,
    QuestionKind,
)
from rubrica.program.diff import diff_programs
from rubrica.program.lint import lint
from rubrica.program.program import load_program, questions
from rubrica.program.similarity import overlap, trigram_overlap


def program_of(asked: list[Question], size: int = 3, **fields: object) -> Program:
    parts = [asked[i : i + size] for i in range(0, len(asked), size)]
    dimensions = tuple(Dimension(id=f"d{i}", title=f"D{i}", questions=tuple(p)) for i, p in enumerate(parts))
    return Program(
        name="p",
        constitution="c",
        principles=(Principle(id="one", title="One", dimensions=dimensions),),
        **fields,
    )


def question(
    id: str, text: str, kind: str = "graded", clause: str = "c", protected: bool = False
) -> Question:
    return Question(id=id, kind=QuestionKind(kind), text=text, clause=clause, protected=protected)


@st.composite
def question_lists(draw: st.DrawFn) -> list[Question]:
    """Questions with unique ids and unique texts, from pools small enough that two lists collide."""
    ids = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True))
    texts = draw(st.permutations([f"Is it {n}?" for n in range(10)]))
    kinds = draw(st.lists(st.sampled_from(["gate", "graded"]), min_size=len(ids), max_size=len(ids)))
    return [question(i, t, k) for i, t, k in zip(ids, texts, kinds, strict=False)]


def identity(asked: Question) -> tuple[str, str, bool]:
    return asked.kind.value, asked.text, asked.protected


@given(question_lists(), question_lists())
def test_diff_is_the_difference_of_the_sets_asked(old: list[Question], new: list[Question]) -> None:
    result = diff_programs(program_of(old), program_of(new))
    before, after = {identity(q) for q in old}, {identity(q) for q in new}
    # what must be judged is exactly what was not asked before
    assert {identity(q) for q in result.to_judge} == after - before
    assert {identity(c.new) for c in result.of("unchanged") if c.new} == after & before
    # every question of both sides appears exactly once
    assert sorted(q.id for c in result.changes if (q := c.old)) == sorted(q.id for q in old)
    assert [q.id for c in result.changes if (q := c.new)] == [q.id for q in new]
    for change in result.of("changed"):
        assert change.old and change.new and change.old.id == change.new.id
        assert identity(change.old) != identity(change.new)
    # an id is never both added and removed: that would be a change
    added = {c.new.id for c in result.of("added") if c.new}
    removed = {c.old.id for c in result.of("removed") if c.old}
    kept_away = {c.old.id for c in result.of("unchanged") if c.old}
    assert not added & removed - kept_away


@given(question_lists())
def test_a_program_does_not_differ_from_itself(asked: list[Question]) -> None:
    result = diff_programs(program_of(asked), program_of(asked))
    assert {c.part for c in result.changes} == {"unchanged"} and not result.to_judge and not result.repooled


def test_rename_move_edit_and_repool() -> None:
    one, two = question("a", "Is it so?"), question("b", "Is it true?")
    base = program_of([one, two])
    renamed = program_of([question("z", "Is it so?", clause="other"), two])
    assert [c.part for c in diff_programs(base, renamed).changes] == ["unchanged", "unchanged"]
    assert not diff_programs(base, renamed).repooled
    swapped = program_of([question("b", "Is it so?"), question("a", "Is it true?")])
    assert not diff_programs(base, swapped).to_judge
    edited = diff_programs(base, program_of([question("a", "Is it so indeed?"), two]))
    assert [(c.part, c.new.id) for c in edited.changes if c.new] == [("changed", "a"), ("unchanged", "b")]
    assert not edited.repooled
    assert diff_programs(base, program_of([one, two], size=1)).repooled
    assert not diff_programs(base, program_of([one, two, question("c", "Is it new?")])).repooled
    assert not diff_programs(base, program_of([two])).repooled
    assert diff_programs(base, program_of([one, question("c", "Is it new?"), two], size=2)).repooled
    assert diff_programs(base, program_of([one, two], pooling=Pooling(grades="mean"))).repooled
    vetoing = [question("a", "Is it safe?", "gate", protected=True)]
    assert (
        diff_programs(program_of([question("a", "Is it safe?", "gate")]), program_of(vetoing)).to_judge
        == vetoing
    )


def test_one_edit_of_hhh_asks_one_question_again() -> None:
    program = load_program("hhh")
    data = program.model_dump()
    data["principles"][2]["dimensions"][4]["questions"][1]["text"] = "How openly are assumptions named?"
    result = diff_programs(program, Program.model_validate(data))
    assert [q.id for q in result.to_judge] == ["hon.transparency.q1"]
    assert len(result.of("unchanged")) == 166


def test_overlap_is_jaccard_of_content_words() -> None:
    # {tone, calm} against {tone, calm, throughout}: 2 of 3
    assert overlap("Is the tone of the answer calm?", "Is the tone calm throughout?") == 2 / 3
    assert overlap("Is it calm?", "Was the answer calm?") == 1.0
    assert overlap("Is it?", "Was it?") == 0.0  # no content to compare


def test_trigrams_see_other_forms_of_a_word() -> None:
    # figure: " fi fig igu gur ure re " (6); figures: the first 5, "res", "es " (7): 5 in common
    assert trigram_overlap("Is the figure so?", "Are the figures so?") == 2 * 5 / 13
    assert trigram_overlap("Is it calm?", "Was the answer calm?") == 1.0
    assert trigram_overlap("Is it?", "Was it?") == 0.0


def findings(asked: list[Question], rule: str, **options) -> list[tuple[str, str]]:
    found = lint(program_of(asked, size=len(asked)), None, **options)
    return [(f.where, f.message) for f in found if f.rule == rule]


def test_lint_finds_overlap_by_letters_and_by_meaning() -> None:
    asked = [
        question("a", "Are the figures exact?"),
        question("b", "How exact is each figure?"),
        question("c", "How kind is the tone?"),
        question("d", "Is the wording friendly?"),
    ]
    assert [where for where, _ in findings(asked, "near-duplicate")] == ["b"]
    close = findings(asked, "near-duplicate", close=lambda texts: {(0, 1): 0.99, (2, 3): 0.87})
    assert [where for where, _ in close] == ["b", "d"]
    assert close[1][1] == "close in meaning to 'c' (embeddings, cosine 0.87)"


def test_lint_finds_what_drowns_the_rest_and_what_cannot_be_seen() -> None:
    def part(id: str, count: int, **more) -> Dimension:
        asked = tuple(question(f"{id}{n}", f"How {id * 3}{n} is it?", clause=id) for n in range(count))
        return Dimension(id=id, title=id, questions=asked, **more)

    dimensions = (part("x", 6), part("y", 2), part("z", 2, weight=3), part("w", 1))
    principle = Principle(id="p", title="P", dimensions=dimensions, pool="weighted")
    program = Program(name="p", constitution="none", principles=(principle,))
    found = [(f.where, f.message) for f in lint(program, None) if f.rule == "unbalanced"]
    assert found == [
        ("x", "6 questions, where the median of the other dimensions is 2"),
        ("x", "6 questions, where the median of the other clauses is 2"),
    ]
    heavy = principle.model_copy(
        update={"dimensions": (*dimensions[:2], part("z", 2, weight=4), dimensions[3])}
    )
    found = [f.message for f in lint(program.model_copy(update={"principles": (heavy,)}), None)]
    assert "weighs 57% of all: more than the other dimensions together" in found
    assert findings([question("a", "Does the assistant intend to help?")], "unanswerable") == [
        ("a", "asks about what a judge cannot see in request and answer (intend to)")
    ]


def test_lint_finds_each_fault_once() -> None:
    asked = [
        question("ok", "Is the answer free of slurs?", "gate"),
        question("twice", "Is the answer  free of SLURS?", "gate"),
        question("two", "Is the answer polite and does it cite a source?"),
        question("no", "Does the answer contain insults?", "gate"),
        question("vague", "Is the layout appropriate?"),
        question("led", "How obviously correct is the sum?"),
        question("near", "How obviously correct is the final sum?", clause="lost"),
        question("long", "How " + "very " * 30 + "long is it?"),
        question("flat", "Rate the punctuation."),
        question("hedge", "Is help offered if somebody asks?", "gate", protected=True),
    ]
    constitution = Constitution(
        name="c",
        principles=(
            ConstitutionPrinciple(
                id="p", title="P", clauses=(Clause(id="c", text="C."), Clause(id="bare", text="B."))
            ),
        ),
    )
    findings = lint(program_of(asked, size=len(asked)), constitution)
    assert {(f.severity, f.rule, f.where) for f in findings} == {
        ("error", "duplicate", "twice"),
        ("error", "compound", "two"),
        ("error", "unknown-clause", "near"),
        ("warning", "negative", "no"),
        ("warning", "vague", "vague"),
        ("warning", "leading", "led"),
        ("warning", "leading", "near"),
        ("warning", "near-duplicate", "near"),
        ("warning", "long", "long"),
        ("warning", "no-question-mark", "flat"),
        ("warning", "protected-hedge", "hedge"),
        ("warning", "uncovered-clause", "bare"),
        ("info", "unbalanced", "c"),
    }
    assert len(findings) == 13
    assert [f.severity for f in findings] == ["error"] * 3 + ["warning"] * 9 + ["info"]


def test_lint_says_when_clauses_go_unchecked() -> None:
    [finding] = lint(program_of([question("a", "How calm is the tone?", clause="lost")]), None)
    assert (finding.severity, finding.rule) == ("info", "no-constitution")


def test_libraries_have_no_lint_error() -> None:
    from rubrica.program.program import constitution_of

    for name in ("hhh", "lab"):
        program = load_program(name)
        assert [f for f in lint(program, constitution_of(program)) if f.severity == "error"] == []
        assert len(list(questions(program))) > 0
