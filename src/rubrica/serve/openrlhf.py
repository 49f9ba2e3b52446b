"""OpenRLHF's remote reward model: what it posts to ``--reward.remote_url``, and what it reads.

It posts ``{"query": [...], "prompts": [...], "labels": [...]}``, where a query is the prompt and the completion
decoded with special tokens, and reads ``rewards``, ``scores`` (for filtering; the rewards again) and
``extra_logs`` (``openrlhf/utils/agent.py``, 0.11.2). It has no word for *no signal*.
"""

import json
from collections.abc import Sequence
from contextlib import suppress

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from rubrica.core.errors import UsageError
from rubrica.core.prompts import Message
from rubrica.core.scoring import Mode, ScoredItem, ScoreItem

_MESSAGES = TypeAdapter(tuple[Message, ...])


class OpenRlhfRequest(BaseModel):
    """What OpenRLHF posts; fields of other versions are ignored."""

    query: list[str] = Field(min_length=1)
    """Prompt and completion as one text."""
    prompts: list[str]
    """The prompts as the policy saw them."""
    labels: list[object] = []
    """Column ``--data.label_key``: the conversation as JSON messages, or anything else."""


class OpenRlhfOptions(BaseModel):
    """What the URL says behind its question mark."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode = "attempt"
    """As in an item of ``/v1/score``."""
    missing: FiniteFloat | None = Field(
        None, description="number that stands for a missing reward; without it such a request is answered 424"
    )


class OpenRlhfReply(BaseModel):
    """One number for each query."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]
    """``malformed``: 1 for a completion that earned the floor because it is no attempt."""


def read_items(request: OpenRlhfRequest, mode: Mode, ends: Sequence[str]) -> list[ScoreItem]:
    """Return what to score; ``UsageError`` where a query does not begin with its prompt.

    A completion that closes with one of ``ends`` is finished; without ``ends`` all are taken as finished.
    """
    if len(request.prompts) != len(request.query) or len(request.labels) not in (0, len(request.query)):
        raise UsageError(
            f"got {len(request.query)} queries, {len(request.prompts)} prompts and {len(request.labels)} labels; "
            "expected one prompt, and one label or none at all, for each query"
        )
    labels = request.labels or [None] * len(request.query)
    return [
        _item(number, *row, mode, ends)
        for number, row in enumerate(zip(request.query, request.prompts, labels, strict=True))
    ]


def _item(number: int, query: str, prompt: str, label: object, mode: Mode, ends: Sequence[str]) -> ScoreItem:
    start = query.find(prompt)  # a tokenizer may write its own first token before the prompt
    if start < 0:
        raise UsageError(
            f"query {number}: does not hold its prompt; expected prompt and completion as one text. Where the "
            "tokenizer does not give a prompt back as it was, use reward_func of rubrica.integrations.openrlhf"
        )
    completion = query[start + len(prompt) :].rstrip()
    finished = not ends or completion.endswith(tuple(ends))
    while end := next((e for e in ends if completion.endswith(e)), None):
        completion = completion.removesuffix(end).rstrip()
    return ScoreItem(
        prompt=_conversation(label) or prompt, completion=completion.strip(), mode=mode, finished=finished
    )


def _conversation(label: object) -> tuple[Message, ...] | None:
    """Messages that a label holds as JSON, or None: the prompt as the policy saw it is then what the judge sees."""
    found = label
    if isinstance(label, str):
        with suppress(ValueError, RecursionError):
            found = json.loads(label)
    if isinstance(found, list) and found:
        with suppress(ValidationError):
            return _MESSAGES.validate_python(found)
    return None


def reply_of(results: Sequence[ScoredItem], missing: float | None) -> OpenRlhfReply | None:
    """Return the reply; None where a reward is missing and no number was chosen for that."""
    rewards = [missing if result.reward is None else result.reward for result in results]
    numbers = [reward for reward in rewards if reward is not None]
    if len(numbers) < len(rewards):
        return None
    malformed = [float(result.malformed is not None) for result in results]
    return OpenRlhfReply(rewards=numbers, scores=numbers, extra_logs={"malformed": malformed})
