"""ActiveDPO (arXiv 2505.19241) against labels spent at random, in the lab.

The policy is taught by demonstrations of which half are bad, so that its own answers to a prompt differ in what they are
worth. From there both strategies get the same labels a round, from the same prompts in the first round; later ones are
answered by the policy that each has trained. The oracle labels and evaluates: how judges err is not the question. The
paper's answers to a question nobody asked here (other models, other baselines) are not tested.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from rubrica.claims.experiment import Experiment
from rubrica.claims.finding import Claim, Detail, Effect
from rubrica.claims.workshop import Bench
from rubrica.core.config import Json
from rubrica.core.run import Stage
from rubrica.recipes.config import Recipe


@dataclass(frozen=True)
class Sizes:
    """How much is labelled and measured."""

    demonstrations: int
    rounds: int
    labels: int
    """Of a round."""
    prompts: int
    """Answered in a round, three times each."""
    held_out: int


FULL = Sizes(demonstrations=1000, rounds=4, labels=24, prompts=100, held_out=150)
QUICK = Sizes(demonstrations=400, rounds=2, labels=12, prompts=30, held_out=40)
STRATEGIES = ("activedpo", "random")


def _recipe(bench: Bench, strategy: str) -> Recipe:
    size = QUICK if bench.quick else FULL
    stages: list[Json] = [
        {
            "type": "sft",
            "demonstrations": [{"lab": "teacher", "examples": size.demonstrations, "noise": 0.5}],
            "trainer": {"learning_rate": 5e-4, "per_device_train_batch_size": 32, "num_train_epochs": 2},
        },
        {
            "type": "active-dpo",
            "rounds": size.rounds,
            "labels_per_round": size.labels,
            "prompts_per_round": size.prompts,
            "responses": 3,
            "held_out": size.held_out,
            "sampling": {"temperature": 1.0, "max_tokens": 64},
            "selection": {
                "strategy": strategy,
                "projection": 512,
                "lora": {"r": 8, "alpha": 32},
                "batch_size": 32,
            },
            "trainer": {"learning_rate": 1e-4, "per_device_train_batch_size": 8},
        },
    ]
    return bench.recipe(f"stages={json.dumps(stages)}", "judge=lab-oracle")


def test(bench: Bench) -> Mapping[str, Effect]:
    """Train with both strategies and compare their learning curves."""
    curves: dict[str, list[float]] = {}
    details: dict[str, Detail] = {}
    for strategy in STRATEGIES:
        recipe = _recipe(bench, strategy)
        first = recipe.model_copy(update={"stages": recipe.stages[:1]})
        summary = Stage(bench.trained(recipe, first).run / "stages" / "02-active-dpo").summary()
        points = cast("dict[str, float]", summary["curve"])
        curves[strategy] = [points[spent] for spent in sorted(points, key=int)]
        details |= {f"{strategy}.{spent}": score for spent, score in points.items()}
        details[f"{strategy}.preferences"] = cast(int, summary["preferences"])
    ours, rival = (curves[strategy] for strategy in STRATEGIES)
    last = ours[-1] - rival[-1]
    mean = sum(ours[1:]) / len(ours[1:]) - sum(rival[1:]) / len(rival[1:])
    return {"active-dpo.last": Effect(value=last, details=details), "active-dpo.curve": Effect(value=mean)}


_PAPER = "ActiveDPO (2505.19241), Figures 1 to 3"
_WHAT = (
    "SFT on 1,000 demonstrations, half of them bad; then 4 rounds of 100 prompts, 3 answers each, 24 labels, 4 epochs of DPO "
    "on all labels so far from the SFT model; 150 held-out prompts answered after each round"
)
_JUDGE = "the oracle, in labelling and in evaluation"
EXPERIMENT = Experiment(
    "active-dpo",
    (
        Claim(
            id="active-dpo.last",
            claim="Pairs selected by ActiveDPO teach more than as many random ones",
            paper=_PAPER,
            experiment=_WHAT,
            effect="mean total of the held-out answers after the last round, ActiveDPO less random",
            judge=_JUDGE,
        ),
        Claim(
            id="active-dpo.curve",
            claim="... and do so from the first round on",
            paper=_PAPER,
            experiment=_WHAT,
            effect="the same, mean over all rounds",
            judge=_JUDGE,
        ),
    ),
    test,
)
