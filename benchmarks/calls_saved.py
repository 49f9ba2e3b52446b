"""Judge calls that gates-first spares on real texts of the lab: starter, and a run's think-SFT and aligned models.

    python benchmarks/calls_saved.py RUN

RUN is a finished run of ``rubrica demo``. 240 held-out prompts, one answer each; drafts and revisions are judged once
for the reward (what can change the total) and once in full. Identical texts count once.
"""

import sys
import tempfile
from pathlib import Path

from rubrica.core.attempt import Tags, parse
from rubrica.core.prompts import Prompt
from rubrica.core.records import Sampling
from rubrica.core.store import Store
from rubrica.judges.executor import Executor
from rubrica.judges.local import LocalJudge
from rubrica.lab.checkpoints import checkpoint
from rubrica.lab.evaluate import test_prompts
from rubrica.models.hf import HFGenerator
from rubrica.program.program import load_program
from rubrica.program.reward import RewardConfig


def texts(model: Path, *, think: bool) -> list[tuple[Prompt, str]]:
    """Sample one answer a prompt; of a well-formed attempt its draft and its revision."""
    asked = test_prompts(60)[::5][:240]
    sampling = Sampling(temperature=0.7, max_tokens=128, seed=0)
    found: list[tuple[Prompt, str]] = []
    for index, response in HFGenerator(model, batch_size=128).generate(asked, sampling):
        attempt = parse(response.text, Tags(), finished=response.finished) if think else None
        if attempt is None:
            found.append((asked[index], response.text))
        elif attempt.malformed is None:
            found += [(asked[index], attempt.draft), (asked[index], attempt.revision)]
    return found


def main() -> None:
    """Print one row a model and preset."""
    stages = Path(sys.argv[1]) / "stages"
    models = {"starter": (checkpoint("starter"), False)}
    models["think-SFT"] = (stages / "01-think-sft" / "model", True)
    models["QA-LIGN"] = (stages / "02-grpo" / "model", True)
    judge, program = LocalJudge.load(checkpoint("judge")), load_program("lab")
    print(
        "| model | preset | texts | questions of distinct texts | asked | spared |\n|---|---|---|---|---|---|"
    )
    for name, (model, think) in models.items():
        judged = texts(model, think=think)
        for preset in ("rubrica", "qa-lign"):
            with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.sqlite") as store:
                reward = RewardConfig(preset=preset)
                executor = Executor(
                    judge, store, program=program, reward=reward, thresholds=judge.veto_thresholds
                )
                least = [card.total for card in executor.score(judged)]
                asked = executor.usage.asked
                full = [card.total for card in executor.score(judged, full=True)]
                assert least == full, "sparing calls changed a total"
                whole = executor.usage.asked
            print(f"| {name} | {preset} | {len(judged)} | {whole:,} | {asked:,} | {1 - asked / whole:.0%} |")


if __name__ == "__main__":
    main()
