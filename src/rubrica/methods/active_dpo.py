"""ActiveDPO: which pairs of answers are worth a label (Lin et al., arXiv 2505.19241, ICLR 2026).

    r(x, y) = beta log pi(y|x) / pi_ref(y|x)                      implicit reward of the policy
    g(x, y) = P grad r(x, y) / ||P grad r(x, y)||                 projected, unit norm; beta and pi_ref cancel
    phi     = g(x, y1) - g(x, y2)
    V       = ridge I + sum of phi phi^T over the pairs selected so far
    next    = argmax phi^T V^-1 phi, then V += phi phi^T          also within a batch, so that it is diverse

The norm of phi under V^-1 bounds how wrong the estimated reward difference of a pair can be (neural dueling
bandits). Unit norm takes away that gradients of sums of log-probabilities grow with length. The paper does not
give ridge (lambda / kappa_mu) or beta; ours are 1 and 0.1.

Baselines: random; APLP, the largest difference of implicit rewards, and the entropy of the answers to a prompt
(Muldrew et al., arXiv 2402.08114, section 3); APO, the same criterion where phi is the difference of the last
hidden states, which is right for a reward linear in them (Das et al., arXiv 2402.10500).

Shapes: ``N`` candidate pairs, ``R`` responses, ``D`` dimensions, ``E`` pairs selected in earlier rounds, ``B`` pairs
to select now.
"""

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from rubrica.core.comparisons import Candidate
from rubrica.core.errors import ModelError

Array = NDArray[np.floating]
Strategy = Literal["activedpo", "random", "aplp", "apo-linear", "entropy"]
STRATEGIES: tuple[Strategy, ...] = ("activedpo", "random", "aplp", "apo-linear", "entropy")
Route = Literal["inverse", "sherman-morrison", "gram"]
ROUTES: tuple[Route, ...] = ("inverse", "sherman-morrison", "gram")
_TIE = 1e-9
"""Scores that differ by less, relative to the largest, are equal; the first pair is then taken by every route."""
_NOTHING = 1e-10
"""Squared norms below this share of the largest are rounding: such pairs have the same gradient twice."""
_BLOCK = 4096
"""Rows of phi that are held in double precision at a time."""


class Pick(NamedTuple):
    """A selected pair, with the score for which it was selected."""

    place: int
    """Its place among the candidates."""
    score: float


class Pool(NamedTuple):
    """``N`` candidate pairs over ``R`` responses."""

    pairs: Sequence[Candidate]
    first: Sequence[int]
    """[N] row of each pair's first answer among the responses."""
    second: Sequence[int]
    """[N] row of its second."""


class Features(NamedTuple):
    """What a model has to say about ``R`` responses."""

    gradients: Array
    """[R, D] projected gradients of unit norm; D is 0 where no strategy asked for them."""
    states: Array
    """[R, H] last hidden states."""
    log_probs: Array
    """[R] log pi(y|x), summed over tokens."""
    reference: Array | None = None
    """[R] log pi_ref(y|x); None: the policy is its own reference."""


def differences(values: Array, pool: Pool) -> Array:
    """Return phi [N, D]: the rows of ``values`` [R, D] for first answers minus those for second answers."""
    found: Array = values[np.asarray(pool.first, dtype=int)] - values[np.asarray(pool.second, dtype=int)]
    return found


def unit(values: Array) -> Array:
    """Return the rows of ``values`` with unit norm; a row of zeros stays. ``ModelError`` for one not finite."""
    if not np.isfinite(values).all():
        raise ModelError("gradients or hidden states are not finite; use a wider dtype, or another model")
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    scaled: Array = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    return scaled


def select(
    strategy: Strategy,
    pool: Pool,
    features: Features,
    count: int,
    *,
    explored: Array | None = None,
    ridge: float = 1.0,
    beta: float = 0.1,
    seed: int = 0,
    route: Route | None = None,
) -> list[Pick]:
    """Return at most ``count`` pairs of the pool in the order of their selection.

    ``explored`` [E, D] are the :func:`differences` of the pairs that were selected before, for the two strategies
    that have any.
    """
    match strategy:
        case "activedpo" | "apo-linear":
            phi = differences(vectors(strategy, features), pool)
            return most_uncertain(phi, count, explored=explored, ridge=ridge, route=route)
        case "aplp":
            return largest(np.abs(reward_differences(features, pool, beta)), count, seed)
        case "entropy":
            return by_entropy(features, pool, count)
        case "random":
            order = np.random.default_rng(seed).permutation(len(pool.pairs))[:count]
            return [Pick(int(place), 0.0) for place in order]


def vectors(strategy: Strategy, features: Features) -> Array:
    """Return what a strategy knows of each response, [R, D]; D is 0 for those that keep no covariance."""
    match strategy:
        case "activedpo":
            return features.gradients
        case "apo-linear":
            return unit(features.states)
        case _:
            return np.zeros((len(features.log_probs), 0))


def reward_differences(features: Features, pool: Pool, beta: float) -> Array:
    """Return r(x, y1) - r(x, y2) of the implicit reward, [N]; all 0 where the policy is its own reference."""
    if features.reference is None:
        return np.zeros(len(pool.pairs))
    return differences(beta * (features.log_probs - features.reference), pool)


def by_entropy(features: Features, pool: Pool, count: int) -> list[Pick]:
    """Take pairs of the prompts whose answers are the least likely, one of each prompt before a second of any.

    The entropy of pi(.|x) is estimated by the mean of -log pi(y|x) over the prompt's answers in the pool.
    """
    prompts = [pair.prompt.id for pair in pool.pairs]
    rows: dict[str, set[int]] = {}
    for prompt, one, two in zip(prompts, pool.first, pool.second, strict=True):
        rows.setdefault(prompt, set()).update((one, two))
    entropy = {prompt: -float(np.mean(features.log_probs[sorted(used)])) for prompt, used in rows.items()}
    seen: Counter[str] = Counter()
    turns = []
    for prompt in prompts:
        turns.append(seen[prompt])
        seen[prompt] += 1
    order = sorted(range(len(prompts)), key=lambda i: (turns[i], -entropy[prompts[i]], i))
    return [Pick(i, entropy[prompts[i]]) for i in order[:count]]


def largest(scores: Array, count: int, seed: int) -> list[Pick]:
    """Return the ``count`` largest of ``scores`` [N]; equal ones, as all are before any training, come at random."""
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    order = shuffled[np.argsort(-scores[shuffled], kind="stable")][:count]
    return [Pick(int(place), float(scores[place])) for place in order]


def most_uncertain(
    phi: Array, count: int, *, explored: Array | None = None, ridge: float = 1.0, route: Route | None = None
) -> list[Pick]:
    """Select greedily by phi^T V^-1 phi, updating V after each pick; a row of (nearly) zeros is never selected.

    ``phi`` [N, D], ``explored`` [E, D]. The three routes give the same picks and scores: ``inverse`` inverts V anew
    for each pick, ``sherman-morrison`` keeps V^-1 and takes (phi_j^T V^-1 phi*)^2 / (1 + s*) off each score, ``gram``
    needs inner products alone. None takes the one with the fewest operations.
    """
    before = np.zeros((0, phi.shape[1])) if explored is None else explored.astype(np.float64)
    norms = _squares(phi)
    free = norms > _NOTHING * norms.max(initial=0.0)
    count = min(count, int(free.sum()))
    chosen = route or cheapest(len(phi), phi.shape[1], len(before), count)
    steps = {"inverse": _by_inverse, "sherman-morrison": _by_sherman_morrison, "gram": _by_gram}[chosen]
    scores = steps(phi, before, ridge)
    picks: list[Pick] = []
    found = next(scores)
    while len(picks) < count:
        top = found[free].max()
        index = int(np.flatnonzero(free & (found >= top - _TIE * abs(top)))[0])
        picks.append(Pick(index, float(found[index])))
        free[index] = False
        if len(picks) < count:
            found = scores.send(index)
    return picks


def operations(route: Route, n: int, d: int, e: int, b: int) -> float:
    """Floating-point operations of selecting ``b`` of ``n`` pairs after ``e`` others, in ``d`` dimensions."""
    match route:
        case "inverse":
            return 2.0 * e * d * d + b * (2.0 * d**3 + 2.0 * n * d * d + 2.0 * d * d)
        case "sherman-morrison":
            return 2.0 * (e + n) * d * d + 2.0 * d**3 + b * (4.0 * d * d + 2.0 * n * d)
        case "gram":
            return 2.0 * e * (e + n) * d + e * e * (e / 3 + n) + b * (2.0 * n * d + 2.0 * (e + b) * n)


def cheapest(n: int, d: int, e: int, b: int) -> Route:
    """Return the route with the fewest :func:`operations`."""
    return min(ROUTES, key=lambda route: operations(route, n, d, e, b))


Scores = Generator[Array, int, None]
"""Yields the scores [N]; gets the index of the pair that was picked, and yields the next."""


def _by_inverse(phi: Array, explored: Array, ridge: float) -> Scores:
    covariance = ridge * np.eye(phi.shape[1]) + explored.T @ explored
    while True:
        picked = yield _quadratic(phi, np.linalg.inv(covariance))
        row = phi[picked].astype(np.float64)
        covariance += np.outer(row, row)


def _by_sherman_morrison(phi: Array, explored: Array, ridge: float) -> Scores:
    inverse = np.linalg.inv(ridge * np.eye(phi.shape[1]) + explored.T @ explored)
    scores = _quadratic(phi, inverse)
    while True:
        picked = yield scores
        along = inverse @ phi[picked].astype(np.float64)
        weight = 1 + scores[picked]
        scores = scores - np.square(_times(phi, along)) / weight
        inverse -= np.outer(along, along) / weight


def _by_gram(phi: Array, explored: Array, ridge: float) -> Scores:
    """Partial Cholesky factor of I + K / ridge, whose columns are computed for selected pairs alone.

    phi_j^T V^-1 phi_k = K_jk / ridge - sum over the rows l of the factor of l_j l_k.
    """
    factor = np.zeros((0, len(phi)))
    if len(explored):
        lower = np.linalg.cholesky(np.eye(len(explored)) + explored @ explored.T / ridge)
        products = np.concatenate([block @ explored.T for block in _blocks(phi)]).T
        factor = solve_triangular(lower, products / ridge, lower=True)
    scores = _squares(phi) / ridge - np.square(factor).sum(axis=0)
    used = len(factor)
    while True:
        picked = yield scores
        if used == len(factor):  # room for as many rows again
            factor = np.vstack([factor, np.zeros((max(used, 16), len(phi)))])
        known = factor[:used]
        column = _times(phi, phi[picked].astype(np.float64)) / ridge - known.T @ known[:, picked]
        factor[used] = column / math.sqrt(1 + scores[picked])
        scores = scores - np.square(factor[used])
        used += 1


def _blocks(phi: Array) -> Iterator[Array]:
    for start in range(0, max(len(phi), 1), _BLOCK):
        yield phi[start : start + _BLOCK].astype(np.float64)


def _squares(phi: Array) -> Array:
    return np.concatenate([np.square(block).sum(axis=1) for block in _blocks(phi)])


def _times(phi: Array, vector: Array) -> Array:
    return np.concatenate([block @ vector for block in _blocks(phi)])


def _quadratic(phi: Array, matrix: Array) -> Array:
    """phi_j^T M phi_j for every row, [N]."""
    return np.concatenate([np.einsum("nd,nd->n", block @ matrix, block) for block in _blocks(phi)])
