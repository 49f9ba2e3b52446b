"""ActiveDPO's criterion where the truth is known: planted utilities over token counts, labels without noise.

    python benchmarks/active_toy.py

An answer is a bag of 24 words with counts of its own; its features are its counts, scaled to unit norm. Pairs are selected
by the criterion and at random, a logistic regression learns from their labels, and 3,000 pairs of other answers are
predicted. Utility is linear in the counts (but not in the features), or not at all. 200 seeds, paired differences.
"""

from collections.abc import Sequence

import numpy as np

from rubrica.core.comparisons import Candidate
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Estimate
from rubrica.core.stats import mean_interval
from rubrica.methods.active_dpo import Array, Features, Pool, Strategy, differences, select, unit

WORDS, ANSWERS, POOL, TESTED, SEEDS = 24, 500, 400, 3000, 200
STRATEGIES: tuple[Strategy, ...] = ("activedpo", "random")
RIDGE = 0.1


def learnt(phi: Array, wins: Array) -> Array:
    """Return weights of a logistic regression by Newton's method, with a faint pull to 0."""
    weights = np.zeros(phi.shape[1])
    for _ in range(30):
        sure = 1 / (1 + np.exp(-np.clip(phi @ weights, -30, 30)))
        curvature = (phi * (sure * (1 - sure))[:, None]).T @ phi + 0.01 * np.eye(len(weights))
        weights = weights - np.linalg.solve(curvature, phi.T @ (sure - wins) + 0.01 * weights)
    return weights


def accuracies(seed: int, labels: int, *, linear: bool) -> list[float]:
    """Return the share of test pairs that each strategy's regression ranks as the planted utility does."""
    random = np.random.default_rng(seed)
    counts = random.poisson(random.exponential(2.0, size=WORDS), size=(ANSWERS, WORDS)).astype(float)
    worth, waves = random.normal(size=(2, WORDS))
    utility = counts @ worth if linear else np.sqrt(counts) @ worth + 0.5 * np.sin(counts @ waves / 3)
    features = Features(unit(counts), np.zeros((ANSWERS, 0)), np.zeros(ANSWERS))
    first = random.integers(0, 300, size=POOL)
    second = (first + random.integers(1, 300, size=POOL)) % 300  # never the same answer twice
    prompt = Prompt(id="toy", messages=(Message(role="user", content="toy"),))
    pairs = [Candidate(id=f"p{i}", prompt=prompt, first=f"a{i}", second=f"b{i}") for i in range(POOL)]
    pool = Pool(pairs, first.tolist(), second.tolist())
    phi, wins = differences(features.gradients, pool), utility[first] > utility[second]
    one, other = random.integers(300, ANSWERS, size=(2, TESTED))
    tested, truth = features.gradients[one] - features.gradients[other], utility[one] > utility[other]
    found = []
    for strategy in STRATEGIES:
        places = [pick.place for pick in select(strategy, pool, features, labels, seed=seed, ridge=RIDGE)]
        weights = learnt(phi[places], wins[places].astype(float))
        found.append(float(np.mean((tested @ weights > 0) == truth)))
    return found


def gain(found: Sequence[Sequence[float]]) -> Estimate:
    """Return how much better the criterion is than chance, over the seeds."""
    return mean_interval([ours - theirs for ours, theirs in found], name="gain")


def main() -> None:
    """Print the table."""
    for linear in (True, False):
        for labels in (10, 20, 40, 80):
            found = [accuracies(seed, labels, linear=linear) for seed in range(SEEDS)]
            ours, theirs = np.mean(found, axis=0)
            more, kind = gain(found), "linear" if linear else "non-linear"
            interval = f"{more.value:+.3f} [{more.low:+.3f}, {more.high:+.3f}]"
            print(f"| {kind} | {labels} | {ours:.3f} | {theirs:.3f} | {interval} |")


if __name__ == "__main__":
    main()
