"""Runs in the environment of tests/peers/install.sh: verifiers loads and calls our reward."""

import asyncio
import json
import os

import verifiers.v1 as vf

from rubrica.integrations.client import Client
from rubrica.integrations.verifiers import make_reward

FN = "rubrica.integrations.verifiers:rubrica_reward"


class Task(vf.Task[vf.TaskData, vf.State]):
    """A task without rewards of its own."""


class Direct(vf.Task[vf.TaskData, vf.State]):
    """A task that calls the reward itself."""

    @vf.reward(weight=2.0)
    async def rubric(self, trace: vf.Trace) -> float:
        return await make_reward(Client(), mode="text")(self.data, trace)


def trace_of(task, turns):
    trace = vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data),
        agent=vf.AgentInfo(config=vf.AgentConfig.model_construct()),
    )
    for role, content in turns:
        made = {"user": vf.UserMessage, "system": vf.SystemMessage, "assistant": vf.AssistantMessage}[role]
        parent = len(trace.nodes) - 1 if trace.nodes else None
        trace.nodes.append(
            vf.MessageNode(message=made(content=content), parent=parent, sampled=role == "assistant")
        )
    return trace


def score(task, turns):
    trace = trace_of(task, turns)
    try:
        asyncio.run(task.score(trace))
    except vf.TaskError as error:
        return {"error": repr(error.__cause__ or error), "rewards": trace.rewards}
    return {"reward": trace.reward, "metrics": trace.metrics}


def plugged(mode, missing="raise"):
    os.environ |= {"RUBRICA_MODE": mode, "RUBRICA_MISSING": missing}
    config = vf.TaskConfig(rewards={"rubrica": {"fn": FN, "weight": 1.0}})
    return Task(vf.TaskData(prompt="Hi"), config)


attempt = "rude <think> Hmm, my initial response was rude. </think> good"
print(
    json.dumps(
        {
            "text": score(plugged("text"), [("user", "Hi"), ("assistant", "good")]),
            "attempt": score(plugged("attempt"), [("user", "Hi"), ("assistant", attempt)]),
            "chat": score(
                plugged("text"),
                [
                    ("system", "Be kind."),
                    ("user", "Hi"),
                    ("assistant", "rude"),
                    ("user", "Again"),
                    ("assistant", "good"),
                ],
            ),
            "missing": score(plugged("text"), [("user", "Hi"), ("assistant", "unknown text")]),
            "chosen": score(plugged("text", "-3"), [("user", "Hi"), ("assistant", "unknown text")]),
            "direct": score(Direct(vf.TaskData(prompt="Hi")), [("user", "Hi"), ("assistant", "good")]),
        }
    )
)
