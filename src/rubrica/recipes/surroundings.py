"""What ships with Rubrica and may be named in a recipe: the lab's oracle, the report."""

from pathlib import Path

from rubrica.core.ports import Judge
from rubrica.recipes.context import Surroundings


def default_surroundings() -> Surroundings:
    """Return the seams as the command line uses them; each part is imported when it is asked for."""
    return Surroundings(judges={"lab-oracle": _oracle}, report=_report)


def _oracle() -> Judge:
    from rubrica.lab.truth import OracleJudge

    return OracleJudge()


def _report(folder: Path) -> Path:
    from rubrica.reports import write_report

    return write_report(folder)
