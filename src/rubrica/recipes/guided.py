"""Token by token, or block by block, choose between candidates by what a reward says of their rollouts.

One engine for Transfer Q*, controlled decoding and ARGS (:mod:`rubrica.methods.transfer_q`): they differ in who writes
the rollouts, and how long. Candidates and rollouts of many prompts go through the models in one batch
(:mod:`rubrica.models.rollouts`), and their texts to the reward in one call. A prompt that is finished makes room for the
next one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from rubrica.core.decoded import Candidate, Decision
from rubrica.core.ports import RewardModel
from rubrica.core.records import Sampling
from rubrica.methods.transfer_q import Indirect, Rollout, divergence, policy, values
from rubrica.models.distinct import Distinct
from rubrica.models.rollouts import Floats, Rollouts, Start, Style, likeliest, roll
from rubrica.models.trunk import Line, Top, Trunk
from rubrica.models.trunks import make_trunk
from rubrica.recipes.decoders import Decoder, Job, Policy

Roller = Literal["base", "baseline", "nobody"]


@dataclass(frozen=True)
class Guide:
    """How candidates are proposed, continued, valued and chosen."""

    roller: Roller
    """Who continues candidates: the base (controlled decoding), the baseline (Transfer Q*), nobody (ARGS)."""
    alpha: float
    """What a nat of divergence from the base costs in reward."""
    k: int
    """Candidates: the likeliest first tokens."""
    rollout_tokens: int | None
    """Longest rollout; None: to the end of the answer."""
    n_rollouts: int
    rollout_temperature: float
    """0: one greedy rollout."""
    block: int = 1
    """Tokens of a candidate; those behind the first are the base's own."""
    from_baseline: bool = False
    """Take candidates, and their log-probabilities, from the baseline instead of the base."""
    indirect: Indirect | None = None
    """Weights for a baseline that is aligned to another reward."""
    batch_tokens: int = 32_768
    """Tokens whose keys and values are held at a time."""


@dataclass(eq=False)
class _Path(Job):
    """An answer under way, and what is known about how it may go on."""

    front: Top = field(default_factory=lambda: Top([], []))
    """The candidates' first tokens, as the proposing model has them."""
    base_logprobs: list[float] = field(default_factory=list)
    """The same tokens' log-probabilities under the base."""
    lines: list[Line] = field(default_factory=list)
    """Greedy rollout of the candidate that was chosen last."""
    distinct: tuple[Distinct, Distinct] = field(default_factory=lambda: (Distinct(), Distinct()))
    """Of what base and roller have to read."""


class _Option(NamedTuple):
    """One candidate of one answer."""

    tokens: list[int]
    row: int
    """In the rows of the proposals."""
    excess: float
    """Sum of log q - log p over its tokens behind the first."""


class _Rolled(NamedTuple):
    """One candidate with its rollouts."""

    option: _Option
    samples: list[list[int]]
    """Whole candidates with what followed."""
    row: int | None
    """In the rows of the rollouts; None where there was nothing to roll."""


class Guided(Decoder):
    """Answers of the base, guided by a reward."""

    def __init__(
        self,
        base: Policy,
        baseline: Policy | None,
        reward: RewardModel,
        baseline_reward: RewardModel | None,
        guide: Guide,
        name: str,
    ) -> None:
        """``UsageError`` for base and baseline with two vocabularies."""
        super().__init__([base] if baseline is None else [base, baseline], reward, baseline_reward, name)
        assert (baseline is not None) == (guide.roller == "baseline"), "who rolls is there, nobody else"
        assert guide.block == 1 or not guide.from_baseline
        self.guide = guide

    def _run(self, jobs: Sequence[Job], sampling: Sampling, *, trace: bool) -> Iterator[list[Job]]:
        paths = [_Path(j.index, j.prompt, j.turn, j.prefix, j.heads, j.tail) for j in jobs]
        if paths:
            yield from _Session(self, paths, sampling, trace=trace).run()


class _Session:
    """One call of the decoder: slots, and what stands in them."""

    def __init__(self, decoder: Guided, waiting: list[_Path], sampling: Sampling, *, trace: bool) -> None:
        self.decoder, self.guide, self.sampling, self.trace = decoder, decoder.guide, sampling, trace
        self._waiting = waiting[::-1]
        longest = max(len(head) for path in waiting for head in path.heads) + sampling.max_tokens
        ahead = self._ahead(sampling.max_tokens)
        rows = self.guide.k * self.guide.n_rollouts * (self.guide.block + ahead)
        # greedy rollouts of the last decision stay for their lines
        kept = 1 if self._sampled_rollouts or not ahead else 2
        slots = min(len(waiting), max(1, self.guide.batch_tokens // (longest + kept * rows)))
        self.trunks: list[Trunk] = [make_trunk(each.model, slots, longest) for each in decoder.policies]
        self.base = self.trunks[0]
        self.roller = None if self.guide.roller == "nobody" else self.trunks[-1]
        self.proposer = self.trunks[-1] if self.guide.from_baseline else self.base
        self._slots: list[_Path | None] = [None] * slots

    @property
    def _sampled_rollouts(self) -> bool:
        return self.guide.rollout_temperature > 0

    def _ahead(self, remaining: int) -> int:
        """Longest rollout behind a candidate that leaves ``remaining`` tokens."""
        if self.guide.roller == "nobody":
            return 0
        most = self.guide.rollout_tokens
        return remaining if most is None else min(most, remaining)

    def run(self) -> Iterator[list[Job]]:
        """Decide until every answer is finished; yield those that are."""
        while self._waiting or any(self._slots):
            self._fill()
            active = [path for path in self._slots if path is not None]
            finished = self._decide(active)
            for path in finished:
                self._slots[path.slot] = None
            yield list[Job](finished)
            self._shrink()

    # --- slots ----------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Put waiting prompts into free slots, and have every model read them."""
        fresh: list[_Path] = []
        for slot, held in enumerate(self._slots):
            if held is None and self._waiting:
                path = self._waiting.pop()
                path.slot = slot
                self._slots[slot] = path
                fresh.append(path)
        if fresh:
            behind = [
                trunk.fill({path.slot: path.heads[number] for path in fresh})
                for number, trunk in enumerate(self.trunks)
            ]
            front = behind[-1] if self.guide.from_baseline else behind[0]
            self._face(fresh, likeliest(front, self.guide.k), behind[0])

    def _shrink(self) -> None:
        """Give up slots that stay empty, so that nothing is computed for them."""
        held = [path for path in self._slots if path is not None]
        if held and not self._waiting and len(held) <= 0.75 * len(self._slots):
            for trunk in self.trunks:
                trunk.keep([path.slot for path in held])
            for slot, path in enumerate(held):
                path.slot = slot
            self._slots = list(held)

    def _face(self, paths: Sequence[_Path], fronts: Sequence[Top], base_logits: Tensor | None) -> None:
        """Note between which first tokens each answer has to choose next."""
        for path, front in zip(paths, fronts, strict=True):
            path.front, path.base_logprobs = front, front.logprobs
        if self.guide.from_baseline:
            assert base_logits is not None
            logprobs = base_logits.double().log_softmax(-1)
            for path, line in zip(paths, logprobs, strict=True):
                path.base_logprobs = line[path.front.tokens].tolist()

    # --- one decision of every answer -----------------------------------------------------------

    def _decide(self, active: Sequence[_Path]) -> list[_Path]:
        """Choose once for every answer; return those that are finished."""
        points = [self._points(path) for path in active]
        proposals, options = self._propose(active, points)
        rollouts, rolled = self._roll(active, options, proposals, points)
        texts = [
            (path, self._text(path, sample))
            for path, candidates in zip(active, rolled, strict=True)
            for candidate in candidates
            for sample in candidate.samples
        ]
        self.decoder.score(texts)
        chosen = [
            self._choose(path, candidates, float(numbers[0]))
            for path, candidates, numbers in zip(active, rolled, points, strict=True)
        ]
        finished = [path for path in active if self._finished(path)]
        going = [(path, pick) for path, pick in zip(active, chosen, strict=True) if not self._finished(path)]
        if going:
            self._advance(going, proposals, rollouts)
        for path in finished:
            path.computed = sum(trunk.computed[path.slot] for trunk in self.trunks)
            path.least = sum(map(len, path.heads)) + sum(distinct.count for distinct in path.distinct)
        return finished

    def _points(self, path: _Path) -> Floats:
        """Random numbers of one decision: one for the choice, then of the candidates, then of their rollouts."""
        guide, remaining = self.guide, self.sampling.max_tokens - len(path.written)
        count = 1
        if self.sampling.temperature > 0:
            count += guide.k * (guide.block - 1)
        if self._sampled_rollouts:
            count += guide.k * guide.n_rollouts * self._ahead(remaining)
        return path.points(self.sampling.seed, f"decision {len(path.written)}", count)

    def _propose(
        self, active: Sequence[_Path], points: Sequence[Floats]
    ) -> tuple[Rollouts, list[list[_Option]]]:
        """Candidates: the likeliest first tokens, each continued by the base up to the length of a block."""
        starts: list[Start] = []
        for path, numbers in zip(active, points, strict=True):
            target = min(self.guide.block, self._remaining(path))
            more = self.guide.block - 1
            for place, token in enumerate(path.front.tokens):
                drawn = None
                if self.sampling.temperature > 0 and target > 1:
                    drawn = numbers[1 + place * more : 1 + (place + 1) * more][None, : target - 1]
                lines = path.lines if self.roller is self.proposer else ()
                starts.append(Start(path.slot, [token], target, drawn, lines))
        found = roll(
            self.proposer, starts, self._style(self.sampling.temperature, self.sampling.top_p, self.proposer)
        )
        left = iter(zip(found.first, found.samples, strict=True))
        options = []
        for path in active:
            pairs = [next(left) for _ in path.front.tokens]
            options.append([_Option(s[0], row, self._excess(found, row, s[0])) for row, s in pairs])
        return found, options

    def _excess(self, found: Rollouts, row: int, tokens: Sequence[int]) -> float:
        if self.sampling.temperature > 0 or len(tokens) == 1:
            return found.excess[row]
        return -sum(top.logprobs[0] for top in found.rows.tops[row][: len(tokens) - 1])

    def _roll(
        self,
        active: Sequence[_Path],
        options: Sequence[Sequence[_Option]],
        proposals: Rollouts,
        points: Sequence[Floats],
    ) -> tuple[Rollouts | None, list[list[_Rolled]]]:
        """Continue every candidate that is not the end of its answer."""
        starts: list[Start] = []
        rows: dict[tuple[int, int], int] = {}
        for number, (path, candidates) in enumerate(zip(active, options, strict=True)):
            for place, option in enumerate(candidates):
                start = self._start(path, option, place, proposals, points[number])
                if start is not None:
                    rows[number, place] = len(starts)
                    starts.append(start)
        found = None
        if starts and self.roller is not None:
            found = roll(self.roller, starts, self._style(self.guide.rollout_temperature, 1.0, self.roller))
        rolled: list[list[_Rolled]] = []
        for number, candidates in enumerate(options):
            rolled.append([])
            for place, option in enumerate(candidates):
                at = rows.get((number, place))
                samples = [option.tokens] if at is None or found is None else found.samples[at]
                rolled[-1].append(_Rolled(option, samples, at))
        return found, rolled

    def _start(
        self, path: _Path, option: _Option, place: int, proposals: Rollouts, numbers: Floats
    ) -> Start | None:
        remaining = self._remaining(path)
        ahead = self._ahead(remaining - len(option.tokens))
        if not ahead or option.tokens[-1] in self.decoder.stop:
            return None
        drawn = None
        if self._sampled_rollouts:
            width = self._ahead(remaining)
            table = numbers[-self.guide.k * self.guide.n_rollouts * width :]
            drawn = table.reshape(self.guide.k, self.guide.n_rollouts, width)[place, :, :ahead]
        lines = list(path.lines)
        if self.roller is self.proposer:
            lines.append(Line(proposals.rows, option.row, 0))
        return Start(path.slot, option.tokens, len(option.tokens) + ahead, drawn, lines)

    def _choose(self, path: _Path, rolled: Sequence[_Rolled], number: float) -> _Rolled:
        """Value the candidates, choose one and write it to the answer."""
        found = values([self._worths(path, each) for each in rolled], self.guide.indirect)
        shares = policy(path.front.logprobs, found, self.guide.alpha, self.sampling.temperature)
        at = int(np.searchsorted(shares.cumsum(), number * shares.sum(), side="right"))
        at = min(at, int(np.flatnonzero(shares)[-1]))
        if self.trace:
            path.trace.append(self._decision(path, rolled, found, shares, at))
        path.kl += divergence(shares, path.base_logprobs) + rolled[at].option.excess
        path.blind += all(value is None for value in found)
        path.decisions += 1
        path.written += rolled[at].option.tokens
        self._need(path, rolled, rolled[at].option.tokens)
        return rolled[at]

    def _worths(self, path: _Path, rolled: _Rolled) -> list[Rollout]:
        return [Rollout(*path.worths[self._text(path, sample)]) for sample in rolled.samples]

    def _decision(
        self,
        path: _Path,
        rolled: Sequence[_Rolled],
        found: Sequence[float | None],
        shares: Floats,
        at: int,
    ) -> Decision:
        before = self.decoder.text(path, path.written)
        rows = zip(rolled, path.front.logprobs, found, shares.tolist(), strict=True)
        candidates = tuple(
            Candidate(
                text=self._text(path, each.option.tokens).removeprefix(before),
                logprob=logprob,
                value=value,
                probability=share,
            )
            for each, logprob, value, share in rows
        )
        return Decision(at=len(path.written), candidates=candidates, chosen=at)

    def _advance(
        self, going: Sequence[tuple[_Path, _Rolled]], proposals: Rollouts, rollouts: Rollouts | None
    ) -> None:
        """Have every model read what was chosen, as far as it has not."""
        paths, block = [path for path, _ in going], self.guide.block
        front: list[Top] = []
        base_logits = None
        if self.roller is not self.base:
            picked = {path.slot: each.option.row for path, each in going}
            base_logits = self.base.step(proposals.rows, list(picked.values()))
            self.base.commit(proposals.rows, picked, block)
            front = likeliest(base_logits, self.guide.k) if self.proposer is self.base else []
        if self.roller is not None:
            assert rollouts is not None
            rolled = {path.slot: each.row for path, each in going if each.row is not None}
            self.roller.commit(rollouts.rows, rolled, block)
            for path, row in zip(paths, rolled.values(), strict=True):
                path.lines = [] if self._sampled_rollouts else [Line(rollouts.rows, row, block)]
                if self.proposer is self.roller:
                    front.append(rollouts.rows.tops[row][block - 1])
        self._face(paths, front, base_logits)

    def _need(self, path: _Path, rolled: Sequence[_Rolled], chosen: Sequence[int]) -> None:
        """Count what the decision, and the next one, cannot do without."""
        base, roller = path.distinct
        for each in rolled:
            if self.proposer is self.base:
                base.need(each.option.tokens[:-1])
            if each.row is not None:
                for sample in each.samples:
                    (base if self.roller is self.base else roller).need(sample[:-1])
        if self.roller is not self.base and not self._finished(path):
            base.need(chosen)
        for distinct in path.distinct:
            distinct.advance(chosen)

    def _finished(self, path: _Path) -> bool:
        return path.written[-1] in self.decoder.stop or not self._remaining(path)

    def _remaining(self, path: _Path) -> int:
        return self.sampling.max_tokens - len(path.written)

    def _text(self, path: _Path, tokens: Sequence[int]) -> str:
        return self.decoder.text(path, [*path.written, *tokens])

    def _style(self, temperature: float, top_p: float, trunk: Trunk) -> Style:
        top = self.guide.k if trunk is self.proposer else 0
        return Style(temperature, top_p, self.decoder.stop, top)
