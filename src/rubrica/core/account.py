"""Reading a store's account: which lines are calls, and what they cost."""

from collections.abc import Iterable

from rubrica.core.records import Expense, Outcome, Price, PricedJudge, Usage
from rubrica.core.store import Store

PRICE = "price"
"""Kind under which the prices of judges lie in the store."""
CACHED = "cached"
"""Answer of lines about questions whose answer was known."""
SKIPPED = Outcome.SKIPPED.value
"""Answer of lines about questions that could not change the result."""

IRRELEVANT = "irrelevant"
"""Answer of lines about questions that do not apply to their prompt."""


def is_call(line: Expense) -> bool:
    """Tell whether a line is about questions that were put to a judge."""
    return line.answer not in (CACHED, SKIPPED, IRRELEVANT)


def money(price: Price | None, prompt_tokens: float, completion_tokens: float) -> float:
    """Return US dollars; 0 where there is no price."""
    if price is None:
        return 0.0
    return (price.prompt * prompt_tokens + price.completion * completion_tokens) / 1e6


def paid(lines: Iterable[Expense], prices: dict[str, Price]) -> float:
    """Return what ``lines`` cost in US dollars; ``prices`` by fingerprint."""
    return sum(money(prices.get(line.judge), line.prompt_tokens, line.completion_tokens) for line in lines)


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Return the sum of several costs."""
    dumped = [usage.model_dump() for usage in usages]
    return Usage(**{name: sum(used[name] for used in dumped) for name in Usage.model_fields})


def prices_of(store: Store) -> dict[str, Price]:
    """Return the prices that a run was told, by the judge's fingerprint."""
    found = store.all(PRICE, PricedJudge)
    return {priced.judge: priced.price for priced in found if priced.price is not None}
