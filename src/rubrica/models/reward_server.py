"""Scalar reward models behind a server: vLLM's classification and pooling, and another ``rubrica serve``.

What vLLM 0.32 serves (``vllm/entrypoints/pooling``): a sequence-classification model answers ``POST /classify`` with
``{"messages": [...], "use_activation": false}`` by ``{"data": [{"probs": [logit, ...]}]}``; without that switch the
numbers are squashed by a sigmoid or softmax. Models that vLLM itself calls reward models answer ``POST /pooling`` with
``{"data": [{"data": ...}]}``, one row of numbers or one for each token, of which the last counts. ``rubrica serve``
answers ``POST /v1/score`` with rewards; one of null is no score.

Here a head may be code of its own: it runs in the server, never in this process.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, Unpack

from pydantic import BaseModel, Field, JsonValue, ValidationError

from rubrica.chat import CallFailed, Chat, ChatOptions, Session, wire
from rubrica.core.config import content_hash
from rubrica.core.errors import ModelError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.scoring import ScoreItem, ScoreReply, ScoreRequest

Endpoint = Literal["classify", "pooling", "score"]
"""``classify`` and ``pooling`` of vLLM, ``score`` of ``rubrica serve``."""
Disarm = Callable[[str], str]
"""Breaks what a server's chat template could take for a control token."""
_PATHS: dict[Endpoint, str] = {"classify": "/classify", "pooling": "/pooling", "score": "/v1/score"}


class _Classified(BaseModel):
    probs: list[float] = Field(min_length=1)


class _Classes(BaseModel):
    data: list[_Classified] = Field(min_length=1, max_length=1)


class _Pooled(BaseModel):
    data: list[float] | list[list[float]] = Field(min_length=1)


class _Pool(BaseModel):
    data: list[_Pooled] = Field(min_length=1, max_length=1)


class ServedRewardModel:
    """Implements :class:`rubrica.core.ports.RewardModel` over HTTP, one text a call."""

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        endpoint: Endpoint = "classify",
        label: int | None = None,
        version: str = "",
        disarm: Disarm = str,
        **options: Unpack[ChatOptions],
    ) -> None:
        """``label`` is the index of the number that is the score, where there are several.

        ``version`` names the weights where one model name has served others. ``options`` are those of
        :class:`rubrica.chat.Chat`. Raises ``UsageError`` for a URL that is none.
        """
        root = base_url.rstrip("/").removesuffix("/v1")
        self._chat = Chat(model, root, unusable=ModelError, **options)
        self._endpoint, self._label, self._disarm = endpoint, label, disarm
        self._name = f"{model}@{self._chat.url}"
        self.fingerprint = content_hash(["served reward", endpoint, model, label, version])
        """Hash of the model's name, label and version: what a server holds it does not tell."""

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, float | ModelError]]:
        """Yield ``(index, score)`` as answers arrive; a call that fails yields its error.

        Raises ``ModelError`` where the server cannot work at all.
        """

        async def ask(session: Session, item: tuple[Prompt, str]) -> float | ModelError:
            body = self._body(*item)
            try:
                return await session.post(
                    _PATHS[self._endpoint],
                    body,
                    partial(read_score, endpoint=self._endpoint, label=self._label),
                    tokens=(len(item[1]) + sum(len(m.content) for m in item[0].messages)) // 4,
                    clock=session.clock(),
                )
            except CallFailed as error:
                return ModelError(f"reward model {self._name}: prompt {item[0].id!r}: {error}")

        return self._chat.stream(items, ask)

    def _body(self, prompt: Prompt, text: str) -> dict[str, JsonValue]:
        if self._endpoint == "score":
            item = ScoreItem(
                prompt=prompt.messages,
                completion=text,
                mode="text",
                tags=prompt.tags,
                questions=prompt.questions,
            )
            return ScoreRequest(items=(item,)).model_dump(mode="json")
        turns = (*prompt.messages, Message(role="assistant", content=text))
        said = [m.model_copy(update={"content": self._disarm(m.content)}) for m in turns]
        return {
            "model": self._chat.model,
            "messages": [wire(message) for message in said],
            "use_activation": False,
        }


def read_score(body: bytes, *, endpoint: Endpoint, label: int | None) -> float:
    """Return the score that a reply holds; ``ValueError`` with the reason where there is none."""
    try:
        if endpoint == "score":
            return _read_reward(body)
        if endpoint == "classify":
            numbers = _Classes.model_validate_json(body).data[0].probs
        else:
            numbers = _last(_Pool.model_validate_json(body).data[0].data)
    except ValidationError:
        start = " ".join(body[:80].decode(errors="replace").split())
        raise ValueError(f"the reply holds no scores: {start!r}") from None
    if label is None and len(numbers) != 1:
        raise ValueError(f"the reply holds {len(numbers)} numbers; name the index of one in label")
    if label is not None and not 0 <= label < len(numbers):
        raise ValueError(f"the reply holds {len(numbers)} numbers; none has index {label}")
    score = numbers[label or 0]
    if not math.isfinite(score):
        raise ValueError(f"the score is {score}")
    return score


def _last(rows: Sequence[float | list[float]]) -> list[float]:
    """The row of the last token, or the only row there is."""
    of_tokens = [row for row in rows if isinstance(row, list)]
    return of_tokens[-1] if of_tokens else [row for row in rows if isinstance(row, float)]


def _read_reward(body: bytes) -> float:
    [result] = ScoreReply.model_validate_json(body).results
    if result.reward is None:
        raise ValueError(f"no reward: {result.reason}")
    return result.reward
