"""Load and check a program: principle > dimension > question (gate or graded).

Source of the structure: QA-LIGN (arXiv 2506.08123), section 3 and Algorithm 2.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from rubrica.core.base import Record
from rubrica.core.config import Json, content_hash, key_line, read_yaml, validate
from rubrica.core.errors import DataError, UsageError, nearest
from rubrica.core.programs import Constitution, Dimension, Principle, Program, Question, QuestionKind
from rubrica.program.constitution import clauses, find, library_names, load_constitution
from rubrica.program.freezing import KEY, Frozen, broken_by, constitution_hash, with_block
from rubrica.program.rules import Loc, Problem, misuses
from rubrica.program.wording import askings, normalized


class Counts(Record):
    """How many dimensions and questions a principle, or a whole program, has."""

    dimensions: int
    gates: int
    graded: int
    total: int


def load_program(ref: str | Path) -> Program:
    """Load a program of the library (``hhh``, ``lab``) or a YAML file, and check it.

    ``UsageError`` for an unknown name; ``DataError`` with file and line for whatever :func:`validate_program`
    refuses. The clauses are checked where :func:`constitution_of` finds the constitution.
    """
    names = library_names()
    path = find(ref, names, "program")
    return _library(path) if isinstance(ref, str) and ref in names else _load(path)


def read_program(ref: str | Path) -> tuple[Program, Path]:
    """Read a program for :func:`rubrica.program.lint.lint`: its form is checked, its questions are not."""
    path = find(ref, library_names(), "program")
    return _program(read_yaml(path), path), path


def _load(path: Path) -> Program:
    return parse_program(read_yaml(path), path)


_library = cache(_load)


def parse_program(data: Json, path: str | Path) -> Program:
    """Validate parsed YAML or JSON; ``path`` is named in errors, and beside it the constitution is looked for."""
    program = _program(data, path)
    validate_program(program, path, constitution_of(program, path))
    return program


def _program(data: Json, path: str | Path) -> Program:
    principles = data.get("principles") if isinstance(data, dict) else None
    if isinstance(principles, list) and any(isinstance(p, dict) and "clauses" in p for p in principles):
        raise DataError(path, "this is a constitution; rubrica program compile makes a program of it")
    if not isinstance(data, dict) or KEY not in data:
        return validate(Program, data, path)
    program = validate(Program, {key: value for key, value in data.items() if key != KEY}, path)
    frozen = validate(Frozen, data[KEY], path)
    if broken := broken_by(frozen, hashes_of(program, constitution_of(program, path))):
        id, what = broken
        message = (
            f"was frozen, and since then {what}; restore it, or remove the block {KEY!r} and freeze it anew"
        )
        raise DataError(path, message, key_line(path, locations(program).get(id, [KEY])))
    return program


def hashes_of(program: Program, constitution: Constitution | None) -> Frozen:
    """Hashes by which a program is told from any other."""
    return Frozen(
        program=program_hash(program),
        constitution=constitution_hash(constitution) if constitution else None,
        questions={question.id: question_hash(question) for _, _, question in questions(program)},
    )


def frozen_of(ref: str | Path) -> Frozen | None:
    """The block that freezes a program's file, or None; what :func:`load_program` raises."""
    path = find(ref, library_names(), "program")
    data = read_yaml(path)
    parse_program(data, path)
    return validate(Frozen, data[KEY], path) if isinstance(data, dict) and KEY in data else None


def freeze(ref: str | Path, *, at: str = "", by: str = "") -> tuple[str, Frozen]:
    """Return the text of a program's file with a block that freezes it; ``UsageError`` where it has one."""
    path = find(ref, library_names(), "program")
    program = load_program(ref)
    if frozen_of(ref) is not None:
        raise UsageError(
            f"{path}: is frozen already; to change it, remove the block {KEY!r} and freeze it anew"
        )
    frozen = hashes_of(program, constitution_of(program, path)).model_copy(update={"at": at, "by": by})
    return with_block(path.read_text(encoding="utf-8"), program, frozen), frozen


def constitution_of(program: Program, path: str | Path | None = None) -> Constitution | None:
    """The constitution that a program names: a file of that name beside ``path``, else the library's, else None."""
    beside = Path(path).with_name(f"{program.constitution}.yaml") if path is not None else None
    if beside is not None and beside.is_file() and beside.resolve() != Path(path or "").resolve():
        return load_constitution(beside)
    if program.constitution in library_names(constitutions=True):
        return load_constitution(program.constitution)
    return None


def program_hash(program: Program) -> str:
    """Identity of a program, pooling and ids included; what is written at its default changes nothing."""
    return content_hash(program.model_dump(mode="json", exclude_defaults=True))


def question_hash(question: Question) -> str:
    """Identity of what is asked: kind, text and protection, so that a new id or clause re-judges nothing."""
    return content_hash({"kind": question.kind.value, "text": question.text, "protected": question.protected})


def dimensions(program: Program) -> Iterator[tuple[Principle, Dimension]]:
    """Every dimension with its principle, in order."""
    for principle in program.principles:
        for dimension in principle.dimensions:
            yield principle, dimension


def questions(program: Program) -> Iterator[tuple[Principle, Dimension, Question]]:
    """Every question with its principle and dimension, in order."""
    for principle, dimension in dimensions(program):
        for question in dimension.questions:
            yield principle, dimension, question


def counts(program: Program) -> dict[str, Counts]:
    """Counts by principle id, and of the whole program under ``all``."""
    found = {principle.id: _count(principle.dimensions) for principle in program.principles}
    return {**found, "all": _count([dimension for _, dimension in dimensions(program)])}


def _count(found: Sequence[Dimension]) -> Counts:
    kinds = Counter(question.kind for dimension in found for question in dimension.questions)
    return Counts(
        dimensions=len(found),
        gates=kinds[QuestionKind.GATE],
        graded=kinds[QuestionKind.GRADED],
        total=kinds.total(),
    )


def validate_program(program: Program, path: str | Path, constitution: Constitution | None = None) -> None:
    """Refuse, with a ``DataError`` that names file and line, a program with any of :func:`problems`."""
    for problem in problems(program, constitution):
        raise DataError(path, problem.message, key_line(path, problem.loc))


def problems(program: Program, constitution: Constitution | None = None) -> Iterator[Problem]:
    """Everything for which a program is refused.

    Ids must be unique (questions, dimensions, principles; ``all`` is taken by the counts); no two questions may
    read alike but for case and spaces; a question must ask one thing; at most one principle caps; where
    ``constitution`` is given every question's clause must be one of its own. What may not be said about pooling:
    :func:`rubrica.program.rules.misuses`.
    """
    yield from misuses(program)
    yield from _repeated_ids(program)
    texts: dict[str, str] = {}
    for loc, question in _located(program):
        name = f"question {question.id!r}"
        if (same := texts.setdefault(normalized(question.text), question.id)) != question.id:
            message = f"{name} asks the same as {same!r}; remove one"
            yield Problem("duplicate", question.id, [*loc, "text"], message)
        if second := askings(question.text):
            message = f"{name} asks more than one thing (compound: {second.strip()[:60]!r}); split it"
            yield Problem("compound", question.id, [*loc, "text"], message)
    if constitution is not None:
        yield from _unknown_clauses(program, constitution)


def _unknown_clauses(program: Program, constitution: Constitution) -> Iterator[Problem]:
    known = {clause.id for _, clause in clauses(constitution)}
    for loc, question in _located(program):
        if question.clause not in known:
            message = (
                f"question {question.id!r} serves clause {question.clause!r}, which constitution "
                f"{constitution.name!r} does not have{nearest(question.clause, known)}"
            )
            yield Problem("unknown-clause", question.id, [*loc, "clause"], message)


def _located(program: Program) -> Iterator[tuple[Loc, Question]]:
    for p, principle in enumerate(program.principles):
        for d, dimension in enumerate(principle.dimensions):
            for q, question in enumerate(dimension.questions):
                yield ["principles", p, "dimensions", d, "questions", q], question


def locations(program: Program) -> dict[str, Loc]:
    """Where in the file each dimension and question stands, by id."""
    found: dict[str, Loc] = {}
    for loc, question in _located(program):
        found[question.id] = loc
        principle, dimension = loc[1], loc[3]
        assert isinstance(principle, int) and isinstance(dimension, int)
        found.setdefault(program.principles[principle].dimensions[dimension].id, loc[:4])
    return found


def _repeated_ids(program: Program) -> Iterator[Problem]:
    named: list[tuple[str, str, Loc]] = []
    for p, principle in enumerate(program.principles):
        named.append(("principle", principle.id, ["principles", p, "id"]))
        for d, dimension in enumerate(principle.dimensions):
            named.append(("dimension", dimension.id, ["principles", p, "dimensions", d, "id"]))
    named += [("question", question.id, [*loc, "id"]) for loc, question in _located(program)]
    seen = {("principle", "all")}
    for kind, id, loc in named:
        if (kind, id) in seen:
            taken = "reserved" if id == "all" and kind == "principle" else "used twice"
            yield Problem("repeated-id", id, loc, f"{kind} id {id!r} is {taken}; give each {kind} its own")
        seen.add((kind, id))
