"""Load and check a program: principle > dimension > question (gate or graded).

Source of the structure: QA-LIGN (arXiv 2506.08123), section 3 and Algorithm 2.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from rubrica.core.config import Json, content_hash, key_line, read_yaml, validate
from rubrica.core.errors import DataError
from rubrica.core.records import (
    Constitution,
    Dimension,
    Principle,
    Program,
    Question,
    QuestionKind,
    Record,
)
from rubrica.program.constitution import clauses, find, library_names, load_constitution
from rubrica.program.wording import askings, normalized

Loc = list[int | str]


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


def _load(path: Path) -> Program:
    return parse_program(read_yaml(path), path)


_library = cache(_load)


def parse_program(data: Json, path: str | Path) -> Program:
    """Validate parsed YAML or JSON; ``path`` is named in errors, and beside it the constitution is looked for."""
    program = validate(Program, data, path)
    validate_program(program, path, constitution_of(program, path))
    return program


def constitution_of(program: Program, path: str | Path | None = None) -> Constitution | None:
    """The constitution that a program names: a file of that name beside ``path``, else the library's, else None."""
    beside = Path(path).with_name(f"{program.constitution}.yaml") if path is not None else None
    if beside is not None and beside.is_file() and beside.resolve() != Path(path or "").resolve():
        return load_constitution(beside)
    if program.constitution in library_names(constitutions=True):
        return load_constitution(program.constitution)
    return None


def program_hash(program: Program) -> str:
    """Identity of a program, pooling and ids included."""
    return content_hash(program)


def question_hash(question: Question) -> str:
    """Identity of what is asked: kind, text and protection, so that a new id or clause re-judges nothing."""
    return content_hash({"kind": question.kind.value, "text": question.text, "protected": question.protected})


def questions(program: Program) -> Iterator[tuple[Principle, Dimension, Question]]:
    """Every question with its principle and dimension, in order."""
    for principle in program.principles:
        for dimension in principle.dimensions:
            for question in dimension.questions:
                yield principle, dimension, question


def counts(program: Program) -> dict[str, Counts]:
    """Counts by principle id, and of the whole program under ``all``."""
    found = {principle.id: _count(principle.dimensions) for principle in program.principles}
    every = [dimension for principle in program.principles for dimension in principle.dimensions]
    return {**found, "all": _count(every)}


def _count(dimensions: tuple[Dimension, ...] | list[Dimension]) -> Counts:
    kinds = Counter(question.kind for dimension in dimensions for question in dimension.questions)
    return Counts(
        dimensions=len(dimensions),
        gates=kinds[QuestionKind.GATE],
        graded=kinds[QuestionKind.GRADED],
        total=kinds.total(),
    )


def validate_program(program: Program, path: str | Path, constitution: Constitution | None = None) -> None:
    """Refuse, with a ``DataError`` that names file and line, a program that cannot be judged as meant.

    Ids must be unique (questions, dimensions, principles; ``all`` is taken by the counts); no two questions may
    read alike; a question must ask one thing; at most one principle caps; where ``constitution`` is given every
    question's clause must be one of its own.
    """
    for loc, problem in _problems(program, constitution):
        raise DataError(path, problem, key_line(path, loc))


def _problems(program: Program, constitution: Constitution | None) -> Iterator[tuple[Loc, str]]:
    capping = [(p, principle.id) for p, principle in enumerate(program.principles) if principle.caps]
    if len(capping) > 1:
        first, second = capping[0][1], capping[1][1]
        yield (
            ["principles", capping[1][0], "caps"],
            f"principles {first!r} and {second!r} both have caps: true; at most one may bound the total",
        )
    yield from _repeated_ids(program)
    known = None if constitution is None else {clause.id for _, clause in clauses(constitution)}
    texts: dict[str, str] = {}
    for loc, question in _located(program):
        if (same := texts.setdefault(normalized(question.text), question.id)) != question.id:
            yield [*loc, "text"], f"question {question.id!r} asks the same as {same!r}; remove one"
        if second_asking := askings(question.text):
            yield (
                [*loc, "text"],
                f"question {question.id!r} asks more than one thing (compound: {second_asking[:60]!r}); "
                "split it into two questions",
            )
        if known is not None and constitution is not None and question.clause not in known:
            yield (
                [*loc, "clause"],
                f"question {question.id!r} serves clause {question.clause!r}, which constitution "
                f"{constitution.name!r} does not have",
            )


def _located(program: Program) -> Iterator[tuple[Loc, Question]]:
    for p, principle in enumerate(program.principles):
        for d, dimension in enumerate(principle.dimensions):
            for q, question in enumerate(dimension.questions):
                yield ["principles", p, "dimensions", d, "questions", q], question


def _repeated_ids(program: Program) -> Iterator[tuple[Loc, str]]:
    seen: dict[str, set[str]] = {"principle": {"all"}, "dimension": set(), "question": set()}

    def repeated(kind: str, id: str) -> bool:
        if id in seen[kind]:
            return True
        seen[kind].add(id)
        return False

    for p, principle in enumerate(program.principles):
        if repeated("principle", principle.id):
            hint = " ('all' is reserved)" if principle.id == "all" else ""
            yield (
                ["principles", p, "id"],
                f"principle id {principle.id!r} is taken{hint}; give each principle its own",
            )
        for d, dimension in enumerate(principle.dimensions):
            if repeated("dimension", dimension.id):
                yield (
                    ["principles", p, "dimensions", d, "id"],
                    f"dimension id {dimension.id!r} is used twice; give each dimension its own",
                )
    for loc, question in _located(program):
        if repeated("question", question.id):
            yield [*loc, "id"], f"question id {question.id!r} is used twice; give each question its own"
