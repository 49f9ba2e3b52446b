"""IRFT (arXiv 2405.17888) against supervised fine-tuning on the same demonstrations, with as many updates.

Both go on from one model: the lab's starter after one pass of SFT over the demonstrations, as the paper goes on from
a fine-tuned model. From there both make as many updates, each at its own best learning rate, on as many demonstrations. The
demonstrations are the lessons of the lab's teacher, another draw for each seed. No judge is asked in training. The
oracle evaluates answers to held-out requests; pairs whose better answer is known by how they were made evaluate the
reward that each policy implies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rubrica.claims.experiment import Experiment
from rubrica.claims.finding import Claim, Effect
from rubrica.claims.workshop import Bench, file_hash
from rubrica.core.config import Json
from rubrica.recipes.config import Recipe

PAPER = "RFT and IRFT (2405.17888), section 4 and experiments"
START_RATE = 3e-4
"""Learning rate of the one pass before both, linear to 0 as all of them."""
SFT_RATE, IRFT_RATE = 3e-4, 1e-4
"""Of both arms: each has the best of 1e-5, 3e-5, 1e-4 and 3e-4 for its own oracle total, with seed 1000, which no test uses."""
BATCH = 32
PAIRS = 400
"""Held-out pairs for the implicit reward."""
NOISE = 0.2
"""Share of flawed demonstrations, as in the notes on the method; nothing else was tried."""
NOBODY = "nobody in training; the oracle in evaluation, because judge noise is not the question"


@dataclass(frozen=True)
class Sizes:
    """How much is trained."""

    examples: int
    """Demonstrations."""
    stages: int
    """T of IRFT."""
    steps: int
    """K of IRFT; SFT makes T K updates."""


FULL = Sizes(examples=1024, stages=4, steps=16)
QUICK = Sizes(examples=256, stages=2, steps=8)


def start(bench: Bench, noise: float) -> Recipe:
    """Return one pass of SFT over the demonstrations."""
    return _recipe(bench, [_sft(bench, noise, {"num_train_epochs": 1})])


def longer(bench: Bench, noise: float, rate: float = SFT_RATE) -> Recipe:
    """Return the same, then T K more updates of SFT."""
    size = sizes(bench)
    more = _sft(bench, noise, {"max_steps": size.stages * size.steps}, rate)
    return _recipe(bench, [_sft(bench, noise, {"num_train_epochs": 1}), more])


def irft(bench: Bench, noise: float, stages: int, rate: float = IRFT_RATE) -> Recipe:
    """Return the same, then IRFT with as many updates in ``stages`` stages; 1 is SPIN."""
    size = sizes(bench)
    stage: dict[str, Json] = {
        "type": "irft",
        "demonstrations": _shown(bench, noise),
        "stages": stages,
        "steps": size.stages * size.steps // stages,
        "answers": {"temperature": 1.0, "max_tokens": 64},
        "trainer": {**_trainer(rate), "optim": "adamw_torch", "warmup_steps": 0},
    }
    return _recipe(bench, [_sft(bench, noise, {"num_train_epochs": 1}), stage])


def sizes(bench: Bench) -> Sizes:
    """Return the sizes of the table, or smaller ones."""
    return QUICK if bench.quick else FULL


def _recipe(bench: Bench, stages: Sequence[Json]) -> Recipe:
    recipe = bench.recipe("judge=lab-oracle")
    return Recipe.model_validate({**recipe.model_dump(), "stages": list(stages)})


def _shown(bench: Bench, noise: float) -> Json:
    return [{"lab": "teacher", "examples": sizes(bench).examples, "noise": noise, "seed": bench.seed}]


def _trainer(rate: float) -> dict[str, Json]:
    return {"learning_rate": rate, "lr_scheduler_type": "linear", "per_device_train_batch_size": BATCH}


def _sft(
    bench: Bench, noise: float, how_long: Mapping[str, Json], rate: float = START_RATE
) -> dict[str, Json]:
    return {"type": "sft", "demonstrations": _shown(bench, noise), "trainer": {**_trainer(rate), **how_long}}


# --- what is measured -----------------------------------------------------------------------------


def oracle_total(bench: Bench, model: Path) -> float:
    """Return the mean total of a model's answers to held-out requests, by the oracle."""

    def make() -> float:
        from rubrica.core.records import Sampling
        from rubrica.core.store import Store
        from rubrica.judges.executor import Executor
        from rubrica.lab.evaluate import answers, test_prompts
        from rubrica.lab.truth import OracleJudge
        from rubrica.program.program import load_program
        from rubrica.program.reward import RewardConfig
        from rubrica.recipes.models import open_generator

        asked = test_prompts(bench.samples // 2)
        sampling = Sampling(temperature=0.7, max_tokens=128, seed=bench.seed)
        generator = open_generator(model, "float32", batch_size=128)
        found = answers(generator, asked, sampling, None, lambda a, b: bench.report("answers", a, b))
        with Store(":memory:") as store:
            executor = Executor(OracleJudge(), store, program=load_program("lab"), reward=RewardConfig())
            cards = executor.score([(answer.prompt, answer.text) for answer in found])
        totals = [card.total for card in cards if card.total is not None]
        return sum(totals) / len(totals)

    key: dict[str, Json] = {"model": file_hash(model / "model.safetensors"), "seed": bench.seed}
    return bench.kept("oracle-total", key | {"samples": bench.samples // 2}, float, make)


def implicit_accuracy(bench: Bench, model: Path, reference: Path) -> float:
    """Return the share of held-out pairs whose better answer has the higher log(pi / pi_ref)."""

    def make() -> float:
        from rubrica.lab.pairs import pairs
        from rubrica.models.implicit import ImplicitReward

        held_out = pairs(PAIRS, seed=bench.seed)
        items = [(pair.prompt, text) for pair in held_out for text in (pair.chosen, pair.rejected)]
        scores = dict(ImplicitReward(model, reference, dtype="float32").score(items))
        numbers = [score for _, score in sorted(scores.items()) if isinstance(score, float)]
        return sum(a > b for a, b in zip(numbers[::2], numbers[1::2], strict=True)) / len(held_out)

    folders = [file_hash(folder / "model.safetensors") for folder in (model, reference)]
    return bench.kept("implicit-accuracy", [*folders, PAIRS, bench.seed], float, make)


# --- experiments ----------------------------------------------------------------------------------

ORACLE = Claim(
    id="irft.sft.oracle",
    claim="IRFT's answers are better than those of SFT on the same demonstrations with as many updates",
    paper=PAPER,
    experiment=f"{FULL.examples} clean demonstrations, one pass of SFT; then {FULL.stages} stages of {FULL.steps} "
    f"updates of IRFT, or {FULL.stages * FULL.steps} more of SFT; batches of {BATCH}, learning rates {IRFT_RATE:g} and {SFT_RATE:g}",
    effect="mean total of the lab's program on held-out requests, IRFT less SFT",
    judge=NOBODY,
)
IMPLICIT = Claim(
    id="irft.sft.implicit",
    claim="The reward that IRFT's policy implies tells good answers from bad ones more often than SFT's",
    paper=PAPER,
    experiment=f"The same models; {PAIRS} held-out pairs of a good and a bad answer, known by how they were made; "
    "reward log(pi / pi_ref) with the model from which both went on as the reference",
    effect="share of pairs that are ranked right, IRFT less SFT",
    judge="nobody in training; neither judge nor oracle in evaluation: labels come from how the pairs were made",
)
SPIN = Claim(
    id="irft.spin",
    claim="Answering anew in several stages (IRFT) is better than once (SPIN) with as many updates",
    paper=PAPER,
    experiment=f"As irft.sft: {FULL.stages} stages of {FULL.steps} updates, or one of {FULL.stages * FULL.steps}",
    effect="mean total of the lab's program on held-out requests, IRFT less SPIN",
    judge=NOBODY,
)
FLAWED = Claim(
    id="irft.noise",
    claim="Flawed demonstrations cost IRFT less than SFT",
    paper=PAPER,
    experiment=f"As irft.sft, and again with {NOISE:.0%} of the demonstrations flawed",
    effect="mean total that flaws cost SFT less what they cost IRFT",
    judge=NOBODY,
)


def against_sft(bench: Bench) -> dict[str, Effect]:
    """Train both arms on clean demonstrations, measure answers and implicit rewards."""
    first = start(bench, 0.0)
    reference = bench.trained(first).model
    arms = {
        "irft": bench.trained(irft(bench, 0.0, sizes(bench).stages), first).model,
        "sft": bench.trained(longer(bench, 0.0), first).model,
    }
    totals = {name: oracle_total(bench, model) for name, model in arms.items()}
    right = {name: implicit_accuracy(bench, model, reference) for name, model in arms.items()}
    before = oracle_total(bench, reference)
    return {
        ORACLE.id: Effect(value=totals["irft"] - totals["sft"], details={**totals, "start": before}),
        IMPLICIT.id: Effect(value=right["irft"] - right["sft"], details=dict(right)),
    }


def against_spin(bench: Bench) -> dict[str, Effect]:
    """Train one stage instead of several."""
    first = start(bench, 0.0)
    totals = {
        name: oracle_total(bench, bench.trained(irft(bench, 0.0, stages), first).model)
        for name, stages in (("irft", sizes(bench).stages), ("spin", 1))
    }
    return {SPIN.id: Effect(value=totals["irft"] - totals["spin"], details=dict(totals))}


def with_noise(bench: Bench) -> dict[str, Effect]:
    """Train both arms on clean and on flawed demonstrations."""
    totals: dict[str, float] = {}
    for name, noise in (("clean", 0.0), ("flawed", NOISE)):
        first = start(bench, noise)
        ours = irft(bench, noise, sizes(bench).stages)
        totals[f"irft.{name}"] = oracle_total(bench, bench.trained(ours, first).model)
        totals[f"sft.{name}"] = oracle_total(bench, bench.trained(longer(bench, noise), first).model)
    cost = {arm: totals[f"{arm}.clean"] - totals[f"{arm}.flawed"] for arm in ("irft", "sft")}
    return {FLAWED.id: Effect(value=cost["sft"] - cost["irft"], details=dict(totals))}


EXPERIMENTS = (
    Experiment("irft.sft", (ORACLE, IMPLICIT), against_sft),
    Experiment("irft.spin", (SPIN,), against_spin),
    Experiment("irft.noise", (FLAWED,), with_noise),
)
