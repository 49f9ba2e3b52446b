"""``rubrica select``: which pairs of a pool are worth a label, round by round, in one folder.

DIR/to-label-01.csv     the first round's pairs, for people
DIR/preferences.jsonl   what was labelled, to train on
DIR/selected.jsonl      what was selected, with scores
DIR/ledger.json         labels spent, and what choosing took
DIR/measured/           gradients, hidden states and log-probabilities of answers
DIR/store.sqlite        the truth
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rubrica.checkpoint import checkpoint_folder
from rubrica.core.base import Record
from rubrica.core.comparisons import Candidate, all_pairs, candidate, labelled_pair, without_repeats
from rubrica.core.config import Config, content_hash, dump_yaml, read_yaml, validate
from rubrica.core.data import Text, holds_pairs, load_pairs, load_texts
from rubrica.core.errors import DataError, UsageError
from rubrica.core.prompts import Prompt
from rubrica.core.run import first_difference, write_atomic, write_json, write_jsonl
from rubrica.core.store import Store
from rubrica.core.tables import read_rows
from rubrica.recipes.label_sheet import write_sheet
from rubrica.recipes.ledger import Ledger, Round
from rubrica.recipes.measuring import Measurer, Report
from rubrica.recipes.models import load_chat_format
from rubrica.recipes.selecting import RoundCost, costs, select_round
from rubrica.recipes.stages.active_dpo import Selection
from rubrica.train.callbacks import quiet
from rubrica.train.gradient_cache import Projection
from rubrica.train.policy import Lora, Start

_SIDES = tuple(
    (f"{name}{first}", f"{name}{second}")
    for name in ("response", "answer", "completion", "output", "text")
    for first, second in (("_a", "_b"), ("_1", "_2"), ("_0", "_1"), ("1", "2"))
)
"""Columns that hold two answers to one prompt."""


class Settings(Config):
    """What has to stay the same from round to round: ``select.yaml``."""

    selection: Selection = Selection()
    """How pairs are chosen."""
    seed: int = 0
    """Of what is random."""


class Model(NamedTuple):
    """A model that measures answers."""

    name: str
    """Folder or hub id."""
    adapter: Path | None = None
    """Folder of a LoRA adapter on it."""


class Wanted(NamedTuple):
    """What is selected from what, by which model."""

    pool: Path
    out: Path
    size: int
    """Pairs to select."""
    number: int
    """Of the round, from 1."""
    settings: Settings
    model: Model | None
    reference: Model | None = None
    dtype: str = "auto"
    limit: int | None = None
    """Rows of the pool to read."""


class SelectReport(Record):
    """What ``rubrica select`` found."""

    candidates: int
    """Different pairs of different answers in the pool."""
    too_long: int
    """Pairs left out because an answer does not fit the model."""
    rounds: tuple[Round, ...]
    budget: int | None
    spent: int
    costs: tuple[RoundCost, ...]
    preferences: int
    """Labelled pairs to train on."""


class Candidates(NamedTuple):
    """The pool, as far as a model can read it."""

    pairs: list[Candidate]
    too_long: int


def read_pool(path: Path, limit: int | None = None) -> list[Candidate]:
    """Read candidate pairs; of rows with one response each, all pairs of answers to the same prompt.

    A row may have two answers (``first`` and ``second``, ``response_a`` and ``response_b`` ...), or be a preference
    pair, whose preference is not looked at. ``limit`` counts rows. ``DataError`` where no pair can be made.
    """
    found = without_repeats(_pairs(path, limit))
    if not found:
        raise DataError(path, "no two different answers to one prompt; expected several responses a prompt")
    return found


def _pairs(path: Path, limit: int | None) -> Iterator[Candidate]:
    if holds_pairs(path):
        rows = load_pairs(path, limit=limit, on_skip=lambda skipped: None)
        yield from filter(None, (candidate(row.prompt, row.chosen, row.rejected) for row in rows))
        return
    names = {str(name).casefold(): str(name) for name in next(read_rows(path)).values}
    for one, two in (("first", "second"), *_SIDES):
        if one in names and two in names:
            sides = [load_texts(path, columns={"response": names[side]}, limit=limit) for side in (one, two)]
            yield from filter(
                None, (candidate(a.prompt, a.text, b.text) for a, b in zip(*sides, strict=True))
            )
            return
    groups: dict[str, list[Text]] = {}
    for text in load_texts(path, limit=limit):
        groups.setdefault(_words(text.prompt), []).append(text)
    for texts in groups.values():
        yield from all_pairs(texts[0].prompt, [text.text for text in texts])


def _words(prompt: Prompt) -> str:
    return content_hash([[message.role, message.content] for message in prompt.messages])


def keep_settings(folder: Path, settings: Settings) -> None:
    """Write ``select.yaml``, or refuse others than those that are there (``UsageError``): all that changes a result."""
    path = folder / "select.yaml"
    if not path.exists():
        write_atomic(path, dump_yaml(settings))
        return
    before = validate(Settings, read_yaml(path), path)
    faster = {"batch_size": before.selection.batch_size, "route": before.selection.route}
    now = settings.model_copy(update={"selection": settings.selection.model_copy(update=faster)})
    if changed := first_difference(before.model_dump(mode="json"), now.model_dump(mode="json")):
        raise UsageError(f"{folder}: was started with other settings ({changed}); choose another --out")


def check_round(ledger: Ledger, number: int) -> None:
    """Refuse a round before the one before it has been labelled (``UsageError``)."""
    rounds = list(ledger.rounds())
    if number > len(rounds) + 1:
        raise UsageError(f"--round {number}: round {len(rounds) + 1} has not been selected; select it first")
    if number == len(rounds) + 1 and (waiting := sum(round.open for round in rounds)):
        raise UsageError(
            f"--round {number}: {waiting} pairs of earlier rounds have no label; bring them with --labels (first, "
            "second, tie or skip for each pair)"
        )


def choose(
    wanted: Wanted,
    store: Store,
    ledger: Ledger,
    report: Report = lambda label, done, total: None,
) -> Candidates:
    """Select round ``wanted.number`` of the pool, unless that was done before; return the pool."""
    with quiet():
        measurer = None
        if wanted.model is not None and wanted.settings.selection.strategy != "random":
            measurer = _measurer(wanted.model, wanted, report)
        pairs = read_pool(wanted.pool, wanted.limit)
        pool = [pair for pair in pairs if measurer is None or measurer.fits(pair)]
        if not ledger.selected(wanted.number):
            _select(wanted, pool, store, ledger, measurer, report)
    return Candidates(pool, len(pairs) - len(pool))


def _select(
    wanted: Wanted,
    pool: list[Candidate],
    store: Store,
    ledger: Ledger,
    measurer: Measurer | None,
    report: Report,
) -> None:
    chosen = select_round(
        wanted.settings.selection,
        pool,
        wanted.size,
        ledger,
        store,
        number=wanted.number,
        folder=wanted.out / "measured",
        seed=wanted.settings.seed,
        measurer=measurer,
        reference=None if wanted.reference is None else _measurer(wanted.reference, wanted, report),
    )
    if not chosen:
        why = "all of the budget is spent" if ledger.room() == 0 else "no candidate is left to tell apart"
        raise UsageError(f"--round {wanted.number}: {why}; add answers to the pool, or raise --budget")


def _measurer(model: Model, wanted: Wanted, report: Report) -> Measurer:
    folder = checkpoint_folder(model.name)
    options = wanted.settings.selection
    return Measurer(
        start=Start(model=folder, adapter=model.adapter, dtype=wanted.dtype),
        chat=load_chat_format(folder),
        cache=wanted.out / "measured",
        lora=Lora(**options.lora.model_dump()),
        projection=Projection(options.projection, wanted.settings.seed),
        batch_size=options.batch_size,
        seed=wanted.settings.seed,
        report=report,
    )


def write_results(
    folder: Path, store: Store, ledger: Ledger, pool: Candidates, budget: int | None
) -> SelectReport:
    """Write the files of ``folder`` from its store and return the report; a table for people is written once."""
    for account in ledger.rounds():
        path = folder / f"to-label-{account.round:02d}.csv"
        if not path.exists():  # people may have filled it in
            write_sheet(path, [one.pair for one in ledger.selected(account.round)])
    preferences = ledger.preferences()
    write_jsonl(folder / "preferences.jsonl", map(labelled_pair, preferences))
    write_jsonl(folder / "selected.jsonl", ledger.selected())
    rounds = tuple(ledger.rounds())
    report = SelectReport(
        candidates=len(pool.pairs),
        too_long=pool.too_long,
        rounds=rounds,
        budget=budget,
        spent=sum(round.spent for round in rounds),
        costs=tuple(costs(store)),
        preferences=len(preferences),
    )
    write_json(folder / "ledger.json", report)
    return report
