"""Ask a judge as little as gives the same reward, and lose nothing that was answered.

What is asked about the prompt alone comes first, then gates; grades follow only where
:func:`rubrica.program.undecided.undecided` says that they can still change the total. Identical texts and questions
are asked once, texts of one prompt stand next to each other with the question last (so that a local judge or a server
can share the prefix), and every verdict goes into the store as it arrives. The totals equal those of asking everything.
"""

import copy
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import NamedTuple

from rubrica.core.account import CACHED, IRRELEVANT, SKIPPED, total_usage
from rubrica.core.errors import JudgeError
from rubrica.core.instance import program_for
from rubrica.core.ports import Closable, Judge
from rubrica.core.programs import Program, Question
from rubrica.core.prompts import Prompt
from rubrica.core.records import Expense, Outcome, Query, Scorecard, Usage, Verdict, VetoThresholds
from rubrica.core.store import Store
from rubrica.judges.decision import offered
from rubrica.judges.keys import VETO, card_id, item_id, text_hash, verdict_key
from rubrica.program.labels import is_constraint, label_of
from rubrica.program.pooling import pool
from rubrica.program.program import question_hash, questions
from rubrica.program.relevance import relevance_questions
from rubrica.program.reward import RewardConfig
from rubrica.program.undecided import irrelevant, undecided

Progress = Callable[[int, int], None]
_BROKEN = {Outcome.FAILED, Outcome.UNPARSEABLE, Outcome.SKIPPED}


@dataclass
class _Text:
    """One distinct text while it is judged."""

    prompt: Prompt
    text: str
    asks: list[Question]
    """Questions about the prompt alone."""
    questions: list[Question]
    """Questions about the text, the prompt's own included."""
    keys: dict[str, str]
    """Question id -> verdict key."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    free: set[str] = field(default_factory=set)
    """Questions that cost this text nothing: the store knew the answer, or another text or question got it."""

    def query(self, question: Question) -> Query:
        """What is put to the judge; about the prompt alone, with an empty text."""
        return Query(prompt=self.prompt, text="" if question in self.asks else self.text, question=question)


class Plan(NamedTuple):
    """What scoring would ask."""

    texts: int
    """Distinct texts."""
    known: int
    """Answers that the store has."""
    at_least: int
    """Questions that are asked whatever is answered."""
    at_most: int
    """Questions that are asked if no answer spares another one."""
    letters_at_least: int
    letters_at_most: int
    """Of prompts, texts and questions that are put to the judge."""


class Executor:
    """Scores texts with one judge and one program. Not for use from several threads at a time."""

    def __init__(
        self,
        judge: Judge,
        store: Store,
        *,
        program: Program,
        reward: RewardConfig,
        thresholds: Mapping[str, float] | None = None,
        retries: int = 2,
        progress: Progress | None = None,
        max_failure_rate: float = 0.2,
        failure_window: int = 200,
    ) -> None:
        """``thresholds`` are fitted veto probabilities by question id; ``progress`` gets (done, total) questions.

        More failed calls than ``max_failure_rate`` among the last ``failure_window`` (and at least 50) stop
        the work with ``JudgeError``.
        """
        self._judge, self._store, self._program = judge, store, program
        self._asks = relevance_questions(program)
        self._hashes = {q.id: question_hash(q) for q in (*self._asks, *(q for _, _, q in questions(program)))}
        self._veto = reward.veto(thresholds)
        self._thresholds = dict(thresholds or {})
        self._retries, self._progress = retries, progress
        self._max_failure_rate = max_failure_rate
        self._recent: deque[bool] = deque(maxlen=max(failure_window, 50))
        self._done = self._total = 0
        self._owners: dict[str, list[tuple[_Text, Question]]] = {}
        self._ahead: dict[str, tuple[Verdict, int]] = {}
        """Key -> verdict and number of tries of what was asked ahead of the next :meth:`score`."""
        self.usage = Usage()
        """What all calls of :meth:`score` cost together."""

    def score(self, items: Sequence[tuple[Prompt, str]], *, full: bool = False) -> list[Scorecard]:
        """Return one scorecard for each (prompt, text), and keep it in the store under :func:`card_id`.

        Asks what can change the total, or with ``full`` every question. Failed, unparseable and abstained
        answers are asked again up to ``retries`` times; what is then missing leaves the total None unless it
        does not matter. Raises ``JudgeError`` when the judge cannot work or the failure budget is spent;
        the verdicts up to then are in the store.
        """
        ids, texts = self._texts(items)
        self._look_up(list(texts.values()))
        self._total = sum(len(text.keys) for text in texts.values())
        self._done = sum(len(text.verdicts) for text in texts.values())
        self._report()
        while pending := [(t, q) for t in texts.values() for q in self._wanted(t, full)]:
            self._ask(pending)
        self._done = self._total
        self._report()
        cards = {id: self._card(text) for id, text in texts.items()}
        self._ahead = {}
        fingerprint = self._judge.fingerprint
        with self._store.batch():
            self._count([texts[id] for id in ids])
            used = VetoThresholds(judge=fingerprint, thresholds=self._thresholds)
            self._store.put(VETO, fingerprint, used)
            for id, text in texts.items():
                key = card_id(text.prompt, text.text, self._program, fingerprint)
                self._store.put("scorecard", key, cards[id])
        return [cards[id] for id in ids]

    def plan(self, items: Sequence[tuple[Prompt, str]], *, full: bool = False) -> Plan:
        """Return what :meth:`score` would ask about ``items`` at least and at most; asks and writes nothing."""
        texts = list(self._texts(items)[1].values())
        self._look_up(texts)
        sure: dict[str, int] = {}
        possible: dict[str, int] = {}
        for text in texts:
            wanted = {q.id for q in self._wanted(text, full)}
            relevant = self._relevant(text, full)
            for question in (*text.asks, *text.questions):
                if question.id in relevant and question.id not in text.verdicts:
                    query = text.query(question)
                    letters = sum(len(m.content) for m in query.prompt.messages) + len(query.text)
                    possible[text.keys[question.id]] = letters + len(question.text)
                    if question.id in wanted:
                        sure[text.keys[question.id]] = possible[text.keys[question.id]]
        known = sum(len(text.verdicts) for text in texts)
        return Plan(len(texts), known, len(sure), len(possible), sum(sure.values()), sum(possible.values()))

    def sibling(self) -> "Executor":
        """Return an executor for another thread: what fails counts for both, its usage is its own."""
        other = copy.copy(self)
        other.usage, other._progress = Usage(), None
        return other

    @property
    def asks_about_prompts(self) -> bool:
        """True when texts of one prompt share questions."""
        return bool(self._asks)

    def prepare(self, items: Sequence[tuple[Prompt, str]], stop: Event) -> None:
        """Ask ahead what :meth:`score` would ask about ``items``, until ``stop`` is set; raises what it raises."""
        texts = self._texts(items)[1].values()
        self._look_up(list(texts))
        try:
            while pending := [(t, q) for t in texts for q in self._wanted(t, False) if not stop.is_set()]:
                self._ask(pending, stop)
        finally:
            for key, ((text, question), *_) in self._owners.items():
                if question.id in text.verdicts and question.id not in text.free:
                    self._ahead[key] = text.verdicts[question.id], text.tries[question.id]

    def adopt(self, siblings: Sequence["Executor"], seconds: float) -> None:
        """Make the next :meth:`score` go on from what ``siblings`` prepared in ``seconds``.

        It asks nothing again, failures included, and its usage is that of having asked itself.
        """
        total = total_usage([self.usage, *(sibling.usage for sibling in siblings)])
        self.usage = total.model_copy(update={"seconds": self.usage.seconds + seconds})

    def _texts(self, items: Sequence[tuple[Prompt, str]]) -> tuple[list[str], dict[str, _Text]]:
        """Return an id for each item, and the distinct texts by id."""
        items = [(prompt, text.encode("utf-8", "replace").decode()) for prompt, text in items]
        ids = [item_id(p, t, self._program) for p, t in items]
        return ids, self._distinct(items, ids)

    def _distinct(self, items: Sequence[tuple[Prompt, str]], ids: Sequence[str]) -> dict[str, _Text]:
        """Distinct texts by id, those of one prompt next to each other."""
        groups: dict[str, dict[str, _Text]] = {}
        for (prompt, text), id in zip(items, ids, strict=True):
            group = groups.setdefault(text_hash(prompt, ""), {})
            if id not in group:
                group[id] = self._text(prompt, text)
        return {id: text for group in groups.values() for id, text in group.items()}

    def _text(self, prompt: Prompt, text: str) -> _Text:
        asked = [question for _, _, question in questions(program_for(self._program, prompt))]
        keys = self._keys(self._asks, text_hash(prompt, "")) | self._keys(asked, text_hash(prompt, text))
        return _Text(prompt, text, self._asks, asked, keys)

    def _keys(self, asked: Sequence[Question], digest: str) -> dict[str, str]:
        fingerprint = self._judge.fingerprint
        return {
            q.id: verdict_key(fingerprint, self._hashes.get(q.id) or question_hash(q), digest) for q in asked
        }

    def _look_up(self, texts: Sequence[_Text]) -> None:
        """Fill in what the store knows."""
        self._owners = {}
        for text in texts:
            for question in (*text.asks, *text.questions):
                self._owners.setdefault(text.keys[question.id], []).append((text, question))
        known = {
            key: (verdict, self._retries + 1)
            for key, verdict in self._store.verdicts(list(self._owners)).items()
        }
        for key, (verdict, tries) in (known | self._ahead).items():  # an abstention in the store is final
            for place, (text, question) in enumerate(self._owners.get(key, ())):
                text.verdicts[question.id] = _named(verdict, question.id)
                text.tries[question.id] = tries
                if place or key not in self._ahead:
                    text.free.add(question.id)

    def _wanted(self, text: _Text, full: bool) -> list[Question]:
        """Questions to ask now: about the prompt, else gates that fail their dimension, else all that are open."""
        relevant = self._relevant(text, full)
        every = (*text.asks, *text.questions)
        open_ = [q for q in every if q.id in relevant and text.tries.get(q.id, 0) <= self._retries]
        about_prompt = [q for q in text.asks if q in open_]
        return about_prompt or (not full and [q for q in open_ if is_constraint(q)]) or open_

    def _relevant(self, text: _Text, full: bool) -> set[str]:
        """Questions whose answer is missing and could change the total; with ``full`` all that apply."""
        if not full:
            return set(undecided(self._program, text.verdicts, veto=self._veto, prompt=text.prompt))
        outside = irrelevant(self._program, text.verdicts, prompt=text.prompt)
        every = (*text.asks, *text.questions)
        return {q.id for q in every if label_of(q, text.verdicts.get(q.id)) is None} - outside

    def _ask(self, pending: Sequence[tuple[_Text, Question]], stop: Event | None = None) -> None:
        slots = {text.keys[question.id]: (text, question) for text, question in reversed(pending)}
        keys = list(reversed(slots))
        queries = [slots[key][0].query(slots[key][1]) for key in keys]
        missing = set(range(len(queries)))
        started = time.monotonic()
        answers = self._judge.answer(queries)
        try:
            for index, verdict in answers:
                if index not in missing:
                    raise JudgeError(
                        f"judge {self._judge.fingerprint}: answered query {index} of {len(queries)} twice or "
                        "out of range; expected each index exactly once; report this to the judge's author"
                    )
                missing.discard(index)
                self._take(keys[index], verdict)
                if stop is not None and stop.is_set():
                    return
            for index in sorted(missing):
                question_id = queries[index].question.id
                self._take(
                    keys[index],
                    Verdict(
                        question_id=question_id, outcome=Outcome.FAILED, reason="the judge gave no answer"
                    ),
                )
        finally:
            seconds = self.usage.seconds + time.monotonic() - started
            self.usage = self.usage.model_copy(update={"seconds": seconds})
            if isinstance(answers, Closable):
                answers.close()
                for index, verdict in answers:  # what had arrived was paid for
                    if index in missing and verdict.outcome not in _BROKEN:
                        self._keep(keys[index], verdict)

    def _take(self, key: str, verdict: Verdict) -> None:
        verdict = self._keep(key, verdict)
        self._report()
        self._spend(verdict)

    def _keep(self, key: str, verdict: Verdict) -> Verdict:
        """Keep one verdict for all texts and questions that share its key; return it as it was stored."""
        question = self._owners[key][0][1]
        verdict = offered(verdict, question)
        if not verdict.judge:
            verdict = verdict.model_copy(update={"judge": self._judge.fingerprint})
        self._store.put_verdict(key, _named(verdict, question.id))
        for place, (text, question) in enumerate(self._owners[key]):
            if place:
                text.free.add(question.id)
            first = question.id not in text.tries
            text.tries[question.id] = text.tries.get(question.id, 0) + 1
            text.verdicts[question.id] = _named(verdict, question.id)
            self._done += first
        self.usage = self.usage.model_copy(
            update={
                "asked": self.usage.asked + 1,
                "failed": self.usage.failed + (verdict.outcome in _BROKEN),
                "prompt_tokens": self.usage.prompt_tokens + verdict.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens + verdict.completion_tokens,
                "busy": self.usage.busy + verdict.seconds,
            }
        )
        return verdict

    def _spend(self, verdict: Verdict) -> None:
        """Charge the failure budget."""
        broken = verdict.outcome in _BROKEN
        self._recent.append(broken)
        recent = list(self._recent)  # siblings may add to it meanwhile
        failed, calls = sum(recent), len(recent)
        if broken and calls >= 50 and failed > self._max_failure_rate * calls:
            raise JudgeError(
                f"judge {self._judge.fingerprint}: {failed} of the last {calls} calls failed (allowed: "
                f"{self._max_failure_rate:.0%}); last reason: {verdict.reason or verdict.outcome}; "
                "all answers so far are stored; mend the judge and run the same command again"
            )

    def _card(self, text: _Text) -> Scorecard:
        return pool(
            self._program,
            text.verdicts,
            veto=self._veto,
            judge=self._judge.fingerprint,
            prompt=text.prompt,
        )

    def _count(self, texts: Sequence[_Text]) -> None:
        """Enter what was not asked into usage and account; a copy of a text costs nothing: cached."""
        spared: Counter[tuple[str, str]] = Counter()
        seen: set[int] = set()
        for text in texts:
            outside = irrelevant(self._program, text.verdicts, prompt=text.prompt)
            for question_id in text.keys:
                if question_id not in text.verdicts:
                    spared[question_id, IRRELEVANT if question_id in outside else SKIPPED] += 1
                elif id(text) in seen or question_id in text.free:
                    spared[question_id, CACHED] += 1
            seen.add(id(text))
        for (question_id, why), count in spared.items():
            expense = Expense(judge=self._judge.fingerprint, question_id=question_id, answer=why, count=count)
            self._store.charge(expense)
        tally: Counter[str] = Counter()
        for (_, why), count in spared.items():
            tally[why] += count
        names = (CACHED, SKIPPED, IRRELEVANT)
        self.usage = self.usage.model_copy(
            update={name: getattr(self.usage, name) + tally[name] for name in names}
        )

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total)


def _named(verdict: Verdict, question_id: str) -> Verdict:
    """Return ``verdict`` under the id that the question has in this program."""
    if verdict.question_id == question_id:
        return verdict
    return verdict.model_copy(update={"question_id": question_id})
