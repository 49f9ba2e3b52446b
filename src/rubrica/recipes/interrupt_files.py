"""What ``rubrica interrupt ratio`` and ``apply`` print and write."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from rubrica.core.base import Record
from rubrica.core.pieces import Pieces
from rubrica.core.prompts import Prompt
from rubrica.methods.context_ratio import Measure, Ratios, coverage, every_for, limit, ratios
from rubrica.methods.interruptions import Interrupter, Kind, Turn, plan_for
from rubrica.recipes.interruptions import Fences, InterruptedModel
from rubrica.reports.curves import Banded, banded, write_picture
from rubrica.reports.svg import Spec

LENGTHS = (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)


class Sizes(Record):
    """Tokens of a schedule's parts."""

    system: int = Field(ge=0)
    """s_p."""
    control: int = Field(ge=1)
    """s_i."""
    every: int = Field(ge=1)
    """t."""
    slack: int = Field(default=0, ge=0)


class RatioReport(Record):
    """How much of a context is control."""

    sizes: Sizes
    rows: tuple[Ratios, ...]
    limit_raw: float
    limit_context: float
    worst_raw: float
    """The limits with all slack used up each time."""
    worst_context: float
    wanted: float | None
    of: Measure
    every_for_ratio: int | None
    """The longest period whose ratio tends to at least ``wanted``, slack used up."""
    branching: float
    examples: float | None
    coverage: tuple[float, ...]
    """min(1, N / k^l) at each length; empty where no examples were given."""


def sizes_of(plan: InterruptedModel, pieces: Pieces, system: int) -> Sizes:
    """Return the sizes of a plan: its longest control with the fence, its note beside the system prompt."""
    made = Interrupter(plan, pieces, Fences(plan).of("example"))
    schedule = plan.conversation or plan.input or plan.reasoning or plan.output
    return Sizes(
        system=system + len(pieces(made.note)),
        control=max(len(pieces(f"\n{text}\n")) for text in made.controls),
        every=schedule.every if schedule else 256,
        slack=schedule.slack if schedule else 0,
    )


def ratio_report(
    sizes: Sizes,
    lengths: Sequence[int],
    wanted: float | None,
    of: Measure,
    examples: float | None,
    branching: float,
) -> RatioReport:
    """Return the ratios at ``lengths`` (default :data:`LENGTHS`), their limits, and the inverse."""
    control, every, late = sizes.control, sizes.every, sizes.every + sizes.slack
    rows = [
        ratios(length, system=sizes.system, control=control, every=every) for length in lengths or LENGTHS
    ]
    return RatioReport(
        sizes=sizes,
        rows=tuple(rows),
        limit_raw=limit(control, every),
        limit_context=limit(control, every, "context"),
        worst_raw=limit(control, late),
        worst_context=limit(control, late, "context"),
        wanted=wanted,
        of=of,
        every_for_ratio=None if wanted is None else every_for(wanted, control, of, slack=sizes.slack),
        branching=branching,
        examples=examples,
        coverage=() if examples is None else tuple(coverage(examples, branching, row.length) for row in rows),
    )


def draw_ratios(report: RatioReport) -> Spec:
    """Draw the ratios over the length."""
    lines = (
        ("interruptions", "raw"),
        ("interruptions, of the context", "context"),
        ("system prompt only", "raw_alone"),
    )
    points = []
    for name, field in lines:
        for row in report.rows:
            value = float(getattr(row, field))
            points.append(Banded(name, row.length, value, value, value))
    return banded(points, "raw tokens", "share of control", log=True)


def write_ratios(report: RatioReport, drawn: Spec, path: Path) -> None:
    """Write the picture or the numbers."""
    write_picture(drawn, report, path)


class InsertedText(Record):
    """Characters of a message that are not the original's."""

    start: int
    length: int
    kind: Kind


class AugmentedMessage(Record):
    """A message with its controls."""

    role: str
    content: str
    origin: int | None
    """Its place in the prompt; None: the message is a control or the note."""
    inserted: tuple[InsertedText, ...]
    """Cut out, they leave the original."""


class AugmentedPrompt(Record):
    """A row of what ``apply`` writes."""

    id: str
    messages: tuple[AugmentedMessage, ...]
    nonce: str
    raw_tokens: int
    """Of users, tools and the assistant."""
    controls: int
    control_tokens: int
    """Controls, and the note."""


class Applied(Record):
    """Sums over all rows."""

    rows: int
    interrupted: int
    controls: int
    raw_tokens: int
    control_tokens: int
    context_ratio: float
    """Share of control in users' text and control together; system prompts of the rows are left out."""


def augment(prompt: Prompt, plan: InterruptedModel, pieces: Pieces) -> AugmentedPrompt:
    """Return the prompt with its controls and their map."""
    fence = Fences(plan).of(prompt.id)
    turns = [Turn(message.role, (message.content,)) for message in prompt.messages]
    found, state = Interrupter(plan_for(plan, prompt.tags), pieces, fence).apply(turns)
    messages = []
    control_tokens = 0
    for turn in found:
        [text] = turn.texts
        spans = [InsertedText(start=s.start, length=s.length, kind=s.kind) for s in turn.spans]
        own = [s for s in turn.spans if s.kind != "escape"]
        control_tokens += sum(len(pieces(text[s.start : s.start + s.length])) for s in own)
        messages.append(
            AugmentedMessage(role=turn.role, content=text, origin=turn.origin, inserted=tuple(spans))
        )
    return AugmentedPrompt(
        id=prompt.id,
        messages=tuple(messages),
        nonce=fence.nonce if plan.fence else "",
        raw_tokens=state.raw,
        controls=state.number,
        control_tokens=control_tokens,
    )


def sum_up(rows: Sequence[AugmentedPrompt]) -> Applied:
    """Return the sums."""
    raw, control = sum(row.raw_tokens for row in rows), sum(row.control_tokens for row in rows)
    return Applied(
        rows=len(rows),
        interrupted=sum(row.controls > 0 for row in rows),
        controls=sum(row.controls for row in rows),
        raw_tokens=raw,
        control_tokens=control,
        context_ratio=control / max(1, raw + control),
    )
