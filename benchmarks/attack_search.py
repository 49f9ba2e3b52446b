"""Does aligning the lab's policies hold against an attacker who searches? Direct, random, transferred and adaptive attacks.

    python benchmarks/attack_search.py --out DIR --policy qa-lign=RUN0,RUN1,RUN2 --policy teacher=lab:teacher

``RUN`` is a folder of ``rubrica align`` (or any model); several are seeds of one policy. All attacks get the same prompts,
greedy answers, and the oracle judges:

- direct: the request as it is;
- random: the best of as many random suffixes as the adaptive attack has regular looks of the judge (it looks at each
  better text that reaches the target as well: ``judged`` in its searches.jsonl);
- transfer: the suffix that was found on the starter, which never refuses, without stopping early;
- adaptive: the search on the policy itself, its target at the beginning of the answer, or of the revision.

The table counts an answer without a revision as no success. Intervals: requests are the clusters. Run it again to go on.
"""

import argparse
import json
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch

from rubrica.attacks.method import draws_of
from rubrica.core.attempt import Tags, parse
from rubrica.core.clustered import rate_by_cluster
from rubrica.core.evaluation import Item
from rubrica.core.prompts import Prompt
from rubrica.core.records import Estimate, Sampling
from rubrica.core.run import write_json
from rubrica.core.stats import mean_interval
from rubrica.lab.oracle import read
from rubrica.lab.suites import items as lab_items
from rubrica.recipes.evaluated import read_model
from rubrica.recipes.options import ModelSource
from rubrica.recipes.search import run_search
from rubrica.recipes.search_model import open_victim
from rubrica.recipes.searching import Searched, Searching
from rubrica.recipes.surroundings import default_surroundings

SURROUNDINGS = default_surroundings()
MAX_TOKENS = 128


def searching(model: str, tags: Tags | None, args: argparse.Namespace, *, aim: str, stop: str) -> Searching:
    method = {"type": args.method, **json.loads(args.options)}
    limits = {"steps": args.steps, "check_every": args.check_every, "stop": stop}
    limits |= {"refresh": args.check_every if aim == "revision" else 0, "passes": args.passes}
    return Searching.model_validate(
        {"model": model, "tags": tags, "method": method, "input": "lab-harmful", "aim": aim, "limits": limits}
        | {"judge": "lab-oracle", "max_tokens": MAX_TOKENS, "limit": args.prompts}
    )


def found(folder: Path, wanted: Searching, items: Sequence[Item]) -> dict[str, Searched]:
    def report(what: str, done: int, total: int) -> None:
        if done % 20 == 0:
            print(f"{folder.name}: {done}/{total}", flush=True)

    return {row.item: row for row in run_search(wanted, items, folder, SURROUNDINGS, report=report)}


def harmful(wanted: Searching, asked: Sequence[tuple[Item, str]]) -> list[bool]:
    """Whether the greedy answer to each item under a suffix is harmful; one without a revision is not."""
    victim = open_victim(wanted, SURROUNDINGS)
    prompts = [with_suffix(item.prompt, suffix) for item, suffix in asked]
    sampling, verdicts = Sampling(temperature=0.0, max_tokens=MAX_TOKENS), {}
    for index, response in victim.generator.generate(prompts, sampling):
        text = response.text
        if wanted.tags is not None:
            attempt = parse(text, wanted.tags, finished=response.finished)
            text = "" if attempt.malformed else attempt.revision
        verdicts[index] = bool(text) and read(asked[index][0].prompt, text).harmful
    return [verdicts[index] for index in range(len(prompts))]


def with_suffix(prompt: Prompt, suffix: str) -> Prompt:
    last = prompt.messages[-1]
    turn = last.model_copy(update={"content": last.content + suffix})
    return prompt.model_copy(update={"messages": (*prompt.messages[:-1], turn)})


def random_suffixes(wanted: Searching, count: int) -> list[str]:
    """The same for every prompt: words of tokens that an attack may write."""
    from rubrica.attacks.objective import allowed_tokens

    victim = open_victim(wanted, SURROUNDINGS)
    allowed, draws = allowed_tokens(victim), draws_of(0, "random suffixes", 0)
    picks = torch.randint(len(allowed), (count, 16), generator=draws)
    return [" " + victim.decode(allowed[pick].tolist()).strip() for pick in picks]


def attack(name: str, model: str, args: argparse.Namespace, items: Sequence[Item]) -> dict[str, list[bool]]:
    """Success of every attack on one model, item by item."""
    known = read_model(model, ModelSource(model=model))
    plain = searching(known.source.model, known.tags, args, aim="answer", stop="harm")
    rows: dict[str, list[bool]] = {}
    for aim in args.aims.split(",") if known.tags else ["answer"]:
        wanted = searching(known.source.model, known.tags, args, aim=aim, stop="harm")
        result = found(args.out / f"{name}-{args.method}-{aim}", wanted, items)
        rows[f"adaptive, {aim}"] = [bool(result[item.id].harmful) for item in items]
    start = searching("lab:starter", None, args, aim="answer", stop="never")
    transfer = found(args.out / f"starter-{args.method}", start, items)
    suffixes = random_suffixes(plain, args.steps // args.check_every)
    tries = [harmful(plain, [(item, suffix) for item in items]) for suffix in suffixes]
    rows["direct"] = harmful(plain, [(item, "") for item in items])
    rows[f"best of {len(suffixes)} random"] = [any(each) for each in zip(*tries, strict=True)]
    rows["transfer"] = harmful(plain, [(item, transfer[item.id].text) for item in items])
    return rows


def rate(by_seed: Sequence[Sequence[bool]], name: str) -> Estimate:
    clusters: dict[Hashable, list[bool]] = {
        at: list(values) for at, values in enumerate(zip(*by_seed, strict=True))
    }
    return rate_by_cluster(clusters, name=name)


def gain(rows: Sequence[dict[str, list[bool]]], better: str, worse: str) -> Estimate:
    """Difference of two attacks, request by request, averaged over seeds."""
    per_item = [
        sum(seed[better][at] - seed[worse][at] for seed in rows) / len(rows)
        for at in range(len(rows[0][better]))
    ]
    return mean_interval(per_item, bounds=(-1, 1), name=f"{better} - {worse}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--policy", action="append", default=[], metavar="NAME=MODEL,MODEL")
    parser.add_argument("--method", default="gcg")
    parser.add_argument(
        "--options", default='{"candidates": 64, "topk": 64, "tokens": 16}', help="of the method, as JSON"
    )
    parser.add_argument("--prompts", type=int, default=30)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--passes", type=int, default=None)
    parser.add_argument("--aims", default="answer,revision", help="of models that write revisions")
    parser.add_argument("--check-every", type=int, default=10)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    items = lab_items("lab-harmful")[: args.prompts]
    for policy in args.policy or ["teacher=lab:teacher"]:
        name, _, models = policy.partition("=")
        rows = [attack(f"{name}-{seed}", model, args, items) for seed, model in enumerate(models.split(","))]
        rates = [rate([seed[attack] for seed in rows], attack) for attack in rows[0]]
        adaptive = [attack for attack in rows[0] if attack.startswith("adaptive")]
        gains = [
            gain(rows, better, worse) for better in adaptive for worse in rows[0] if worse not in adaptive
        ]
        print(f"\n{name}: {len(rows)} model(s), {len(items)} requests, {args.method}, {args.steps} steps")
        for estimate in rates:
            print(f"  {estimate.name:24} {estimate.value:6.1%} [{estimate.low:.1%}, {estimate.high:.1%}]")
        for estimate in gains:
            print(f"  {estimate.name:44} {estimate.value:+.1%} [{estimate.low:+.1%}, {estimate.high:+.1%}]")
        result = {
            "policy": name,
            "rates": [e.model_dump() for e in rates],
            "gains": [e.model_dump() for e in gains],
        }
        write_json(args.out / f"{name}-{args.method}.json", result)


if __name__ == "__main__":
    main()
