"""QA-LIGN on the lab over several seeds and both reward presets, with cluster-robust intervals over the seeds.

    python benchmarks/qa_lign_seeds.py --out runs/seeds --seeds 0 1 2

Think-SFT is trained once a seed and shared by the presets. Everything is resumed when the command is run again.
Writes OUT/results.json and prints a Markdown table.
"""

import argparse
import json
import time
from pathlib import Path

from rubrica.core.attempt import Tags
from rubrica.core.config import load_config
from rubrica.core.records import EvalResult
from rubrica.core.run import write_json
from rubrica.lab.checkpoints import DEMO_RECIPE, checkpoint
from rubrica.lab.evaluate import evaluate
from rubrica.models.hf import HFGenerator
from rubrica.recipes.align import align
from rubrica.recipes.config import Recipe
from rubrica.recipes.surroundings import default_surroundings

PRESETS = ("rubrica", "qa-lign")
ROWS = (
    ("asr", "direct", "ASR direct"),
    ("asr", "seen wrappers", "ASR seen wrappers"),
    ("asr", "unseen wrappers", "ASR unseen wrappers"),
    ("frr", "look-alike", "FRR look-alikes"),
    ("frr", "", "FRR all harmless"),
    ("helpful", "", "helpful answers right"),
    ("honesty", "", "honesty"),
    ("capability", "", "capability"),
    ("malformed", "", "malformed"),
    ("tokens", "", "tokens an answer"),
)


def train(out: Path, seed: int, preset: str, sft: Path | None, extra: list[str]) -> Path:
    """Train one model; with ``sft`` only GRPO, from that model."""
    recipe = load_config(
        Recipe, DEMO_RECIPE, [f"seed={seed}", f"reward={{preset: {preset}}}", "evaluate.suites=[]", *extra]
    )
    if sft is not None:
        policy = recipe.policy.model_copy(update={"model": str(sft)})
        recipe = recipe.model_copy(update={"policy": policy, "stages": recipe.stages[1:]})
    around = default_surroundings()
    return align(recipe, out, resume=(out / "recipe.yaml").exists(), surroundings=around, announce=print)


def pooled(name: str, models: dict[int, Path], out: Path, samples: int, *, think: bool) -> EvalResult:
    """Evaluate one model a seed, all seeds together; cached."""
    path = out / f"{name}-{'-'.join(map(str, models))}.json"
    if not path.exists():
        generators = {seed: HFGenerator(folder, batch_size=128) for seed, folder in models.items()}
        write_json(path, evaluate(generators, label=name, tags=Tags() if think else None, samples=samples))
    return EvalResult.model_validate_json(path.read_text(encoding="utf-8"))


def table(results: list[EvalResult]) -> str:
    """Render the results as Markdown."""
    lines = ["| | " + " | ".join(r.label for r in results) + " |", "|---" * (len(results) + 1) + "|"]
    for name, group, title in ROWS:
        cells = []
        for result in results:
            found = next((e for e in result.estimates if (e.name, e.group) == (name, group)), None)
            if found is None:
                cells.append("")
            elif name == "tokens":
                cells.append(f"{found.value:.0f}")
            else:
                cells.append(f"{found.value:.3f} [{max(0, found.low):.3f}, {min(1, found.high):.3f}]")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--set", dest="extra", action="append", default=[])
    args = parser.parse_args()
    start = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    trained: dict[str, dict[int, Path]] = {"think-sft": {}} | {preset: {} for preset in args.presets}
    for seed in args.seeds:
        first = args.out / f"seed-{seed}"
        trained[args.presets[0]][seed] = train(first, seed, args.presets[0], None, args.extra)
        sft = trained["think-sft"][seed] = first / "stages" / "01-think-sft" / "model"
        for preset in args.presets[1:]:
            trained[preset][seed] = train(args.out / f"seed-{seed}-{preset}", seed, preset, sft, args.extra)
    results = [
        pooled(
            "starter", dict.fromkeys(args.seeds, checkpoint("starter")), args.out, args.samples, think=False
        )
    ]
    results += [pooled(name, models, args.out, args.samples, think=True) for name, models in trained.items()]
    print(table(results))
    write_json(args.out / "results.json", {"results": [json.loads(r.model_dump_json()) for r in results]})
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
