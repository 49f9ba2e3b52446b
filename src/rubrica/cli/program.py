"""``rubrica program``: write, look at and look after programs."""

from typing import Annotated

import typer

from rubrica.cli.output import JsonFlag, console, plain, print_json

app = typer.Typer(
    help="Compile, show, lint and compare programs of questions.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
ProgramArg = Annotated[
    str, typer.Argument(metavar="PROGRAM", help="A library name (hhh, lab) or a YAML file.")
]


@app.command()
def show(program: ProgramArg, as_json: JsonFlag = False) -> None:
    """Print the tree of principles, dimensions and questions."""
    from rich.text import Text
    from rich.tree import Tree

    from rubrica.program.program import counts, load_program, program_hash

    loaded = load_program(program)
    numbers = counts(loaded)
    if as_json:
        data = {"hash": program_hash(loaded)} | loaded.model_dump(mode="json")
        print_json({**data, "counts": {name: count.model_dump() for name, count in numbers.items()}})
        return
    every = numbers["all"]
    root = Tree(
        Text.assemble(
            (loaded.name, "bold"),
            f"  version {loaded.version}: {every.dimensions} dimensions, {every.total} questions "
            f"({every.gates} gates, {every.graded} graded)",
        )
    )
    for principle in loaded.principles:
        count = numbers[principle.id]
        branch = root.add(
            Text.assemble(
                (plain(principle.title), "bold cyan"),
                f"  {count.dimensions} dimensions, {count.gates} gates, {count.graded} graded"
                + (", caps the total" if principle.caps else ""),
            )
        )
        for dimension in principle.dimensions:
            leaf = branch.add(Text(plain(dimension.title), "bold"))
            for question in dimension.questions:
                kind = "gate, protected" if question.protected else question.kind.value
                leaf.add(
                    Text.assemble((f"{question.id} ", "dim"), (f"[{kind}] ", "green"), plain(question.text))
                )
    console().print(root)
