"""Reward functions for verl (0.9): ``reward.custom_reward_function.path=pkg://rubrica.integrations.verl``.

verl gives a reward function no prompt, so the rows must carry it in ``extra_info``; and it takes numbers only.
Options come through ``reward.custom_reward_function.reward_kwargs``:

- ``url``: the reward server (default: variable RUBRICA_URL); the key is RUBRICA_API_KEY;
- ``mode``: ``attempt`` or ``text``;
- ``prompt_key``: key of ``extra_info`` with the prompt, as a text or as chat messages;
- ``missing``: ``raise`` (default: the step stops, nothing that was judged is lost) or a number.

Each returns what verl's managers read: ``score``, and numbers that verl logs beside it.
"""

from collections.abc import Mapping, Sequence

from rubrica.core.errors import UsageError
from rubrica.core.scoring import Mode, ScoredItem, ScoreItem
from rubrica.integrations.exchange import RAISE, client_at, number, prompt_of

Extra = Mapping[str, object] | None


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Extra = None,
    *,
    url: str | None = None,
    mode: Mode = "attempt",
    prompt_key: str = "prompt",
    missing: float | str = RAISE,
    **unused: object,
) -> dict[str, float]:
    """Score one completion and wait. :func:`compute_score_async` serves more of them at a time."""
    [result] = client_at(url).score([_item(solution_str, extra_info, mode, prompt_key)])
    return _score(result, missing)


async def compute_score_async(
    data_source: str,
    solution_str: str,
    ground_truth: object,
    extra_info: Extra = None,
    *,
    url: str | None = None,
    mode: Mode = "attempt",
    prompt_key: str = "prompt",
    missing: float | str = RAISE,
    **unused: object,
) -> dict[str, float]:
    """Score one completion; those that verl's reward loop scores at the same time are judged together."""
    [result] = await client_at(url).ascore([_item(solution_str, extra_info, mode, prompt_key)])
    return _score(result, missing)


def compute_score_batch(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[object],
    extra_infos: Sequence[Extra],
    *,
    url: str | None = None,
    mode: Mode = "attempt",
    prompt_key: str = "prompt",
    missing: float | str = RAISE,
    **unused: object,
) -> list[dict[str, float]]:
    """Score a batch, for verl's ``BatchRewardManager``."""
    items = [
        _item(text, extra, mode, prompt_key) for text, extra in zip(solution_strs, extra_infos, strict=True)
    ]
    return [_score(result, missing) for result in client_at(url).score(items)]


def _item(solution: str, extra_info: Extra, mode: Mode, prompt_key: str) -> ScoreItem:
    value = (extra_info or {}).get(prompt_key)
    if value is None:
        known = ", ".join(extra_info or {}) or "nothing"
        raise UsageError(
            f"extra_info: holds no {prompt_key!r} (but {known}); put the prompt there when the data are prepared, or "
            "name its key with reward_kwargs.prompt_key"
        )
    return ScoreItem(prompt=prompt_of(value, f"extra_info.{prompt_key}"), completion=solution, mode=mode)


def _score(result: ScoredItem, missing: float | str) -> dict[str, float]:
    return {
        "score": number(result, missing),
        "rubrica_malformed": float(result.malformed is not None),
        "rubrica_missing": float(result.reward is None),
    }
