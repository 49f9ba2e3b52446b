"""Ask a judge as little as gives the same reward, and lose nothing that was answered.

Gates come first; grades follow only where :func:`rubrica.program.pooling.undecided` says that they can still
change the total. Identical texts and questions are asked once, texts of one prompt stand next to each other
with the question last (so that a local judge or a server can share the prefix), and every verdict goes into
the store as it arrives. The totals equal those of asking everything.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from rubrica.core.config import Json, content_hash
from rubrica.core.errors import JudgeError
from rubrica.core.ports import Judge
from rubrica.core.records import (
    Expense,
    Outcome,
    Program,
    Prompt,
    Query,
    Question,
    QuestionKind,
    Scorecard,
    Usage,
    Verdict,
    VetoThresholds,
)
from rubrica.core.store import Store
from rubrica.program.pooling import allowed_labels, label_of, pool, undecided
from rubrica.program.program import program_hash, question_hash, questions
from rubrica.program.reward import RewardConfig

VETO = "veto"
"""Kind under which the veto thresholds of a judge lie in the store, by its fingerprint."""
Progress = Callable[[int, int], None]
_BROKEN = {Outcome.FAILED, Outcome.UNPARSEABLE, Outcome.SKIPPED}


def card_id(prompt: Prompt, text: str, program: Program, judge: str) -> str:
    """Return the id under which the scorecard of ``text`` by the judge with this fingerprint is stored."""
    return content_hash([text_hash(prompt, text), program_hash(program), judge])


def text_hash(prompt: Prompt, text: str) -> str:
    """Return the content hash of a text in answer to the prompt's messages."""
    messages: Json = [[m.role, m.content] for m in prompt.messages]
    return content_hash([messages, text], length=32)


def verdict_key(judge: str, question: str, text: str) -> str:
    """Return the key of a verdict from the judge's fingerprint, ``question_hash`` and :func:`text_hash`."""
    return content_hash([judge, question, text], length=32)


@dataclass
class _Text:
    """One distinct text while it is judged."""

    prompt: Prompt
    text: str
    keys: dict[str, str]
    """Question id -> verdict key."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    """Questions whose answer the store knew."""


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
        self._questions = [question for _, _, question in questions(program)]
        self._veto = reward.veto(thresholds)
        self._thresholds = dict(thresholds or {})
        self._retries, self._progress = retries, progress
        self._max_failure_rate = max_failure_rate
        self._recent: deque[bool] = deque(maxlen=max(failure_window, 50))
        self._done = self._total = 0
        self.usage = Usage()
        """What all calls of :meth:`score` cost together."""

    def score(self, items: Sequence[tuple[Prompt, str]], *, full: bool = False) -> list[Scorecard]:
        """Return one scorecard for each (prompt, text), and keep it in the store under :func:`card_id`.

        Asks what can change the total, or with ``full`` every question. Failed, unparseable and abstained
        answers are asked again up to ``retries`` times; what is then missing leaves the total None unless it
        does not matter. Raises ``JudgeError`` when the judge cannot work or the failure budget is spent;
        the verdicts up to then are in the store.
        """
        items = [(prompt, text.encode("utf-8", "replace").decode()) for prompt, text in items]
        digests = [text_hash(prompt, text) for prompt, text in items]
        texts = self._distinct(items, digests)
        found = self._look_up(list(texts.values()))
        self._done, self._total = found, len(texts) * len(self._questions)
        self._report()
        while pending := [(t, q) for t in texts.values() for q in self._wanted(t, full)]:
            self._ask(pending)
        self._done = self._total
        self._report()
        cards = {digest: self._card(text) for digest, text in texts.items()}
        fingerprint = self._judge.fingerprint
        with self._store.batch():
            self._count(texts, digests)
            used = VetoThresholds(judge=fingerprint, thresholds=self._thresholds)
            self._store.put(VETO, fingerprint, used)
            for digest, text in texts.items():
                id = card_id(text.prompt, text.text, self._program, fingerprint)
                self._store.put("scorecard", id, cards[digest])
        return [cards[digest] for digest in digests]

    def _distinct(self, items: Sequence[tuple[Prompt, str]], digests: Sequence[str]) -> dict[str, _Text]:
        """Distinct texts by digest, those of one prompt next to each other."""
        groups: dict[str, dict[str, _Text]] = {}
        fingerprint = self._judge.fingerprint
        hashes = {q.id: question_hash(q) for q in self._questions}
        for (prompt, text), digest in zip(items, digests, strict=True):
            group = groups.setdefault(text_hash(prompt, ""), {})
            if digest not in group:
                keys = {id: verdict_key(fingerprint, question, digest) for id, question in hashes.items()}
                group[digest] = _Text(prompt, text, keys)
        return {digest: text for group in groups.values() for digest, text in group.items()}

    def _look_up(self, texts: Sequence[_Text]) -> int:
        """Fill in what the store knows; return how many questions that is."""
        known = self._store.verdicts([key for text in texts for key in text.keys.values()])
        count = 0
        for text in texts:
            for question_id, key in text.keys.items():
                if key in known:
                    text.verdicts[question_id] = _named(known[key], question_id)
                    text.tries[question_id] = self._retries + 1  # an abstention in the store is final
                    text.found.add(question_id)
                    count += 1
        return count

    def _wanted(self, text: _Text, full: bool) -> list[Question]:
        """Questions to ask about ``text`` now: open gates, and only when there is none, open grades."""
        if full:
            relevant = {q.id for q in self._questions if label_of(q, text.verdicts.get(q.id)) is None}
        else:
            relevant = set(undecided(self._program, text.verdicts, veto=self._veto))
        open_ = [q for q in self._questions if q.id in relevant and text.tries.get(q.id, 0) <= self._retries]
        return (not full and [q for q in open_ if q.kind is QuestionKind.GATE]) or open_

    def _ask(self, pending: Sequence[tuple[_Text, Question]]) -> None:
        slots: dict[str, list[tuple[_Text, Question]]] = {}
        for text, question in pending:
            slots.setdefault(text.keys[question.id], []).append((text, question))
        groups = list(slots.values())
        queries = [Query(prompt=t.prompt, text=t.text, question=q) for t, q in (group[0] for group in groups)]
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
                self._take(groups[index], verdict)
            for index in sorted(missing):
                question_id = groups[index][0][1].id
                self._take(
                    groups[index],
                    Verdict(
                        question_id=question_id, outcome=Outcome.FAILED, reason="the judge gave no answer"
                    ),
                )
        finally:
            seconds = self.usage.seconds + time.monotonic() - started
            self.usage = self.usage.model_copy(update={"seconds": seconds})
            if isinstance(answers, Generator):
                answers.close()

    def _take(self, slot: Sequence[tuple[_Text, Question]], verdict: Verdict) -> None:
        """Keep one verdict for all questions that share its key."""
        text, question = slot[0]
        if verdict.label is not None and verdict.label not in allowed_labels(question):
            verdict = verdict.model_copy(
                update={
                    "outcome": Outcome.UNPARSEABLE,
                    "label": None,
                    "probabilities": None,
                    "reason": f"answered {verdict.label}, which the question does not offer",
                }
            )
        if not verdict.judge:
            verdict = verdict.model_copy(update={"judge": self._judge.fingerprint})
        self._store.put_verdict(text.keys[question.id], _named(verdict, question.id))
        for text, question in slot:
            first = question.id not in text.tries
            text.tries[question.id] = text.tries.get(question.id, 0) + 1
            text.verdicts[question.id] = _named(verdict, question.id)
            self._done += first
        broken = verdict.outcome in _BROKEN
        self.usage = self.usage.model_copy(
            update={
                "asked": self.usage.asked + 1,
                "failed": self.usage.failed + broken,
                "prompt_tokens": self.usage.prompt_tokens + verdict.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens + verdict.completion_tokens,
            }
        )
        self._report()
        self._spend(broken, verdict)

    def _spend(self, broken: bool, verdict: Verdict) -> None:
        """Charge the failure budget."""
        self._recent.append(broken)
        failed, calls = sum(self._recent), len(self._recent)
        if broken and calls >= 50 and failed > self._max_failure_rate * calls:
            raise JudgeError(
                f"judge {self._judge.fingerprint}: {failed} of the last {calls} calls failed (allowed: "
                f"{self._max_failure_rate:.0%}); last reason: {verdict.reason or verdict.outcome}; "
                "all answers so far are stored; mend the judge and run the same command again"
            )

    def _card(self, text: _Text) -> Scorecard:
        return pool(self._program, text.verdicts, veto=self._veto, judge=self._judge.fingerprint)

    def _count(self, texts: Mapping[str, _Text], digests: Sequence[str]) -> None:
        """Enter skipped and cached questions into usage and account; a copy of a text costs nothing: cached."""
        spared: Counter[tuple[str, str]] = Counter()
        seen: set[str] = set()
        for digest in digests:
            text = texts[digest]
            for question in self._questions:
                if question.id not in text.verdicts:
                    spared[question.id, Outcome.SKIPPED.value] += 1
                elif digest in seen or question.id in text.found:
                    spared[question.id, "cached"] += 1
            seen.add(digest)
        for (id, why), count in spared.items():
            expense = Expense(judge=self._judge.fingerprint, question_id=id, answer=why, count=count)
            self._store.charge(expense)
        skipped = sum(count for (_, why), count in spared.items() if why != "cached")
        cached = spared.total() - skipped
        self.usage = self.usage.model_copy(
            update={"cached": self.usage.cached + cached, "skipped": self.usage.skipped + skipped}
        )

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._done, self._total)


def _named(verdict: Verdict, question_id: str) -> Verdict:
    """Return ``verdict`` under the id that the question has in this program."""
    if verdict.question_id == question_id:
        return verdict
    return verdict.model_copy(update={"question_id": question_id})
