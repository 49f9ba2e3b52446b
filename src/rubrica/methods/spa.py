"""SPA: self-priority alignment (AAAI-26, arXiv 2511.06222) as pure steps.

An answer has scores s = (s_1 .. s_K), the objective of highest priority first. Of a prompt's n sampled answers
y_1 .. y_n and the one answer y~ refined from all of them,

    consistency      keep the prompt iff s_k(y~) > max_i s_k(y_i) for every k
    informativeness  keep it iff 0 < det(Sigma) <= tau, Sigma the covariance of s over y_1 .. y_n
    pairs            y over y' iff s(y) >_lex s(y') and sum_k |s_k(y) - s_k(y')| >= delta
    loss (Eq. 3)     -w log sigmoid(beta/|y| log pi(y|x) - beta/|y'| log pi(y'|x) - gamma),
                     w = (gap / mean gap of the batch) ** alpha,  gap = |sum_k s_k(y) - sum_k s_k(y')|

The loss is :mod:`rubrica.losses.pairs`. The main text leaves open what becomes of a prompt whose refined answer is not
better ("the refined response is discarded"): reading A drops the prompt, reading B the refined answer alone. It
gives neither tau nor delta; here tau comes from a share of the prompts, or from where a weak and a strong scorer part
(the RV coefficient, by which the paper justifies the test). Ours as well: a floor for det, more than two objectives, steps within
which scores count as equal, a threshold for what is preferred.
"""

import math
import re
from collections.abc import Sequence
from importlib import resources
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rubrica.core.config import Config

Scores = tuple[float, ...]
"""Scores of one answer, the objective of highest priority first."""

LAMBDAS = (5.0, 10.0, 20.0)
"""Weights under which the paper sums up harmlessness and helpfulness."""
SINGULAR = 1e-9
"""A determinant below this share of the variances' product is 0: rounding, not information."""
_REFINEMENT = (
    resources.files("rubrica.methods").joinpath("prompts/spa-refinement.txt").read_text(encoding="utf-8")
)
_PLACEHOLDER = re.compile(r"\{(marker|objectives|conversation|answers|lowest|highest)\}")


class Denoising(Config):
    """Which prompts are trained on."""

    consistency: Literal["drop-prompt", "drop-refined", "off"] = "drop-prompt"
    """Where the refined answer is not better than every sample: reading A drops the prompt (own choice), reading B
    the refined answer; ``off`` keeps both (paper's ablation)."""
    better: Literal["strict", "pareto"] = "strict"
    """``strict``: higher in every objective (paper). ``pareto``: lower in none and higher in one, for scores that reach
    the top of their scale (own)."""
    informativeness: bool = True
    """Keep only prompts with 0 < det(Sigma) <= tau (paper); false: all (paper's ablation)."""
    tau: Literal["percentile", "rv"] | Annotated[float, Field(gt=0)] = "percentile"
    """Largest determinant: a number, ``percentile`` of the prompts, or ``rv``: where the scorer parts from the
    reference judge (own; the paper's is not published)."""
    percentile: float = Field(default=32.0, gt=0, le=100)
    """For ``percentile``: share of the prompts with det > ``floor``, in the order of det, that are kept (paper: its
    scorers agree on the first 32 %)."""
    floor: float = Field(default=0.01, ge=0)
    """What det must exceed (paper: 0, for whole scores, where the least above 0 is 0.019 with six samples; own for expected
    scores, which are never equal, so that 0 would keep the very prompts whose samples are alike)."""


class Pairing(Config):
    """Which answers to one prompt become pairs, and what a pair weighs."""

    delta: float = Field(default=1.0, ge=0)
    """Smallest sum over objectives of the distance between the scores (own: one point)."""
    resolution: float = Field(default=1.0, ge=0)
    """Scores that round to the same multiple of this are equal in the order; 0: only equal ones are (own: whole points
    as in the paper, since two expected scores are never equal and the second objective would then never count)."""
    gap: Literal["total", "l1"] = "total"
    """What the weight is made of: the distance between the sums of scores (paper), or the sum of distances."""
    threshold: float | None = None
    """Least score in the first objective of an answer that is preferred (own: none)."""
    per_prompt: int | None = Field(default=None, ge=1)
    """Most pairs of one prompt, those with the widest gaps; None: all (paper)."""


class Pool(NamedTuple):
    """Scores of the answers to one prompt."""

    samples: tuple[Scores, ...]
    refined: Scores | None


class Examined(NamedTuple):
    """What the two tests say of one prompt."""

    determinant: float
    dropped: str | None
    """Why nothing of the prompt is used; None where it passed."""
    refined: bool
    """Whether the refined answer is used."""


class Pair(NamedTuple):
    """Two answers to one prompt, by their place among its scores."""

    chosen: int
    rejected: int
    gap: float


NO_SCORES = "fewer than two answers with a score"
NO_REFINEMENT = "no refined answer with a score"
INCONSISTENT = "refined answer not better than every sample"
NO_INFORMATION = "det(Sigma) does not exceed the floor"
TOO_WIDE = "det(Sigma) exceeds tau"
"""Reasons why a prompt is dropped."""


# --- denoising ------------------------------------------------------------------------------------


def determinant(samples: Sequence[Scores]) -> float:
    """Return det(Sigma) of n samples' scores (n x K), Sigma their population covariance.

    It is exactly 0 where n <= K (always, for two samples and two objectives), where an objective does not vary and
    where the objectives are perfectly correlated.
    """
    if not samples or len(samples) <= len(samples[0]):
        return 0.0
    table = _table(samples)
    table = table - table[0]  # equal scores become exactly 0
    centred = table - table.mean(axis=0)
    sigma = centred.T @ centred / len(table)
    found = float(np.linalg.det(sigma))
    return found if found > SINGULAR * float(np.prod(np.diag(sigma))) else 0.0


def is_consistent(pool: Pool, better: Literal["strict", "pareto"] = "strict") -> bool:
    """Tell whether the refined answer is better than the best sample of each objective."""
    if pool.refined is None or not pool.samples:
        return False
    over = [score - max(one[k] for one in pool.samples) for k, score in enumerate(pool.refined)]
    if better == "strict":
        return min(over) > 0
    return min(over) >= 0 and max(over) > 0


def percentile_tau(determinants: Sequence[float], percentile: float, floor: float = 0.0) -> float:
    """Return the smallest tau that keeps ``percentile`` percent of the determinants above ``floor``; 0 where none is."""
    known = sorted(det for det in determinants if det > floor)
    return known[math.ceil(percentile / 100 * len(known)) - 1] if known else 0.0


def examine(pools: Sequence[Pool], rules: Denoising, tau: float, *, refining: bool = True) -> list[Examined]:
    """Put both tests to every prompt: consistency first, then informativeness with ``tau``.

    Without ``refining`` (the paper's ablation) there is no refined answer, and nothing is inconsistent.
    """
    return [_examined(pool, rules, tau, refining and rules.consistency != "off") for pool in pools]


def _examined(pool: Pool, rules: Denoising, tau: float, consistency: bool) -> Examined:
    det = determinant(pool.samples)
    refined = pool.refined is not None
    if len(pool.samples) + refined < 2:
        return Examined(det, NO_SCORES, False)
    if consistency and not is_consistent(pool, rules.better):
        if rules.consistency == "drop-prompt":
            return Examined(det, INCONSISTENT if refined else NO_REFINEMENT, False)
        refined = False
    if rules.informativeness and not rules.floor < det <= tau:
        return Examined(det, TOO_WIDE if det > rules.floor else NO_INFORMATION, False)
    return Examined(det, None, refined)


# --- tau by the RV coefficient ----------------------------------------------------------------------


class RvPoint(NamedTuple):
    """The RV coefficient over all prompts with a determinant of at most ``determinant``."""

    prompts: int
    determinant: float
    rv: float


def rv_coefficient(weak: Sequence[Scores], strong: Sequence[Scores]) -> float:
    """Return RV(X, Y) = tr(XX'YY') / sqrt(tr((XX')^2) tr((YY')^2)) of two score matrices (n x K), columns centred.

    It lies in [0, 1] (Robert and Escoufier 1976); nan where all scores of one of the two are equal.
    """
    x, y = (table - table.mean(axis=0) for table in (_table(weak), _table(strong)))
    # tr(XX'YY') = |X'Y|^2, which needs no n x n matrix
    both, own = float(np.sum((x.T @ y) ** 2)), float(np.sum((x.T @ x) ** 2) * np.sum((y.T @ y) ** 2))
    return both / math.sqrt(own) if own > 0 else math.nan


def rv_curve(
    weak: Sequence[Sequence[Scores]], strong: Sequence[Sequence[Scores]], floor: float = 0.0
) -> list[RvPoint]:
    """Return RV between two scorers of the same samples as prompts are added in the order of det(Sigma) under ``weak``.

    ``weak[j]`` and ``strong[j]`` are the scores of prompt j's samples. Prompts with det up to ``floor`` are left out.
    """
    dets = [determinant(samples) for samples in weak]
    order = sorted((j for j, det in enumerate(dets) if det > floor), key=dets.__getitem__)
    points: list[RvPoint] = []
    ours: list[Scores] = []
    theirs: list[Scores] = []
    for count, j in enumerate(order, 1):
        ours += weak[j]
        theirs += strong[j]
        if not math.isnan(rv := rv_coefficient(ours, theirs)):
            points.append(RvPoint(count, dets[j], rv))
    return points


def choose_tau(curve: Sequence[RvPoint]) -> float:
    """Return the determinant at the knee of ``curve``, behind which the scorers part.

    The knee is the point farthest above the line from the first point to the last (Satopaa et al. 2011, ours). A curve
    that does not fall keeps every prompt; an empty one gives 0.
    """
    if not curve:
        return 0.0
    first, last = curve[0], curve[-1]
    if last.rv >= first.rv or last.prompts == first.prompts:
        return last.determinant
    slope = (last.rv - first.rv) / (last.prompts - first.prompts)
    # of equally far points the last one: up to there nothing is lost
    return max(
        curve,
        key=lambda point: (point.rv - first.rv - slope * (point.prompts - first.prompts), point.prompts),
    ).determinant


# --- pairs ------------------------------------------------------------------------------------------


def rank(scores: Scores, resolution: float) -> Scores:
    """Return scores as the order compares them: in whole steps of ``resolution``, half a step up."""
    return scores if resolution == 0 else tuple(float(math.floor(s / resolution + 0.5)) for s in scores)


def gap(chosen: Scores, rejected: Scores, kind: Literal["total", "l1"]) -> float:
    """Return how far apart two answers are: |sum s - sum s'|, or sum |s - s'|."""
    differences = [a - b for a, b in zip(chosen, rejected, strict=True)]
    return abs(sum(differences)) if kind == "total" else sum(map(abs, differences))


def pairs(scores: Sequence[Scores], rules: Pairing) -> list[Pair]:
    """Return all pairs of answers to one prompt that the rules allow; of pairs with equal gaps the earlier first.

    An answer is preferred that is higher in the first objective in which the two differ.
    """
    ranks = [rank(one, rules.resolution) for one in scores]
    found = [
        Pair(i, j, gap(scores[i], scores[j], rules.gap))
        for i in range(len(scores))
        for j in range(len(scores))
        if ranks[i] > ranks[j]  # tuples compare lexicographically
        and gap(scores[i], scores[j], "l1") >= rules.delta
        and (rules.threshold is None or scores[i][0] >= rules.threshold)
    ]
    if rules.per_prompt is None:
        return found
    return sorted(found, key=lambda pair: -pair.gap)[: rules.per_prompt]


# --- refinement and summary ---------------------------------------------------------------------------


class Objective(NamedTuple):
    """What answers are scored on, in words."""

    title: str
    meaning: Sequence[str]
    """Sentences that say what is good."""


def refinement_request(
    conversation: str,
    answers: Sequence[tuple[str, Scores]],
    objectives: Sequence[Objective],
    marker: str,
    scale: tuple[float, float] = (1.0, 10.0),
) -> str:
    """Return the prompt that asks for one better answer, shown all answers with their scores.

    ``conversation`` and the answers must be quoted already, and ``marker`` must be the one they were quoted for.
    """
    listed = [
        f"{place}. {objective.title}\n"
        + "\n".join(f"   - {' '.join(line.split())}" for line in objective.meaning)
        for place, objective in enumerate(objectives, 1)
    ]
    blocks = [
        _answer_block(place, text, scores, objectives, marker)
        for place, (text, scores) in enumerate(answers, 1)
    ]
    values = {
        "marker": marker,
        "objectives": "\n".join(listed),
        "conversation": conversation,
        "answers": "\n\n".join(blocks),
        "lowest": f"{scale[0]:g}",
        "highest": f"{scale[1]:g}",
    }
    return _PLACEHOLDER.sub(lambda match: values[match[1]], _REFINEMENT).strip()


def _answer_block(place: int, text: str, scores: Scores, objectives: Sequence[Objective], marker: str) -> str:
    told = ", ".join(f"{o.title} {s:.1f}" for o, s in zip(objectives, scores, strict=True))
    name = f"ANSWER {place}"
    return f"{name} (scores: {told})\n[{marker} {name} BEGINS]\n{text}\n[{marker} {name} ENDS]"


def hh(scores: Scores, weight: float) -> float:
    """Return HH_lambda = (lambda s_1 + s_2) / (lambda + 1); with K objectives, weights lambda^(K-1) .. lambda, 1 (ours)."""
    weights = [weight**power for power in reversed(range(len(scores)))]
    return sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)


def _table(scores: Sequence[Scores]) -> NDArray[np.float64]:
    return np.asarray(scores, dtype=np.float64)
