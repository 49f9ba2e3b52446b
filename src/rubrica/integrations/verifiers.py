"""A reward for ``verifiers`` (0.4, its v1 API), plugged in by name or called from a task's ``@vf.reward``.

    --env.taskset.task.rewards.rubrica.fn rubrica.integrations.verifiers:rubrica_reward

verifiers takes numbers only and tries a rollout again whose scoring raises, so a missing reward raises. Values
by principle become metrics of the trace.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, cast

from rubrica.core.errors import UsageError
from rubrica.core.prompts import Message
from rubrica.core.scoring import Mode, ScoreItem
from rubrica.integrations.client import Client
from rubrica.integrations.exchange import RAISE, Prompt, client_at, number, prompt_of


class TaskData(Protocol):
    """What is read of ``vf.TaskData``."""

    prompt: object
    system_prompt: str | None


class Trace(Protocol):
    """What is read of ``vf.Trace``, and written to it."""

    @property
    def messages(self) -> Sequence[object]:
        """Messages of the final branch."""

    @property
    def last_reply(self) -> str:
        """What the model said last."""

    @property
    def is_truncated(self) -> bool:
        """The reply ran into a limit."""

    def record_metric(self, name: str, value: float) -> None:
        """Keep a number beside the rewards."""


Reward = Callable[[TaskData, Trace], Awaitable[float]]


def make_reward(client: Client, *, mode: Mode = "attempt", missing: float | str = RAISE) -> Reward:
    """Return a reward function ``(task, trace) -> float``; ``missing`` is ``raise`` or a number."""

    async def rubrica(task: TaskData, trace: Trace) -> float:
        item = ScoreItem(
            prompt=_prompt(task, trace),
            completion=trace.last_reply,
            mode=mode,
            finished=not trace.is_truncated,
        )
        [result] = await client.ascore([item])
        trace.record_metric("rubrica/malformed", float(result.malformed is not None))
        trace.record_metric("rubrica/missing", float(result.reward is None))
        for text in result.texts:
            for name, value in {**text.principles, "total": text.total}.items():
                if value is not None:
                    trace.record_metric(f"rubrica/{text.part}/{name}", value)
        return number(result, missing)

    return rubrica


async def rubrica_reward(task: TaskData, trace: Trace) -> float:
    """Reward the last reply; RUBRICA_URL, RUBRICA_API_KEY, RUBRICA_MODE and RUBRICA_MISSING say how."""
    mode = os.environ.get("RUBRICA_MODE", "attempt")
    if mode not in ("attempt", "text"):
        raise UsageError(f"RUBRICA_MODE: got {mode!r}; expected attempt or text")
    missing = os.environ.get("RUBRICA_MISSING", RAISE)
    return await make_reward(client_at(None), mode=cast(Mode, mode), missing=missing)(task, trace)


def _prompt(task: TaskData, trace: Trace) -> Prompt:
    """Return the conversation up to the last reply, or the task's prompt where it does not end with the user."""
    turns = [turn for turn in trace.messages if getattr(turn, "role", "") != "tool"]
    while turns and getattr(turns[-1], "role", "") == "assistant":
        turns.pop()
    if turns and getattr(turns[-1], "role", "") == "user" and len(turns) == _plain(turns):
        return prompt_of(turns, "trace.messages")
    prompt = prompt_of(task.prompt, "task.prompt")
    messages = (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt
    if task.system_prompt:
        messages = (Message(role="system", content=task.system_prompt), *messages)
    return messages


def _plain(turns: Sequence[object]) -> int:
    """Number of turns that say something; calls of tools do not."""
    return sum(bool(getattr(turn, "content", None)) for turn in turns)
