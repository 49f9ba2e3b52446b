"""SPA's five steps on one list of prompts: sample, score, refine, denoise, pair.

Every text and every verdict is in the store as soon as it exists, so a killed stage redoes nothing; each step leaves
a JSONL file in the stage's folder. The tests themselves are :mod:`rubrica.methods.spa`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pydantic import FiniteFloat

from rubrica.core.base import Record
from rubrica.core.config import content_hash
from rubrica.core.ports import Generator
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Preference, Response, Sampling
from rubrica.core.run import Stage, write_jsonl
from rubrica.core.store import Store
from rubrica.judges.template import fence_marker, quote, transcript
from rubrica.methods.spa import (
    Denoising,
    Examined,
    Objective,
    Pairing,
    Pool,
    Scores,
    choose_tau,
    determinant,
    examine,
    is_consistent,
    pairs,
    percentile_tau,
    rank,
    refinement_request,
    rv_curve,
)
from rubrica.recipes.sampling import stored_texts
from rubrica.recipes.spa_scores import HIGHEST, LOWEST, Scorer

CUT_OFF = "cut off"
BLANK = "blank"
UNSCORED = "no score"
"""Why an answer takes no part."""
TOO_LONG = "request longer than the context"
"""Why an answer was not refined."""
Report = Callable[[str, int, int], None]
Draw = Callable[[str, Sequence[Prompt], int], Mapping[str, Sequence[Response]]]
"""Gets (kind, prompts, how many answers to each); returns the answers by prompt id, from the store where it has them."""


class ScoredAnswer(Record):
    """A row of ``scores.jsonl`` and ``refined.jsonl``."""

    prompt_id: str
    text: str
    system: str = ""
    """System prompt under which it was sampled."""
    scores: dict[str, FiniteFloat] | None
    """By objective; None: it takes no part."""
    left_out: str | None = None
    """Why it takes no part."""


class DenoisedPrompt(Record):
    """A row of ``denoised.jsonl``."""

    prompt_id: str
    determinant: float
    dropped: str | None
    """Why nothing of the prompt is used; None where it passed."""
    refined: bool
    """Whether its refined answer is used."""
    pairs: int


class AgreementPoint(Record):
    """A row of ``rv.jsonl``: RV of the two scorers over the prompts up to a determinant."""

    prompts: int
    determinant: float
    rv: FiniteFloat


@dataclass(frozen=True)
class Refining:
    """Who writes the refined answers, and how."""

    generator: Generator
    sampling: Sampling
    shown: bool
    """Whether the writer sees the answers and their scores, or answers the prompt afresh."""
    fits: Callable[[Prompt], bool]
    """Tells whether a prompt leaves the writer room for an answer."""


@dataclass
class _Work:
    """One prompt on its way to pairs."""

    prompt: Prompt
    samples: list[ScoredAnswer] = field(default_factory=list)
    refined: ScoredAnswer | None = None

    def pool(self, objectives: Sequence[str]) -> Pool:
        """Scores of the answers that take part."""
        refined = None if self.refined is None else _scores(self.refined, objectives)
        return Pool(tuple(s for a in self.samples if (s := _scores(a, objectives)) is not None), refined)

    def texts(self, refined: bool) -> list[str]:
        """Texts in the order of the pool's scores, the refined one last where it is used."""
        answers = [*self.samples, *([self.refined] if refined and self.refined else [])]
        return [answer.text for answer in answers if answer.scores is not None]


class BuiltPool(Record):
    """What the five steps gave."""

    pairs: tuple[Preference, ...]
    report: dict[str, object]
    """Counts of each step, of each test and of each reason; mean scores."""


@dataclass
class PoolBuilder:
    """Builds the pairs of one iteration."""

    stage: Stage
    store: Store
    objectives: Mapping[str, Objective]
    """Id -> words, the first of highest priority."""
    scorer: Scorer
    draw: Draw
    samples: int
    systems: Sequence[str]
    """System prompts that the samples take in turn; an empty one stands for none."""
    denoising: Denoising
    pairing: Pairing
    refining: Refining | None = None
    strong: Scorer | None = None
    """Scores samples as well, for ``tau: rv``."""
    report: Report = field(default=lambda label, done, total: None)

    def build(self, prompts: Sequence[Prompt]) -> BuiltPool:
        """Return the pairs of ``prompts`` and the filter report."""
        work = [_Work(prompt) for prompt in prompts]
        self._sample(work)
        if self.refining is not None:
            self._refine(work, self.refining)
        pools = [one.pool(self._ids) for one in work]
        tau = self._tau(work, pools)
        examined = examine(pools, self.denoising, tau, refining=self.refining is not None)
        found = [self._pairs(one, pool, test) for one, pool, test in zip(work, pools, examined, strict=True)]
        self._export_denoised(work, examined, found)
        kept = tuple(pair for of_prompt in found for pair in of_prompt)
        write_jsonl(self.stage.path / "pairs.jsonl", kept)
        return BuiltPool(
            pairs=kept,
            report={
                **self._counts(work, pools, examined, found, tau),
                "scores": self._means(pools),
            },
        )

    @property
    def _ids(self) -> list[str]:
        return list(self.objectives)

    # --- sample and score ---

    def _sample(self, work: Sequence[_Work]) -> None:
        """Steps 1 and 2: the system prompts take turns, so that their shares differ by one answer at most."""
        drawn: list[tuple[_Work, str, Response]] = []
        for place, system in enumerate(self.systems):
            count = len(range(place, self.samples, len(self.systems)))
            if count:
                asked = [under_system(one.prompt, system) for one in work]
                found = self.draw(f"spa-sample-{place}", asked, count)
                drawn += [(one, system, response) for one in work for response in found[one.prompt.id]]
        write_jsonl(self.stage.path / "samples.jsonl", [response for _, _, response in drawn])
        answers = self._scored([(one.prompt, response, system) for one, system, response in drawn])
        for (one, _, _), answer in zip(drawn, answers, strict=True):
            one.samples.append(answer)
        write_jsonl(self.stage.path / "scores.jsonl", [answer for one in work for answer in one.samples])

    def _scored(self, items: Sequence[tuple[Prompt, Response, str]]) -> list[ScoredAnswer]:
        """Score whole answers; one that was cut off would teach to stop half-way."""
        problems = [
            CUT_OFF if not response.finished else None if response.text.strip() else BLANK
            for _, response, _ in items
        ]
        whole = [
            (prompt, response.text)
            for (prompt, response, _), problem in zip(items, problems, strict=True)
            if problem is None
        ]
        scores = iter(self.scorer(whole))
        answers = []
        for (prompt, response, system), problem in zip(items, problems, strict=True):
            given = next(scores) if problem is None else None
            named = None if given is None else dict(zip(self._ids, given, strict=True))
            left_out = problem or (UNSCORED if given is None else None)
            answers.append(
                ScoredAnswer(
                    prompt_id=prompt.id, text=response.text, system=system, scores=named, left_out=left_out
                )
            )
        return answers

    # --- refine and score again ---

    def _refine(self, work: Sequence[_Work], refining: Refining) -> None:
        """Steps 3 and 4."""
        asked = [(one, request) for one in work if (request := self._request(one, refining)) is not None]
        report = partial(self.report, "spa: refining")
        requests = [request for _, request in asked]
        found = stored_texts(
            self.store,
            self.stage.name,
            "spa-refined",
            refining.generator,
            requests,
            refining.sampling,
            None,
            report,
        )
        answers = self._scored([(one.prompt, found[one.prompt.id], "") for one, _ in asked])
        for (one, _), answer in zip(asked, answers, strict=True):
            one.refined = answer
        write_jsonl(self.stage.path / "refined.jsonl", [one.refined for one in work if one.refined])

    def _request(self, one: _Work, refining: Refining) -> Prompt | None:
        """The prompt that asks for the refined answer; while it is too long, it shows one answer less, the worst."""
        if not refining.shown:
            return one.prompt if refining.fits(one.prompt) else None
        marker = fence_marker(self.store.secret)
        conversation = transcript(one.prompt, marker)
        shown = [(quote(a.text, marker), s) for a in one.samples if (s := _scores(a, self._ids)) is not None]
        while shown:
            text = refinement_request(
                conversation, shown, list(self.objectives.values()), marker, (LOWEST, HIGHEST)
            )
            request = Prompt(id=one.prompt.id, messages=(Message(role="user", content=text),))
            if refining.fits(request):
                return request
            shown.remove(min(shown, key=lambda answer: rank(answer[1], self.pairing.resolution)))
        return None

    # --- denoise and pair ---

    def _tau(self, work: Sequence[_Work], pools: Sequence[Pool]) -> float:
        rules = self.denoising
        if not isinstance(rules.tau, str):
            return rules.tau
        if rules.tau == "percentile" or not rules.informativeness:
            return percentile_tau(
                [determinant(pool.samples) for pool in pools], rules.percentile, rules.floor
            )
        assert self.strong is not None, "tau: rv needs a strong scorer"
        items = [(one.prompt, a.text) for one in work for a in one.samples if a.scores is not None]
        scores = iter(self.strong(items))
        theirs = [[next(scores) for _ in pool.samples] for pool in pools]
        both = [
            (pool.samples, [s for s in strong if s is not None])
            for pool, strong in zip(pools, theirs, strict=True)
            if None not in strong
        ]
        curve = rv_curve([weak for weak, _ in both], [strong for _, strong in both], rules.floor)
        write_jsonl(self.stage.path / "rv.jsonl", [AgreementPoint(**point._asdict()) for point in curve])
        return choose_tau(curve)

    def _pairs(self, one: _Work, pool: Pool, test: Examined) -> list[Preference]:
        """Step 5. A text that was sampled twice stands in no pair twice."""
        if test.dropped is not None:
            return []
        refined = [pool.refined] if test.refined and pool.refined is not None else []
        distinct = dict(zip(one.texts(test.refined), [*pool.samples, *refined], strict=True))
        texts, scores = list(distinct), list(distinct.values())
        return [
            Preference(
                id=content_hash([one.prompt.id, texts[pair.chosen], texts[pair.rejected]]),
                prompt=one.prompt,
                chosen=texts[pair.chosen],
                rejected=texts[pair.rejected],
                weight=pair.gap,
                gap=sum(scores[pair.chosen]) - sum(scores[pair.rejected]),
                source="spa",
            )
            for pair in pairs(scores, self.pairing)
        ]

    def _export_denoised(
        self, work: Sequence[_Work], examined: Sequence[Examined], found: Sequence[Sequence[Preference]]
    ) -> None:
        rows = [
            DenoisedPrompt(
                prompt_id=one.prompt.id,
                determinant=test.determinant,
                dropped=test.dropped,
                refined=test.refined,
                pairs=len(of_prompt),
            )
            for one, test, of_prompt in zip(work, examined, found, strict=True)
        ]
        write_jsonl(self.stage.path / "denoised.jsonl", rows)

    # --- report ---

    def _counts(
        self,
        work: Sequence[_Work],
        pools: Sequence[Pool],
        examined: Sequence[Examined],
        found: Sequence[Sequence[Preference]],
        tau: float,
    ) -> dict[str, object]:
        answers = [
            answer for one in work for answer in (*one.samples, *([one.refined] if one.refined else []))
        ]
        dropped = Counter(test.dropped for test in examined if test.dropped is not None)
        better = self.denoising.better
        dets = [test.determinant for test in examined]
        return {
            "prompts": len(work),
            "samples": sum(len(one.samples) for one in work),
            "refined": sum(one.refined is not None for one in work),
            "left_out": dict(sorted(Counter(a.left_out for a in answers if a.left_out).items())),
            "tau": tau,
            "fail_consistency": sum(not is_consistent(pool, better) for pool in pools),
            "fail_informativeness": sum(not self.denoising.floor < det <= tau for det in dets),
            "dropped": dict(sorted(dropped.items())),
            "refined_discarded": sum(
                t.dropped is None and not t.refined and p.refined is not None
                for t, p in zip(examined, pools, strict=True)
            ),
            "kept": sum(test.dropped is None for test in examined),
            "without_pairs": sum(
                test.dropped is None and not of_prompt
                for test, of_prompt in zip(examined, found, strict=True)
            ),
            "pairs": sum(map(len, found)),
        }

    def _means(self, pools: Sequence[Pool]) -> dict[str, object]:
        samples = [scores for pool in pools for scores in pool.samples]
        refined = [pool.refined for pool in pools if pool.refined is not None]
        return {
            "samples": mean_scores(self._ids, samples),
            **({"refined": mean_scores(self._ids, refined)} if refined else {}),
        }


def under_system(prompt: Prompt, system: str) -> Prompt:
    """Return ``prompt`` behind a system prompt, which stands before one that it has itself."""
    if not system:
        return prompt
    first, rest = prompt.messages[0], prompt.messages
    if first.role == "system":
        system, rest = f"{system}\n\n{first.content}", prompt.messages[1:]
    return prompt.model_copy(update={"messages": (Message(role="system", content=system), *rest)})


def mean_scores(objectives: Sequence[str], scores: Sequence[Scores]) -> dict[str, float] | None:
    """Return the mean of each objective; None without scores."""
    if not scores:
        return None
    return {id: sum(one[k] for one in scores) / len(scores) for k, id in enumerate(objectives)}


def _scores(answer: ScoredAnswer, objectives: Sequence[str]) -> Scores | None:
    return None if answer.scores is None else tuple(answer.scores[id] for id in objectives)
