"""Runs in the environment of tests/peers/install.sh: OpenRLHF's executor asks our server, and our file."""

import asyncio
import importlib.util
import json
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import openrlhf
from openrlhf.utils.agent import SingleTurnAgentExecutor

import rubrica.integrations.openrlhf as adapter

url, chat = sys.argv[1], json.dumps([{"role": "user", "content": "Hi"}])


class Letters:
    """A tokenizer whose tokens are letters; the end token is decoded as OpenRLHF has it: visibly."""

    def __call__(self, text, add_special_tokens, return_tensors):
        import torch

        return {"input_ids": torch.tensor([[ord(c) for c in text]])}

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens is False
        return "".join("<eos>" if i == 0 else chr(i) for i in ids)


class Engine:
    """Answers with the given text, as vLLM's engine does."""

    def __init__(self, text, ends=True):
        self.text, self.ends = text, ends

    async def generate(self, ids, params, multi_modal_data=None):
        made = SimpleNamespace(
            token_ids=[*map(ord, self.text), *([0] if self.ends else [])],
            text=self.text,
            finish_reason="stop" if self.ends else "length",
            logprobs=None,
        )
        return SimpleNamespace(outputs=[made])


def experience_of(response):
    """What OpenRLHF's trainer makes of a response; vLLM and its engine are not needed for that."""
    for name in ("vllm", "openrlhf.trainer.ray.vllm_engine"):
        sys.modules.setdefault(name, MagicMock())
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

    made = SamplesGenerator._process_response_into_experience(None, response, max_len=64)
    return {
        "rewards": None if made.rewards is None else made.rewards.flatten().tolist(),
        "scores": None if made.scores is None else made.scores.flatten().tolist(),
        "malformed": made.info["malformed"].flatten().tolist() if "malformed" in made.info else None,
    }


def run(endpoint, text, ends=True):
    sampling = SimpleNamespace(max_tokens=400, logprobs=None)

    async def execute():
        executor = SingleTurnAgentExecutor(endpoint)
        return await executor.execute("<user>Hi<bot>", chat, sampling, 1000, Letters(), Engine(text, ends))

    return experience_of(asyncio.run(execute()))


attempt = "rude <think> Hmm, my initial response was rude. </think> good"
over_http = f"{url.replace('http://', 'http://anybody:secret@')}/openrlhf"
assert importlib.util.find_spec("openrlhf") and openrlhf
print(
    json.dumps(
        {
            "text": run(f"{over_http}?mode=text", "good"),
            "attempt": run(over_http, attempt),
            "cut_off": run(over_http, attempt, ends=False),
            "missing": run(f"{over_http}?mode=text", "unknown text"),
            "chosen": run(f"{over_http}?mode=text&missing=-3", "unknown text"),
            "file": run(adapter.__file__, attempt),
            "file_missing": run(adapter.__file__, "unknown <think> Hmm. </think> unknown"),
        }
    )
)
