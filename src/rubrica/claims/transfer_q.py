"""Transfer Q* (arXiv 2405.20495) against ARGS, controlled decoding and best-of-n. Nothing is trained.

The base is the lab's starter, which does what is asked; the baseline its teacher, a copy that was taught to decline harm
and to admit ignorance. The reward is the oracle's total, in decoding as in evaluation: whether a decoder finds what is
rewarded is the question, not how judges err. Tokens are drawn from the closed form, so alpha sets how far a decoder goes
from the base. A rival decodes at several alphas; any divergence between two of them can be had by taking one or the other
at random, so what it reaches with at most our divergence is the upper envelope of these points and the base. That the
paper's method beats its own baseline is no claim here: the lab's teacher leaves no room above it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rubrica.claims.experiment import Experiment
from rubrica.claims.finding import Claim, Detail, Effect
from rubrica.claims.workshop import Bench
from rubrica.core.base import Record
from rubrica.core.config import Json
from rubrica.core.prompts import Prompt

PAPER = "Transfer Q* (2405.20495), main tables"
ALPHA = 0.1
"""Of Transfer Q*: totals lie in [-1, 1], so a better answer is worth up to 20 nats."""
RIVAL_ALPHAS = (0.3, 0.1, 0.03)
MAX_TOKENS = 64
MIX = {"harmful": 30, "lookalike": 12, "benign": 6, "unknowable": 6, "capability": 6}
"""Held-out prompts of each kind, over all attack families; others for each seed."""
QUICK_MIX = {"harmful": 6, "lookalike": 3, "benign": 1, "unknowable": 1, "capability": 1}


class Result(Record):
    """Means over the prompts of one decoder."""

    reward: float
    kl: float
    tokens: float
    """Of an answer."""
    computed: float
    """Tokens through the models for an answer, its prompt left out."""


@dataclass(frozen=True)
class Point:
    """What a decoder reaches at which divergence."""

    kl: float
    reward: float


def within(points: Sequence[Point], budget: float) -> float:
    """Return the highest reward on the upper envelope of ``points`` at a divergence of at most ``budget``."""
    affordable = [point for point in points if point.kl <= budget]
    found = [point.reward for point in affordable]
    for near in affordable:
        for far in points:
            if far.kl > budget:
                share = (budget - near.kl) / (far.kl - near.kl)
                found.append(near.reward + share * (far.reward - near.reward))
    return max(found)


def test(bench: Bench) -> Mapping[str, Effect]:
    """Decode the same prompts with everybody."""
    ours = _decoded(bench, mode="transfer-q", alpha=ALPHA)
    base = _decoded(bench, mode="best-of-n", n=1)
    teacher = _decoded(bench, mode="best-of-n", n=1, base={"model": "lab:teacher", "dtype": "float32"})
    details: dict[str, Detail] = {}
    for name, found in (("transfer-q", ours), ("base", base), ("baseline", teacher)):
        _note(details, name, found)
    gains: dict[str, float] = {}
    for claim, mode in ((CD, "cd"), (ARGS, "args")):
        points = [Point(base.kl, base.reward)]
        for alpha in RIVAL_ALPHAS:
            found = _decoded(bench, mode=mode, alpha=alpha)
            _note(details, f"{mode}.{alpha:g}", found)
            points.append(Point(found.kl, found.reward))
        gains[claim.id] = ours.reward - within(points, ours.kl)
    n = max(1, round(ours.computed / base.tokens))
    best = _decoded(bench, mode="best-of-n", n=n)
    _note(details, f"best-of-{n}", best)
    gains[BEST.id] = ours.reward - best.reward
    return {id: Effect(value=value, details=details) for id, value in gains.items()}


def _note(details: dict[str, Detail], name: str, found: Result) -> None:
    details |= {f"{name}.{key}": value for key, value in found.model_dump().items()}


def _decoded(bench: Bench, **settings: Json) -> Result:
    config: dict[str, Json] = {
        "base": {"model": "lab:starter", "dtype": "float32"},
        "baseline": {"model": "lab:teacher", "dtype": "float32"},
        "reward": {"judge": "lab-oracle", "program": "lab"},
        "rollout_tokens": None,
        "temperature": 1.0,
        "max_tokens": MAX_TOKENS,
        "seed": bench.seed,
        **settings,
    }

    def make() -> Result:
        from rubrica.core.store import Store
        from rubrica.recipes.decoding import DecodeConfig, open_decoder
        from rubrica.recipes.surroundings import default_surroundings

        read, asked = DecodeConfig.model_validate(config), _prompts(bench)
        name = f"{read.mode} {read.n if read.mode == 'best-of-n' else read.alpha:g}"
        found = []
        with Store(":memory:") as store:
            decoder = open_decoder(read, default_surroundings(), store)
            for _, each in decoder.decode(asked, read.sampling):
                found.append(each)
                bench.report(name, len(found), len(asked))
        rewards = [each.reward for each in found if each.reward is not None]
        spent = [each.spent for each in found]
        return Result(
            reward=sum(rewards) / len(rewards),
            kl=sum(each.kl for each in found) / len(found),
            tokens=sum(each.new_tokens for each in spent) / len(found),
            computed=sum(each.computed - each.prompt_tokens for each in spent) / len(found),
        )

    return bench.kept("decoded", [config, bench.quick], Result, make)


def _prompts(bench: Bench) -> list[Prompt]:
    from rubrica.lab.evaluate import PROMPT_SEED
    from rubrica.lab.generator import KINDS, prompts
    from rubrica.lab.language import Family

    mix = QUICK_MIX if bench.quick else MIX
    return [
        prompt
        for kind in KINDS
        for prompt in prompts(kind, "test", mix[kind], PROMPT_SEED + 1 + bench.seed, tuple(Family))
    ]


_WHAT = (
    f"The starter steered by the oracle's total on {sum(MIX.values())} held-out prompts, other ones for each seed; k = 10, "
    f"one greedy rollout by the teacher to the end, alpha {ALPHA:g}, tokens drawn from the closed form, at most "
    f"{MAX_TOKENS} of them"
)
_ALPHAS = ", ".join(f"{alpha:g}" for alpha in RIVAL_ALPHAS)
_EQUAL = f"the rival at alpha {_ALPHAS}, and mixtures of these and the base, with at most our KL"
_JUDGE = "nothing is trained; the oracle is the reward in decoding and in evaluation"
CD = Claim(
    id="transfer-q.cd",
    claim="Transfer Q* earns more reward than controlled decoding at equal KL to the base",
    paper=PAPER,
    experiment=f"{_WHAT}; {_EQUAL}",
    effect="mean total, Transfer Q* less controlled decoding (rollouts by the starter)",
    judge=_JUDGE,
)
ARGS = Claim(
    id="transfer-q.args",
    claim="Transfer Q* earns more reward than ARGS at equal KL to the base",
    paper=PAPER,
    experiment=f"{_WHAT}; {_EQUAL}",
    effect="mean total, Transfer Q* less ARGS (the reward of the unfinished text)",
    judge=_JUDGE,
)
BEST = Claim(
    id="transfer-q.best-of-n",
    claim="Transfer Q* earns more reward than best-of-n with as many tokens",
    paper="nobody's: a rival that the paper does not have",
    experiment=f"{_WHAT}; n answers of the starter, as many as have the tokens that Transfer Q* put through the models",
    effect="mean total, Transfer Q* less best-of-n",
    judge=_JUDGE,
)
EXPERIMENT = Experiment("transfer-q", (CD, ARGS, BEST), test)
