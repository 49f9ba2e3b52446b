"""A cascade: a cheap judge answers, and where it is unsure an expensive one is asked instead.

The threshold on the cheap judge's highest probability is fitted on labelled answers by fixed-sequence testing,
as in Trust or Escalate (Jung et al., ICLR 2025, arXiv 2407.18370, section 2): thresholds are tried from the
highest down, as long as the one-sided Clopper-Pearson bound on the agreement of the kept answers stays at or above
the target. So with probability ``level`` the agreement of what the cheap judge keeps reaches the target, for
answers drawn independently like those that it was fitted on.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field
from scipy import stats

from rubrica.core.base import Slug
from rubrica.core.config import Config, content_hash, load_config
from rubrica.core.errors import UsageError
from rubrica.core.ports import Judge, thresholds_of
from rubrica.core.programs import Question, QuestionKind
from rubrica.core.records import Estimate, Query, Verdict, Wording
from rubrica.core.store import Store
from rubrica.judges.keys import text_hash, verdict_key
from rubrica.judges.relay import Answers, Relay
from rubrica.program.program import question_hash

EXPENSIVE = "expensive"
"""In place of labels: agreement with the expensive judge."""
ALWAYS = 2.0
"""A threshold that no probability reaches: the expensive judge is always asked."""
STEPS = 20
"""Thresholds that are tried."""
Answer = tuple[float, bool]
"""(highest probability, whether the label is right)."""


class Thresholds(Config):
    """``thresholds.json``: from which probability on the cheap judge's answer stands."""

    cheap: str
    """Fingerprint of the judge whose probabilities were fitted."""
    expensive: str
    """Fingerprint of the judge that was asked where it was unsure."""
    target: float = Field(gt=0, lt=1)
    """Agreement that the kept answers reach ..."""
    level: float = Field(gt=0, lt=1)
    """... with this confidence."""
    against: str
    """What was agreed with: the labels' source, or ``expensive``."""
    kinds: dict[QuestionKind, float]
    """For questions that have no threshold of their own; 2 escalates always."""
    questions: dict[Slug, float] = Field(default_factory=dict)
    """By question id, where there were labels enough."""
    estimates: tuple[Estimate, ...] = ()
    """Shares escalated and agreement, on texts that were not used for fitting."""

    def of(self, question: Question) -> float:
        """Return the threshold for a question."""
        return self.questions.get(question.id, self.kinds.get(question.kind, ALWAYS))


def certainty(verdict: Verdict) -> float:
    """Return the probability of the answer, 0 where the judge gives no label or no probability."""
    if verdict.label is None or verdict.probabilities is None:
        return 0.0
    return verdict.probabilities.get(verdict.label, 0.0)


def fewest(target: float, level: float) -> int:
    """Return how many answers, all right, it takes to reach ``target``: target^n <= 1 - level."""
    return math.ceil(math.log(1 - level) / math.log(target))


def lower_bound(right: int, n: int, level: float) -> float:
    """Return the one-sided Clopper-Pearson lower bound of a proportion."""
    return float(stats.beta.ppf(1 - level, right, n - right + 1)) if right else 0.0


def fit_threshold(answers: Sequence[Answer], *, target: float, level: float) -> float:
    """Return the lowest threshold that fixed-sequence testing reaches, or ``ALWAYS`` where not even the first holds.

    Tried are the ``STEPS`` shares of the most certain answers, the smallest first, that have enough answers.
    """
    ordered = sorted(answers, key=lambda answer: -answer[0])
    found = ALWAYS
    for step in range(1, STEPS + 1):
        count = len(ordered) * step // STEPS
        if count < fewest(target, level):
            continue
        threshold = ordered[count - 1][0]
        kept = [agrees for probability, agrees in ordered if probability >= threshold]
        if lower_bound(sum(kept), len(kept), level) < target:
            break
        found = threshold
    return found


class Remembering:
    """A judge whose verdicts are looked up and kept under its own fingerprint, whoever asks it."""

    def __init__(self, judge: Judge, store: Store) -> None:
        self._judge, self._store = judge, store

    @property
    def fingerprint(self) -> str:
        """The judge's own."""
        return self._judge.fingerprint

    @property
    def veto_thresholds(self) -> Mapping[str, float]:
        """The judge's own."""
        return thresholds_of(self._judge)

    def answer(self, queries: Sequence[Query]) -> Answers:
        """Yield what is known, then what the judge says; each of its verdicts is in the store before it is yielded."""
        return Relay(lambda relay: self._run(relay, queries))

    def _run(self, relay: Relay, queries: Sequence[Query]) -> Answers:
        keys = [self._key(query) for query in queries]
        known = self._store.verdicts([key for key in keys if key])
        missing = [index for index, key in enumerate(keys) if key not in known]
        for index, key in enumerate(keys):
            if key in known:
                yield index, known[key]
        if missing and not relay.closed:
            for place, verdict in relay.take(self._judge.answer([queries[index] for index in missing])):
                if key := keys[missing[place]]:
                    self._store.put_verdict(key, verdict)
                yield missing[place], verdict

    def _key(self, query: Query) -> str:
        """Empty for a question that is put in other words."""
        if query.wording is not Wording.STANDARD:
            return ""
        text = text_hash(query.prompt, query.text)
        return verdict_key(self.fingerprint, question_hash(query.question), text)


class Cascade:
    """Two judges as one; implements :class:`rubrica.core.ports.Judge`."""

    def __init__(self, cheap: Judge, expensive: Judge, thresholds: Thresholds) -> None:
        """``UsageError`` when the thresholds were fitted for another cheap judge, or on another expensive one's answers."""
        if thresholds.cheap != cheap.fingerprint:
            raise UsageError(
                f"cascade: its thresholds were fitted for judge {thresholds.cheap}, the cheap one is "
                f"{cheap.fingerprint}; fit them anew with rubrica judge fit-cascade"
            )
        if thresholds.against == EXPENSIVE and thresholds.expensive != expensive.fingerprint:
            raise UsageError(
                f"cascade: its thresholds promise agreement with judge {thresholds.expensive}, the expensive one is "
                f"{expensive.fingerprint}; fit them anew with rubrica judge fit-cascade"
            )
        self._cheap, self._expensive, self._thresholds = cheap, expensive, thresholds
        kinds = {kind.value: value for kind, value in thresholds.kinds.items()}
        self._fingerprint = "cascade-" + content_hash(
            [cheap.fingerprint, expensive.fingerprint, {**kinds}, {**thresholds.questions}]
        )

    @property
    def fingerprint(self) -> str:
        """Hash of both judges' fingerprints and the thresholds."""
        return self._fingerprint

    @property
    def veto_thresholds(self) -> dict[str, float]:
        """Of the two judges' the higher ones, by question id: a veto may come from either."""
        both = [thresholds_of(judge) for judge in (self._cheap, self._expensive)]
        return {id: max(found.get(id, 0.0) for found in both) for id in {**both[0], **both[1]}}

    def answer(self, queries: Sequence[Query]) -> Answers:
        """Yield the cheap judge's answers that are certain enough, then the expensive one's to all other queries.

        A verdict keeps the fingerprint of the judge that gave it. Where both were asked it has the tokens and
        seconds of both. A failure of the cheap judge escalates, one of the expensive judge stands.
        """
        return Relay(lambda relay: self._run(relay, queries))

    def _run(self, relay: Relay, queries: Sequence[Query]) -> Answers:
        unsure: dict[int, Verdict] = {}
        for index, verdict in relay.take(self._cheap.answer(queries)):
            if certainty(verdict) >= self._thresholds.of(queries[index].question):
                yield index, _signed(verdict, self._cheap)
            else:
                unsure[index] = verdict
        order = sorted(unsure)
        if not order or relay.closed:
            return
        for place, verdict in relay.take(self._expensive.answer([queries[index] for index in order])):
            index = order[place]
            tried = unsure[index]
            spent = {
                "prompt_tokens": verdict.prompt_tokens + tried.prompt_tokens,
                "completion_tokens": verdict.completion_tokens + tried.completion_tokens,
                "seconds": verdict.seconds + tried.seconds,
            }
            yield index, _signed(verdict, self._expensive).model_copy(update=spent)


def _signed(verdict: Verdict, judge: Judge) -> Verdict:
    return verdict if verdict.judge else verdict.model_copy(update={"judge": judge.fingerprint})


def read_thresholds(path: str | Path) -> Thresholds:
    """Read ``thresholds.json``; ``UsageError`` or ``DataError`` as any file of configuration."""
    return load_config(Thresholds, path)
