"""Scores of a reward model, kept in the run's store as they come: what was scored once is never asked again."""

from collections.abc import Callable, Sequence

from pydantic import FiniteFloat

from rubrica.core.base import Record
from rubrica.core.config import content_hash
from rubrica.core.errors import ModelError
from rubrica.core.ports import RewardModel
from rubrica.core.prompts import Prompt
from rubrica.core.store import Store
from rubrica.judges.keys import text_hash

KIND = "reward-score"
"""Kind under which scores lie in the store."""
Report = Callable[[int, int], None]
"""Gets (scored, of how many)."""


class RewardScore(Record):
    """What a reward model gave one text, on its own scale."""

    model: str
    """Fingerprint."""
    prompt_id: str
    score: FiniteFloat


def score_key(model: str, prompt: Prompt, text: str) -> str:
    """Return the key of a score from the model's fingerprint, the prompt's messages and the text."""
    return content_hash([model, text_hash(prompt, text)], length=32)


def stored_scores(
    store: Store,
    model: RewardModel,
    items: Sequence[tuple[Prompt, str]],
    report: Report = lambda done, total: None,
    *,
    retries: int = 0,
) -> list[float | ModelError]:
    """Return a score, or why there is none, for each item; the same text is asked once.

    What fails is asked ``retries`` times more; a failure is not kept, so a resumed run asks again.
    """
    keys = [score_key(model.fingerprint, prompt, text) for prompt, text in items]
    wanted = dict(zip(keys, items, strict=True))
    found: dict[str, float | ModelError] = {}
    for key in wanted:
        if (known := store.get(KIND, key, RewardScore)) is not None:
            found[key] = known.score
    report(len(found), len(wanted))
    for _ in range(retries + 1):
        missing = [key for key in wanted if not isinstance(found.get(key), float)]
        for index, score in model.score([wanted[key] for key in missing]):
            key = missing[index]
            found[key] = score
            if isinstance(score, float):
                prompt_id = wanted[key][0].id
                store.put(KIND, key, RewardScore(model=model.fingerprint, prompt_id=prompt_id, score=score))
                report(sum(isinstance(s, float) for s in found.values()), len(wanted))
    return [found[key] for key in keys]
