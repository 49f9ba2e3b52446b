"""``rubrica report`` on the folder of an evaluation."""

from pathlib import Path

from rubrica.recipes.boards import make_boards, read_methods
from rubrica.recipes.eval_report import told
from rubrica.recipes.evaluate import read_results
from rubrica.recipes.evaluation import SETTINGS
from rubrica.reports.eval_page import render_evaluation


def is_evaluation(folder: Path) -> bool:
    """Whether ``rubrica eval`` wrote this folder."""
    return (folder / SETTINGS).is_file()


def render(folder: Path) -> str:
    """Return the page of an evaluation; ``UsageError`` and ``DataError`` where it is not whole."""
    return render_evaluation(told(folder, read_results(folder)), make_boards(read_methods([str(folder)])))
