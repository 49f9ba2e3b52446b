"""What judging may cost at most, and an account of what it did cost, over all sessions of a run.

Each judge is wrapped where it is made, so that nothing is asked past the account. A question is put only if
there is room for it: a cap on calls holds exactly, however many are under way. What a question will cost in
tokens is not known before; it is bounded by the letters of the query times the highest ratio of tokens to
letters seen so far (1 at first: no tokenizer makes more tokens than bytes).
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from rubrica.core.account import PRICE, is_call, money
from rubrica.core.config import Config
from rubrica.core.errors import BudgetError
from rubrica.core.ports import Completer, Judge, thresholds_of, wordings_of
from rubrica.core.records import Expense, Price, PricedJudge, Query, Verdict, Wording
from rubrica.core.store import Store
from rubrica.judges.relay import Answers, Relay

Cap = Literal["calls", "tokens", "money", "hours"]
TEMPLATE_LETTERS = 1200
"""Letters of the judge's instruction and fences, about."""
LABEL_TOKENS = 16
"""Tokens that an answer in mode ``label`` takes at most."""


class Budget(Config):
    """Caps on a whole run, all its sessions together. None: no cap."""

    calls: int | None = Field(default=None, ge=0)
    """Questions put to judges, and reflections asked for."""
    tokens: int | None = Field(default=None, ge=0)
    """Tokens that judges read and write."""
    money: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """US dollars, at the judges' ``price``."""
    hours: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time that the run is at work."""


class Amount(NamedTuple):
    """Calls, tokens and money."""

    calls: float = 0
    tokens: float = 0
    money: float = 0

    def plus(self, other: "Amount", sign: int = 1) -> "Amount":
        """Return the sum, or with ``sign`` -1 the difference."""
        return Amount(*(a + sign * b for a, b in zip(self, other, strict=True)))


class Purse:
    """What has been spent, what is under way, and whether there is room for more. Safe between threads."""

    def __init__(
        self,
        budget: Budget,
        store: Store,
        *,
        prefix: str = "budget.",
        hours: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """``prefix`` leads from a cap to the key or flag that sets it; ``hours`` the run has been at work."""
        self._budget, self.store, self._prefix, self._hours = budget, store, prefix, hours
        self._caps = Amount(
            *(math.inf if c is None else c for c in (budget.calls, budget.tokens, budget.money))
        )
        self._spent, self._held = Amount(), Amount()
        self._known: set[str] = set()
        self._rate: float = 0.0
        self._lock = threading.RLock()

    @property
    def spent(self) -> Amount:
        """What the metered judges have cost in all sessions."""
        return self._spent

    def meter(self, judge: Judge, price: Price | None, answer_tokens: int = LABEL_TOKENS) -> Judge:
        """Return ``judge`` behind the account; ``answer_tokens`` bounds what it writes on one question."""
        self._open(judge.fingerprint, price)
        return MeteredJudge(self, judge, price, answer_tokens)

    def writer(self, completer: Completer, name: str, price: Price | None) -> Completer:
        """Return a writer behind the account; its prompts count a token for every four letters."""
        self._open(name, price)
        return _MeteredWriter(self, completer, name, price)

    def check_hours(self) -> None:
        """Raise ``BudgetError`` when the run's time is up."""
        if self._budget.hours is not None and self._hours() >= self._budget.hours:
            raise self._error("hours")

    def take(self, letters: Sequence[int], answer_tokens: int, price: Price | None) -> list[Amount]:
        """Set aside what the first queries may cost, as many as there is room for; ``BudgetError`` for none."""
        self.check_hours()
        with self._lock:
            granted: list[Amount] = []
            for count in letters:
                tokens = math.ceil((self._rate or 1.0) * (count + TEMPLATE_LETTERS))
                need = Amount(1, tokens + answer_tokens, money(price, tokens, answer_tokens))
                after = self._spent.plus(self._held).plus(need)
                full = next(
                    (n for n, a, c in zip(Amount._fields, after, self._caps, strict=True) if a > c), None
                )
                if full is not None:
                    if granted:
                        break
                    raise self._error(full)
                self._held = self._held.plus(need)
                granted.append(need)
            return granted

    def settle(self, need: Amount, expense: Expense, letters: int, price: Price | None) -> None:
        """Enter one answer into the account."""
        self.store.charge(expense)
        with self._lock:
            read, written = expense.prompt_tokens, expense.completion_tokens
            self._rate = max(self._rate, read / (letters + TEMPLATE_LETTERS))
            self._held = self._held.plus(need, -1)
            self._spent = self._spent.plus(Amount(1, read + written, money(price, read, written)))

    def release(self, needs: Sequence[Amount]) -> None:
        """Give back what was set aside and not used."""
        with self._lock:
            for need in needs:
                self._held = self._held.plus(need, -1)

    def _open(self, judge: str, price: Price | None) -> None:
        """Count what earlier sessions paid to this judge, at today's price."""
        if judge in self._known:
            return
        self._known.add(judge)
        self.store.put(PRICE, judge, PricedJudge(judge=judge, price=price))
        for line in self.store.account():
            if line.judge == judge and is_call(line):
                tokens = line.prompt_tokens + line.completion_tokens
                paid = money(price, line.prompt_tokens, line.completion_tokens)
                self._spent = self._spent.plus(Amount(line.count, tokens, paid))

    def _error(self, cap: str) -> BudgetError:
        calls, tokens, paid = self._spent
        limit = {"calls": self._budget.calls, "tokens": self._budget.tokens, "money": self._budget.money}
        shown = f"{limit.get(cap, self._budget.hours):,}"
        more = f", {paid:.4f} USD" if paid or cap == "money" else ""
        more += f", {self._hours():.2f} hours" if self._budget.hours is not None else ""
        return BudgetError(
            cap,
            f"{self._prefix}{cap}: the cap of {shown} leaves no room for another call; spent so far: {calls:,.0f} "
            f"calls, {tokens:,.0f} tokens{more}; all answers are stored: raise "
            f"{self._prefix}{cap} to go on where this stopped",
        )


class MeteredJudge:
    """A judge whose every call is in the account; implements :class:`rubrica.core.ports.Judge`."""

    def __init__(self, purse: Purse, judge: Judge, price: Price | None, answer_tokens: int) -> None:
        self._purse, self._judge, self._price, self._answer_tokens = purse, judge, price, answer_tokens

    @property
    def fingerprint(self) -> str:
        """The judge's own."""
        return self._judge.fingerprint

    @property
    def veto_thresholds(self) -> Mapping[str, float]:
        """The judge's own."""
        return thresholds_of(self._judge)

    @property
    def wordings(self) -> frozenset[Wording]:
        """The judge's own."""
        return wordings_of(self._judge)

    def answer(self, queries: Sequence[Query]) -> Answers:
        """Yield the judge's answers as far as the budget reaches, then raise ``BudgetError``."""
        return Relay(lambda relay: self._run(relay, queries))

    def _run(self, relay: Relay, queries: Sequence[Query]) -> Answers:
        letters = [_letters(query) for query in queries]
        start = 0
        while start < len(queries) and not relay.closed:
            needs = self._purse.take(letters[start:], self._answer_tokens, self._price)
            part = queries[start : start + len(needs)]
            for index, verdict in self._settled(relay, part, needs, letters[start:]):
                yield start + index, verdict
            start += len(part)

    def _settled(
        self, relay: Relay, queries: Sequence[Query], needs: Sequence[Amount], letters: Sequence[int]
    ) -> Answers:
        held = dict(enumerate(needs))
        try:
            for index, verdict in relay.take(self._judge.answer(queries)):
                if index in held:
                    expense = expense_of(verdict, queries[index].question.id, self._judge.fingerprint)
                    self._purse.settle(held.pop(index), expense, letters[index], self._price)
                yield index, verdict
        finally:
            self._purse.release(list(held.values()))


class _MeteredWriter:
    """Implements :class:`rubrica.core.ports.Completer`."""

    def __init__(self, purse: Purse, completer: Completer, name: str, price: Price | None) -> None:
        self._purse, self._completer, self._name, self._price = purse, completer, name, price

    def complete(self, prompt: str, max_tokens: int) -> str:
        letters = len(prompt.encode())
        (need,) = self._purse.take([letters], max_tokens, self._price)
        try:
            text = self._completer.complete(prompt, max_tokens)
        except BaseException:
            self._purse.release([need])
            raise
        expense = Expense(
            judge=self._name,
            question_id="reflection",
            answer="text",
            prompt_tokens=letters // 4,
            completion_tokens=len(text.encode()) // 4,
        )
        self._purse.settle(need, expense, letters, self._price)
        return text


def expense_of(verdict: Verdict, question_id: str, judge: str) -> Expense:
    """Return the line of the account for one answer."""
    return Expense(
        judge=judge,
        question_id=question_id,
        answer=verdict.outcome.value if verdict.label is None else verdict.label.value,
        prompt_tokens=verdict.prompt_tokens,
        completion_tokens=verdict.completion_tokens,
        seconds=verdict.seconds,
    )


def _letters(query: Query) -> int:
    texts = (*(message.content for message in query.prompt.messages), query.text, query.question.text)
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
