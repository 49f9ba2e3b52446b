"""What two programs ask differently, and so which verdicts of the one still serve the other."""

from collections.abc import Iterable, Mapping
from typing import Literal

from rubrica.core.base import Record
from rubrica.core.config import Json
from rubrica.core.programs import Dimension, Op, Principle, Program, Question
from rubrica.program.program import question_hash, questions

Part = Literal["added", "removed", "changed", "unchanged"]


class QuestionChange(Record):
    """One question of the old or the new program. ``old`` or ``new`` is None where it has no counterpart."""

    part: Part
    old: Question | None
    new: Question | None


class ProgramDiff(Record):
    """Questions by what became of them, and whether those that stayed are pooled otherwise."""

    changes: tuple[QuestionChange, ...]
    repooled: bool
    """The questions that both have are pooled otherwise (tree, ops, weights, conditions ...): kept answers, other rewards."""

    def of(self, part: Part) -> list[QuestionChange]:
        """The changes of one kind, in order."""
        return [change for change in self.changes if change.part == part]

    @property
    def to_judge(self) -> list[Question]:
        """Questions of the new program that no verdict of the old one answers."""
        return [c.new for c in self.changes if c.part in {"added", "changed"} and c.new is not None]


def diff_programs(old: Program, new: Program) -> ProgramDiff:
    """Match the questions of two programs by :func:`question_hash`, then the rest by id.

    Equal hash: ``unchanged``, whatever the id, clause or place (verdicts are kept). Equal id with another hash:
    ``changed``. Otherwise ``added`` or ``removed``. Every question of both programs appears exactly once; the
    order is the new program's, with what was removed at the end.
    """
    before = [question for _, _, question in questions(old)]
    after = [question for _, _, question in questions(new)]
    left = _by_hash(before)
    kept = {q.id: left.pop(question_hash(q)) for q in after if question_hash(q) in left}
    rest = {question.id: question for question in left.values()}
    changes: list[QuestionChange] = []
    for question in after:
        if question.id in kept:
            changes.append(QuestionChange(part="unchanged", old=kept[question.id], new=question))
        elif question.id in rest:
            changes.append(QuestionChange(part="changed", old=rest.pop(question.id), new=question))
        else:
            changes.append(QuestionChange(part="added", old=None, new=question))
    changes += [QuestionChange(part="removed", old=question, new=None) for question in rest.values()]
    pairs = [(change.old.id, change.new.id) for change in changes if change.old and change.new]
    same_shape = _shape(old, {was: was for was, _ in pairs}) == _shape(new, {now: was for was, now in pairs})
    return ProgramDiff(changes=tuple(changes), repooled=not same_shape)


def _by_hash(asked: Iterable[Question]) -> dict[str, Question]:
    return {question_hash(question): question for question in asked}


def _shape(program: Program, names: Mapping[str, str]) -> Json:
    """How the questions in ``names`` are pooled, by their common names; order only where it counts."""
    principles: list[Json] = []
    for principle in program.principles:
        groups: list[Json] = []
        for dimension in principle.dimensions:
            op = dimension.pool or program.pooling.grades
            asked: list[Json] = [
                [names[q.id], q.weight, q.level] for q in dimension.questions if q.id in names
            ]
            if asked:
                groups.append([op, _counted(dimension), _in_order(op, asked)])
        if groups:
            how: list[Json] = [principle.pool, principle.caps, _counted(principle)]
            principles.append([*how, _in_order(principle.pool, groups)])
    return [
        program.pooling.model_dump(mode="json"),
        program.pool,
        _in_order(program.pool, principles),
    ]


def _counted(part: Principle | Dimension) -> Json:
    """How a dimension or principle counts in the node above."""
    return part.model_dump(mode="json", include={"weight", "level", "gate", "when"})


def _in_order(op: Op, found: list[Json]) -> list[Json]:
    return found if op == "lexicographic" else sorted(found, key=repr)
