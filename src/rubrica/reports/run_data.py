"""What a report reads of a run folder, and nothing else: files that :mod:`rubrica.core.run` wrote."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from rubrica.core.account import prices_of
from rubrica.core.config import Json, read_yaml, validate
from rubrica.core.errors import DataError
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import Estimate, EvalResult, Rollout, Scorecard, ThinkExample
from rubrica.core.run import MetricRow, Run

Point = tuple[float, float]
"""(step, value)"""

_SECRET = re.compile(r"^(api_?key|authorization|password|secret|token)$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_FIRST = ("starter", "before", "base", "policy", "untrained")


@dataclass(frozen=True)
class StageData:
    """One stage: its folder name (``02-grpo``), what it logged and how it ended."""

    name: str
    rows: Sequence[MetricRow]
    summary: Mapping[str, Json]
    done: bool

    @property
    def kind(self) -> str:
        """The name without its number: ``grpo``."""
        return self.name.partition("-")[2] or self.name

    @cached_property
    def columns(self) -> dict[str, list[Point]]:
        """Points of every logged metric by name."""
        found: dict[str, list[Point]] = {}
        for row in self.rows:
            for name, value in row.metrics.items():
                found.setdefault(name, []).append((float(row.step), value))
        return found

    def series(self, *names: str) -> list[Point]:
        """Points of the first of ``names`` that was logged; a dot in a logged name counts as a slash."""
        plain = {key.replace(".", "/"): key for key in self.columns}
        return next((self.columns[plain[name]] for name in names if name in plain), [])

    def family(self, prefix: str, suffix: str = "") -> dict[str, list[Point]]:
        """Points of ``prefix/<id>`` or ``prefix/<id>/suffix`` by id, in order of first appearance.

        Ids may contain dots, so only the separators beside ``prefix`` and ``suffix`` are read as such.
        """
        found: dict[str, list[Point]] = {}
        for key, points in self.columns.items():
            if key.startswith((f"{prefix}/", f"{prefix}.")):
                rest = key[len(prefix) + 1 :]
                if suffix and not rest.endswith((f"/{suffix}", f".{suffix}")):
                    continue
                id = rest[: -len(suffix) - 1] if suffix else rest
                found[id] = sorted(found.get(id, []) + points)
        return found


class RunData:
    """A run folder opened for reading; use as a context manager."""

    def __init__(self, run_dir: Path) -> None:
        """Read everything but the large records; ``UsageError`` where there is no run, ``DataError`` if broken."""
        self._run = Run.open(run_dir)
        try:
            self.path = run_dir
            recipe = run_dir / "recipe.yaml"
            self.recipe = _mapping(recipe, without_secrets(read_yaml(recipe)))
            program = run_dir / "program.yaml"
            self.program = validate(Program, read_yaml(program), program)
            environment = run_dir / "environment.json"
            self.environment = _mapping(environment, _read_json(environment) if environment.exists() else {})
            self.stages = [
                StageData(stage.name, stage.metrics(), stage.summary(), stage.done)
                for stage in self._run.stages()
            ]
            self.results = _read_results(run_dir / "eval", self.stages)
            self.passport = _read_passport(run_dir / "passport.json")
            self.rollouts = sorted(
                self._run.store.all("rollout", Rollout), key=lambda r: (r.stage, r.step, r.id)
            )
            self.account = self._run.store.account()
            self.prices = prices_of(self._run.store)
            self.think = self._run.store.all("think-example", ThinkExample)
        except BaseException:
            self._run.close()
            raise
        self.card = cache(self._card)
        self.prompt = cache(self._prompt)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._run.close()

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return str(self.recipe.get("name") or self.path.resolve().name)

    def _card(self, id: str | None) -> Scorecard | None:
        if id is None:
            return None
        for stage in ("", *(stage.name for stage in self.stages)):
            found = self._run.store.get("scorecard", id, Scorecard, stage=stage)
            if found:
                return found
        return None

    def _prompt(self, id: str) -> Prompt | None:
        for stage in ("", *(stage.name for stage in self.stages)):
            found = self._run.store.get("prompt", id, Prompt, stage=stage)
            if found:
                return found
        return None


def _read_json(path: Path) -> Json:
    try:
        data: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, f"not a JSON file ({error}); run the stage that wrote it again") from None
    return data


def _read_passport(path: Path) -> list[Estimate]:
    """What was measured of the judge, by ``rubrica judge check``; empty without a passport."""
    measures = _mapping(path, _read_json(path)).get("measures") if path.exists() else []
    if not isinstance(measures, list):
        raise DataError(path, "no list of measures; expected what rubrica judge check wrote")
    known = [entry for entry in measures if isinstance(entry, dict) and entry.get("value") is not None]
    return [validate(Estimate, entry, path) for entry in known]


def _mapping(path: Path, data: Json) -> dict[str, Json]:
    if not isinstance(data, dict):
        raise DataError(path, f"expected a mapping, got {type(data).__name__}")
    return data


def _read_results(folder: Path, stages: Sequence[StageData]) -> list[EvalResult]:
    """Evaluations in the order in which the models came into being: starter, stage by stage, final."""
    files = sorted(folder.glob("*.json")) if folder.exists() else []
    results = [validate(EvalResult, _mapping(path, _read_json(path)), path) for path in files]
    order = {stage.kind: number for number, stage in enumerate(stages, 1)}
    order |= {stage.name: number for number, stage in enumerate(stages, 1)}

    def rank(result: EvalResult) -> int:
        return 0 if result.label in _FIRST else order.get(result.label, len(stages) + 1)

    return sorted(results, key=lambda result: (result.suite, rank(result)))


def without_secrets(value: Json) -> Json:
    """``value`` without keys and credentials in addresses, so that a report can be passed on."""
    if isinstance(value, dict):
        return {k: "(hidden)" if _SECRET.match(k) and v else without_secrets(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return _CREDENTIALS.sub("", value) if isinstance(value, str) else value
