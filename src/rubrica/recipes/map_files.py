"""The records and files of a data map.

map.json        what the map says and how it came about        map.jsonl       one line a prompt
suspects.jsonl  prompts whose labels and scores disagree       selected.jsonl  pairs for TRL, and for ourselves
map.svg  map.png  map.html
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pydantic import FiniteFloat, ValidationError

from rubrica.core.answers import Answers
from rubrica.core.base import Record
from rubrica.core.errors import DataError, UsageError, nearest
from rubrica.core.prompts import Message
from rubrica.core.records import Estimate, Usage
from rubrica.core.run import write_json, write_jsonl
from rubrica.methods.data_map import Boundary, Diagnosis, PairRule, Point, Region
from rubrica.recipes.map_checks import Confound

MAP, POINTS, SUSPECTS, SELECTED = "map.json", "map.jsonl", "suspects.jsonl", "selected.jsonl"
PLOT, PICTURE, PAGE = "map.svg", "map.png", "map.html"
ChoiceT = TypeVar("ChoiceT", bound=str)
Order = Literal["labels", "scores"]
Chosen = Region | Literal["random", "all"]


class Wanted(NamedTuple):
    """What is drawn from the scores."""

    region: Chosen = Region.HIGH_AVERAGE
    fraction: float | None = None
    """Share of all prompts to select; None: the whole region."""
    rule: PairRule = "best-worst"
    by: str | None = None
    """Column whose values are the strata."""
    tolerance: float = 0.0
    """Margin, in units of the score, up to which an inverted pair is no suspicion."""
    seed: int = 0
    order_by: Order = "labels"
    """What says which answer of a pair is the better one; scores where there are no labels."""


def read_wanted(
    region: str, fraction: float | None, rule: str, order_by: str, by: str | None, tolerance: float, seed: int
) -> Wanted:
    """Check what the command line asks for; ``UsageError`` names the nearest choice."""
    regions: tuple[Chosen, ...] = (*Region, "random", "all")
    rules: tuple[PairRule, ...] = ("best-worst", "best-rest", "all")
    orders: tuple[Order, ...] = ("labels", "scores")
    return Wanted(
        _choice("--region", region, regions),
        fraction,
        _choice("--pairs", rule, rules),
        by,
        tolerance,
        seed,
        _choice("--order-by", order_by, orders),
    )


def _choice(flag: str, value: str, known: Sequence[ChoiceT]) -> ChoiceT:
    for name in known:
        if name == value:
            return name
    names = [str(name) for name in known]
    raise UsageError(f"{flag}: got {value!r}{nearest(value, names)}; expected one of {', '.join(names)}")


class RegionSummary(Record):
    """The prompts of one region."""

    prompts: int
    mean: FiniteFloat | None
    """Mean of their means; None without prompts."""
    deviation: FiniteFloat | None
    """Mean of their standard deviations."""
    agreement: Estimate | None
    """Share of differently labelled answer pairs that the scores order alike; None without any."""


class Selection(Record):
    """What was selected to train on."""

    region: str
    fraction: float | None
    rule: PairRule
    ordered_by: Order
    prompts: int
    pairs: int
    without_pair: int
    """Selected prompts whose labels, or scores, are all equal."""
    seed: int


class Scorer(Record):
    """How the scores came about; two maps compare only if the reader knows."""

    kind: str
    name: str
    """Fingerprint of the judge or reward model, or name of the measure."""
    program: str | None = None
    """Content hash."""
    references: str | None = None
    """File or model that the reference answers come from."""
    long_texts: str | None = None
    """What became of texts longer than the embedding model reads."""


class MapReport(Record):
    """What the map says: ``map.json``."""

    source: str
    cohort: str
    """Hash of all prompts and answers; regions are ranks within it."""
    scorer: Scorer
    prompts: int
    answers: int
    left_out: int
    """Prompts of which an answer has no score; not on the map."""
    strata: dict[str, int]
    regions: dict[Region, RegionSummary]
    boundaries: tuple[Boundary, ...]
    agreement: Estimate | None
    """Share of differently labelled answer pairs that the scores order alike, ties left out."""
    label_pairs: int
    tied_pairs: int
    """Of the differently labelled pairs, those with equal scores."""
    suspects: int
    selection: Selection
    confounds: tuple[Confound, ...]
    warnings: tuple[str, ...]
    usage: Usage | None = None


class MapRow(Point):
    """A line of ``map.jsonl``: the point, what it should not depend on, and its diagnosis."""

    prompt: str
    """The user's last words."""
    columns: dict[str, str]
    diagnosis: Diagnosis | None = None


class Suspect(Diagnosis):
    """A line of ``suspects.jsonl``."""

    rank: int
    reason: str
    prompt: str
    labelled_better: str
    scored_better: str


class TrainingPair(Record):
    """A line of ``selected.jsonl``: TRL's conversational preference format; it ignores the other columns."""

    id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    score_chosen: FiniteFloat
    score_rejected: FiniteFloat
    region: Region


class DataMap(NamedTuple):
    """All of a map."""

    report: MapReport
    rows: list[MapRow]
    suspects: list[Suspect]
    selected: list[TrainingPair]
    answers: dict[str, Answers]


def write_map(found: DataMap, out: Path) -> None:
    """Write the files of numbers; plots are the report's."""
    write_jsonl(out / POINTS, found.rows)
    write_jsonl(out / SUSPECTS, found.suspects)
    write_jsonl(out / SELECTED, found.selected)
    write_json(out / MAP, found.report)


def read_points(folder: Path) -> list[MapRow]:
    """Read a map's points; ``UsageError`` where there is no map, ``DataError`` with the line that is no point."""
    path = folder / POINTS
    if not path.is_file():
        raise UsageError(f"{folder}: no data map here; expected a folder that rubrica map wrote")
    found: list[MapRow] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        try:
            found += [MapRow.model_validate_json(line)] if line else []
        except ValidationError:
            raise DataError(path, "no point of a data map; run rubrica map there again", number) from None
    return found


def read_report(folder: Path) -> MapReport:
    """Read what a map says; errors as :func:`read_points`."""
    path = folder / MAP
    if not path.is_file():
        raise UsageError(f"{folder}: no data map here; expected a folder that rubrica map wrote")
    try:
        return MapReport.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError:
        raise DataError(path, "no data map of this version; run rubrica map there again") from None
