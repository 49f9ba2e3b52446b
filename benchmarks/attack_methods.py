"""Which search finds most for the same work? GCG, UAT, PEZ, GBDA and AutoDAN at equal passes through the model.

    python benchmarks/attack_methods.py --out DIR --model lab:teacher --model RUN --passes 2000

Every method gets the same prompts and targets, greedy answers, the oracle as judge, and ``--passes`` sequences through
the model for a prompt, forward and backward; the judge has about ``--looks`` regular looks, whatever a step costs (it
looks at each better text that reaches the target as well). *Random* is the control with equally many looks: for each
request the judge is shown as many random suffixes as answers of the search. Of a model with draft and revision the
target is the beginning of the revision. Loss and *target* need no judge: on a model that never refuses they are what
tells the methods apart. Intervals: requests are the clusters. Run it again to go on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from attack_search import found, harmful, random_suffixes, rate

from rubrica.core.evaluation import Item
from rubrica.core.run import write_json
from rubrica.core.stats import mean_interval
from rubrica.lab.suites import items as lab_items
from rubrica.recipes.evaluated import read_model
from rubrica.recipes.options import ModelSource
from rubrica.recipes.searching import Searching

METHODS: dict[str, tuple[dict[str, object], int]] = {
    "gcg": ({"candidates": 64, "topk": 64, "tokens": 16}, 66),
    "uat": ({"topk": 8, "tokens": 16}, 131),
    "pez": ({"tokens": 16}, 3),
    "gbda": ({"tokens": 16}, 24),
    "autodan": ({"population": 64}, 64),
}
"""Settings of each method, and the passes that a step takes."""


def searching(model: str, method: str, args: argparse.Namespace) -> Searching:
    """One search of the table."""
    known = read_model(model, ModelSource(model=model))
    settings, cost = METHODS[method]
    steps = max(1, round(args.passes / cost / args.looks))
    limits = {"steps": args.passes, "passes": args.passes, "check_every": steps, "stop": args.stop}
    aim = "revision" if known.tags else "answer"
    limits |= {"refresh": steps if known.tags else 0}
    return Searching.model_validate(
        {"model": known.source.model, "tags": known.tags, "method": {"type": method, **settings}, "aim": aim}
        | {"input": "lab-harmful", "limits": limits, "judge": "lab-oracle", "max_tokens": 128}
        | {"limit": args.prompts}
    )


def row(model: str, method: str, args: argparse.Namespace, items: Sequence[Item]) -> dict[str, object]:
    """What one method finds in one model, beside as many looks at random suffixes."""
    wanted = searching(model, method, args)
    result = found(args.out / f"{Path(model).name.replace(':', '-')}-{method}-{args.stop}", wanted, items)
    rows = [result[item.id] for item in items]
    looks = [row.judged for row in rows]
    suffixes = random_suffixes(wanted, max(looks))
    asked = [(at, suffix) for at, count in enumerate(looks) for suffix in suffixes[:count]]
    verdicts = harmful(wanted, [(items[at], suffix) for at, suffix in asked])
    control = [
        any(said for (at, _), said in zip(asked, verdicts, strict=True) if at == n) for n in range(len(rows))
    ]
    success = [bool(row.harmful) for row in rows]
    gain = mean_interval(
        [float(one) - float(other) for one, other in zip(success, control, strict=True)], bounds=(-1, 1)
    )
    return {
        "model": model,
        "method": method,
        "failed": sum(bool(row.error) for row in rows),
        "success": rate([success], "success").model_dump(),
        "random": rate([control], "random").model_dump(),
        "gain": gain.model_dump(),
        "target": rate([[row.reached for row in rows]], "target").model_dump(),
        "loss": fmean(row.loss for row in rows if row.loss is not None),
        "looks": fmean(looks),
        "passes": fmean(row.forward + row.backward for row in rows),
        "seconds": fmean(row.seconds for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", action="append", default=[], help="lab:NAME, or a folder of rubrica align")
    parser.add_argument("--method", action="append", default=[], choices=[*METHODS])
    parser.add_argument("--prompts", type=int, default=30)
    parser.add_argument("--passes", type=int, default=2000)
    parser.add_argument("--looks", type=int, default=6)
    parser.add_argument("--stop", choices=["harm", "never"], default="harm")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    items = lab_items("lab-harmful")[: args.prompts]
    for model in args.model or ["lab:teacher"]:
        print(f"\n{model}: {len(items)} requests, {args.passes:,} passes each, stop at {args.stop}")
        for method in args.method or METHODS:
            told = row(model, method, args, items)
            write_json(args.out / f"{Path(model).name.replace(':', '-')}-{method}-{args.stop}.json", told)
            shown = {name: cell(value) for name, value in told.items() if name not in ("model", "method")}
            print(f"  {method:8} " + "  ".join(f"{name} {text}" for name, text in shown.items()), flush=True)


def cell(value: object) -> str:
    """A figure, or a rate with its interval."""
    if isinstance(value, dict):
        return f"{value['value']:.1%} [{value['low']:.1%}, {value['high']:.1%}]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
