"""Best-of-n over a trunk: the n answers to a prompt share it, and one another's beginnings (:mod:`rubrica.methods.best_of_n`)."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rubrica.core.decoded import Candidate, Decision
from rubrica.core.errors import UsageError
from rubrica.core.ports import RewardModel
from rubrica.core.records import Sampling
from rubrica.methods.best_of_n import best, divergence_bound
from rubrica.models.decoding import draw, shares_of
from rubrica.models.distinct import Distinct
from rubrica.models.rollouts import Floats, Start, Style, roll
from rubrica.models.trunks import make_trunk
from rubrica.recipes.decoders import Decoder, Job, Policy


class BestOfN(Decoder):
    """The best of n answers of the base."""

    def __init__(
        self, base: Policy, reward: RewardModel, n: int, name: str, *, batch_tokens: int = 32_768
    ) -> None:
        """``batch_tokens`` bounds the tokens whose keys and values are held at a time."""
        super().__init__([base], reward, None, name)
        self._n, self._batch_tokens = n, batch_tokens

    def _run(self, jobs: Sequence[Job], sampling: Sampling, *, trace: bool) -> Iterator[list[Job]]:
        if sampling.temperature == 0:
            raise UsageError(
                f"generator {self.name}: at temperature 0 best-of-n draws {self._n} equal answers; set temperature above 0"
            )
        if not jobs:
            return
        longest = max(len(job.heads[0]) for job in jobs)
        size = max(1, self._batch_tokens // (longest + self._n * sampling.max_tokens))
        for begin in range(0, len(jobs), size):
            part = jobs[begin : begin + size]
            self._draw(part, sampling, longest, trace=trace)
            yield list(part)

    def _draw(self, jobs: Sequence[Job], sampling: Sampling, longest: int, *, trace: bool) -> None:
        trunk = make_trunk(self.base.model, len(jobs), longest)
        logits = trunk.fill({slot: job.heads[0] for slot, job in enumerate(jobs)})
        points = [
            job.points(sampling.seed, "best of n", self._n * sampling.max_tokens).reshape(self._n, -1)
            for job in jobs
        ]
        begun = [_first(row, each[:, 0], sampling) for row, each in zip(logits, points, strict=True)]
        starts = [
            Start(slot, [token], sampling.max_tokens, points[slot][members, 1:])
            for slot, tokens in enumerate(begun)
            for token, members in tokens.items()
        ]
        style = Style(sampling.temperature, sampling.top_p, self.stop)
        found = iter(roll(trunk, starts, style).samples)
        logprobs = logits.double().log_softmax(-1)
        for slot, (job, tokens) in enumerate(zip(jobs, begun, strict=True)):
            drawn: list[list[int]] = [[]] * self._n
            for members in tokens.values():
                for member, sample in zip(members, next(found), strict=True):
                    drawn[member] = sample
            self._choose(job, drawn, logprobs[slot], trace=trace)
            job.computed = trunk.computed[slot]
            job.least = len(job.heads[0]) + _least(drawn)

    def _choose(self, job: Job, drawn: Sequence[list[int]], logprobs: Tensor, *, trace: bool) -> None:
        self.score([(job, self.text(job, sample)) for sample in drawn])
        rewards = [self.rollout(job, sample).reward for sample in drawn]
        at = best(rewards)
        job.written, job.decisions = list(drawn[at]), 1
        known = sum(reward is not None for reward in rewards)
        job.kl, job.blind = (divergence_bound(known), 0) if known else (0.0, 1)
        if trace:
            job.trace.append(
                Decision(
                    at=0,
                    candidates=tuple(
                        Candidate(
                            text=self.text(job, sample),
                            logprob=float(logprobs[sample[0]]),
                            value=reward,
                            probability=float(place == at),
                        )
                        for place, (sample, reward) in enumerate(zip(drawn, rewards, strict=True))
                    ),
                    chosen=at,
                )
            )


def _first(logits: Tensor, points: Floats, sampling: Sampling) -> Mapping[int, list[int]]:
    """First tokens, and which samples begin with each."""
    shares = shares_of(logits[None], temperature=sampling.temperature, top_p=sampling.top_p)
    tokens = draw(shares, torch.from_numpy(points).to(logits.device)[None])[0].tolist()
    found: dict[int, list[int]] = {}
    for member, token in enumerate(tokens):
        found.setdefault(token, []).append(member)
    return found


def _least(drawn: Sequence[Sequence[int]]) -> int:
    distinct = Distinct()
    for sample in drawn:
        distinct.need(sample[:-1])
    return distinct.count
