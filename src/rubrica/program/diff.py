"""What two programs ask differently, and so which verdicts of the one still serve the other."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from rubrica.core.records import Program, Question, Record
from rubrica.program.program import question_hash, questions

Part = Literal["added", "removed", "changed", "unchanged"]


class QuestionChange(Record):
    """One question of the old or the new program. ``old`` or ``new`` is None where it has no counterpart."""

    part: Part
    old: Question | None
    new: Question | None


class ProgramDiff(Record):
    """Questions by what became of them, and whether the same answers would be pooled otherwise."""

    changes: tuple[QuestionChange, ...]
    repooled: bool
    """The tree, the pooling or the cap differs, so rewards may change although no question does."""

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
    return ProgramDiff(changes=tuple(changes), repooled=_shape(old) != _shape(new))


def _by_hash(asked: Iterable[Question]) -> dict[str, Question]:
    return {question_hash(question): question for question in asked}


def _shape(program: Program) -> tuple[str, list[tuple[bool, Counter[tuple[str, ...]]]]]:
    """What decides how answers are pooled: which questions share a dimension and a principle, and the cap."""
    principles = [
        (p.caps, Counter(tuple(sorted(question_hash(q) for q in d.questions)) for d in p.dimensions))
        for p in program.principles
    ]
    return program.pooling.model_dump_json(), principles
