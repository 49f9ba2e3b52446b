"""What a judge's calls cost in practice: measured by a short probe, or read from a run that has begun."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rubrica.core.account import is_call, money
from rubrica.core.config import Config
from rubrica.core.errors import JudgeError, UsageError
from rubrica.core.instance import program_for
from rubrica.core.ports import Judge
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import Expense, Outcome, Price, Query
from rubrica.core.run import Run
from rubrica.core.store import Store
from rubrica.judges.factory import JudgeConfig, make_judge
from rubrica.program.program import questions
from rubrica.recipes.config import Recipe
from rubrica.recipes.nobody import is_nobody
from rubrica.recipes.spending import SESSION, Session
from rubrica.recipes.stages.grpo import Grpo

LETTERS = 4
"""Letters of a token, about."""
PROBE = 24
"""Questions that a probe asks at most."""


class Rates(Config):
    """Means over calls."""

    source: str
    """Where the figures come from."""
    calls: int
    """Calls that were measured."""
    prompt_tokens: float
    """Read in one call."""
    completion_tokens: float
    """Written in one call."""
    seconds: float | None
    """Wall time of judging, divided by the calls: those under way together share it. None: not known."""
    asked_share: float = 1.0
    """Share of the questions that was asked; the others were skipped, cached or irrelevant."""


class Cost(Config):
    """What judging takes: calls, tokens, money and time."""

    basis: str
    """``at most``, or where the rates come from."""
    calls: int
    """Questions put to judges."""
    tokens: int
    """Read and written."""
    money: float | None
    """US dollars at the judge's price; None without one."""
    seconds: float | None
    """Wall time of judging; None where nothing was measured."""


def price_of(judge: str | JudgeConfig) -> Price | None:
    """Return the price that a recipe or a flag gives for its judge."""
    return None if isinstance(judge, str) else judge.price


def rates_of(account: Sequence[Expense], source: str, seconds: float | None = None) -> Rates | None:
    """Return means over an account, None without calls; ``seconds`` is the wall time of all of them."""
    calls = [line for line in account if is_call(line)]
    asked = sum(line.count for line in calls)
    if not asked:
        return None
    spared = sum(line.count for line in account if not is_call(line))
    return Rates(
        source=source,
        calls=asked,
        prompt_tokens=sum(line.prompt_tokens for line in calls) / asked,
        completion_tokens=sum(line.completion_tokens for line in calls) / asked,
        seconds=seconds / asked if seconds else None,
        asked_share=asked / (asked + spared),
    )


def rates_of_run(folder: Path, price: Price | None) -> tuple[Rates, Cost] | None:
    """Return rates and spending of a run that has begun; None where there is none, or no call yet."""
    if not (folder / "recipe.yaml").exists():
        return None
    with Run.open(folder) as run:
        account, sessions = run.store.account(), run.store.all(SESSION, Session)
    calls = [line for line in account if is_call(line)]
    asked, timed = sum(line.count for line in calls), sum(s.usage.asked for s in sessions)
    # a kill loses a second of a session's time, and no line of the account
    seconds = sum(s.usage.seconds for s in sessions) / timed * asked if timed else None
    rates = rates_of(account, f"at the rates of {asked:,} calls of the run", seconds)
    read = sum(line.prompt_tokens for line in calls)
    written = sum(line.completion_tokens for line in calls)
    return None if rates is None else (rates, cost_of("spent so far", asked, read, written, price, seconds))


def measure(
    recipe: Recipe, program: Program, prompts: Sequence[Prompt], builtin: Mapping[str, Callable[[], Judge]]
) -> Rates:
    """Ask the recipe's judge real questions about stand-in texts of half the longest length, and keep nothing.

    Raises ``JudgeError`` when none of them is answered, ``UsageError`` where there is nothing to ask.
    """
    if is_nobody(recipe.judge):
        raise UsageError("probe: the recipe names no judge; nothing to measure")
    with Store(":memory:") as store:
        judge = make_judge(recipe.judge, secret=store.secret, builtin=builtin)
    longest = max((s.max_completion_tokens for s in recipe.stages if isinstance(s, Grpo)), default=256)
    queries = [
        Query(prompt=prompt, text=_stand_in(prompt, longest // 4 * LETTERS), question=question)
        for prompt in prompts[:PROBE]
        for _, _, question in questions(program_for(program, prompt))
    ][:PROBE]
    if not queries:
        raise UsageError(
            "probe: neither the program nor the first prompts have a question; nothing to measure"
        )
    started = time.monotonic()
    verdicts = [verdict for _, verdict in judge.answer(queries)]
    seconds = time.monotonic() - started
    answered = [v for v in verdicts if v.outcome is not Outcome.FAILED]
    if not answered:
        raise JudgeError(
            f"probe: none of {len(queries)} questions was answered: {verdicts[0].reason}; mend the judge"
        )
    return Rates(
        source=f"at the rates of a probe of {len(queries)} questions",
        calls=len(answered),
        prompt_tokens=sum(v.prompt_tokens for v in answered) / len(answered),
        completion_tokens=sum(v.completion_tokens for v in answered) / len(answered),
        seconds=seconds / len(queries),
    )


def _stand_in(prompt: Prompt, letters: int) -> str:
    """The prompt's own last words, repeated."""
    said = prompt.messages[-1].content
    return (f"{said} " * (letters // (len(said) + 1) + 1))[: max(letters, 1)]


def rated_cost(calls: int, price: Price | None, rates: Rates) -> Cost:
    """Return what ``calls`` take at the rates of other calls."""
    seconds = None if rates.seconds is None else calls * rates.seconds
    read, written = calls * rates.prompt_tokens, calls * rates.completion_tokens
    return cost_of(rates.source, calls, read, written, price, seconds)


def cost_of(
    basis: str, calls: int, read: float, written: float, price: Price | None, seconds: float | None
) -> Cost:
    """Return the cost of ``calls`` that read and write so many tokens in all."""
    return Cost(
        basis=basis,
        calls=calls,
        tokens=round(read + written),
        money=None if price is None else money(price, read, written),
        seconds=seconds,
    )
