"""``rubrica map``: the data map of preference data, and the comparison of two maps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from typer.core import TyperGroup

from rubrica.cli.options import JUDGE, PROGRAM, JsonFlag, MaxCalls, MaxMoney, MaxTokens
from rubrica.cli.output import (
    Command,
    console,
    how_to_go_on,
    note,
    plain,
    plural,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typer._click import Context  # typer exports no type of its parser's context

    from rubrica.core.answers import Answers
    from rubrica.core.data import Skipped
    from rubrica.core.records import Estimate, Unmeasured
    from rubrica.core.store import Store
    from rubrica.recipes.map_checks import Comparison
    from rubrica.recipes.map_files import DataMap, MapReport, Scorer
    from rubrica.recipes.map_scorers import Scores, Spec

_DRAW = "draw"


class _Group(TyperGroup):
    """``rubrica map INPUT`` is ``rubrica map draw INPUT``."""

    def parse_args(self, ctx: "Context", args: list[str]) -> list[str]:
        if args and args[0] not in self.commands:
            args = [_DRAW, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    help="Where prompts of preference data stand: quality and variability of their answers. rubrica map INPUT is short "
    "for rubrica map draw INPUT.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class _Asked(NamedTuple):
    """What gives the scores."""

    spec: "Spec"
    source: Path
    limit: int | None
    program: str | None
    judge: str | None
    references: Path | None
    reference_model: str | None
    caps: "dict[str, float | None]"


ScorerFlag = Annotated[
    str,
    typer.Option(
        "--scorer",
        help="judge or grades (with --program, --judge), reward:MODEL, reference[:MODEL], column:NAME, labels.",
    ),
]
ReferencesFlag = Annotated[
    Path | None, typer.Option("--references", metavar="FILE", help="Rows with prompt and response.")
]
ReferenceModelFlag = Annotated[
    str | None,
    typer.Option("--reference-model", metavar="MODEL", help="Writes them: openai:MODEL@URL, folder, hub id."),
]
RegionFlag = Annotated[
    str,
    typer.Option("--region", help="What to select: high-average, low-average, high-variance, random, all."),
]
FractionFlag = Annotated[
    float | None, typer.Option("--fraction", help="Select this share of all prompts, deepest in the region.")
]
PairsFlag = Annotated[
    str, typer.Option("--pairs", help="Of a selected prompt: best-worst, best-rest or all.")
]
OrderFlag = Annotated[
    str, typer.Option("--order-by", help="What says which answer of a pair is better: labels or scores.")
]
ByFlag = Annotated[
    str | None, typer.Option("--by", metavar="COLUMN", help="Draw the map within each value of a column.")
]
RatingFlag = Annotated[
    str | None, typer.Option("--rating", metavar="FIELD", help="Field of the label, if it has another name.")
]
MarginFlag = Annotated[
    float, typer.Option("--margin", min=0.0, help="Score margin up to which a pair is no suspect.")
]


@app.command(_DRAW, cls=Command)
def draw(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="Pairs, or prompts with several answers; lab: the lab's.")
    ],
    scorer: ScorerFlag,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Store, map and plots; goes on from there.")
    ],
    program: Annotated[str | None, PROGRAM] = None,
    judge: Annotated[str | None, JUDGE] = None,
    references: ReferencesFlag = None,
    reference_model: ReferenceModelFlag = None,
    region: RegionFlag = "high-average",
    fraction: FractionFlag = None,
    pairs: PairsFlag = "best-worst",
    order_by: OrderFlag = "labels",
    by: ByFlag = None,
    rating: RatingFlag = None,
    margin: MarginFlag = 0.0,
    limit: Annotated[int | None, typer.Option("--limit", min=3, help="First prompts only.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of --region random.")] = 0,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_money: MaxMoney = None,
    as_json: JsonFlag = False,
) -> None:
    """Score all answers, draw the map, find suspect labels and select pairs to train on.

    Run the same command again to go on after an interruption, or with another --region, --pairs or --by: what was
    scored is in the store. To compare two maps: rubrica map compare DIR DIR.
    """
    from rubrica.core.answers import load_answers
    from rubrica.core.run import claim
    from rubrica.core.store import Store
    from rubrica.recipes.data_map import make_map
    from rubrica.recipes.map_files import read_wanted, write_map
    from rubrica.recipes.map_page import write_pictures
    from rubrica.recipes.map_scorers import read_scorer
    from rubrica.recipes.score import scoring_folder

    caps = {"calls": max_calls, "tokens": max_tokens, "money": max_money}
    asked = _Asked(read_scorer(scorer), source, limit, program, judge, references, reference_model, caps)
    wanted = read_wanted(region, fraction, pairs, order_by, by, margin, seed)
    _check(asked)
    skipped: list[Skipped] = []
    if str(source) == "lab":
        given = _lab(limit or 300)
    else:
        given = load_answers(source, limit=limit, rating=rating, by=by, on_skip=skipped.append)
    with claim(scoring_folder(out)), Store(out / "store.sqlite") as store:
        with how_to_go_on(f"scores so far are in {store.path}"):
            scores, how = _scores(given, asked, store)
    found = make_map(given, scores, how, wanted, source.name)
    write_map(found, out)
    write_pictures(found, out)
    for problem in skipped:
        note(f"left out {problem.problem}")
    if as_json:
        print_json(found.report.model_dump(mode="json") | {"path": str(out)})
        return
    _show(found, out)


def _lab(count: int) -> "list[Answers]":
    """The lab's own pairs of an answer as it should be and one that nobody should prefer."""
    from rubrica.core.answers import Answers
    from rubrica.lab.pairs import pairs

    return [
        Answers(
            pair.id,
            pair.prompt,
            (pair.chosen, pair.rejected),
            (1.0, 0.0),
            None,
            {"kind": pair.prompt.tags["kind"]},
        )
        for pair in pairs(count)[:count]
    ]


def _check(asked: _Asked) -> None:
    """Refuse, before anything is read, flags that the scorer lacks or has no use for."""
    from rubrica.core.errors import UsageError

    kind = asked.spec.kind
    judged = {"--program": asked.program, "--judge": asked.judge}
    near = {"--references": asked.references, "--reference-model": asked.reference_model}
    capped = {f"--max-{name}": cap for name, cap in asked.caps.items()}
    judges = kind in ("judge", "grades")
    if judges and (missing := [flag for flag, value in judged.items() if value is None]):
        raise UsageError(f"{', '.join(missing)}: missing; --scorer {kind} needs a program and a judge")
    useless: dict[str, object] = {}
    useless |= {} if judges else {**judged, **capped}
    useless |= {} if kind == "reference" else near
    for flag, value in useless.items():
        if value is not None:
            raise UsageError(f"{flag}: has no use with --scorer {kind}; leave it out")
    if asked.references is not None and asked.reference_model is not None:
        raise UsageError("--references and --reference-model: expected one of them")


def _scores(given: "Sequence[Answers]", asked: _Asked, store: "Store") -> "tuple[Scores, Scorer]":
    from rubrica.recipes.map_files import Scorer
    from rubrica.recipes.map_scorers import label_scores

    if asked.spec.kind in ("judge", "grades"):
        return _judged(given, asked, store)
    if asked.spec.kind == "reference":
        return _near(given, asked, store)
    if asked.spec.kind == "reward":
        return _rewarded(given, asked, store)
    if asked.spec.kind == "column":
        from rubrica.core.answers import load_answers

        found = load_answers(
            asked.source, limit=asked.limit, rating=asked.spec.name, on_skip=lambda row: None
        )
        return label_scores(found), Scorer(kind="column", name=asked.spec.name)
    return label_scores(given), Scorer(kind="labels", name="labels")


def _judged(given: "Sequence[Answers]", asked: _Asked, store: "Store") -> "tuple[Scores, Scorer]":
    from rubrica.judges.budget import Budget, Purse
    from rubrica.judges.factory import check_priced, check_spec, check_vouched, make_judge, read_judge
    from rubrica.program.program import load_program, program_hash
    from rubrica.recipes.map_files import Scorer
    from rubrica.recipes.map_scorers import judge_scores
    from rubrica.recipes.surroundings import default_surroundings

    assert asked.program is not None and asked.judge is not None
    program, config = load_program(asked.program), read_judge(asked.judge)
    builtin = dict(default_surroundings().judges)
    check_spec(config, builtin)
    if asked.caps["money"] is not None:
        check_priced(config, "--max-money")
    purse = Purse(Budget.model_validate(asked.caps), store, prefix="--max-")
    judge = make_judge(config, secret=store.secret, builtin=builtin, purse=purse)
    for line in check_vouched(config, program=program, judge=judge.fingerprint, where=asked.judge):
        note(f"warning: {line}")
    grades = asked.spec.kind == "grades"
    with progress_bar("questions") as progress:
        found = judge_scores(given, judge, store, program=program, grades=grades, progress=progress)
    return found, Scorer(kind=asked.spec.kind, name=judge.fingerprint, program=program_hash(program))


def _rewarded(given: "Sequence[Answers]", asked: _Asked, store: "Store") -> "tuple[Scores, Scorer]":
    from rubrica.recipes.map_files import Scorer
    from rubrica.recipes.map_scorers import reward_scores
    from rubrica.recipes.reward_source import open_reward_model, read_reward_model
    from rubrica.recipes.surroundings import default_surroundings

    source = read_reward_model(asked.spec.name, "--scorer reward")
    model = open_reward_model(source, default_surroundings().model)
    with progress_bar("answers") as progress:
        found = reward_scores(given, model, store, progress)
    return found, Scorer(kind="reward", name=f"{source.model} {model.fingerprint}")


def _near(given: "Sequence[Answers]", asked: _Asked, store: "Store") -> "tuple[Scores, Scorer]":
    from rubrica.core.errors import UsageError
    from rubrica.models.similarity import OVERLAP, WORDS, embedded, tfidf
    from rubrica.recipes.map_files import Scorer
    from rubrica.recipes.map_scorers import (
        cohort,
        load_references,
        open_writer,
        reference_scores,
        write_references,
    )

    source = "the file's own column"
    references = [answers.reference for answers in given]
    if asked.references is not None:
        source, references = asked.references.name, load_references(asked.references, given)
    elif asked.reference_model is not None:
        source = asked.reference_model
        with progress_bar("references") as progress:
            references = write_references(given, open_writer(source), store, progress)
    elif not any(references):
        raise UsageError(
            "--scorer reference: the file has no column reference; name --references FILE, or --reference-model "
            "MODEL to write them"
        )
    name, long = "tfidf", None
    if asked.spec.name:
        from rubrica.models.embed import embedder, embedder_identity

        measure = embedded(embedder(asked.spec.name))
        name = embedder_identity(asked.spec.name)
        long = f"mean of windows of {WORDS} words that overlap by {OVERLAP}"
    else:
        corpus = [*(text for answers in given for text in answers.texts), *(r for r in references if r)]
        measure = tfidf(corpus)
    key = f"reference:{name}:{WORDS}/{OVERLAP}" if asked.spec.name else f"reference:tfidf:{cohort(given)}"
    with progress_bar("answers") as progress:
        found = reference_scores(given, references, measure, store, key, progress)
    return found, Scorer(kind="reference", name=name, references=source, long_texts=long)


def _show(found: "DataMap", out: Path) -> None:
    from rich.table import Table

    report = found.report
    table = Table("region", box=None)
    for heading in ("prompts", "mean", "deviation", "scores order as labels"):
        table.add_column(heading, justify="right")
    for region, summary in report.regions.items():
        numbers = [
            f"{value:.3f}" if value is not None else "–" for value in (summary.mean, summary.deviation)
        ]
        table.add_row(region.value, str(summary.prompts), *numbers, _interval(summary.agreement))
    screen = console()
    screen.print(table)
    for warning in report.warnings:
        note(f"warning: {plain(warning)}")
    if report.agreement is not None:
        screen.print(
            f"{plural(report.label_pairs, 'labelled pair')}, {report.tied_pairs} with equal scores; "
            f"{plural(report.suspects, 'suspect')}"
        )
    for suspect in found.suspects[:3]:
        screen.print(f"  {plain(_line(suspect.prompt))}: {suspect.reason}", soft_wrap=True)
    chosen = report.selection
    without = f"; {chosen.without_pair} of equal {chosen.ordered_by} give none" if chosen.without_pair else ""
    screen.print(
        f"selected: {plural(chosen.prompts, 'prompt')} of {chosen.region}, {plural(chosen.pairs, 'pair')} by "
        f"{chosen.ordered_by}{without}"
    )
    for name in ("map.html", "selected.jsonl"):
        screen.print(f"{out / name}", soft_wrap=True)


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else f"{line[:69]}…"


def _interval(found: "Estimate | Unmeasured | None") -> str:
    if found is None or found.value is None:
        return "–"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


@app.command("compare", cls=Command)
def compare(
    first: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a data map.")],
    second: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of another, of the same prompts.")],
    as_json: JsonFlag = False,
) -> None:
    """Compare two maps of the same prompts: ranks of mean and variance, regions, and what each map follows."""
    from rubrica.recipes.map_checks import compare as compare_maps
    from rubrica.recipes.map_files import read_points, read_report

    found = compare_maps(read_points(first), read_points(second))
    reports = {"first": read_report(first), "second": read_report(second)}
    if as_json:
        checks = {name: [c.model_dump(mode="json") for c in r.confounds] for name, r in reports.items()}
        print_json(found.model_dump(mode="json") | {"confounds": checks})
        return
    _show_comparison(found, reports)


def _show_comparison(found: "Comparison", reports: "dict[str, MapReport]") -> None:
    from rich.table import Table

    screen = console()
    for name, report in reports.items():
        screen.print(f"{name}: {report.scorer.kind} {plain(report.scorer.name)}", soft_wrap=True)
    if found.only_first or found.only_second:
        note(
            f"{plural(found.shared, 'prompt')} on both maps; {found.only_first} on the first alone, "
            f"{found.only_second} on the second alone; regions are drawn anew among the shared"
        )
    for estimate in (found.mean, found.variance, found.macro_f1, found.moved):
        reason = f" ({estimate.reason})" if estimate.value is None else ""
        screen.print(f"{estimate.name}: {_interval(estimate)}{reason}")
    table = Table("first \\ second", box=None)
    for region in found.regions:
        table.add_column(region.value, justify="right")
    for region, row in found.regions.items():
        table.add_row(region.value, *(str(count) for count in row.values()))
    screen.print(table)
    for name, report in reports.items():
        for confound in report.confounds:
            if confound.of == "region":
                screen.print(
                    f"{name}: region with {plain(confound.about)}, Cramér's V {_interval(confound.found)}"
                )
