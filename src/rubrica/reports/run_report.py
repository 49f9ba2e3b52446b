"""One HTML file that explains a run: no network, no chart library, every text in it escaped."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rubrica import __version__
from rubrica.core.config import content_hash, dump_yaml
from rubrica.core.run import write_atomic
from rubrica.reports.accounts import costs, question_costs, think_examples, trust
from rubrica.reports.denoising import denoised
from rubrica.reports.evaluation import headline, suites
from rubrica.reports.examples import Example, choose
from rubrica.reports.labelling import labellings
from rubrica.reports.plots import waterfall
from rubrica.reports.run_data import RunData
from rubrica.reports.svg import LADDER, inline_svg
from rubrica.reports.training import training
from rubrica.reports.waterfall import Step, signed

LONGEST_TEXT = 8000
"""Characters of one text that are shown."""


@dataclass(frozen=True)
class Shown:
    """An example with its three waterfalls drawn."""

    example: Example
    draft: Markup | None
    revision: Markup | None
    reward: Markup | None


def write_report(run_dir: Path) -> Path:
    """Write ``RUN/report.html`` from the files of a run folder and return its path.

    The report also describes a run that is not finished: sections without data say so. ``UsageError`` where there is
    no run, ``DataError`` where one of its files is broken, ``StorageError`` where the report cannot be written.
    """
    path = run_dir / "report.html"
    write_atomic(path, render_report(run_dir))
    return path


def render_report(run_dir: Path) -> str:
    """Return the report of a run as one HTML document."""
    with RunData(run_dir) as data:
        script, style = asset("report.js"), asset("report.css")
        return (
            templates()
            .get_template("report.html.j2")
            .render(
                data=data,
                has=_wanted(data),
                headline=headline(data),
                suites=suites(data),
                trainings=training(data),
                examples=[_draw(example) for example in choose(data)],
                think=think_examples(data),
                denoised=denoised(data),
                labellings=labellings(data),
                costs=costs(data),
                question_costs=question_costs(data),
                trust=trust(data),
                recipe=dump_yaml(data.recipe),
                program_hash=content_hash(data.program),
                version=__version__,
                style=Markup(style),
                script=Markup(script),
                script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            )
        )


class Wanted(NamedTuple):
    """Sections that the recipe's stages have something to say in, now or when they are done."""

    rewards: bool
    """Completions are rewarded."""
    think: bool
    """Stage 2 builds examples."""
    judge: bool
    """Somebody answers questions."""


def _wanted(data: RunData) -> Wanted:
    stages = data.recipe.get("stages")
    kinds = (
        {stage.get("type") for stage in stages if isinstance(stage, dict)}
        if isinstance(stages, list)
        else set()
    )
    judge = data.recipe.get("judge")
    named = judge.get("spec") if isinstance(judge, dict) else judge
    return Wanted(
        rewards=bool(data.rollouts or kinds & {"grpo", "rft"}),
        think=bool(data.think or "think-sft" in kinds),
        judge=named != "none",
    )


def _draw(example: Example) -> Shown:
    def total(steps: Sequence[Step], whose: str) -> Markup | None:
        if not steps:
            return None
        return inline_svg(
            waterfall(steps, LADDER, (-1.0, 1.0)), f"From the principles to the {whose}'s total"
        )

    ends = [end for step in example.reward_ladder for end in (step.start, step.end)]
    reward = (
        inline_svg(
            waterfall(example.reward_ladder, LADDER, (min(ends), max(ends))), "From totals to the reward"
        )
        if ends
        else None
    )
    return Shown(
        example, total(example.draft_ladder, "draft"), total(example.revision_ladder, "revision"), reward
    )


def asset(name: str) -> str:
    """Return a file of the templates' folder."""
    return (resources.files("rubrica.reports") / "templates" / name).read_text(encoding="utf-8")


@cache
def templates() -> Environment:
    """Return the templates of all pages; they escape every text."""
    environment = Environment(
        loader=PackageLoader("rubrica.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "text": shown_text,
        "signed": lambda value: "–" if value is None else signed(value),
        "percent": lambda value: f"{100 * value:.1f} %",
        "share": lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "–",
        "count": lambda value: f"{value:,}",
        "duration": duration,
        "dollars": dollars,
    }
    return environment


def shown_text(text: str) -> str:
    """``text`` as a page shows it: control characters made visible, very long texts cut with a note."""
    cleaned = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(cleaned) <= LONGEST_TEXT:
        return cleaned
    return f"{cleaned[:LONGEST_TEXT]} […] ({len(cleaned) - LONGEST_TEXT:,} more characters in store.sqlite)"


def dollars(money: float | None) -> str:
    """US dollars: ``$12.34``, ``$0.0042``; a dash where there is no price."""
    if money is None:
        return "–"
    return f"${money:,.2f}" if money >= 1 or not money else f"${money:.2g}"


def duration(seconds: float | None) -> str:
    """Seconds in words: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
