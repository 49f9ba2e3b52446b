"""What a stage logged while it trained, drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from rubrica.core.programs import QuestionKind
from rubrica.reports.metrics import LONGEST, mean_over, quarters, spans, thin
from rubrica.reports.plots import SERIES, heat_map, lines
from rubrica.reports.run_data import Point, RunData, StageData
from rubrica.reports.svg import HALF, WIDE, Chart, figure, sparkline

_MOST_GATES = 30
_FITTED = (
    ("Loss", ("loss",)),
    ("Margin of chosen over rejected", ("pairs/margin", "margin")),
    ("Share of pairs ranked right", ("pairs/accuracy", "accuracy")),
    ("Log-probability of demonstrations, nats a token", ("demonstrations/log_prob",)),
)


@dataclass(frozen=True)
class DimensionCurve:
    """One dimension over the steps."""

    title: str
    principle: str
    text: str
    """``revision`` or ``draft``: which of the two was logged."""
    spark: Markup
    first: float
    last: float


@dataclass(frozen=True)
class Training:
    """What one stage logged: of learning from pairs or demonstrations the loss and what belongs to it."""

    stage: StageData
    charts: Sequence[Chart]
    heat: Chart | None
    quiet_gates: int
    """Gates that never failed and are not drawn."""
    dimensions: Sequence[DimensionCurve] = field(default_factory=tuple)
    scalar: bool = False
    """Rewarded by a reward model instead of a rubric."""
    rewarded: bool = True


def training(data: RunData) -> list[Training]:
    """One entry per stage that logged a reward or a loss; think-SFT's loss stands with its examples."""
    found: list[Training] = []
    for stage in data.stages:
        if stage.series("reward/mean", "reward"):
            found.append(_training(data, stage))
        elif stage.series("loss") and stage.kind != "think-sft":
            drawn = [_curves(title, {title: stage.series(*names)}, half=True) for title, names in _FITTED]
            found.append(Training(stage, [chart for chart in drawn if chart], None, 0, rewarded=False))
    return found


def _training(data: RunData, stage: StageData) -> Training:
    titles = {p.id: p.title for p in data.program.principles}
    reward = {
        "reward": stage.series("reward/mean", "reward"),
        "draft": stage.series("reward/draft"),
        "revision": stage.series("reward/revision"),
        "improvement": stage.series("reward/improvement"),
    }
    shares = {
        "malformed": stage.series("malformed/share"),
        "no total": stage.series("no_total/share"),
        "vetoed": stage.series("veto/share"),
        "answered NA": stage.series("na/share"),
    }
    scores = {"draft": stage.series("score/draft"), "revision": stage.series("score/revision")}
    told = (
        "in spreads from the centre of the first step's scores"
        if any(scores.values())
        else "the totals of their scorecards"
    )
    charts = [
        _curves(
            "Reward",
            reward,
            "Means over the completions of a step."
            + (f" Draft and revision are {told}." if reward["draft"] or reward["revision"] else ""),
            colours=("ink", "s1", "s0", "s2"),
        ),
        _curves(
            "Scores of the reward model",
            scores,
            "Means of a step, on the model's own scale.",
            colours=("s1", "s0"),
        ),
        _curves("Shares of completions and answers", shares, "All of them are better low.", share=True),
    ]
    by_text = {text: stage.family("principle", text) for text in ("draft", "revision")}
    values = [y for known in by_text.values() for points in known.values() for _, y in points]
    domain = (min(values), max(values)) if values else None
    for text, known in by_text.items():
        named = {titles.get(id, id): points for id, points in known.items()}
        charts.append(_curves(f"Principles, {text}", named, half=True, domain=domain, steps=len(stage.rows)))
    for title, names in (
        ("Divergence from the reference (KL)", ("kl", "objective/kl")),
        ("Tokens per completion", ("tokens/mean", "completions/mean_length")),
        ("Loss", ("loss",)),
    ):
        charts.append(_curves(title, {title: stage.series(*names)}, half=True))
    heat, quiet = _gates(data, stage)
    return Training(
        stage, [c for c in charts if c], heat, quiet, _dimensions(data, stage), any(scores.values())
    )


def _curves(
    title: str,
    series: Mapping[str, Sequence[Point]],
    note: str = "",
    *,
    share: bool = False,
    half: bool = False,
    steps: int = 0,
    colours: Sequence[str] = SERIES,
    domain: tuple[float, float] | None = None,
) -> Chart | None:
    known = {name: thin(points) for name, points in series.items() if points}
    if not known:
        return None
    if any(len(points) > LONGEST for points in series.values()):
        note = f"{note} Drawn as means over equal spans of steps.".strip()
    longest = max(len(points) for points in series.values())
    if steps and longest < steps:
        note = f"{note} Logged on {longest} of {steps} steps.".strip()
    height = 170 if half else 230
    svg = figure(
        lambda width: lines(known, width, share=share, height=height, domain=domain, colours=colours),
        title,
        wide=HALF if half else WIDE,
    )
    return Chart(title, svg, note, half)


def _gates(data: RunData, stage: StageData) -> tuple[Chart | None, int]:
    """The heat map of the gates that failed most, and how many gates never failed."""
    known = stage.family("gate_fail")
    if not known:
        return None, 0
    failed = {id: points for id, points in known.items() if any(y > 0 for _, y in points)}
    means = {id: sum(y for _, y in points) / len(points) for id, points in failed.items()}
    gates = [
        q
        for p in data.program.principles
        for d in p.dimensions
        for q in d.questions
        if q.kind is QuestionKind.GATE
    ]
    position = {gate.id: i for i, gate in enumerate(gates)}
    texts = {gate.id: gate.text for gate in gates}
    worst = sorted(failed, key=lambda id: (-means[id], id))[:_MOST_GATES]
    shown = sorted(worst, key=lambda id: (position.get(id, len(gates)), id))
    if not shown:
        return None, len(known)
    steps = sorted({x for id in shown for x, _ in failed[id]})

    def rows(count: int) -> dict[str, list[tuple[str, float]]]:
        found: dict[str, list[tuple[str, float]]] = {}
        for id in shown:
            cells = [(a, b, mean_over(failed[id], a, b)) for a, b in spans(steps, count)]
            found[id] = [(f"{a:g}" if a == b else f"{a:g}–{b:g}", y) for a, b, y in cells if y is not None]
        return found

    svg = figure(
        lambda width: heat_map(rows(20 if width < 500 else 60), width, texts), "Failed gates over steps"
    )
    note = "Share of judged texts that failed a gate: empty is 0 %, full colour 100 %."
    if len(steps) < len(stage.rows):
        note += f" Logged on {len(steps)} of {len(stage.rows)} steps."
    if len(failed) > len(shown):
        note += f" The {len(shown)} that failed most of {len(failed)}."
    return Chart("Failed gates", svg, note), len(known) - len(failed)


def _dimensions(data: RunData, stage: StageData) -> list[DimensionCurve]:
    text = next((t for t in ("revision", "draft") if stage.family("dimension", t)), "")
    known = stage.family("dimension", text) if text else {}
    curves: list[DimensionCurve] = []
    for principle in data.program.principles:
        for dimension in principle.dimensions:
            points = known.get(dimension.id)
            if points:
                values = [y for _, y in thin(points)]
                first, last = quarters(points)
                curve = sparkline(values, -1.0, 1.0)
                curves.append(DimensionCurve(dimension.title, principle.title, text, curve, first, last))
    return curves
