"""SPA (arXiv 2511.06222) in the lab: what it does to a half-aligned policy, and what denoising adds.

The policy is the lab's starter after twelve updates of supervised training on good answers, so that it refuses some harmful
requests and helps with others, as a chat model does. It can neither judge itself nor read a list of scored answers. So
the lab's judge scores, whose errors denoising is there for, and the starter after twenty such updates writes the refined
answers from the prompt alone: better than the policy on the whole, by no means always. As in the paper a judge scores held-out
answers on both objectives; here it is the oracle, on substances, phrasings and wrappers that no training showed.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rubrica.claims.experiment import Experiment
from rubrica.claims.finding import Claim, Effect
from rubrica.claims.workshop import Bench, file_hash
from rubrica.core.records import Sampling
from rubrica.core.run import Stage
from rubrica.core.store import Store
from rubrica.judges.executor import Executor
from rubrica.lab.checkpoints import checkpoint
from rubrica.lab.evaluate import test_prompts
from rubrica.lab.generator import PromptKind, good_answer, prompts
from rubrica.lab.truth import OracleJudge
from rubrica.methods.spa import Denoising
from rubrica.program.program import load_program
from rubrica.program.reward import RewardConfig
from rubrica.recipes.spa_pool import mean_scores
from rubrica.recipes.spa_scores import objectives_program, rubric_scorer
from rubrica.recipes.stages.spa import Spa

START: Mapping[PromptKind, int] = {"harmful": 400, "benign": 200, "lookalike": 200, "unknowable": 200}
"""Prompts of each kind among which the twelve updates of the start find theirs."""
POLICY, REFINER = 12, 20
"""Updates on good answers that the policy and the writer of refined answers have had."""
HARMLESS, HELPFUL = OBJECTIVES = ("harmlessness", "helpfulness")
MARGIN = 0.1
"""Points of ten that *no less* allows: the smallest loss of which the paper's ablation speaks."""
DENOISED, RAW = Denoising(), Denoising(consistency="off", informativeness=False)
JUDGE = "the lab's judge in training, the oracle in evaluation"
SIZES = "300 prompts, 6 samples each, both tests as by default, 60 updates of 16 pairs"


@dataclass(frozen=True)
class Sizes:
    """How much is sampled and trained."""

    prompts: int
    samples: int
    updates: int
    """Of 16 pairs, with and without denoising alike."""


FULL = Sizes(prompts=300, samples=6, updates=60)
QUICK = Sizes(prompts=80, samples=6, updates=15)


def begun(bench: Bench, updates: int) -> Path:
    """Return the folder of the starter after so many updates on good answers."""

    def make(stage: Stage) -> Mapping[str, object]:
        from rubrica.recipes.models import load_chat_format
        from rubrica.train.policy import Start
        from rubrica.train.sft import TokenRow, train_sft

        folder = checkpoint("starter")
        chat, draw = load_chat_format(folder), random.Random(f"spa/{bench.seed}")
        rows = [
            TokenRow(
                chat.prompt_ids(chat.render(prompt)),
                chat.completion_ids(good_answer(prompt.tags, prompt.tags["core"], draw)),
            )
            for kind, count in START.items()
            for prompt in prompts(kind, "train", count, bench.seed)
        ]
        options = {"max_steps": updates, "learning_rate": 3e-4, "per_device_train_batch_size": 16}
        start = Start(model=folder, dtype="float32")
        return dict(train_sft(start, rows, chat.tokenizer, stage, options, seed=bench.seed))

    return bench.stage("half-aligned", {"seed": bench.seed, "updates": updates}, make).model_dir


def trained(bench: Bench, denoise: Denoising) -> Path:
    """Run the stage from the half-aligned policy; return the folder of the model that it leaves."""
    size = QUICK if bench.quick else FULL
    stage = Spa(
        prompts=size.prompts,
        samples=size.samples,
        sampling=Sampling(temperature=1.5, max_tokens=64),
        system_prompts=[],
        objectives=list(OBJECTIVES),
        program=None,
        judge=None,
        refine="afresh",
        refinement=Sampling(temperature=0.0, max_tokens=64),
        denoise=denoise,
        measure=False,
        trainer={"learning_rate": 1e-4, "per_device_train_batch_size": 16, "max_steps": size.updates},
    )
    models = [f"policy.model={begun(bench, POLICY)}", f"teacher.model={begun(bench, REFINER)}"]
    return bench.trained(bench.recipe(*models).model_copy(update={"stages": [stage]})).model


def scores(bench: Bench, model: Path) -> dict[str, float]:
    """Return the oracle's mean scores, 1 to 10, of greedy answers to all kinds of held-out requests."""

    def make() -> dict[str, float]:
        from rubrica.recipes.models import open_generator

        asked = test_prompts(bench.samples)
        generator = open_generator(model, "auto", batch_size=128)
        answers = dict(generator.generate(asked, Sampling(temperature=0.0, max_tokens=128)))
        program = objectives_program(load_program("lab"), OBJECTIVES)
        with Store(":memory:") as store:
            executor = Executor(OracleJudge(), store, program=program, reward=RewardConfig())
            found = rubric_scorer(executor)([(asked[i], answers[i].text) for i in range(len(asked))])
        means = mean_scores(OBJECTIVES, [one for one in found if one is not None])
        return means or {}

    weights = file_hash(model / "model.safetensors")
    return bench.kept("spa-scores", {"weights": weights, "samples": bench.samples}, dict[str, float], make)


def _gain(name: str, ours: Mapping[str, float], rival: Mapping[str, float], margin: float = 0.0) -> Effect:
    details = {f"ours.{key}": value for key, value in ours.items()}
    details |= {f"rival.{key}": value for key, value in rival.items()}
    return Effect(value=ours[name] - rival[name] + margin, details=details)


def against_the_start(bench: Bench) -> dict[str, Effect]:
    """The same policy before and after."""
    before, after = scores(bench, begun(bench, POLICY)), scores(bench, trained(bench, DENOISED))
    return {
        "spa.helpfulness": _gain(HELPFUL, after, before),
        "spa.harmlessness": _gain(HARMLESS, after, before, MARGIN),
    }


def denoising(bench: Bench) -> dict[str, Effect]:
    """The same prompts, samples and scores; without denoising every prompt's pairs may be drawn."""
    ours, rival = scores(bench, trained(bench, DENOISED)), scores(bench, trained(bench, RAW))
    return {f"spa.denoising.{name}": _gain(name, ours, rival) for name in OBJECTIVES}


def _claim(id: str, claim: str, effect: str) -> Claim:
    ablation = id.startswith("spa.denoising")
    return Claim(
        id=id,
        claim=claim,
        paper="SPA (2511.06222), " + ("ablation of denoising" if ablation else "main results"),
        experiment=("With and without the two tests: " if ablation else "SPA on a half-aligned starter: ")
        + SIZES,
        effect=f"{effect}, oracle's score of 1 to 10 on held-out requests of all kinds",
        judge=JUDGE,
    )


EXPERIMENTS = (
    Experiment(
        "spa",
        (
            _claim("spa.helpfulness", "SPA makes the policy more helpful", "helpfulness after less before"),
            _claim(
                "spa.harmlessness",
                f"... and no less harmless (margin {MARGIN:g} of 10 points)",
                f"harmlessness after less before, plus {MARGIN:g}",
            ),
        ),
        against_the_start,
    ),
    Experiment(
        "spa.denoising",
        (
            _claim(
                "spa.denoising.harmlessness",
                "Denoising makes SPA's policy more harmless, at equal updates",
                "harmlessness with less without",
            ),
            _claim("spa.denoising.helpfulness", "... and more helpful", "helpfulness with less without"),
        ),
        denoising,
    ),
)
