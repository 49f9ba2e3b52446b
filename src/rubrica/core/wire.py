"""Chat completions on the wire: the body of a request, and what can be read from a reply.

A reply is hostile input: whatever does not have the form of a chat completion is a ``ValueError``.
"""

from collections.abc import Collection
from contextlib import suppress

from pydantic import BaseModel, Field, JsonValue, NonNegativeInt, ValidationError

from rubrica.core.prompts import Message


class TokenLogprob(BaseModel):
    """One candidate for a token. ``logprob`` is natural, and as the server sent it: perhaps NaN."""

    token: str
    logprob: float


class TokenPlace(BaseModel):
    """One token of a reply, and the candidates for its place."""

    token: str = ""
    logprob: float = 0.0
    top_logprobs: tuple[TokenLogprob, ...]


class _Logprobs(BaseModel):
    content: tuple[TokenPlace, ...] = Field(min_length=1)


class _Text(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Text
    logprobs: object = None
    finish_reason: str | None = None


class _TextLogprobs(BaseModel):
    tokens: tuple[str, ...]
    token_logprobs: tuple[float | None, ...]
    top_logprobs: tuple[dict[str, float] | None, ...]


class _TextChoice(BaseModel):
    text: str
    logprobs: object = None
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt = 0
    completion_tokens: NonNegativeInt = 0


class _Body(BaseModel):
    choices: tuple[_Choice, ...] = Field(min_length=1)
    usage: _Usage | None = None


class _TextBody(BaseModel):
    choices: tuple[_TextChoice, ...] = Field(min_length=1)
    usage: _Usage | None = None


class ChatReply(BaseModel):
    """What the endpoint answered. ``places`` are its tokens; empty where their probabilities are not offered."""

    text: str
    places: tuple[TokenPlace, ...] = ()
    finished: bool = True
    withheld: bool = False
    """Whether the server took the text back, or a part of it (``finish_reason`` content_filter)."""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def top(self) -> tuple[TokenLogprob, ...]:
        """Candidates for the first token."""
        return self.places[0].top_logprobs if self.places else ()


class ChatRequest(BaseModel):
    """One call. ``top_logprobs`` 0 asks for none; ``extra`` goes into the body, less what was refused."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_logprobs: int = 0
    extra: dict[str, JsonValue] = {}

    def body(self, refused: Collection[str]) -> dict[str, JsonValue]:
        """Return the request's options, without those that the endpoint refused earlier."""
        length = "max_completion_tokens" if "max_tokens" in refused else "max_tokens"
        options: dict[str, JsonValue] = {length: self.max_tokens, "temperature": self.temperature}
        if self.top_p < 1:
            options["top_p"] = self.top_p
        if "seed" not in refused:
            options["seed"] = self.seed
        if self.top_logprobs and "logprobs" not in refused:
            options |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return options | {name: value for name, value in self.extra.items() if name not in refused}


def read_reply(body: bytes) -> ChatReply:
    """Read the body of a reply; ``ValueError`` with its beginning when it is no chat completion."""
    try:
        found = _Body.model_validate_json(body)
    except ValidationError:
        start = " ".join(body[:80].decode(errors="replace").split())
        raise ValueError(f"the reply is no chat completion: {start!r}") from None
    choice, usage = found.choices[0], found.usage or _Usage()
    places: tuple[TokenPlace, ...] = ()
    with suppress(ValidationError):
        places = _Logprobs.model_validate(choice.logprobs).content
    return ChatReply(
        text=choice.message.content or "",
        places=places,
        finished=choice.finish_reason != "length",
        withheld=choice.finish_reason == "content_filter",
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )


def read_completion(body: bytes) -> ChatReply:
    """Read the body of a completion of plain text (``/completions``); ``ValueError`` as :func:`read_reply`."""
    try:
        found = _TextBody.model_validate_json(body)
    except ValidationError:
        start = " ".join(body[:80].decode(errors="replace").split())
        raise ValueError(f"the reply is no completion: {start!r}") from None
    choice, usage = found.choices[0], found.usage or _Usage()
    places: tuple[TokenPlace, ...] = ()
    with suppress(ValidationError, ValueError):
        said = _TextLogprobs.model_validate(choice.logprobs)
        places = tuple(
            TokenPlace(
                token=token,
                logprob=0.0 if logprob is None else logprob,
                top_logprobs=tuple(TokenLogprob(token=t, logprob=p) for t, p in (top or {}).items()),
            )
            for token, logprob, top in zip(said.tokens, said.token_logprobs, said.top_logprobs, strict=True)
        )
    return ChatReply(
        text=choice.text,
        places=places,
        finished=choice.finish_reason != "length",
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
    )
