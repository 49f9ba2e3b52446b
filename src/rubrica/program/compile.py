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

from rubrica.core.config import Config, Json
from rubrica.core.errors import ModelError, UsageError
from rubrica.core.ports import Completer
from rubrica.core.records import (
    SLUG,
    Clause,
    Constitution,
    ConstitutionPrinciple,
    Dimension,
    Principle,
    Program,
    Question,
    QuestionKind,
    Record,
)
from rubrica.program.lint import MAX_WORDS, offers_no_na, overlap
from rubrica.program.program import validate_program
from rubrica.program.replies import fill, one_line, read_json, template
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
    retried: int
    dropped: tuple[Dropped, ...]
    protected: tuple[str, ...]
    """Gates that were marked protected because they serve a protected clause: read these first."""
    uncovered: tuple[str, ...]
    """Clauses about which no question asks."""


def compile_program(
    constitution: Constitution,
    completer: Completer,
    *,
    name: str,
    config: CompileConfig | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Program, CompileReport]:
    """Ask ``completer`` for dimensions and questions, keep what stands, and report the rest.

    Raises ``UsageError``, before anything is asked, for a name that no program may have, and ``ModelError`` when a
    principle gets no usable question: a program that silently lacks a principle would reward what it forbids.
    """
    if not re.fullmatch(SLUG, name):
        raise UsageError(
            f"program name {name!r}: expected small letters, digits and . _ - behind a letter or digit; choose another"
        )
    work = _Compiler(completer, config or CompileConfig(), progress)
    principles = tuple(work.principle(principle) for principle in constitution.principles)
    program = Program(name=name, constitution=constitution.name, principles=principles)
    validate_program(program, f"{name} (compiled)", constitution)
    asked = [q for p in principles for d in p.dimensions for q in d.questions]
    served = {question.clause for question in asked}
    return program, CompileReport(
        calls=work.calls,
        retried=work.retried,
        dropped=tuple(work.dropped),
        protected=tuple(question.id for question in asked if question.protected),
        uncovered=tuple(c.id for p in constitution.principles for c in p.clauses if c.id not in served),
    )


@dataclass
class _Compiler:
    """One run over a constitution: the model, what has been asked so far, and what was dropped."""

    completer: Completer
    config: CompileConfig
    progress: Callable[[str], None]
    calls: int = 0
    retried: int = 0
    failed: int = 0
    """Calls that failed since the last one that did not."""
    dropped: list[Dropped] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def principle(self, principle: ConstitutionPrinciple) -> Principle:
        known = {clause.id: clause for clause in principle.clauses}
        taken: set[str] = set()
        dimensions: list[Dimension] = []
        for title, clauses in self._dimensions(principle, known):
            slug = _slug(title)
            id = f"{principle.id}.{next(s for s in _numbered(slug) if s not in taken)}"
            taken.add(id.removeprefix(f"{principle.id}."))
            self.progress(f"{principle.title}: {title}")
            if questions := self._questions(principle, id, title, clauses):
                dimensions.append(Dimension(id=id, title=title, questions=tuple(questions)))
            else:
                self._drop(id, title, "no usable question")
        if not dimensions:
            last = f"; last: {self.dropped[-1].reason}" if self.dropped else ""
            raise ModelError(
                f"principle {principle.id!r}: no usable question after {self.config.retries + 1} tries{last}; "
                "try another model, or write the program by hand"
            )
        return Principle(
            id=principle.id,
            title=principle.title,
            caps=principle.id == self.config.caps,
            dimensions=tuple(dimensions),
        )

    def _dimensions(
        self, principle: ConstitutionPrinciple, known: dict[str, Clause]
    ) -> list[tuple[str, list[Clause]]]:
        values = {
            "principle": one_line(principle.title),
            "clauses": _list(principle.clauses),
            "most": str(self.config.dimensions),
        }
        found: dict[str, tuple[str, list[Clause]]] = {}
        for proposal in self._ask("dimensions", values, principle.id, lambda: bool(found)):
            for item in _items(proposal, "dimensions"):
                title = one_line(item.get("title"))[:80]
                ids = item.get("clauses")
                served = [known[str(i)] for i in ids if str(i) in known] if isinstance(ids, list) else []
                if not title:
                    self._drop(principle.id, str(item), "a dimension without a title")
                elif normalized(title) in found:
                    self._drop(principle.id, title, "a dimension of this title is there already")
                elif not served:
                    self._drop(principle.id, title, "names no clause of the principle")
                elif len(found) >= self.config.dimensions:
                    self._drop(principle.id, title, f"more than {self.config.dimensions} dimensions")
                else:
                    found[normalized(title)] = (title, served)
        return list(found.values())

    def _questions(
        self, principle: ConstitutionPrinciple, id: str, title: str, clauses: Sequence[Clause]
    ) -> list[Question]:
        wanted = {QuestionKind.GATE: self.config.gates, QuestionKind.GRADED: self.config.graded}
        values = {
            "principle": one_line(principle.title),
            "dimension": title,
            "clauses": _list(clauses),
            "gates": str(self.config.gates),
            "graded": str(self.config.graded),
        }
        found: dict[QuestionKind, list[Question]] = {kind: [] for kind in QuestionKind}

        def enough() -> bool:
            return all(len(found[kind]) >= wanted[kind] for kind in QuestionKind)

        for proposal in self._ask("questions", values, id, enough):
            for kind, key in ((QuestionKind.GATE, "gates"), (QuestionKind.GRADED, "graded")):
                for item in _items(proposal.get(key) if isinstance(proposal, dict) else None, key):
                    text = one_line(item.get("text"))
                    clause = self._clause(item, clauses)
                    if reason := self._refusal(text, clause, len(found[kind]), wanted[kind]):
                        self._drop(id, text or str(item), reason)
                    elif clause is not None:
                        found[kind].append(_question(id, kind, len(found[kind]) + 1, text, clause))
                        self.texts.append(text)
        return [*found[QuestionKind.GATE], *found[QuestionKind.GRADED]]

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

    def _ask(
        self, prompt: str, values: dict[str, str], where: str, enough: Callable[[], bool]
    ) -> Iterator[Json]:
        """Yield what the model proposes until it is enough or the retries are spent."""
        remark = ""
        for attempt in range(self.config.retries + 1):
            if attempt:
                self.retried += 1
            self.calls += 1
            before = len(self.dropped)
            reply = self._complete(fill(template(prompt), {**values, "remark": remark}), where)
            try:
                yield read_json(reply)
            except ValueError as error:
                self._drop(where, reply, str(error))
            if enough():
                return
            reasons = "; ".join(dict.fromkeys(drop.reason for drop in self.dropped[before:]))
            remark = f"An earlier reply could not be used in full ({one_line(reasons) or 'too little'}).\n"

    def _complete(self, prompt: str, where: str) -> str:
        """One reply; a failed call is an empty one, until as many fail in a row as there are tries."""
        try:
            reply = self.completer.complete(prompt, self.config.max_tokens)
        except ModelError as error:
            self.failed += 1
            if self.failed > self.config.retries or self.failed == self.calls:
                raise
            self._drop(where, "", str(error))
            return ""
        self.failed = 0
        return reply

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
