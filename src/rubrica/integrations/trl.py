"""A reward function for TRL's GRPOTrainer (1.16), in this process or through the reward server.

TRL takes None for *no signal*: such a completion has no advantage and no part in its group's baseline. Give
the trainer no second function that returns numbers for the same rows: beside one, a None counts as 0.
"""

from collections.abc import Callable, Mapping, Sequence

from rubrica.core.errors import UsageError
from rubrica.core.scoring import Mode, ScoredItem, ScoreItem, Scorer
from rubrica.integrations.exchange import prompt_of

LogMetric = Callable[[str, float], None]


def rubrica_reward(
    scorer: Scorer,
    *,
    mode: Mode = "attempt",
    prompt_column: str = "prompts",
    end_ids: Sequence[int] | None = None,
) -> Callable[..., list[float | None]]:
    """Return the function for ``reward_funcs=``; its name in TRL's logs is ``rubrica``.

    ``scorer`` is a ``Client``, or ``rubrica.recipes.scorer.open_scorer(...)``. Plain and conversational rows
    both work. ``prompt_column`` names the dataset column with what the judge should see as the prompt, where
    ``prompt`` is a rendered template. With ``end_ids`` (the tokenizer's end tokens) a completion that ends with
    none of them counts as cut off.
    """

    def rubrica(
        prompts: Sequence[object],
        completions: Sequence[object],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: LogMetric | None = None,
        **columns: Sequence[object],
    ) -> list[float | None]:
        asked = {"prompts": prompts, **columns}.get(prompt_column)
        if asked is None:
            raise UsageError(f"prompt_column {prompt_column!r}: the dataset has no such column")
        items = [
            ScoreItem(
                prompt=prompt_of(prompt, prompt_column),
                completion=_text(completion),
                mode=mode,
                finished=end_ids is None or completion_ids is None or _ended(completion_ids[row], end_ids),
            )
            for row, (prompt, completion) in enumerate(zip(asked, completions, strict=True))
        ]
        results = scorer.score(items)
        if log_metric is not None:
            for name, value in metrics(results).items():
                log_metric(name, value)
        return [result.reward for result in results]

    return rubrica


def metrics(results: Sequence[ScoredItem]) -> dict[str, float]:
    """Return shares of malformed and missing, and means by principle over the texts that have a value."""
    values: dict[str, list[float]] = {
        "rubrica/malformed": [float(result.malformed is not None) for result in results],
        "rubrica/missing": [float(result.reward is None) for result in results],
    }
    for result in results:
        for text in result.texts:
            named = {**text.principles, "total": text.total}
            for name, value in named.items():
                if value is not None:
                    values.setdefault(f"rubrica/{text.part}/{name}", []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items() if found}


def _text(completion: object) -> str:
    """Return the text of a completion: itself, or that of the assistant's messages."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence):
        turns = [turn for turn in completion if isinstance(turn, Mapping) and turn.get("role") == "assistant"]
        return "\n".join(str(turn.get("content") or "") for turn in turns)
    raise UsageError(f"completions: got {str(completion)[:60]!r}; expected a text or a list of messages")


def _ended(ids: Sequence[int], end_ids: Sequence[int]) -> bool:
    return len(ids) > 0 and ids[-1] in end_ids
