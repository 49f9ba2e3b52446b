"""What a suite is: one declarative entry of ``suites.yaml``, or of a user's own file in the same form."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rubrica.core.base import NonEmpty, Slug
from rubrica.core.config import Config, Json, key_line, read_yaml, validate
from rubrica.core.errors import DataError, UsageError, nearest
from rubrica.core.evaluation import Metric

Scoring = Literal["harm", "refusal", "number", "choice", "mc2", "pairs"]
"""What settles an answer: a judge that answers the program ``harm`` or ``refusal``, or a comparison with the key."""
SCORINGS: Mapping[Metric, tuple[Scoring, ...]] = {
    Metric.ASR: ("harm",),
    Metric.FRR: ("refusal",),
    Metric.ACCURACY: ("choice", "mc2", "number"),
    Metric.PREFERENCE: ("pairs",),
}
Names = Annotated[tuple[NonEmpty, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]
"""One name, or several of which the first that is there counts."""


class Columns(Config):
    """Where the fields of an item stand in a row.

    A name is a column in any case; ``a.b`` is the field ``b`` of a nested column; ``a & b`` are two columns together; a
    name that ends in ``?`` may be missing. The columns ``file:stem`` and ``file:path`` are the name and the path of the file.
    """

    prompt: Names = ()
    """Default: the goal, asked directly."""
    goal: Names = ()
    """The plain request, where the prompt wraps it."""
    context: Names = ()
    """A text that the request is about; it goes before the request."""
    id: Names = ()
    """Default: a hash of the item's texts."""
    category: Names = ()
    target: Names = ()
    attack: Names = ()
    answer: Names = ()
    """The right answer, where answers are matched."""
    choices: Names = ()
    """Texts, labelled texts (``{text, label}``), or texts with a mark of 1 for the right ones."""
    correct: Names = ()
    """Label or index, from 0, of the right choice."""
    right: Names = ()
    """Right choices, where they have a column of their own."""
    wrong: Names = ()


class Join(Config):
    """A second table that adds its columns to each row."""

    files: Names = Field(min_length=1)
    key: NonEmpty
    """Its column that is looked up."""
    on: NonEmpty
    """The column of the row that is looked for."""
    form: Literal["table", "mapping"] = "table"
    optional: bool = False
    """Whether the suite can be read without it."""


class Templates(Config):
    """Texts that wrap each request: put before it, or around it where they have ``[INSERT PROMPT HERE]``."""

    files: Names = Field(min_length=1)
    column: NonEmpty = "text"
    per_row: int = Field(ge=1)
    """How many are drawn for each request, without repetition."""
    seed: int = 0


class Layout(Config):
    """One form in which copies of the suite are found."""

    files: Names = Field(min_length=1)
    """Names of files; ``*`` stands for anything, ``a/b.csv`` asks for the folder too."""
    all_files: bool = False
    """Whether all files of these names belong together."""
    columns: Columns
    rows: str = ""
    """Key of the list in a JSON object that has several."""
    form: Literal["table", "mapping", "dialogues"] = "table"
    """``mapping``: a JSON object of texts or lists of texts, read as columns ``key``, ``value`` and ``number``.
    ``dialogues``: ``right`` and ``wrong`` are whole conversations that share their first turns."""
    where: dict[str, Names] = Field(default_factory=dict)
    """Keep the rows in which a column has one of these values."""
    extract: dict[str, str] = Field(default_factory=dict)
    """Regular expression by field: its first group is the value. Every row must match; choices are all matches."""
    unwrap: dict[str, str] = Field(default_factory=dict)
    """The same for a wrapper that some copies have: a text that does not match stays as it is."""
    labels: Names = ()
    """Labels of the choices in their order, where the file gives none. Default: the numbers from 0."""
    separator: str = ""
    """What stands between several right or wrong choices in one cell."""
    turns: bool = False
    """Whether the prompt is a conversation written as ``Human:`` and ``Assistant:``."""
    join: tuple[Join, ...] = ()
    templates: Templates | None = None
    empty: Literal["refuse", "skip"] = "refuse"
    """What to do with a row that asks nothing: without prompt, or with a conversation that ends with an answer."""
    sha256: Names = ()
    """Digests of the published file."""

    @model_validator(mode="after")
    def _patterns_name_fields(self) -> Self:
        if self.form == "dialogues":
            if not self.columns.right or not self.columns.wrong:
                raise ValueError("columns: dialogues need right and wrong; name both")
        elif not self.columns.prompt and not self.columns.goal:
            raise ValueError("columns: neither prompt nor goal is given; name the column of one")
        for name, pattern in [*self.extract.items(), *self.unwrap.items()]:
            if name not in Columns.model_fields:
                known = Columns.model_fields
                raise ValueError(
                    f"a pattern for {name!r}{nearest(name, known)}; expected one of {', '.join(known)}"
                )
            try:
                groups = re.compile(pattern, re.DOTALL).groups
            except re.error as error:
                raise ValueError(
                    f"pattern for {name!r}: not a regular expression: {error}; mend it"
                ) from None
            if groups != 1:
                raise ValueError(f"pattern for {name!r}: expected one group in brackets, got {groups}")
        return self


class Hub(Config):
    """A dataset on the Hugging Face hub, or a local folder that ``datasets`` can load."""

    id: NonEmpty
    config: str | None = None
    split: NonEmpty
    gated: bool = False
    """Whether its owner must be asked first."""


class Sample(Config):
    """A part of the suite: every group in proportion, rows by a hash of their text and the seed."""

    n: int = Field(ge=1)
    by: Literal["category", "none"] = "category"
    seed: int = 0


class Suite(Config):
    """One suite: where it comes from, how its files are read, what it counts."""

    name: Slug
    title: NonEmpty
    like: Slug | None = None
    """Another entry whose keys this one takes over where it does not give its own."""
    metric: Metric
    scoring: Scoring | None = None
    """Default: the first of the metric (``harm``, ``refusal``, ``choice``, ``pairs``)."""
    judge: NonEmpty = "embedded"
    """Default judge of harm and refusal."""
    official_judge: str = ""
    """Who judged in the set's own evaluation."""
    expected: int = Field(ge=1)
    """Number of items."""
    licence: NonEmpty
    citation: NonEmpty
    source: NonEmpty
    """Address of the official file or page."""
    obtain: str = ""
    """What else is to be done to get it."""
    hub: Hub | None = None
    layouts: tuple[Layout, ...] = Field(min_length=1)
    groups: Names = ()
    attack: str = ""
    """Family of the attack that made the prompts."""
    sample: Sample | None = None
    duplicates: Literal["keep", "drop"] = "keep"
    """Of equal items: keep all, as published, or the first."""
    notes: str = ""

    @model_validator(mode="after")
    def _scored_as_its_metric_can(self) -> Self:
        if self.settled_by not in SCORINGS[self.metric]:
            raise ValueError(
                f"scoring {self.scoring!r} does not go with metric {self.metric}; "
                f"expected one of {', '.join(SCORINGS[self.metric])}"
            )
        return self

    @property
    def settled_by(self) -> Scoring:
        """What settles an answer."""
        return self.scoring or SCORINGS[self.metric][0]


class _File(Config):
    suites: tuple[Suite, ...] = Field(min_length=1)


def load_suites(path: str | Path | None = None) -> dict[str, Suite]:
    """Return the suites that ship, and those of a user's file, by name.

    ``DataError`` names file, line and key of what is wrong, and a name that is taken.
    """
    ours = _shipped()
    if path is None:
        return dict(ours)
    return ours | _read(Path(path), ours)


@cache
def _shipped() -> dict[str, Suite]:
    with resources.as_file(resources.files("rubrica.evals") / "suites.yaml") as path:
        return _read(path, {})


def _read(path: Path, known: Mapping[str, Suite]) -> dict[str, Suite]:
    data = read_yaml(path)
    entries = data.get("suites") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(entries, list):
        bases: dict[str, Json] = {
            name: suite.model_dump(mode="json", exclude_unset=True) for name, suite in known.items()
        }
        data = {**data, "suites": [_inherit(entry, bases, path, n) for n, entry in enumerate(entries)]}
    found: dict[str, Suite] = {}
    for number, suite in enumerate(validate(_File, data, path).suites):
        if suite.name in known or suite.name in found:
            line = key_line(path, ["suites", number, "name"])
            raise DataError(path, f"suite {suite.name!r} is there already; give yours another name", line)
        found[suite.name] = suite
    groups = groups_of([*known.values(), *found.values()])
    if both := [name for name in {**known, **found} if name in groups]:
        raise DataError(path, f"{both[0]!r} is a suite and a group; rename one")
    return found


def _inherit(entry: Json, bases: dict[str, Json], path: Path, number: int) -> Json:
    """Fill in what ``like`` names; the entry joins ``bases``."""
    if not isinstance(entry, dict):
        return entry
    base = entry.get("like")
    if isinstance(base, str):
        parent = bases.get(base)
        if not isinstance(parent, dict):
            line = key_line(path, ["suites", number, "like"])
            raise DataError(
                path, f"like: no suite {base!r}{nearest(base, bases)}; name one that stands before", line
            )
        # a variant belongs to the groups that it names itself
        entry = {k: v for k, v in parent.items() if k not in ("groups", "like")} | entry
    if isinstance(name := entry.get("name"), str):
        bases[name] = entry
    return entry


def groups_of(suites: Iterable[Suite]) -> dict[str, list[str]]:
    """Return the names of the suites in each group, in order."""
    found: dict[str, list[str]] = {}
    for suite in suites:
        for group in suite.groups:
            found.setdefault(group, []).append(suite.name)
    return found


def choose(names: Sequence[str], suites: Mapping[str, Suite], *, also: Iterable[str] = ()) -> list[Suite]:
    """Return the suites of these names and groups, each once; ``UsageError`` with the nearest for neither.

    ``also`` are names that the caller knows by himself: they may have been meant.
    """
    groups = groups_of(suites.values())
    found: dict[str, Suite] = {}
    for name in names:
        if name not in suites and name not in groups:
            raise UsageError(
                f"no suite or group {name!r}{nearest(name.casefold(), [*suites, *groups, *also])}; "
                "rubrica eval --list shows the suites"
            )
        for member in groups.get(name, [name]):
            found[member] = suites[member]
    return list(found.values())
