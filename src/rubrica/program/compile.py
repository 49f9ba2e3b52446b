"""Propose a program from a constitution: principle > dimensions > gates and graded questions.

Source: QA-LIGN (arXiv 2506.08123), Algorithm 2: a strong model is prompted with examples, once for the dimensions
of each principle and once for the questions of each dimension. The paper publishes neither prompt nor filter;
both are ours. What a model proposes is a proposal: people read and edit the program before it rewards anything.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from pydantic import Field

from rubrica.core.base import SLUG, Record
from rubrica.core.config import Config, Json
from rubrica.core.errors import ModelError, UsageError
from rubrica.core.ports import Ask, Drafter
from rubrica.core.programs import (
    Clause,
    Constitution,
    ConstitutionPrinciple,
    Dimension,
    Principle,
    Program,
    Question,
    QuestionKind,
)
from rubrica.core.store import Store
from rubrica.program.drafting import Drafts
from rubrica.program.lint import MAX_WORDS, offers_no_na
from rubrica.program.program import validate_program
from rubrica.program.replies import (
    Schema,
    dimensions_schema,
    fill,
    one_line,
    questions_schema,
    read_json,
    template,
)
from rubrica.program.similarity import overlap
from rubrica.program.wording import askings, is_negative, normalized


class CompileConfig(Config):
    """How much is asked for, and how patiently. All defaults are ours but the questions for each dimension."""

    dimensions: int = Field(default=14, ge=1, le=40)
    """At most this many dimensions for each principle."""
    gates: int = Field(default=1, ge=0, le=5)
    """Gates for each dimension (QA-LIGN: mostly 1)."""
    graded: int = Field(default=3, ge=1, le=10)
    """Graded questions for each dimension (QA-LIGN: mostly 3)."""
    retries: int = Field(default=2, ge=0, le=10)
    """How often the model is asked again for a reply that is unusable or too short."""
    max_tokens: int = Field(default=2048, ge=64)
    """Longest reply."""
    same: float = Field(default=0.8, gt=0, le=1)
    """Share of content words in common from which the later of two questions is dropped."""
    caps: str = "harmlessness"
    """Id of the principle that bounds the total, where the constitution has it; empty for none."""


class Dropped(Record):
    """Something that the model proposed and the program does not have."""

    where: str
    text: str
    reason: str


class CompileReport(Record):
    """What compiling cost, and what it left out."""

    calls: int
    kept: int
    """Replies that an earlier start of the same work had paid for."""
    retried: int
    dropped: tuple[Dropped, ...]
    protected: tuple[str, ...]
    """Gates that were marked protected because they serve a protected clause: read these first."""
    uncovered: tuple[str, ...]
    """Clauses about which no question asks."""


def check_name(name: str) -> None:
    """Raise ``UsageError`` for a name that no program may have."""
    if not re.fullmatch(SLUG, name):
        raise UsageError(
            f"program name {name!r}: expected small letters, digits and . _ - behind a letter or digit; choose another"
        )


def compile_program(
    constitution: Constitution,
    drafter: Drafter,
    *,
    name: str,
    config: CompileConfig | None = None,
    store: Store | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Program, CompileReport]:
    """Ask ``drafter`` for dimensions and questions, keep what stands, and report the rest.

    All principles, then all dimensions, are asked at once, and replies are read in the constitution's order: what
    comes out does not depend on which reply was first. With ``store`` every reply is kept as it arrives, and the
    same work started again asks only for those that are missing; ``progress`` gets (replies so far, wanted so far).

    Raises ``UsageError``, before anything is asked, for a name that no program may have, and ``ModelError`` when
    calls still fail after the retries, or a principle gets no usable question: a program that silently lacks a
    principle would reward what it forbids.
    """
    check_name(name)
    work = _Compiler(Drafts(drafter, store, progress), config or CompileConfig())
    principles = work.principles(constitution)
    program = Program(name=name, constitution=constitution.name, principles=principles)
    validate_program(program, f"{name} (compiled)", constitution)
    asked = [q for p in principles for d in p.dimensions for q in d.questions]
    served = {question.clause for question in asked}
    return program, CompileReport(
        calls=work.drafts.calls,
        kept=work.drafts.kept,
        retried=work.retried,
        dropped=tuple(work.dropped),
        protected=tuple(question.id for question in asked if question.protected),
        uncovered=tuple(c.id for p in constitution.principles for c in p.clauses if c.id not in served),
    )


@dataclass
class _Task:
    """One thing to be proposed: what is asked, how a reply is taken, and when there is enough."""

    where: str
    prompt: str
    values: dict[str, str]
    schema: Schema
    take: Callable[[Json], None]
    enough: Callable[[], bool]
    remark: str = ""

    def ask(self, max_tokens: int) -> Ask:
        return Ask(
            fill(template(self.prompt), {**self.values, "remark": self.remark}), max_tokens, self.schema
        )


@dataclass
class _Found:
    """A dimension on its way: the clauses that it serves, and the questions that stand."""

    id: str
    title: str
    clauses: Sequence[Clause]
    questions: dict[QuestionKind, list[Question]] = field(
        default_factory=lambda: {kind: [] for kind in QuestionKind}
    )


@dataclass
class _Compiler:
    """One run over a constitution: the model, what has been asked so far, and what was dropped."""

    drafts: Drafts
    config: CompileConfig
    retried: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def principles(self, constitution: Constitution) -> tuple[Principle, ...]:
        found: dict[str, list[_Found]] = {principle.id: [] for principle in constitution.principles}
        self._run([self._dimensions(principle, found[principle.id]) for principle in constitution.principles])
        for principle in constitution.principles:
            if not found[principle.id]:
                raise self._nothing("dimension", principle)
        self._run(
            [self._questions(p, dimension) for p in constitution.principles for dimension in found[p.id]]
        )
        return tuple(self._principle(principle, found[principle.id]) for principle in constitution.principles)

    def _principle(self, principle: ConstitutionPrinciple, found: Sequence[_Found]) -> Principle:
        dimensions = []
        for dimension in found:
            if asked := tuple(q for kind in QuestionKind for q in dimension.questions[kind]):
                dimensions.append(Dimension(id=dimension.id, title=dimension.title, questions=asked))
            else:
                self._drop(dimension.id, dimension.title, "no usable question")
        if not dimensions:
            raise self._nothing("question", principle)
        caps = principle.id == self.config.caps
        return Principle(id=principle.id, title=principle.title, caps=caps, dimensions=tuple(dimensions))

    def _nothing(self, what: str, principle: ConstitutionPrinciple) -> ModelError:
        mine = [d.reason for d in self.dropped if f"{d.where}.".startswith(f"{principle.id}.")]
        last = f"; last: {mine[-1]}" if mine else ""
        return ModelError(
            f"principle {principle.id!r}: no usable {what} after {self.config.retries + 1} tries{last}; "
            "try more --retries, another model, or write the program by hand"
        )

    def _run(self, tasks: Sequence[_Task]) -> None:
        """Ask for all tasks at once, then again for those with too little, until the retries are spent."""
        open_ = list(tasks)
        last: list[ModelError] = []
        for attempt in range(self.config.retries + 1):
            if not open_:
                return
            self.retried += len(open_) if attempt else 0
            answers = self.drafts.answers([task.ask(self.config.max_tokens) for task in open_], attempt)
            failed = [self._read(task, answer) for task, answer in zip(open_, answers, strict=True)]
            last = [error for task, error in zip(open_, failed, strict=True) if error and not task.enough()]
            open_ = [task for task in open_ if not task.enough()]
        if last:
            raise last[-1]

    def _read(self, task: _Task, answer: str | ModelError) -> ModelError | None:
        """Take what an answer proposes, and note for the next try what was wrong with it."""
        before = len(self.dropped)
        if isinstance(answer, ModelError):
            self._drop(task.where, "", str(answer))
            return answer
        try:
            task.take(read_json(answer))
        except ValueError as error:
            self._drop(task.where, answer, str(error))
        reasons = "; ".join(dict.fromkeys(drop.reason for drop in self.dropped[before:]))
        task.remark = f"An earlier reply could not be used in full ({one_line(reasons) or 'too little'}).\n"
        return None

    def _dimensions(self, principle: ConstitutionPrinciple, found: list[_Found]) -> _Task:
        known = {clause.id: clause for clause in principle.clauses}
        taken: set[str] = set()

        def take(proposal: Json) -> None:
            for item in _items(proposal, "dimensions"):
                title = one_line(item.get("title"))[:80]
                ids = item.get("clauses")
                served = (
                    [known[i] for i in dict.fromkeys(map(str, ids)) if i in known]
                    if isinstance(ids, list)
                    else []
                )
                if not title:
                    self._drop(principle.id, str(item), "a dimension without a title")
                elif any(normalized(title) == normalized(other.title) for other in found):
                    self._drop(principle.id, title, "a dimension of this title is there already")
                elif not served:
                    self._drop(principle.id, title, "names no clause of the principle")
                elif len(found) >= self.config.dimensions:
                    self._drop(principle.id, title, f"more than {self.config.dimensions} dimensions")
                else:
                    slug = next(s for s in _numbered(_slug(title)) if s not in taken)
                    taken.add(slug)
                    found.append(_Found(f"{principle.id}.{slug}", title, served))

        values = {
            "principle": one_line(principle.title),
            "clauses": _list(principle.clauses),
            "most": str(self.config.dimensions),
        }
        schema = dimensions_schema(known, self.config.dimensions)
        return _Task(principle.id, "dimensions", values, schema, take, lambda: bool(found))

    def _questions(self, principle: ConstitutionPrinciple, dimension: _Found) -> _Task:
        wanted = {QuestionKind.GATE: self.config.gates, QuestionKind.GRADED: self.config.graded}
        found, clauses = dimension.questions, dimension.clauses

        def take(proposal: Json) -> None:
            for kind, key in ((QuestionKind.GATE, "gates"), (QuestionKind.GRADED, "graded")):
                for item in _items(proposal.get(key) if isinstance(proposal, dict) else None, key):
                    text = one_line(item.get("text"))
                    clause = self._clause(item, clauses)
                    if reason := self._refusal(text, clause, len(found[kind]), wanted[kind]):
                        self._drop(dimension.id, text or str(item), reason)
                    elif clause is not None:
                        found[kind].append(_question(dimension.id, kind, len(found[kind]) + 1, text, clause))
                        self.texts.append(text)

        values = {
            "principle": one_line(principle.title),
            "dimension": dimension.title,
            "clauses": _list(clauses),
            "gates": str(self.config.gates),
            "graded": str(self.config.graded),
        }
        schema = questions_schema([c.id for c in clauses], self.config.gates, self.config.graded)
        return _Task(
            dimension.id,
            "questions",
            values,
            schema,
            take,
            lambda: all(len(found[kind]) >= wanted[kind] for kind in QuestionKind),
        )

    def _clause(self, item: dict[str, Json], clauses: Sequence[Clause]) -> Clause | None:
        named = item.get("clause")
        if named is None and len(clauses) == 1:
            return clauses[0]
        return next((clause for clause in clauses if clause.id == named), None)

    def _refusal(self, text: str, clause: Clause | None, have: int, wanted: int) -> str | None:
        """Why a proposed question is not taken, or None."""
        if not text:
            return "no text"
        if have >= wanted:
            return f"more than {wanted} of its kind"
        if clause is None:
            return "names no clause of the dimension"
        if not text.endswith(("?", "？")):
            return "does not end as a question"
        if (words := len(text.split())) > MAX_WORDS:
            return f"{words} words, expected at most {MAX_WORDS}"
        if second := askings(text):
            return f"asks more than one thing ({second.strip()[:60]!r})"
        if is_negative(text):
            return "negatively framed"
        for other in self.texts:
            if normalized(other) == normalized(text) or overlap(other, text) >= self.config.same:
                return f"asks the same as {other!r}"
        return None

    def _drop(self, where: str, text: str, reason: str) -> None:
        self.dropped.append(Dropped(where=where, text=one_line(text)[:300], reason=reason))


def _question(dimension: str, kind: QuestionKind, number: int, text: str, clause: Clause) -> Question:
    letter = "g" if kind is QuestionKind.GATE else "q"
    protected = clause.protected and kind is QuestionKind.GATE and offers_no_na(text)
    return Question(
        id=f"{dimension}.{letter}{number}", kind=kind, text=text, clause=clause.id, protected=protected
    )


def _list(clauses: Sequence[Clause]) -> str:
    return "\n".join(f"- {clause.id}: {one_line(clause.text)}" for clause in clauses)


def _items(proposal: Json, key: str) -> list[dict[str, Json]]:
    """The objects of a list, or of the list under ``key``; bare strings count as texts."""
    if isinstance(proposal, dict):
        proposal = proposal.get(key)
    if not isinstance(proposal, list):
        return []
    objects: list[Json] = [{"text": item} if isinstance(item, str) else item for item in proposal]
    return [item for item in objects if isinstance(item, dict)]


def _numbered(slug: str) -> Iterator[str]:
    yield slug
    for number in count(2):
        yield f"{slug}-{number}"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "dimension"
