"""One folder for all experiments: what one of them trained, evaluated or made, another finds again.

    OUT/trained/KEY/          run folders of recipes; KEY is a hash of recipe, seed and the lab's checkpoints
    OUT/stages/KIND-KEY/      what an experiment trains by itself
    OUT/kept/KIND-KEY.json    values: evaluations, selections, scores ...
    OUT/seeds/NAME-KEY/       finished seeds of an experiment; they are tested anew when its file has changed

A run goes on after any kill where it stopped, and nothing that was finished is made again; where several processes
work in one folder, one makes a thing and the others wait for it. Times are kept with the things that took them, so
that a seed's time is the same whether it made its checkpoints or found them.
"""

import hashlib
import inspect
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import JsonValue, TypeAdapter

from rubrica.core.attempt import Tags
from rubrica.core.base import Record
from rubrica.core.config import Json, content_hash, load_config
from rubrica.core.errors import DataError, StorageError, UsageError
from rubrica.core.records import EvalResult
from rubrica.core.run import Run, Stage, claim, write_json
from rubrica.lab.checkpoints import DEMO_RECIPE, NAMES, checkpoint
from rubrica.recipes.align import align
from rubrica.recipes.checks import program_of
from rubrica.recipes.config import Recipe, recipe_identity
from rubrica.recipes.context import Progress
from rubrica.recipes.surroundings import default_surroundings

ValueT = TypeVar("ValueT")
SAMPLES = 60
"""Test prompts of each kind and attack family, as in the demo."""
QUICK_SAMPLES = 20
"""The same with ``--quick``."""


class Trained(NamedTuple):
    """A finished run of a recipe."""

    run: Path
    """Its folder, with metrics, rollouts and summaries."""
    model: Path
    """The model that its last stage left."""


class Workshop:
    """The folder. Use as a context manager: no second one may be opened in it, but by those whom the first sends."""

    progress: Progress | None = None
    """Gets what is being done."""

    def __init__(self, out: Path, *, quick: bool = False) -> None:
        """``quick`` asks experiments for smaller sizes."""
        self.out, self.quick = out, quick
        self._opened = ExitStack()

    def __enter__(self) -> "Workshop":
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"{self.out}: is a file; --out takes a directory")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.out}: cannot be created ({error.strerror}); choose another --out"
            ) from error
        self._opened.enter_context(claim(self.out))
        return self

    def __exit__(self, *ending: object) -> None:
        self._opened.close()

    def bench(self, experiment: str, seed: int) -> "Bench":
        """Return the place where an experiment works on one seed."""
        return Bench(self, experiment, seed)

    def finished(self, experiment: str, test: Callable[..., object]) -> Path:
        """Return the folder of an experiment's finished seeds; another one when its source has changed."""
        source = inspect.getsource(sys.modules[test.__module__])
        key = content_hash({"source": source, "quick": self.quick, "lab": self.lab})
        return self.out / "seeds" / f"{experiment}-{key}"

    @cached_property
    def lab(self) -> str:
        """Hash of the lab's checkpoints."""
        return content_hash([file_hash(checkpoint(name) / "model.safetensors") for name in NAMES])

    def report(self, label: str, done: int, total: int) -> None:
        """Show progress."""
        if self.progress is not None:
            self.progress(label, done, total)


class Bench:
    """What one experiment has for one seed: training, evaluation and a place for its own things."""

    def __init__(self, shop: Workshop, experiment: str, seed: int) -> None:
        self.seed, self.quick = seed, shop.quick
        self._shop, self._experiment = shop, experiment
        self._started = time.monotonic()
        self._making = 0.0
        self._seconds: dict[Path, float] = {}
        self._results: dict[str, EvalResult] = {}

    @property
    def results(self) -> tuple[EvalResult, ...]:
        """Evaluations that were made or found, one for each label."""
        return tuple(self._results.values())

    @property
    def samples(self) -> int:
        """Test prompts of each kind and family."""
        return QUICK_SAMPLES if self.quick else SAMPLES

    @property
    def seconds(self) -> float:
        """Time of everything that was used, whoever made it, and of the experiment's own work until now."""
        own = time.monotonic() - self._started - self._making
        return own + sum(self._seconds.values())

    def report(self, label: str, done: int, total: int) -> None:
        """Show progress of something that takes long."""
        self._shop.report(f"{self._experiment}, seed {self.seed}: {label}", done, total)

    def recipe(self, *overrides: str, base: Path = DEMO_RECIPE) -> Recipe:
        """Return a recipe, the demo's unless another is named, with this seed, overridden as by ``--set``."""
        return load_config(Recipe, base, [f"seed={self.seed}", "evaluate.suites=[]", *overrides])

    def trained(self, recipe: Recipe, after: Recipe | None = None) -> Trained:
        """Run a recipe, or find it.

        ``after`` is another recipe, run or found first; the first stages of ``recipe`` are not run but taken from it,
        so that several recipes share them. Evaluation is left to :meth:`evaluated`.
        """
        from rubrica.train.callbacks import quiet

        recipe = recipe.model_copy(update={"name": "claims"})
        first = None if after is None else self.trained(after)
        out = self._shop.out / "trained" / self._run_key(recipe, first)
        begun = 0 if after is None else len(after.stages)
        stages = [
            out / "stages" / f"{number:02d}-{config.type}" for number, config in enumerate(recipe.stages, 1)
        ]
        with self._making_alone(out):
            if not (stages[-1] / "summary.json").exists():
                if first is not None:
                    _begin(recipe, out, first.run, begun)
                around = replace(default_surroundings(), report=None)
                with quiet():
                    align(
                        recipe,
                        out,
                        resume=(out / "recipe.yaml").exists(),
                        progress=self.report,
                        surroundings=around,
                        source=self._experiment,
                    )
        for path in stages[begun:]:
            self._seconds[path] = _seconds_of(Stage(path))
        return Trained(out, Stage(stages[-1]).model_dir)

    def stage(self, kind: str, key: Json, make: Callable[[Stage], Mapping[str, object]]) -> Stage:
        """Return a finished stage folder of the experiments' own; ``make`` fills it and returns its summary.

        ``key`` says all that it depends on; this seed, if it does, included. ``make`` is called again in the same
        folder when it was killed, and should go on from what it finds there.
        """
        stage = Stage(self._shop.out / "stages" / f"{kind}-{self._key(key)}")
        with self._making_alone(stage.path):
            if not stage.done:
                started = time.monotonic()
                summary = make(stage)
                stage.finish({**summary, "key": key, "seconds": time.monotonic() - started})
        self._seconds[stage.path] = _seconds_of(stage)
        return stage

    def kept(self, kind: str, key: Json, type_: type[ValueT], make: Callable[[], ValueT]) -> ValueT:
        """Return a value of ``type_`` (plain values, records) that is made once for each ``key``."""
        path = self._shop.out / "kept" / f"{kind}-{self._key(key)}.json"
        adapter = TypeAdapter(type_)
        with self._making_alone(path):
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                started = time.monotonic()
                value = adapter.dump_python(make(), mode="json")
                write_json(path, {"key": key, "seconds": time.monotonic() - started, "value": value})
        try:
            kept = _Kept.model_validate_json(path.read_text(encoding="utf-8"))
            self._seconds[path] = kept.seconds
            return adapter.validate_python(kept.value)
        except ValueError as error:
            raise DataError(path, f"not a kept value ({error}); delete it to make it again") from None

    def evaluated(
        self, model: Path | str, label: str, *, tags: Tags | None, samples: int | None = None
    ) -> EvalResult:
        """Evaluate a model in the lab with the oracle, once for each model, seed and size.

        ``model`` is a folder, or ``starter`` or ``teacher``; ``label`` its name in the table of models; ``tags``
        for models that draft, reflect and revise.
        """
        from rubrica.lab.evaluate import evaluate
        from rubrica.recipes.models import open_generator

        folder = checkpoint(model) if isinstance(model, str) else model
        count = samples or self.samples
        key: dict[str, Json] = {
            "label": label,
            "weights": file_hash(folder / "model.safetensors"),
            "tags": None if tags is None else tags.model_dump(mode="json"),
            "samples": count,
            "seed": self.seed,
        }

        def make() -> EvalResult:
            generator = open_generator(folder, "auto", batch_size=128)
            return evaluate(
                {self.seed: generator},
                label=label,
                tags=tags,
                samples=count,
                progress=lambda done, total: self.report("evaluation", done, total),
            )

        self._results[label] = self.kept("evaluation", key, EvalResult, make)
        return self._results[label]

    @contextmanager
    def _making_alone(self, path: Path) -> Iterator[None]:
        """Wait until no other process makes ``path``, and hold it; the time is not the experiment's own."""
        started, before = time.monotonic(), self._making
        locks = self._shop.out / "locks"
        locks.mkdir(exist_ok=True)
        with claim(locks / path.name, wait=True):
            yield
        self._making = before + time.monotonic() - started  # what it made inside of that is not counted twice

    def _run_key(self, recipe: Recipe, first: Trained | None) -> str:
        identity = recipe_identity(recipe.model_dump(mode="json"))
        return self._key([self._inside(identity), None if first is None else first.run.name])

    def _inside(self, value: Json) -> Json:
        """``value`` with paths into OUT made relative to it, so that OUT may be moved."""
        if isinstance(value, str):
            return value.replace(str(self._shop.out), "OUT")
        if isinstance(value, list):
            return [self._inside(each) for each in value]
        return {k: self._inside(v) for k, v in value.items()} if isinstance(value, dict) else value

    def _key(self, key: Json) -> str:
        return content_hash([self._inside(key), self._shop.lab])


class _Kept(Record):
    key: JsonValue
    seconds: float
    value: JsonValue


def file_hash(path: Path) -> str:
    """Return a hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _begin(recipe: Recipe, out: Path, first: Path, count: int) -> None:
    """Start the run of ``recipe`` with the first ``count`` stages of the run ``first``, which are finished."""
    program = program_of(recipe, "claims")
    resume = (out / "recipe.yaml").exists()
    Run.start(out, recipe, program, seed=recipe.seed, resume=resume, identity=recipe_identity).close()
    (out / "stages").mkdir(exist_ok=True)
    for number, config in enumerate(recipe.stages[:count], 1):
        name = f"{number:02d}-{config.type}"
        if not (out / "stages" / name).exists():
            half = out / f".{name}"
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(first / "stages" / name, half, ignore=shutil.ignore_patterns("checkpoints"))
            half.rename(out / "stages" / name)


def _seconds_of(stage: Stage) -> float:
    seconds = stage.summary().get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0
