"""The command line, run in this process."""

from pathlib import Path
from typing import NamedTuple

import pytest

from rubrica.cli import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Said:
    with pytest.raises(SystemExit) as left:
        main([str(part) for part in argv])
    out, err = capsys.readouterr()
    return Said(int(left.value.code or 0), out, err)


def run_for(code: int, capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Said:
    """Run, and hold the exit status against ``code``."""
    said = run(capsys, *argv)
    assert said.code == code, said.err
    return said
