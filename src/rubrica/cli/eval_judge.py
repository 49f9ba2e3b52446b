"""``rubrica eval judge``: label a file of answers, and compare with the labels that it has."""

import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rubrica.cli.options import JsonFlag
from rubrica.cli.output import (
    check_out,
    console,
    how_to_go_on,
    note,
    plain,
    plural,
    progress_bar,
    rate_line,
)
from rubrica.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rubrica.core.records import Estimate
    from rubrica.recipes.label_rows import Labelled, Summary


def judge_answers(
    source: Annotated[
        Path,
        typer.Option(
            "--input", metavar="FILE", help="Rows with prompt and response; perhaps goal, label, id."
        ),
    ],
    judge: Annotated[
        str,
        typer.Option(
            "--judge", help="embedded, embedded-cautious, embedded-words, prefix, or any other judge."
        ),
    ] = "embedded",
    program: Annotated[
        Literal["harm", "refusal"], typer.Option("--program", help="What is asked: harm or refusal.")
    ] = "harm",
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE.jsonl", help="Labels, one row a line; goes on from there."),
    ] = None,
    reads: Annotated[
        Literal["goal", "prompt"],
        typer.Option("--reads", help="What the judge sees of a row that has both: goal or prompt."),
    ] = "goal",
    as_json: JsonFlag = False,
) -> None:
    """Label answers as harmful or harmless, refused or answered.

    With a column label, agreement, kappa, sensitivity and specificity with intervals. With --output the same command
    run again after an interruption goes on. Rows without prompt or response are left out and named.
    """
    from rubrica.core.records import Outcome
    from rubrica.core.run import write_jsonl
    from rubrica.core.store import Store
    from rubrica.judges.escalation import Remembering
    from rubrica.judges.factory import make_judge, read_judge
    from rubrica.program.program import load_program
    from rubrica.recipes.label_rows import Labeller
    from rubrica.recipes.surroundings import default_surroundings

    if output is not None:
        check_out(output)
    config, builtin = read_judge(judge), dict(default_surroundings().judges)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        kept = output.with_name(f"{output.name}.sqlite") if output else folder / "store.sqlite"
        if output is not None:
            stack.enter_context(how_to_go_on(f"verdicts so far are in {kept}"))
        store = stack.enter_context(Store(kept))
        made = Remembering(make_judge(config, secret=store.secret, builtin=builtin), store)
        labeller = Labeller(made, load_program(program), goals=reads == "goal")
        rows = _shown(labeller.rows(source), stack.enter_context(progress_bar("rows")))
        if output is not None:
            write_jsonl(output, rows)
        elif as_json:
            _stream(rows)
        else:
            for row in rows:
                console().print(plain(_line(row)), soft_wrap=True)
    found = labeller.summary()
    if output is not None and (failed := found.counts.get(Outcome.FAILED.value)):
        note(f"{failed:,} failed; to ask these again run the same command: the other verdicts are in {kept}")
    elif output is not None:
        for end in ("", "-wal", "-shm"):
            kept.with_name(kept.name + end).unlink(missing_ok=True)
    _finish(found, source, as_json=as_json, open_json=output is None)


def _shown(rows: "Iterator[Labelled]", bar: "Callable[[int, int], None]") -> "Iterator[Labelled]":
    for done, row in enumerate(rows, 1):
        if done % 100 == 0:
            bar(done, 0)
        yield row


def _stream(rows: "Iterator[Labelled]") -> None:
    """Print the beginning of a JSON object, whose ``rows`` need not fit in memory."""
    sys.stdout.write('{"rows": [')
    for number, row in enumerate(rows):
        sys.stdout.write((",\n" if number else "\n") + row.model_dump_json())
    sys.stdout.write("\n]")


def _line(row: "Labelled") -> str:
    chance = "" if row.probability is None else f" {row.probability:.2f}"
    return (
        f"{row.line if row.id is None else row.id}: {row.label or row.outcome}{chance} {row.reason}".rstrip()
    )


def _finish(found: "Summary", source: Path, *, as_json: bool, open_json: bool) -> None:
    if as_json:
        text = found.model_dump_json(indent=1)
        sys.stdout.write(f',\n"summary": {text}}}\n' if open_json else f"{text}\n")
    if not found.rows:
        first = found.named[0]
        raise DataError(source, f"no row can be judged: {first.problem}", first.line)
    for bad in found.named:
        note(f"left out: {source}:{bad.line}: {bad.problem}")
    if found.bad > len(found.named):
        note(f"left out: {found.bad - len(found.named):,} more")
    for bad in found.unread:
        note(f"judged without its label: {source}:{bad.line}: {bad.problem}")
    if as_json:
        return
    out = console()
    out.print(plain(f"{found.judge}: {plural(found.rows, 'row')}"), soft_wrap=True)
    for name, count in found.counts.items():
        out.print(f"{name:12} {count:8,} {count / found.rows:7.1%}")
    if found.agreement is not None:
        from rubrica.core.records import Estimate

        left = f", the judge left {found.agreement.open} open" if found.agreement.open else ""
        out.print(f"{plural(found.agreement.labelled, 'row')} with a label{left}")
        for estimate in found.agreement.estimates:
            if isinstance(estimate, Estimate):
                out.print(_kappa(estimate) if estimate.name == "kappa" else rate_line(estimate))
            else:
                out.print(plain(f"{estimate.name}: {estimate.reason}"))


def _kappa(found: "Estimate") -> str:
    """No share of anything, so not in percent."""
    return f"kappa {found.value:.2f} [{found.low:.2f}, {found.high:.2f}], n={found.n}"
