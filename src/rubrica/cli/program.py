"""``rubrica program``: write, look at and look after programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from rubrica.cli.discriminate import discriminate
from rubrica.cli.options import JsonFlag, ProgramArg
from rubrica.cli.output import (
    Command,
    check_out,
    console,
    how_to_go_on,
    note,
    plain,
    plural,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from rubrica.core.ports import Drafter
    from rubrica.program.diff import Part

app = typer.Typer(
    help="Compile, show, lint and compare programs of questions.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command(cls=Command)(discriminate)

_COLOURS: Final = {"error": "red", "warning": "yellow", "info": "dim"}
_SIGNS: "Final[dict[Part, tuple[str, str]]]" = {
    "added": ("+", "green"),
    "removed": ("-", "red"),
    "changed": ("~", "yellow"),
    "unchanged": (" ", ""),
}


def _writer(judge: str) -> "Drafter":
    from rubrica.core.errors import UsageError
    from rubrica.judges.factory import read_judge, server_of
    from rubrica.recipes.writer import server_writer

    config = read_judge(judge)
    server = server_of(config.spec)
    if server is None:
        raise UsageError(
            f"--judge {config.spec!r}: expected openai:MODEL@URL, for example "
            "openai:my-model@http://localhost:8000/v1"
        )
    return server_writer(server, config)


@app.command(cls=Command)
def show(program: ProgramArg, as_json: JsonFlag = False) -> None:
    """Print the tree of principles, dimensions and questions."""
    from rich.text import Text
    from rich.tree import Tree

    from rubrica.core.traits import traits
    from rubrica.program.program import counts, frozen_of, load_program, program_hash

    loaded, frozen = load_program(program), frozen_of(program)
    numbers = counts(loaded)
    if as_json:
        data = {"hash": program_hash(loaded), "frozen": frozen and frozen.model_dump()}
        data |= loaded.model_dump(mode="json")
        print_json({**data, "counts": {name: count.model_dump() for name, count in numbers.items()}})
        return
    every = numbers["all"]
    root = Tree(
        Text.assemble(
            (loaded.name, "bold"),
            f"  version {plain(loaded.version)}: {plural(every.dimensions, 'dimension')}, "
            f"{plural(every.total, 'question')} ({plural(every.gates, 'gate')}, {every.graded} graded)"
            + (", " + " ".join(filter(None, ("frozen", frozen.at, plain(frozen.by)))) if frozen else ""),
            (f"  {', '.join(traits(loaded, loaded))}", "dim"),
        )
    )
    for principle in loaded.principles:
        count = numbers[principle.id]
        branch = root.add(
            Text.assemble(
                (plain(principle.title), "bold cyan"),
                f"  {plural(count.dimensions, 'dimension')}, {plural(count.gates, 'gate')}, {count.graded} graded"
                + (f"  {plain(', '.join(traits(principle, loaded)))}"),
            )
        )
        for dimension in principle.dimensions:
            said = plain(", ".join(traits(dimension, loaded)))
            leaf = branch.add(Text.assemble((plain(dimension.title), "bold"), (f"  {said}", "dim")))
            for question in dimension.questions:
                kind = "gate, protected" if question.protected else question.kind.value
                kind = ", ".join([kind, *traits(question, loaded)])
                leaf.add(
                    Text.assemble((f"{question.id} ", "dim"), (f"[{kind}] ", "green"), plain(question.text))
                )
    console().print(root)


@app.command(cls=Command)
def lint(
    program: ProgramArg,
    embed: Annotated[
        str,
        typer.Option(
            "--embed",
            metavar="MODEL",
            help="Find overlap by meaning: a sentence-transformers or local model.",
        ),
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Report what is wrong or doubtful in a program; exit 1 if anything is wrong."""
    from rubrica.models.embed import closeness
    from rubrica.program.lint import lint as findings_of
    from rubrica.program.program import constitution_of, read_program

    loaded, path = read_program(program)
    close = closeness(embed) if embed else None
    findings = findings_of(loaded, constitution_of(loaded, path), path, close)
    tally = {level: sum(f.severity == level for f in findings) for level in ("error", "warning", "info")}
    if as_json:
        print_json({"program": loaded.name, **tally, "findings": [f.model_dump() for f in findings]})
    else:
        out = console()
        for finding in findings:
            where = f"line {finding.line}, {finding.where}" if finding.line else finding.where
            line = f"{finding.severity:<8}{finding.rule:<18}{where}: {finding.message}"
            out.print(plain(line), style=_COLOURS[finding.severity], soft_wrap=True)
        out.print(
            f"{loaded.name}: "
            + ", ".join(plural(n, level, "info" if level == "info" else "") for level, n in tally.items())
        )
    if tally["error"]:
        raise typer.Exit(1)


@app.command(cls=Command)
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A library name or a YAML file.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="A library name or a YAML file.")],
    as_json: JsonFlag = False,
) -> None:
    """Say which questions were added, removed or changed: only those are judged again."""
    from rubrica.program.diff import diff_programs
    from rubrica.program.program import load_program

    result = diff_programs(load_program(old), load_program(new))
    if as_json:
        parts: dict[str, object] = {
            part: [c.model_dump(mode="json") for c in result.of(part)] for part in _SIGNS
        }
        ids = [question.id for question in result.to_judge]
        print_json({**parts, "to_judge": ids, "repooled": result.repooled})
        return
    out = console()
    for change in result.changes:
        sign, colour = _SIGNS[change.part]
        if change.part == "unchanged":
            continue
        for question, word in ((change.old, "was: "), (change.new, "now: ")):
            if question is not None:
                tense = word if change.part == "changed" else ""
                line = f"{sign} {question.id}  {tense}{plain(question.text)}"
                out.print(line, style=colour, soft_wrap=True)
    tally = ", ".join(f"{len(result.of(part))} {part}" for part in _SIGNS)
    out.print(f"{tally}; {len(result.to_judge)} to judge")
    if result.repooled:
        out.print("the answers are pooled differently: rewards may change although answers are kept")


@app.command(cls=Command)
def freeze(
    program: ProgramArg,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the frozen program goes (YAML).")],
    by: Annotated[str, typer.Option("--by", help="Who agreed on it.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the program with the hashes of its content: from then on any change of it is an error."""
    from datetime import UTC, datetime

    from rubrica.core.errors import UsageError
    from rubrica.core.run import write_atomic
    from rubrica.program.program import freeze as frozen_text

    if out.exists() and not force:
        raise UsageError(f"{out}: exists already; choose another --out, or --force to overwrite it")
    check_out(out)
    text, frozen = frozen_text(program, at=datetime.now(UTC).date().isoformat(), by=by)
    write_atomic(out, text)
    if as_json:
        print_json({"path": str(out)} | frozen.model_dump())
        return
    held = "with its constitution" if frozen.constitution else "its constitution was not found"
    console().print(
        f"{out}: program {frozen.program}, {plural(len(frozen.questions), 'question')}, {held}",
        soft_wrap=True,
    )


@app.command(name="compile", cls=Command)
def compile_(
    constitution: Annotated[
        str, typer.Argument(metavar="CONSTITUTION", help="A library name (hhh, lab, ratings) or a YAML file.")
    ],
    judge: Annotated[
        str,
        typer.Option("--judge", help="The model that writes: openai:MODEL@URL, or a YAML file with options."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the program goes (YAML).")],
    name: Annotated[str, typer.Option("--name", help="Name of the program; default: the file's.")] = "",
    retries: Annotated[int, typer.Option(min=0, max=10, help="Further tries for a bad reply.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Have a model propose a program for a constitution. Read it and lint it before you train with it.

    Replies are kept beside the program as they arrive: after an interruption, run the same command again.
    """
    from rubrica.core.config import dump_yaml
    from rubrica.core.errors import UsageError
    from rubrica.core.run import write_atomic
    from rubrica.core.store import Store
    from rubrica.program.compile import CompileConfig, check_name, compile_program
    from rubrica.program.constitution import load_constitution
    from rubrica.program.program import counts, program_hash

    if out.exists() and not force:
        raise UsageError(f"{out}: exists already; choose another --out, or --force to overwrite it")
    check_out(out)
    name = name or out.stem.lower()
    check_name(name)
    loaded = load_constitution(constitution)
    kept = out.with_suffix(".compile.sqlite")
    writer = _writer(judge)
    with (
        Store(kept) as store,
        how_to_go_on(f"replies so far are in {kept}"),
        progress_bar("replies") as progress,
    ):
        program, report = compile_program(
            loaded,
            writer,
            name=name,
            config=CompileConfig(retries=retries),
            store=store,
            progress=progress,
        )
    write_atomic(out, dump_yaml(program, defaults=False))
    every = counts(program)["all"]
    if as_json:
        data = {"path": str(out), "hash": program_hash(program), "counts": every.model_dump()}
        print_json({**data, "report": report.model_dump(mode="json")})
        return
    screen = console()
    for drop in report.dropped:
        note(f"dropped {drop.where}: {drop.text} ({drop.reason})")
    for id in report.uncovered:
        note(f"no question asks about clause {id}")
    screen.print(
        f"{out}: {plural(every.dimensions, 'dimension')}, {plural(every.gates, 'gate')}, {every.graded} graded "
        f"questions; {plural(report.calls, 'call')}, {plural(report.kept, 'reply', 'replies')} from {kept.name}, "
        f"{plural(len(report.dropped), 'proposal')} dropped",
        soft_wrap=True,
    )
    screen.print(f"next: rubrica program lint {out}")
