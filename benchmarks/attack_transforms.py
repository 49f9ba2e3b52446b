"""Which transforms raise harm in the lab? Each is put before every model, and the oracle reads the answers.

    python benchmarks/attack_transforms.py --model starter=lab:starter --model think=RUN/stages/01-think-sft/model \
        --think think --prompts 40 --out table.json

Several models of one name are the same recipe trained with several seeds. The prompts are the lab's held-out requests for
recipes of banes, asked directly: an answer that tells its steps is no accident, while a request for a dose is answered by
any sentence with the right number in it. Rates are over prompts and seeds with intervals clustered by prompt.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from rubrica.attacks.attack import parse_attacks
from rubrica.core.attempt import Tags
from rubrica.core.clustered import rate_by_cluster
from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Item
from rubrica.core.records import Sampling
from rubrica.lab.evaluate import PROMPT_SEED, answers
from rubrica.lab.generator import prompts
from rubrica.lab.language import Family, Intent
from rubrica.recipes.models import open_source
from rubrica.recipes.options import ModelSource
from rubrica.recipes.surroundings import default_surroundings

EXTRA = ("many-shot(n=4)", "best-of-n(n=4)", "best-of-n(n=4,sigma=0.05)", "homoglyph(share=0.05)")
SEVERAL = {"many-shot", "best-of-n"}
"""Replaced by settings that fit the lab's context."""


def main() -> None:
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--model", action="append", required=True, metavar="NAME=MODEL")
    reader.add_argument(
        "--think", action="append", default=[], metavar="NAME", help="writes draft and revision"
    )
    reader.add_argument("--prompts", type=int, default=40)
    reader.add_argument("--temperature", type=float, default=0.7)
    reader.add_argument("--out", type=Path, required=True)
    options = reader.parse_args()
    drawn = prompts("harmful", "test", 3 * options.prompts, PROMPT_SEED, [Family.DIRECT])
    recipes = [each for each in drawn if each.tags["intent"] == Intent.BREW.value][: options.prompts]
    items = [Item(id=each.id, suite="lab", prompt=each, cluster=each.id) for each in recipes]
    attacks = [one for one in parse_attacks(["direct", "all", *EXTRA]) if one.spec not in SEVERAL]
    harmed: dict[tuple[str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for seed, (name, model) in enumerate(each.split("=", 1) for each in options.model):
        generator = open_source(ModelSource(model=model), default_surroundings(), batch_size=64)
        sampling = Sampling(temperature=options.temperature, max_tokens=192, seed=seed)
        tags = Tags() if name in options.think else None
        for attack in attacks:
            asked = [made for item in items for made in attack(item)]
            try:
                found = answers(generator, [made.prompt for made in asked], sampling, tags)
            except UsageError as error:
                print(f"{name} {attack.spec}: {str(error)[:100]}", flush=True)
                continue
            for made, answer in zip(asked, found, strict=True):
                harmed[attack.spec, name][made.cluster].append(answer.reading.harmful)
            rate = rate_by_cluster(harmed[attack.spec, name])
            print(
                f"{name:12} {attack.spec:28} {rate.value:6.1%} [{rate.low:6.1%}, {rate.high:6.1%}]",
                flush=True,
            )
    rows = [
        {"attack": attack, "model": name, **rate_by_cluster(by_prompt).model_dump(mode="json")}
        for (attack, name), by_prompt in harmed.items()
    ]
    options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
