"""Scorecards of given texts, and how often a program prefers the answer that people preferred.

The second is QA-LIGN's check on HHH comparisons (arXiv 2506.08123): accuracy with and without ties.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from rubrica.core.base import Record
from rubrica.core.config import Config, dump_yaml, load_config
from rubrica.core.data import Skipped, Text, holds_pairs, load_pairs, load_texts
from rubrica.core.errors import DataError, StorageError, UsageError, nearest
from rubrica.core.ports import Judge, thresholds_of
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import Estimate, Preference, Scorecard, Usage
from rubrica.core.run import write_atomic, write_jsonl
from rubrica.core.stats import mean_interval, wilson
from rubrica.core.store import Store
from rubrica.judges.executor import Executor
from rubrica.program.reward import RewardConfig
from rubrica.recipes.gate_rates import GateRate

SIDES = ("chosen", "rejected")
CARDS, PROGRAM, SCORING = "scorecards.jsonl", "program.yaml", "scoring.yaml"
"""What ``rubrica score`` leaves behind, beside the store."""


class ScoredText(Record):
    """One text with its scorecard: a row of ``scorecards.jsonl``."""

    id: str
    """The text's id; of a pair ``ID/chosen`` and ``ID/rejected``."""
    prompt: Prompt
    text: str
    card: Scorecard


class Accuracy(Record):
    """How the totals of preference pairs agree with the preference."""

    wins: int
    """Pairs whose chosen answer has the higher total."""
    ties: int
    losses: int
    unknown: int
    """Pairs of which an answer has no total; in no rate."""
    strict: Estimate | None
    """wins / (wins + ties + losses); None without such pairs."""
    with_ties: Estimate | None
    """(wins + ties) / (wins + ties + losses)."""


class ScoreReport(Record):
    """What ``rubrica score`` found."""

    texts: int
    without_total: int
    mean: Estimate | None
    """Mean total of the texts that have one, with Student's t interval, cut to [-1, 1]."""
    accuracy: Accuracy | None
    """Only for preference pairs."""
    usage: Usage
    judge: str
    gates: tuple[GateRate, ...] = ()
    """How many texts fail each protected gate."""
    skipped: tuple[str, ...] = ()
    """Pairs of the file that could not be compared, with the reason."""


class Input(NamedTuple):
    """Texts of a file; of a pair the two stand next to each other."""

    texts: list[Text]
    paired: bool
    skipped: tuple[Skipped, ...]


def read_input(path: Path, limit: int | None = None) -> Input:
    """Read texts, or preference pairs where the file has ``chosen`` and ``rejected``; ``DataError`` if neither."""
    if not holds_pairs(path):
        return Input(load_texts(path, limit=limit), False, ())
    skipped: list[Skipped] = []
    pairs = load_pairs(path, limit=limit, on_skip=skipped.append)
    return Input(pair_texts(pairs), True, tuple(skipped))


def pair_texts(pairs: Sequence[Preference]) -> list[Text]:
    """Return both texts of every pair, the chosen one first."""
    return [
        Text(f"{pair.id}/{side}", pair.prompt, text)
        for pair in pairs
        for side, text in zip(SIDES, (pair.chosen, pair.rejected), strict=True)
    ]


def select(given: Input, id: str) -> list[Text]:
    """Return the text, or both texts of the pair, with this id; ``UsageError`` names the nearest id."""
    texts = given.texts
    found = [text for text in texts if text.id == id or text.id.rpartition("/")[0] == id]
    if not found:
        for row in given.skipped:
            if row.id == id:
                raise UsageError(f"--explain {id!r}: that pair was left out: {row.problem}")
        raise UsageError(
            f"--explain {id!r}: no such id in the input{nearest(id, [t.id for t in texts])}; "
            "scorecards.jsonl lists the ids"
        )
    return found


def score_texts(
    texts: Sequence[Text],
    judge: Judge,
    store: Store,
    *,
    program: Program,
    reward: RewardConfig,
    full: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[ScoredText], Usage]:
    """Score every text; what the store knows is not asked again. ``JudgeError`` as in the executor."""
    executor = Executor(
        judge,
        store,
        program=program,
        reward=reward,
        thresholds=thresholds_of(judge),
        progress=progress,
    )
    cards = executor.score([(text.prompt, text.text) for text in texts], full=full)
    scored = [
        ScoredText(id=text.id, prompt=text.prompt, text=text.text, card=card)
        for text, card in zip(texts, cards, strict=True)
    ]
    return scored, executor.usage


def report_of(
    scored: Sequence[ScoredText],
    usage: Usage,
    given: Input,
    judge: str,
    *,
    gates: tuple[GateRate, ...] = (),
) -> ScoreReport:
    """Sum up scorecards; a text without a total is counted, and is in no mean and no rate."""
    totals = [s.card.total for s in scored if s.card.total is not None]
    return ScoreReport(
        texts=len(scored),
        without_total=len(scored) - len(totals),
        mean=mean_interval(totals, bounds=(-1.0, 1.0), name="total") if totals else None,
        accuracy=accuracy([s.card.total for s in scored]) if given.paired else None,
        usage=usage,
        judge=judge,
        gates=gates,
        skipped=tuple(row.problem for row in given.skipped),
    )


def accuracy(totals: Sequence[float | None]) -> Accuracy:
    """Compare totals that alternate between chosen and rejected."""
    wins = ties = losses = unknown = 0
    for chosen, rejected in zip(totals[::2], totals[1::2], strict=True):
        if chosen is None or rejected is None:
            unknown += 1
        elif chosen == rejected:
            ties += 1
        elif chosen > rejected:
            wins += 1
        else:
            losses += 1
    known = wins + ties + losses
    return Accuracy(
        wins=wins,
        ties=ties,
        losses=losses,
        unknown=unknown,
        strict=wilson(wins, known, name="strict accuracy") if known else None,
        with_ties=wilson(wins + ties, known, name="accuracy with ties") if known else None,
    )


def scoring_folder(out: Path) -> Path:
    """Return ``out``, created where it was not there; ``UsageError`` for a file and for a training run."""
    if out.is_file():
        raise UsageError(f"{out}: is a file; --out takes a directory")
    if (out / "recipe.yaml").exists():
        raise UsageError(f"{out}: holds a training run; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out}: cannot be created ({error.strerror}); choose another --out") from None
    return out


class Scoring(Config):
    """How scorecards came about: ``scoring.yaml``."""

    reward: RewardConfig = RewardConfig()
    """Preset under which the totals were pooled."""
    pairs: bool = False
    """Rows alternate between the chosen and the rejected answer."""


def write_cards(
    scored: Sequence[ScoredText], folder: Path, program: Program, reward: RewardConfig, *, pairs: bool
) -> Path:
    """Write ``scorecards.jsonl``, the program and how they were scored; return the first's path."""
    path = folder / CARDS
    write_atomic(folder / PROGRAM, dump_yaml(program))
    write_atomic(folder / SCORING, dump_yaml(Scoring(reward=reward, pairs=pairs)))
    write_jsonl(path, scored)
    return path


def read_cards(folder: Path) -> list[ScoredText]:
    """Read ``scorecards.jsonl``; ``DataError`` with the line that is no scorecard."""
    path, found = folder / CARDS, list[ScoredText]()
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        try:
            found += [ScoredText.model_validate_json(line)] if line else []
        except ValidationError:
            raise DataError(
                path, "no scorecard of this version; run rubrica score there again", number
            ) from None
    return found


def read_scoring(folder: Path) -> Scoring:
    """Read how the scorecards of a folder came about; ``UsageError`` where an older version left that out."""
    if not (folder / SCORING).exists():
        raise UsageError(
            f"{folder}: has no {SCORING}; run rubrica score there once more, which asks nothing again"
        )
    return load_config(Scoring, folder / SCORING)
