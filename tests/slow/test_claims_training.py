"""Recipes of the claims table: their first stages are shared, and a killed one goes on."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from rubrica.claims import qa_lign, registry, workshop
from rubrica.claims.experiment import Experiment
from rubrica.claims.finding import Claim, Effect
from rubrica.claims.rates import headlines, rate
from rubrica.claims.table import Table, fill
from rubrica.claims.workshop import Bench, Workshop
from rubrica.cli import main
from rubrica.core.attempt import Tags
from rubrica.core.records import EvalResult, Rollout, ThinkExample
from rubrica.core.run import Stage
from rubrica.core.store import Store
from rubrica.recipes.config import Recipe

pytestmark = pytest.mark.slow
SMALL = (
    "judge=lab-oracle",
    "stages.0.examples=12",
    "stages.0.replay_examples=4",
    "stages.0.reference=null",
    "stages.1.steps=1",
    "stages.1.prompts_per_step=2",
    "stages.1.group_size=2",
    "stages.1.reference=null",
)


def think(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"stages": recipe.stages[:1]})


def stage_of(run: Path, number: int) -> Stage:
    return Stage(sorted((run / "stages").iterdir())[number - 1])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Workshop(tmp_path).bench("test", 3)


def test_first_stages_are_shared(bench: Bench, tmp_path: Path) -> None:
    ours = bench.recipe(*SMALL)
    other = bench.recipe(*SMALL, "reward.preset=qa-lign")
    assert ours.seed == other.seed == 3
    first, second = bench.trained(ours, think(ours)), bench.trained(other, think(ours))
    alone = bench.trained(think(ours))
    assert len(list((tmp_path / "trained").iterdir())) == 3
    summaries = [stage_of(run, 1).summary() for run in (alone.run, first.run, second.run)]
    assert summaries[0] == summaries[1] == summaries[2]  # with its seconds: trained once
    weights = [
        (run / "stages/01-think-sft/model/model.safetensors").read_bytes() for run in (alone.run, first.run)
    ]
    assert weights[0] == weights[1]
    assert first.model.name == "model"
    assert "grpo" in str(first.model)
    spent = sum(
        float(str(stage_of(run, n).summary()["seconds"]))
        for run, n in ((alone.run, 1), (first.run, 2), (second.run, 2))
    )
    again = Workshop(tmp_path).bench("test", 3)
    again.trained(ours, think(ours))
    again.trained(other, think(ours))
    assert again.seconds == pytest.approx(spent, abs=1.0)


def test_shared_stages_change_nothing(bench: Bench) -> None:
    """Rewards of the first update are those of a run that trains both stages itself."""
    ours = bench.recipe(*SMALL)
    apart, joined = bench.trained(ours, think(ours)), bench.trained(ours)
    assert apart.run != joined.run
    rows = [stage_of(run, 2).metrics()[0].metrics for run in (apart.run, joined.run)]
    assert [row["reward"] for row in rows] == [rows[0]["reward"]] * 2


def test_evaluations_are_kept(bench: Bench, tmp_path: Path) -> None:
    found = bench.evaluated("starter", "before", tags=None, samples=1)
    assert isinstance(found, EvalResult)
    assert found == bench.evaluated("starter", "before", tags=None, samples=1)
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert bench.evaluated("starter", "before", tags=Tags(), samples=1) != found


def test_without_reflection_the_answer_alone_is_taught_and_rewarded(bench: Bench) -> None:
    recipe = bench.recipe(*SMALL, "reflect=false", "stages.0.trainer.max_steps=40")
    trained = bench.trained(recipe)
    with Store(trained.run / "store.sqlite", read_only=True) as store:
        examples = store.all("think-example", ThinkExample)
        rollouts = store.all("rollout", Rollout)
    kept = sum(example.dropped is None for example in examples)
    assert stage_of(trained.run, 1).summary()["rows"] == kept + 4  # and 4 replayed
    assert len(rollouts) == 4
    for rollout in rollouts:
        if rollout.attempt.malformed is None:
            assert rollout.attempt.draft == rollout.attempt.revision == rollout.response.text.strip()
            assert rollout.draft_card == rollout.revision_card
            assert rollout.reward == pytest.approx(2 * rollout.r1)
    assert any(rollout.attempt.malformed is None for rollout in rollouts)
    assert not any("<think>" in rollout.response.text for rollout in rollouts)


CLAIM = Claim(id="before", claim="c", paper="p", experiment="e", effect="f", judge="the oracle")


def starter_is_willing(bench: Bench) -> Mapping[str, Effect]:
    found = bench.evaluated("starter", "before", tags=None, samples=2)
    return {CLAIM.id: Effect(value=rate(found, "helpful"), details=headlines(found, "before"))}


def test_models_are_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "EXPERIMENTS", (Experiment("before", (CLAIM,), starter_is_willing),))
    with pytest.raises(SystemExit) as left:
        main(["lab", "claims", "--seeds", "2", "--markdown", "--out", str(tmp_path)])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "|  | attack success | under unseen wrappers |" in shown
    table = Table.model_validate_json((tmp_path / "claims.json").read_text())
    (model,) = table.models
    assert model.seeds == (0, 1)
    effects = [outcome.effect for outcome in table.findings[0].outcomes]
    assert rate(model, "helpful") == pytest.approx(sum(effects) / 2)
    assert f"| {sum(effects) / 2:.3f} [" in shown


def test_every_qa_lign_experiment_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At sizes that teach nothing: an effect for each claim, and nothing trained twice."""
    monkeypatch.setattr(qa_lign, "QUICK", qa_lign.Sizes(examples=12, steps=2, prompts=4, pairs=40))
    monkeypatch.setattr(workshop, "QUICK_SAMPLES", 1)
    said: list[str] = []
    with Workshop(tmp_path, quick=True) as shop:
        table = fill(qa_lign.EXPERIMENTS, [1], shop, [lambda what, done, total: None], said.append)
    # where no completion parses there are no drafts to compare: the one experiment says so, and the others go on
    assert [failure.experiment for failure in table.failures] == ["qa-lign.presets"]
    assert "no rate 'draft_asr'" in table.failures[0].why
    others = [e for e in qa_lign.EXPERIMENTS if e.name != "qa-lign.presets"]
    assert [found.id for found in table.findings] == [claim.id for e in others for claim in e.claims]
    runs = {
        run.name: [stage.name for stage in sorted((run / "stages").iterdir())]
        for run in (tmp_path / "trained").iterdir()
    }
    alone = [stages for stages in runs.values() if stages == ["01-think-sft"]]
    assert len(alone) == 3  # shared, on all prompts, without reflection
    labels = {model.label for model in table.models}
    assert {"QA-LIGN", "QA-LIGN, no reflection", "DPO, 8x updates", "GRPO, scalar reward model"} <= labels
    drafts = {m.label for m in table.models if any(e.name == "malformed" for e in m.estimates)}
    assert "QA-LIGN" in drafts
    assert not {"QA-LIGN, no reflection", "DPO, 1x updates"} & drafts
