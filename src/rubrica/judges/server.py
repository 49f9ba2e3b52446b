"""A judge behind an OpenAI-compatible server (vLLM, SGLang, Ollama, llama.cpp, hosted).

One question a call. In mode ``label`` the judge writes one token, and its log-probabilities become
probabilities of the allowed labels; where the server offers none, a few tokens of text are parsed. In mode
``reason`` the judge writes JSON with a reason, as in QA-LIGN (arXiv 2506.08123, appendix A).
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Unpack

from rubrica.chat import CallFailed, Chat, ChatOptions, Session
from rubrica.core.config import content_hash
from rubrica.core.errors import JudgeError
from rubrica.core.limits import Clock
from rubrica.core.records import Label, Outcome, Query, Verdict, Wording
from rubrica.core.wire import ChatReply, ChatRequest, TokenLogprob
from rubrica.judges.decision import most_probable
from rubrica.judges.parsing import Parsed, label_of, parse_reply
from rubrica.judges.template import (
    TEMPLATE,
    TEMPLATE_HASH,
    Mode,
    allowed_labels,
    chat_messages,
    fence_marker,
)

TEXT_TOKENS = 8
"""Room for a label written as text."""
MIN_MASS = 0.5
"""Share of the first token's probability that the labels must hold; below it the text decides."""
_SEED = 0
_WORDS = {Label.TRUE: ("true", "yes"), Label.FALSE: ("false", "no"), Label.NA: ("na", "n/a")}
"""Words that a tokenizer may cut into several tokens."""


class Reading(NamedTuple):
    """Probabilities of the allowed labels, or why there are none."""

    probabilities: dict[Label, float] | None
    mass: float
    """Share of the first token's probability that fell on allowed labels before renormalisation."""
    problem: str = ""


def read_logprobs(top: Sequence[TokenLogprob], allowed: Sequence[Label]) -> Reading:
    """Turn candidates for the first token into probabilities of the allowed labels that sum to 1.

    A token counts for a label when it spells it (in any case, with blanks or quotes around it), or when it
    begins TRUE, FALSE, NA, yes or no and, with that, no other allowed one. Log-probabilities that are NaN, positive or
    sum to more than 1 are not trusted.
    """
    masses = dict.fromkeys(allowed, 0.0)
    total = 0.0
    for candidate in top:
        if math.isnan(candidate.logprob) or candidate.logprob > 1e-3:
            return Reading(None, 0.0, f"log-probability {candidate.logprob} of {candidate.token[:20]!r}")
        mass = math.exp(candidate.logprob)
        total += mass
        if label := _label_of_token(candidate.token, allowed):
            masses[label] += mass
    if total > 1.02:
        return Reading(None, 0.0, f"log-probabilities sum to a probability of {total:.2f}")
    mass = sum(masses.values())
    if mass < MIN_MASS:
        return Reading(None, mass)
    return Reading({label: value / mass for label, value in masses.items()}, mass)


def _label_of_token(token: str, allowed: Sequence[Label]) -> Label | None:
    word = token.strip(" \t\n▁Ġ\"'*`")
    if label := label_of(word, allowed):
        return label
    start = word.casefold()
    begun = [label for label in allowed if any(w.startswith(start) for w in _WORDS.get(label, ()))]
    return begun[0] if start and len(begun) == 1 else None


class ServerJudge:
    """A :class:`rubrica.core.ports.Judge` over HTTP."""

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        secret: str,
        mode: Mode = "label",
        max_tokens: int = 512,
        version: str = "",
        **options: Unpack[ChatOptions],
    ) -> None:
        """``secret`` is the store's; ``max_tokens`` is the room for the reply in mode ``reason``;
        ``version`` tells weights apart that are served under one name.

        ``options`` are those of :class:`rubrica.chat.Chat`; ``timeout`` bounds one question.
        """
        self._chat = Chat(model, base_url, unusable=JudgeError, **options)
        self._mode: Mode = mode
        self._offers_logprobs = False
        self._marker = fence_marker(secret)
        self._max_tokens = max_tokens
        self._fingerprint = "server-" + content_hash([model, version, TEMPLATE, TEMPLATE_HASH, mode])

    @property
    def fingerprint(self) -> str:
        """Hash of the model's name and version, template and mode; not of the URL, which may change in a run."""
        return self._fingerprint

    @property
    def calls(self) -> int:
        """Requests up to now, repeated ones too."""
        return self._chat.sent

    @property
    def wordings(self) -> frozenset[Wording]:
        """All of them."""
        return frozenset(Wording)

    @property
    def level(self) -> int:
        """Calls that may be under way at present: what the server has borne so far."""
        return self._chat.gate.level.now

    def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Verdict]]:
        """Yield ``(index, verdict)`` as calls end, each index once; a call that fails is a failed verdict.

        Raises ``JudgeError`` when the endpoint cannot work at all and has never answered.
        """
        return self._chat.stream(queries, self._ask)

    async def _ask(self, session: Session, query: Query) -> Verdict:
        clock, replies = session.clock(), list[ChatReply]()
        verdict = Verdict(question_id=query.question.id, outcome=Outcome.FAILED, judge=self._fingerprint)
        try:
            verdict = await self._decide(session, clock, query, verdict, replies)
        except CallFailed as error:
            verdict = verdict.model_copy(update={"reason": str(error)})
        return verdict.model_copy(
            update={
                "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
                "completion_tokens": sum(reply.completion_tokens for reply in replies),
                "seconds": clock.used,
            }
        )

    async def _decide(
        self, session: Session, clock: Clock, query: Query, blank: Verdict, replies: list[ChatReply]
    ) -> Verdict:
        """Ask once, or twice where the first token alone does not tell the label."""
        allowed = allowed_labels(query.question)
        messages = chat_messages(query, self._marker, self._mode)
        if self._mode == "label" and "logprobs" not in self._chat.refused:
            request = ChatRequest(messages=messages, max_tokens=1, top_logprobs=20, seed=_SEED)
            replies.append(await session.call(request, clock))
            if replies[-1].top:
                self._offers_logprobs = True
                reading = read_logprobs(replies[-1].top, allowed)
                if reading.problem:
                    return _verdict(blank, Parsed(None, reading.problem))
                if reading.probabilities is not None:
                    return most_probable(blank.question_id, reading.probabilities, judge=blank.judge)
            elif not self._offers_logprobs:
                self._chat.refused.add("logprobs")
        room = self._max_tokens if self._mode == "reason" else TEXT_TOKENS
        replies.append(await session.call(ChatRequest(messages=messages, max_tokens=room, seed=_SEED), clock))
        return _verdict(blank, parse_reply(replies[-1].text, allowed))


def _verdict(blank: Verdict, parsed: Parsed) -> Verdict:
    outcome = Outcome.ANSWERED
    if parsed.label is None:
        outcome = Outcome.UNPARSEABLE
    elif parsed.label is Label.NA:
        outcome = Outcome.NOT_APPLICABLE
    return Verdict(
        question_id=blank.question_id,
        outcome=outcome,
        label=parsed.label,
        reason=parsed.reason,
        judge=blank.judge,
    )
