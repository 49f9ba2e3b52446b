"""The command line. Importing this module imports no command, and no command imports weights or servers
before it runs: put a command's own imports inside its function.
"""

import importlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from rubrica import __version__
from rubrica.cli.output import Command, error_line
from rubrica.core.errors import RubricaError, UsageError, nearest

if TYPE_CHECKING:
    from typer._click import Context  # typer exports no type of its parser's context

COMMANDS: Final[dict[str, str]] = {
    "demo": "rubrica.cli.demo:demo",
    "align": "rubrica.cli.align:align",
    "program": "rubrica.cli.program:app",
    "score": "rubrica.cli.score:score",
    "decode": "rubrica.cli.decode:decode",
    "select": "rubrica.cli.select:select",
    "curve": "rubrica.cli.curve:curve",
    "serve": "rubrica.cli.serve:serve",
    "interrupt": "rubrica.cli.interrupt:app",
    "judge": "rubrica.cli.judge:app",
    "report": "rubrica.cli.report:report",
    "map": "rubrica.cli.map:app",
    "eval": "rubrica.cli.eval:app",
    "attack": "rubrica.cli.attacks:app",
    "compare": "rubrica.cli.compare:compare",
    "lab": "rubrica.cli.lab:app",
    "bench": "rubrica.cli.bench:app",
}
"""Every command: its name, and where its function or its ``typer.Typer`` group lives. Add yours here."""


class _LazyGroup(TyperGroup):
    """Imports a command's module when the command is asked for, or listed by ``--help``."""

    def list_commands(self, ctx: "Context") -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: "Context", cmd_name: str) -> TyperCommand | TyperGroup | None:
        if cmd_name not in COMMANDS:
            raise UsageError(
                f"no command {cmd_name!r}{nearest(cmd_name, COMMANDS)}; expected one of {', '.join(COMMANDS)}"
            )
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            group = get_group(found)
            group.name = cmd_name
            return group
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name, cls=Command)(found)
        command = get_command(single)
        assert isinstance(command, TyperCommand | TyperGroup)
        return command


_ParserError: Final[type[Exception]] = typer.BadParameter.__bases__[0]
"""What the parser raises for a wrong line; typer does not export it."""
app = typer.Typer(cls=_LazyGroup, add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rubrica {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Align language models to a constitution that people can read."""


def _refuse(error: Exception) -> NoReturn:
    """Print what the parser found wrong on one line, or the help that it shows where nothing was asked for."""
    message: str = getattr(error, "format_message", error.__str__)()
    if "\n" in message:
        print(message, file=sys.stderr)
    else:
        said = message[:1].lower() + message[1:].rstrip(".").replace("Input should be", "expected")
        said = re.sub(r"\(Possible options: (.*)\)", r"(did you mean \1?)", said)
        said = re.sub(r"\. Did you mean (.*)\?", r" (did you mean \1?)", said)
        said = re.sub(r"Value error, '(.*)' is not one of (.*)", _choice, said)
        context = getattr(error, "ctx", None)
        error_line(f"error: {said}; see {context.command_path if context else 'rubrica'} --help")
    sys.exit(2)


def _choice(found: re.Match[str]) -> str:
    """What the parser says of a wrong choice, with the nearest right one."""
    known = re.findall("'(.*?)'", found[2])
    return f"{found[1]!r}{nearest(found[1], known)}; expected one of {', '.join(known)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and leave with its exit code: 0 done, 1 what was asked about failed, 2 wrong use.

    A ``RubricaError``, or a refusal of the operating system, is printed on one line of stderr; ``--debug``,
    anywhere on the line, raises it instead.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    try:
        given = [arg for arg in args if arg != "--debug"]
        sys.exit(get_command(app).main(args=given, prog_name="rubrica", standalone_mode=False) or 0)
    except _ParserError as error:
        _refuse(error)
    except RubricaError as error:
        if debug:
            raise
        error_line(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        what = f"{error.filename}: " if error.filename else ""
        error_line(f"error: {what}{error.strerror or error}; check the path, its rights and the space there")
        sys.exit(1)
    except SystemExit as leaving:
        if leaving.code == 130:
            error_line("interrupted; everything finished so far is kept")
        raise
    except KeyboardInterrupt:
        error_line("interrupted; everything finished so far is kept")
        sys.exit(130)
