"""What ``rubrica score`` would ask: counted by the executor that would ask it, with what the store knows taken off."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rubrica.core.data import Text
from rubrica.core.ports import Judge, thresholds_of
from rubrica.core.programs import Program
from rubrica.core.store import Store
from rubrica.judges.budget import TEMPLATE_LETTERS
from rubrica.judges.executor import Executor, Plan
from rubrica.judges.factory import JudgeConfig, make_judge, parts
from rubrica.program.reward import RewardConfig
from rubrica.recipes.forecast import REASON_TOKENS
from rubrica.recipes.rates import LETTERS, Cost, cost_of, price_of, rated_cost, rates_of


def plan_texts(
    texts: Sequence[Text],
    judge: JudgeConfig,
    path: Path,
    *,
    program: Program,
    reward: RewardConfig,
    builtin: Mapping[str, Callable[[], Judge]],
    full: bool,
) -> tuple[Plan, list[Cost]]:
    """Return what would be asked and what that costs, at least and at most; asks nobody and writes nothing.

    Counts are exact bounds (a cascade's questions may be put to both of its judges), equal with ``full`` where every
    question applies to every prompt. Tokens are a quarter of the letters, or the mean of this judge's calls in the
    store at ``path``, if there are any.
    """
    with ExitStack() as opened:
        store = opened.enter_context(Store(path, read_only=True) if path.exists() else Store(":memory:"))
        asked = make_judge(judge, secret=store.secret, builtin=builtin)
        thresholds = thresholds_of(asked)
        executor = Executor(asked, store, program=program, reward=reward, thresholds=thresholds)
        plan = executor.plan([(text.prompt, text.text) for text in texts], full=full)
        own = [line for line in store.account() if line.judge == asked.fingerprint]
    price, rates = price_of(judge), rates_of(own, "")
    judges = parts(judge)
    written = sum(REASON_TOKENS if part.mode == "reason" else 1 for part in judges) / len(judges)
    costs = []
    bounds = (
        ("at least", plan.at_least, plan.letters_at_least),
        ("at most", plan.at_most * len(judges), plan.letters_at_most * len(judges)),
    )
    for basis, calls, letters in bounds:
        if rates is not None:
            cost = rated_cost(calls, price, rates).model_copy(update={"basis": basis})
        else:
            read = (letters + calls * TEMPLATE_LETTERS) / LETTERS
            cost = cost_of(basis, calls, read, calls * written, price, None)
        costs.append(cost)
    return plan, costs
