"""What two programs ask differently, and so which verdicts of the one still serve the other."""

from collections.abc import Iterable, Mapping
from typing import Literal

from rubrica.core.records import Pooling, Program, Question, Record
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
    """The questions that both have are pooled otherwise (tree, pooling or cap): kept answers, other rewards."""

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


Group = frozenset[str]


def _shape(
    program: Program, names: Mapping[str, str]
) -> tuple[Pooling, frozenset[tuple[bool, frozenset[Group]]]]:
    """How the questions in ``names`` are pooled, by their common names: which share a dimension and a principle."""
    principles = set()
    for principle in program.principles:
        groups = (frozenset(names[q.id] for q in d.questions if q.id in names) for d in principle.dimensions)
        principles.add((principle.caps, frozenset(group for group in groups if group)))
    return program.pooling, frozenset(p for p in principles if p[1])
