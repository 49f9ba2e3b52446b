"""What a stage works with, and the seams to what ships with Rubrica (the lab, evaluation, the report)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rubrica.core.attempt import Tags
from rubrica.core.data import Text
from rubrica.core.errors import UsageError
from rubrica.core.ports import Judge
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import EvalResult
from rubrica.core.run import Run
from rubrica.judges.budget import Purse
from rubrica.judges.executor import Executor
from rubrica.judges.factory import JudgeConfig, make_judge
from rubrica.recipes.config import Recipe
from rubrica.recipes.prompts import StagePrompts
from rubrica.recipes.spending import Spending

Progress = Callable[[str, int, int], None]
"""Gets (what is done, how many are done, of how many)."""


@dataclass(frozen=True)
class Weights:
    """The policy as it stands between two stages."""

    model: Path
    """Folder of the full model, adapter merged."""
    chat_template: str | None = None
    """Template file that replaces the tokenizer's; None once a stage has saved it with the model."""
    base: Path | None = None
    """With LoRA: the model below the adapter."""
    adapter: Path | None = None
    """With LoRA: the adapter that the next stage goes on with."""


@dataclass(frozen=True)
class Surroundings:
    """What a recipe may name that is not in its file. Each seam is a function; None where there is none."""

    lab_prompts: Callable[[str], Sequence[Prompt]] | None = None
    """Kind -> prompts, for ``{lab: kind}``."""
    lab_texts: Callable[[int], Sequence[Text]] | None = None
    """How many -> texts of every quality, for ``rubrica judge check --labels lab``."""
    lab_demonstrations: Callable[[int, float, int], Sequence[Text]] | None = None
    """(how many, share that is flawed, seed) -> demonstrations, for ``{lab: teacher}``."""
    lab_model: Callable[[str], Path] | None = None
    """Name -> checkpoint directory, for ``lab:starter`` and ``lab:teacher``."""
    judges: Mapping[str, Callable[[], Judge]] = field(default_factory=dict)
    """Name -> judge, for ``lab`` and ``lab-oracle``."""
    evaluate: Callable[["Context", str, str], EvalResult] | None = None
    """(context with the weights to evaluate, label, suite) -> result."""
    check_suite: Callable[[str], None] | None = None
    """Raises ``UsageError`` for the name of a suite that ``evaluate`` does not know."""
    report: Callable[[Path], Path] | None = None
    """Run folder -> the report that was written."""

    def prompts(self, kind: str) -> Sequence[Prompt]:
        """Return the lab's prompts of one kind."""
        if self.lab_prompts is None:
            raise UsageError(
                f"prompts: {{lab: {kind}}} needs the lab, which is not there; name a file instead"
            )
        return self.lab_prompts(kind)

    def model(self, name: str) -> str:
        """Return the directory of ``lab:NAME``, and any other name as it is."""
        head, colon, rest = name.partition(":")
        if head != "lab" or not colon:
            return name
        if self.lab_model is None:
            raise UsageError(f"model {name!r} needs the lab, which is not there; name a directory or hub id")
        return str(self.lab_model(rest))


@dataclass
class Context:
    """One run on its way."""

    recipe: Recipe
    run: Run
    program: Program
    judge: Judge
    prompts: StagePrompts
    weights: Weights
    tags: Tags | None = None
    """Tags that these weights write; None: they answer plainly."""
    reward_model: Path | None = None
    """Folder of what the last stage of type reward-model left."""
    source: str = "recipe"
    """The recipe's file, named in errors."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Fitted veto thresholds of the judge."""
    surroundings: Surroundings = field(default_factory=Surroundings)
    progress: Progress | None = None
    spending: Spending | None = None
    """What the stage costs that is under way."""
    clock: Spending | None = None
    """Time of the whole run."""
    purse: Purse | None = None
    """The run's budget and account, through which every judge is asked."""

    def report(self, label: str, done: int, total: int) -> None:
        """Report progress, and keep what run and stage have cost so far; ``BudgetError`` when time is up."""
        for kept in (self.spending, self.clock):
            if kept is not None:
                kept.keep()
        if self.purse is not None:
            self.purse.check_hours()
        if self.progress is not None:
            self.progress(label, done, total)

    def executor(self, stage: str, *, retries: int = 2, max_failure_rate: float = 0.2) -> Executor:
        """Return what scores texts for ``stage``; its progress is reported and its cost counted."""
        executor = Executor(
            self.judge,
            self.run.store,
            program=self.program,
            reward=self.recipe.reward,
            thresholds=self.thresholds,
            retries=retries,
            max_failure_rate=max_failure_rate,
            progress=lambda done, total: self.report(f"{stage}: judging", done, total),
        )
        if self.spending is not None:
            self.spending.watch(executor)
        return executor


def reference_judge(context: Context, spec: str | JudgeConfig | None) -> Judge | None:
    """Return the second judge that a stage names, if it does."""
    if spec is None:
        return None
    return make_judge(
        spec,
        secret=context.run.store.secret,
        builtin=dict(context.surroundings.judges),
        purse=context.purse,
    )
