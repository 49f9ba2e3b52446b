"""A generator behind an OpenAI-compatible server (vLLM, SGLang, Ollama, llama.cpp, hosted)."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple, Unpack

from pydantic import JsonValue

from rubrica.chat import CallFailed, Chat, ChatOptions, Session
from rubrica.core.config import Json, content_hash
from rubrica.core.errors import ModelError, ModelUnusable, UsageError
from rubrica.core.ports import Ask
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Response, Sampling
from rubrica.core.wire import ChatReply, ChatRequest

_CONTINUE: dict[str, JsonValue] = {"continue_final_message": True, "add_generation_prompt": False}
# A server that knows the first option refuses the two together; one that ignores unknown options answers.
_CONTRADICTION: dict[str, JsonValue] = {"continue_final_message": True, "add_generation_prompt": True}


_ABOUT_PROMPT = re.compile("context|content[ _-]?(filter|policy|management)", re.IGNORECASE)
"""How servers speak of a prompt that they do not take, whatever the model could have answered."""


class _Job(NamedTuple):
    prompt: Prompt
    prefix: str
    seed: int


class ServerGenerator:
    """Implements :class:`rubrica.core.ports.Generator`, ``Drafter`` and ``Completer`` over chat completions."""

    independent: ClassVar[Literal[True]] = True

    def __init__(
        self,
        model: str,
        base_url: str,
        **options: Unpack[ChatOptions],
    ) -> None:
        """``options`` are those of :class:`rubrica.chat.Chat`; ``timeout`` bounds one completion, 300 s by default."""
        options.setdefault("timeout", 300.0)
        self._chat = Chat(model, base_url, unusable=ModelUnusable, **options)
        self._continues: bool | None = None
        """Whether the server honours ``continue_final_message``; None until it is asked, as vLLM shows it."""

    @property
    def name(self) -> str:
        """Model and URL without credentials."""
        return f"{self._chat.model}@{self._chat.url}"

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, prefixes: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Response]]:
        """Yield ``(index, response)`` as completions end.

        Each occurrence of a prompt is sampled with a seed of its own, derived from ``sampling.seed``. Raises
        ``UsageError`` for a prompt beyond the context, and for prefixes where the server cannot continue a
        text; ``ModelError`` when a completion fails for good or the server cannot work.
        """
        starts = list(prefixes) if prefixes is not None else [""] * len(prompts)
        if len(starts) != len(prompts):
            raise UsageError(
                f"generator {self.name}: {len(starts)} prefixes for {len(prompts)} prompts; expected one each"
            )

        async def ask(session: Session, job: _Job) -> Response:
            return await self._answer(session, job, sampling)

        return self._chat.stream(_jobs(prompts, starts, sampling), ask)

    def each(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Response | UsageError | ModelError]]:
        """Yield ``(index, response)``, or the error that :meth:`generate` would raise; the other calls go on.

        ``ModelUnusable`` where the server cannot work at all.
        """

        async def ask(session: Session, job: _Job) -> Response | UsageError | ModelError:
            try:
                return await self._answer(session, job, sampling)
            except ModelUnusable:
                raise
            except (UsageError, ModelError) as error:
                return error

        return self._chat.stream(_jobs(prompts, [""] * len(prompts), sampling), ask)

    def draft(self, asks: Sequence[Ask]) -> Iterator[tuple[int, str | ModelError]]:
        """Yield ``(index, answer)`` at temperature 0 as answers arrive; a call that fails yields its error.

        A schema goes along as ``response_format`` until the server refuses it; from then on it is left out.
        ``ModelError`` when the server cannot work at all.
        """

        async def ask(session: Session, ask: Ask) -> str | ModelError:
            try:
                reply = await session.call(_draft_request(ask), session.clock())
            except CallFailed as error:
                return ModelError(f"generator {self.name}: {error}")
            if not reply.text.strip():
                return ModelError(f"generator {self.name}: empty answer; try another model or more tokens")
            return reply.text

        return self._chat.stream(asks, ask)

    def complete(self, prompt: str, max_tokens: int) -> str:
        """Return the answer to ``prompt`` at temperature 0; ``ModelError`` when there is none."""
        [(_, answer)] = self.draft([Ask(prompt, max_tokens)])
        if isinstance(answer, ModelError):
            raise answer
        return answer

    async def _answer(self, session: Session, job: _Job, sampling: Sampling) -> Response:
        if job.prefix and self._continues is None:
            self._continues = await self._probe(session)
        if job.prefix and not self._continues:
            raise UsageError(
                f"generator {self.name}: the server cannot continue a given text; "
                "serve the model with vLLM, or load it locally"
            )
        try:
            reply = await session.call(_request(job, sampling), session.clock())
        except CallFailed as error:
            raise self._error(job, error) from None
        if reply.withheld:
            raise UsageError(
                f"prompt {job.prompt.id!r}: the server of {self.name} withheld the answer (finish_reason "
                "content_filter); leave it out"
            )
        return self._response(job, sampling, reply)

    async def _probe(self, session: Session) -> bool:
        messages = (Message(role="user", content="Say: one two"), Message(role="assistant", content="one"))
        try:
            await session.call(
                ChatRequest(messages=messages, max_tokens=1, extra=_CONTRADICTION), session.clock()
            )
        except CallFailed as error:
            if error.status in (400, 422):
                return "continue_final_message" in str(error) and "add_generation_prompt" in str(error)
            raise ModelError(f"generator {self.name}: {error}") from None
        return False

    def _error(self, job: _Job, error: CallFailed) -> Exception:
        said = str(error)
        if error.status in (400, 413, 422) and (about := _ABOUT_PROMPT.search(said)):
            why = "refused by the server of" if about[1] else "too long for"
            return UsageError(
                f"prompt {job.prompt.id!r}: {why} {self.name} ({said}); leave it out"
                + ("" if about[1] else " or lower max_tokens")
            )
        return ModelError(f"generator {self.name}: prompt {job.prompt.id!r}: {said}")

    def _response(self, job: _Job, sampling: Sampling, reply: ChatReply) -> Response:
        identity: Json = [self.name, job.prompt.id, sampling.model_dump(mode="json"), job.prefix, job.seed]
        return Response(
            id=content_hash(identity),
            prompt_id=job.prompt.id,
            text=reply.text,
            model=self.name,
            sampling=sampling,
            tokens=reply.completion_tokens,
            finished=reply.finished,
        )


def _jobs(prompts: Sequence[Prompt], starts: Sequence[str], sampling: Sampling) -> list[_Job]:
    """Each occurrence of a prompt has a seed of its own."""
    seen: Counter[str] = Counter()
    jobs = []
    for prompt, prefix in zip(prompts, starts, strict=True):
        seed = content_hash([sampling.seed, prompt.id, seen[prompt.id]], length=7)
        seen[prompt.id] += 1
        jobs.append(_Job(prompt, prefix, int(seed, 16)))
    return jobs


def _draft_request(ask: Ask) -> ChatRequest:
    extra: dict[str, JsonValue] = {}
    if ask.schema is not None:
        wanted: JsonValue = {"name": "reply", "schema": ask.schema, "strict": True}
        extra = {"response_format": {"type": "json_schema", "json_schema": wanted}}
    messages = (Message(role="user", content=ask.prompt),)
    return ChatRequest(messages=messages, max_tokens=ask.max_tokens, extra=extra)


def _request(job: _Job, sampling: Sampling) -> ChatRequest:
    messages = job.prompt.messages
    if job.prefix:
        messages = (*messages, Message(role="assistant", content=job.prefix))
    return ChatRequest(
        messages=messages,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=job.seed,
        extra=_CONTINUE if job.prefix else {},
    )
