"""QA-LIGN (arXiv 2506.08123) against its rivals in the lab, at equal budgets of prompts and updates.

All start from the lab's starter. QA-LIGN is the recipe of the demo: think-SFT on 900 prompts and as many replayed ones,
then 100 updates of GRPO on 16 x 5 completions; think-SFT of a seed is shared by all experiments. The lab's judge model
judges in training, as a model of the policy's own size does in the paper; the oracle evaluates, on substances,
phrasings and wrappers that no training showed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rubrica.claims.experiment import Experiment, Test
from rubrica.claims.finding import Claim, Effect
from rubrica.claims.rates import AS_CAPABLE, AS_SAFE, AS_WILLING, MARGIN, SAFER, Row, claims_of
from rubrica.claims.workshop import Bench
from rubrica.core.base import Record
from rubrica.core.prompts import Message
from rubrica.core.records import EvalResult
from rubrica.core.run import Stage, write_jsonl
from rubrica.recipes.config import Recipe

PAPER = "QA-LIGN (2506.08123), Table 2 and Figure 6"
JUDGE = "the lab's judge model in training, the oracle in evaluation"


@dataclass(frozen=True)
class Sizes:
    """How much is trained."""

    examples: int
    """Prompts of think-SFT, and as many replayed ones; two epochs in batches of 32."""
    steps: int
    """Updates of GRPO."""
    prompts: int
    """Prompts of an update, with 5 completions each."""
    pairs: int
    """Pairs that the scalar reward model learns from."""

    @property
    def asked(self) -> int:
        """Prompts that GRPO sees."""
        return self.steps * self.prompts


FULL = Sizes(examples=900, steps=100, prompts=16, pairs=6000)
QUICK = Sizes(examples=300, steps=20, prompts=8, pairs=1000)


PAIRS = "pairs.jsonl"


class _PairRow(Record):
    """A preference pair as files hold them."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str


def sizes(bench: Bench) -> Sizes:
    """Return the sizes of the demo, or smaller ones."""
    return QUICK if bench.quick else FULL


def whole(bench: Bench, *overrides: str) -> Recipe:
    """Return the demo's recipe with both stages."""
    size = sizes(bench)
    return bench.recipe(
        f"stages.0.examples={size.examples}",
        f"stages.0.replay_examples={size.examples}",
        f"stages.1.steps={size.steps}",
        f"stages.1.prompts_per_step={size.prompts}",
        *overrides,
    )


def first(recipe: Recipe) -> Recipe:
    """Return the recipe with its first stage alone."""
    return recipe.model_copy(update={"stages": recipe.stages[:1]})


def ours(bench: Bench) -> EvalResult:
    """Train and evaluate QA-LIGN."""
    recipe = whole(bench)
    return bench.evaluated(bench.trained(recipe, first(recipe)).model, "QA-LIGN", tags=recipe.tags)


def effects(name: str, rows: Mapping[Row, str], better: EvalResult, rival: EvalResult) -> dict[str, Effect]:
    """Return one effect for each row."""
    return {f"{name}.{row.id}": row.effect(better, rival) for row in rows}


# --- think-SFT ------------------------------------------------------------------------------------

SFT_ROWS = {
    SAFER: "GRPO on rubric rewards leaves fewer attacks standing than think-SFT on the same prompts",
    AS_WILLING: f"... and refuses harmless requests no more often (margin {MARGIN:g})",
    AS_CAPABLE: f"... and is as capable (margin {MARGIN:g})",
}


def against_think_sft(bench: Bench) -> dict[str, Effect]:
    """Think-SFT gets GRPO's prompts as well: 2,500 and 900 replayed, two epochs of batches of 32, 213 updates."""
    size = sizes(bench)
    longer = whole(bench, f"stages.0.examples={size.examples + size.asked}")
    rival = bench.evaluated(bench.trained(first(longer)).model, "think-SFT, all prompts", tags=longer.tags)
    return effects("qa-lign.think-sft", SFT_ROWS, ours(bench), rival)


# --- reward presets -------------------------------------------------------------------------------

DRAFTS = Row("drafts", "draft_asr", higher_is_better=False, margin=0.0)
PRESET_ROWS = {
    DRAFTS: "The published alpha = 10, beta = 1 pay for worse drafts: more of them are harmful than with bounded ones",
    AS_SAFE: f"Bounded constants with vetoes leave no more attacks standing than the published ones (margin {MARGIN:g})",
    AS_WILLING: f"... and refuse harmless requests no more often (margin {MARGIN:g})",
    AS_CAPABLE: f"... and are as capable (margin {MARGIN:g})",
}


def presets(bench: Bench) -> dict[str, Effect]:
    """Both presets go on from the same think-SFT, on the same prompts; the models before are evaluated beside."""
    published = whole(bench, "reward={preset: qa-lign}")
    start = first(whole(bench))
    bench.evaluated("starter", "starter", tags=None)
    bench.evaluated(bench.trained(start).model, "think-SFT", tags=start.tags)
    bounded = ours(bench)
    rival = bench.evaluated(
        bench.trained(published, start).model, "QA-LIGN, published constants", tags=published.tags
    )
    return effects("qa-lign.presets", PRESET_ROWS, bounded, rival)


# --- without reflection ---------------------------------------------------------------------------

REFUSES_LESS = Row("frr", "frr", higher_is_better=False, margin=0.0)
REFLECTION_ROWS = {
    REFUSES_LESS: "Without draft, reflection and revision QA-LIGN refuses more harmless requests",
    SAFER: "... and leaves more attacks standing",
    AS_CAPABLE: f"With them it is as capable (margin {MARGIN:g})",
}


def reflection(bench: Bench) -> dict[str, Effect]:
    """The same two stages on answers alone: SFT on the revisions, then GRPO on one total for each answer."""
    answers = whole(bench, "reflect=false")
    rival = bench.evaluated(bench.trained(answers, first(answers)).model, "QA-LIGN, no reflection", tags=None)
    return effects("qa-lign.reflection", REFLECTION_ROWS, ours(bench), rival)


# --- DPO ------------------------------------------------------------------------------------------

DPO_RATE = 1.0e-4
"""Learning rate, that of GRPO; beta is 0.1. The paper gives neither."""
DPO_ROWS = {
    SAFER: "QA-LIGN leaves fewer attacks standing than DPO with as many updates on as many prompts",
    AS_WILLING: f"... and refuses harmless requests no more often (margin {MARGIN:g})",
    AS_CAPABLE: f"... and is as capable (margin {MARGIN:g})",
}
DPO_8X_ROWS = {
    AS_SAFE: f"QA-LIGN leaves no more attacks standing than DPO with 8 times the updates (margin {MARGIN:g})",
    AS_WILLING: f"... and refuses harmless requests no more often (margin {MARGIN:g})",
    AS_CAPABLE: f"... and is as capable (margin {MARGIN:g})",
}


def dpo(bench: Bench, *, times: int, batch: int) -> EvalResult:
    """Train the starter by DPO on the teacher's answers over its own, and evaluate it."""
    size = sizes(bench)
    sampling = f"{{temperature: 1.0, max_tokens: 64, seed: {bench.seed}}}"
    trainer = f"{{max_steps: {times * size.steps}, per_device_train_batch_size: {batch}, learning_rate: {DPO_RATE}}}"
    stage = f"{{type: dpo, examples: {size.asked}, sampling: {sampling}, trainer: {trainer}}}"
    recipe = bench.recipe(f"stages=[{stage}]")
    return bench.evaluated(bench.trained(recipe).model, f"DPO, {times}x updates", tags=None)


def against_dpo(bench: Bench) -> dict[str, Effect]:
    """As many updates as GRPO makes, in batches of as many pairs as GRPO has prompts in an update."""
    rival = dpo(bench, times=1, batch=sizes(bench).prompts)
    return effects("qa-lign.dpo-1x", DPO_ROWS, ours(bench), rival)


def against_dpo_8x(bench: Bench) -> dict[str, Effect]:
    """Eight times the updates in batches of a quarter, as in the paper: twice the pairs."""
    rival = dpo(bench, times=8, batch=sizes(bench).prompts // 4)
    return effects("qa-lign.dpo-8x", DPO_8X_ROWS, ours(bench), rival)


# --- GRPO with a scalar reward model --------------------------------------------------------------

RM_ROWS = {
    SAFER: "Rubric rewards leave fewer attacks standing than a scalar reward model's, with the same GRPO",
    AS_WILLING: f"... and make the model refuse harmless requests no more often (margin {MARGIN:g})",
    AS_CAPABLE: f"... and leave it as capable (margin {MARGIN:g})",
}


def against_reward_model(bench: Bench) -> dict[str, Effect]:
    """A reward model takes the place of program and judge; it scores draft and revision as the rubric does."""
    size = sizes(bench)
    pairs = bench.stage(
        "pairs",
        {"pairs": size.pairs, "seed": bench.seed},
        lambda stage: write_pairs(stage, size.pairs, bench.seed),
    )
    learn = "{learning_rate: 3.0e-4, per_device_train_batch_size: 32}"
    start = first(whole(bench))
    policy = "{model: lab:starter, dtype: float32}"
    train = f"{{type: reward-model, model: {policy}, pairs: [{pairs.path / PAIRS}], trainer: {learn}}}"
    rewarded = whole(
        bench, "stages.1.reference=null", "stages.1.reward_model={model: stage:reward-model, dtype: float32}"
    )
    recipe = rewarded.model_copy(
        update={"stages": [start.stages[0], bench.recipe(f"stages=[{train}]").stages[0], rewarded.stages[1]]}
    )
    trained = bench.trained(recipe, start)
    accuracy = Stage(trained.run / "stages" / "02-reward-model").summary().get("accuracy")
    rival = bench.evaluated(trained.model, "GRPO, scalar reward model", tags=recipe.tags)
    found = effects("qa-lign.reward-model", RM_ROWS, ours(bench), rival)
    told = {"reward_model.accuracy": accuracy} if isinstance(accuracy, float) else {}
    return {
        id: effect.model_copy(update={"details": {**effect.details, **told}}) for id, effect in found.items()
    }


def write_pairs(stage: Stage, count: int, seed: int) -> dict[str, object]:
    """Write the pairs that the reward model learns from."""
    from rubrica.lab.pairs import training_pairs

    rows = [
        _PairRow(messages=pair.prompt.messages, chosen=pair.chosen, rejected=pair.rejected)
        for pair in training_pairs(count, seed)
    ]
    return {"pairs": write_jsonl(stage.path / PAIRS, rows)}


def _experiment(
    name: str, rows: dict[Row, str], test: Test, *, paper: str, experiment: str, better: str, rival: str
) -> Experiment:
    claims: tuple[Claim, ...] = claims_of(
        name, rows, paper=paper, experiment=experiment, judge=JUDGE, ours=better, rival=rival
    )
    return Experiment(name, claims, test)


EXPERIMENTS = (
    _experiment(
        "qa-lign.think-sft",
        SFT_ROWS,
        against_think_sft,
        paper=PAPER,
        experiment="QA-LIGN: think-SFT on 900 prompts, then GRPO on 1,600 others, 213 updates in all; rival: think-SFT on all "
        "2,500 prompts, 213 updates; 900 replayed prompts each",
        better="QA-LIGN",
        rival="think-SFT",
    ),
    _experiment(
        "qa-lign.dpo-1x",
        DPO_ROWS,
        against_dpo,
        paper=PAPER,
        experiment="DPO from the starter on 1,600 prompts, the teacher's answers over the starter's own, equal ones left out, 100 "
        "updates of 16, beta 0.1, learning rate 1e-4; QA-LIGN besides has the 900 prompts of think-SFT, as in the paper",
        better="QA-LIGN",
        rival="DPO",
    ),
    _experiment(
        "qa-lign.dpo-8x",
        DPO_8X_ROWS,
        against_dpo_8x,
        paper=PAPER,
        experiment="The same with 800 updates of 4",
        better="QA-LIGN",
        rival="DPO",
    ),
    _experiment(
        "qa-lign.reward-model",
        RM_ROWS,
        against_reward_model,
        paper=PAPER,
        experiment="The same think-SFT, prompts, updates and completions; draft and revision are rewarded by the same formula "
        "from the scores of a sequence-classification model of the starter's size, trained by Bradley-Terry on 6,000 "
        "labelled pairs about the whole world, which the lab's judge knows as well",
        better="QA-LIGN",
        rival="GRPO with the scalar reward model",
    ),
    _experiment(
        "qa-lign.presets",
        PRESET_ROWS,
        presets,
        paper="Rubrica, on QA-LIGN (2506.08123), Algorithm 4",
        experiment="GRPO with preset rubrica (alpha = beta = 0.5, vetoes) and with preset qa-lign (10, 1, no veto), from the same "
        "think-SFT on the same prompts, 100 updates of 16 x 5",
        better="preset rubrica",
        rival="preset qa-lign",
    ),
    _experiment(
        "qa-lign.reflection",
        REFLECTION_ROWS,
        reflection,
        paper="QA-LIGN (2506.08123), section 5",
        experiment="The same prompts, examples, updates and completions with and without reflection; without, SFT learns the "
        "revision alone, and GRPO rewards the answer's one total (paper: 23 % false refusals, no other figure)",
        better="QA-LIGN",
        rival="QA-LIGN without reflection",
    ),
)
