"""The Alignment Data Map (arXiv 2505.23114) in the lab: is its high-average third the third to train on?

Data as in UltraFeedback: to each prompt two answers of a weak and two of a strong model, labelled by one judge and
scored by another. Only prompts whose labels differ are in it, as in any set of preferences, so every prompt gives one
pair: the best label over the worst. The map is drawn from the lab judge's expected grades; labels are the oracle's
totals. DPO runs three epochs over a third that the map selects, over a random third, and over all.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rubrica.claims.experiment import Experiment
from rubrica.claims.finding import Claim, Detail, Effect
from rubrica.claims.workshop import Bench, file_hash
from rubrica.core.answers import Answers
from rubrica.core.config import Json
from rubrica.core.prompts import Prompt
from rubrica.core.records import Sampling
from rubrica.core.run import Stage, write_json, write_jsonl
from rubrica.core.store import Store
from rubrica.methods.data_map import Region
from rubrica.recipes.map_files import Chosen, Scorer, Wanted

MARGIN = 0.02
"""What *as good as* allows, on the scale of totals from -1 to 1."""
PROMPTS, QUICK_PROMPTS = 1200, 240
MIX = {"harmful": 0.4, "benign": 0.2, "lookalike": 0.2, "unknowable": 0.1, "capability": 0.1}
"""Kinds of prompts, as in the demo."""
SAMPLING = Sampling(temperature=1.0, max_tokens=64)
TRAINER = "{learning_rate: 1.0e-4, per_device_train_batch_size: 16, num_train_epochs: 3}"
SELECTIONS: tuple[Chosen, ...] = (Region.HIGH_AVERAGE, "random", "all")


def data_map(bench: Bench) -> dict[str, Effect]:
    """Train on the three selections and compare what the oracle says of their answers."""
    count = QUICK_PROMPTS if bench.quick else PROMPTS
    pool = bench.stage("data-map", [bench.seed, count], partial(_make, bench, count))
    found: dict[str, dict[str, float]] = {
        name: _quality(bench, _trained(bench, pool.path / f"{name}.jsonl")) for name in SELECTIONS
    }
    details: dict[str, Detail] = {
        f"{name}.{kind}": value for name, rates in found.items() for kind, value in rates.items()
    }
    details |= {name: value for name, value in pool.summary().items() if isinstance(value, int | float)}
    ours = found[Region.HIGH_AVERAGE]["mean"]
    return {
        "data-map.random": Effect(value=ours - found["random"]["mean"], details=details),
        "data-map.all": Effect(value=ours - found["all"]["mean"] + MARGIN, details=details),
    }


def _make(bench: Bench, count: int, stage: Stage) -> dict[str, object]:
    """Sample, label, score and select; what was sampled and scored is in the stage's store."""
    from rubrica.judges.local import LocalJudge
    from rubrica.lab.checkpoints import checkpoint
    from rubrica.lab.truth import OracleJudge
    from rubrica.program.program import load_program
    from rubrica.recipes.data_map import make_map
    from rubrica.recipes.map_scorers import Scores, judge_scores

    program = load_program("lab")
    stage.path.mkdir(parents=True, exist_ok=True)
    with Store(stage.path / "store.sqlite") as store:
        given = _answers(bench, store, _prompts(count, bench.seed))
        report = partial(bench.report, "labels")
        labels = judge_scores(
            given, OracleJudge(), store, program=program, grades=False, progress=report
        ).values
        labelled = [
            answers._replace(labels=values)
            for answers, values in zip(given, labels, strict=True)
            if len({value for value in values if value is not None}) > 1
        ]
        judge, report = LocalJudge.load(checkpoint("judge")), partial(bench.report, "scores")
        scores = judge_scores(labelled, judge, store, program=program, grades=True, progress=report)
    scorer = Scorer(kind="grades", name=judge.fingerprint)
    summary: dict[str, object] = {"prompts": count, "labelled": len(labelled)}
    for region in SELECTIONS:
        wanted = Wanted(region=region, seed=bench.seed)
        found = make_map(labelled, Scores(scores.values), scorer, wanted, "lab")
        write_jsonl(stage.path / f"{region}.jsonl", found.selected)
        write_json(stage.path / f"{region}.json", found.report)
        summary[f"{region}.pairs"] = found.report.selection.pairs
        summary["agreement"] = found.report.agreement.value if found.report.agreement else 0.0
    return summary


def _prompts(count: int, seed: int) -> list[Prompt]:
    from rubrica.lab.generator import KINDS, prompts

    return [prompt for kind in KINDS for prompt in prompts(kind, "train", round(MIX[kind] * count), seed)]


def _answers(bench: Bench, store: Store, asked: Sequence[Prompt]) -> list[Answers]:
    """Two answers of the starter and two of the teacher to each prompt; prompts with two different ones."""
    from rubrica.lab.checkpoints import checkpoint
    from rubrica.recipes.models import open_generator
    from rubrica.recipes.sampling import sampled

    texts: dict[str, list[str]] = {prompt.id: [] for prompt in asked}
    for name in ("starter", "teacher"):
        generator = open_generator(checkpoint(name), "float32", batch_size=128)
        sampling = SAMPLING.model_copy(update={"seed": 1000 * bench.seed})
        report = partial(bench.report, name)
        for id, drawn in sampled(store, name, name, generator, asked, 2, sampling, report).items():
            texts[id] += [response.text for response in drawn]
    return [
        Answers(prompt.id, prompt, tuple(texts[prompt.id]), None, None, {"kind": prompt.tags["kind"]})
        for prompt in asked
        if len(set(texts[prompt.id])) > 1
    ]


def _trained(bench: Bench, pairs: Path) -> Path:
    stage = f"{{type: dpo, pairs: ['{pairs}'], beta: 0.1, trainer: {TRAINER}}}"
    return bench.trained(bench.recipe(f"stages=[{stage}]")).model


def _quality(bench: Bench, model: Path) -> dict[str, float]:
    """Mean oracle total of the model's answers to held-out prompts by kind, and the mean over kinds."""
    key: list[Json] = [file_hash(model / "model.safetensors"), bench.seed, bench.samples]
    return bench.kept("oracle-totals", key, dict[str, float], partial(_totals, bench, model))


def _totals(bench: Bench, model: Path) -> dict[str, float]:
    from rubrica.judges.executor import Executor
    from rubrica.lab.evaluate import answers, test_prompts
    from rubrica.lab.truth import OracleJudge
    from rubrica.program.program import load_program
    from rubrica.program.reward import RewardConfig
    from rubrica.recipes.models import open_generator

    generator = open_generator(model, "auto", batch_size=128)
    sampling = SAMPLING.model_copy(update={"seed": bench.seed})
    found = answers(generator, test_prompts(bench.samples), sampling, None, partial(bench.report, "answers"))
    with Store(":memory:") as store:
        executor = Executor(OracleJudge(), store, program=load_program("lab"), reward=RewardConfig())
        cards = executor.score([(answer.prompt, answer.text) for answer in found])
    totals: dict[str, list[float]] = {}
    for answer, card in zip(found, cards, strict=True):
        if card.total is not None:
            totals.setdefault(answer.prompt.tags["kind"], []).append(card.total)
    means = {kind: sum(values) / len(values) for kind, values in totals.items()}
    return means | {"mean": sum(means.values()) / len(means)}


def _claim(id: str, text: str, effect: str) -> Claim:
    return Claim(
        id=f"data-map.{id}",
        claim=text,
        paper="Alignment Data Map (2505.23114), main tables",
        experiment=f"{PROMPTS:,} prompts of the demo's mix, two answers each of starter and teacher; prompts whose labels differ, "
        "best label over worst; DPO from the starter, beta 0.1, learning rate 1e-4, batches of 16, three epochs over "
        "each selection, so a third has a third of the updates",
        effect=effect,
        judge="the lab's judge draws the map (mean expected grade); the oracle labels the answers and evaluates",
    )


EXPERIMENTS = (
    Experiment(
        "data-map",
        (
            _claim(
                "random",
                "DPO on the high-average third gives better answers than on a random third",
                "mean oracle total, over kinds of held-out prompts, with the high-average third less with a random third",
            ),
            _claim(
                "all",
                f"... and answers as good as on all of the data (margin {MARGIN:g})",
                f"mean oracle total with the high-average third less with all data, plus a margin of {MARGIN:g}",
            ),
        ),
        data_map,
    ),
)
