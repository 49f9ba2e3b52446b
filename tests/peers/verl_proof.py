"""Runs in the environment of tests/peers/install.sh: our functions, loaded and called by verl itself."""

import asyncio
import json
import os
import sys

import numpy as np
import torch
from omegaconf import OmegaConf
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.import_utils import load_extern_object
from verl.workers.reward_manager import get_reward_manager_cls

TEXTS = ["good", "rude", "dull", "unknown text"]
MODULE = "pkg://rubrica.integrations.verl"


class Letters:
    """A tokenizer whose tokens are letters."""

    eos_token, pad_token = "\x03", None

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(i) for i in ids.tolist() if i)


def rows(texts, prompt_length=2):
    width = max(map(len, texts))
    responses = torch.zeros(len(texts), width, dtype=torch.long)
    mask = torch.zeros(len(texts), prompt_length + width, dtype=torch.long)
    mask[:, :prompt_length] = 1
    for row, text in enumerate(texts):
        responses[row, : len(text)] = torch.tensor([ord(c) for c in text])
        mask[row, prompt_length : prompt_length + len(text)] = 1
    tensors = {
        "prompts": torch.full((len(texts), prompt_length), ord("H")),
        "responses": responses,
        "attention_mask": mask,
    }
    chats = np.empty(len(texts), dtype=object)
    for row in range(len(texts)):
        chats[row] = [{"role": "user", "content": "Hi"}]
    return DataProto.from_dict(
        tensors,
        non_tensors={
            "data_source": np.array(["ours"] * len(texts), dtype=object),
            "reward_model": np.array([{"ground_truth": None}] * len(texts), dtype=object),
            "extra_info": np.array([{"prompt": "Hi"} for _ in texts], dtype=object),
            "raw_prompt": chats,
        },
    )


def config(name, manager=None, **options):
    function = {"path": MODULE, "name": name, "reward_kwargs": {"mode": "text", **options}}
    return OmegaConf.create(
        {
            "reward": {
                "custom_reward_function": function,
                "reward_manager": manager or {"source": "register", "name": "naive"},
            }
        }
    )


async def reward_loop(name, texts, manager=None, **options):
    """As verl's RewardLoopWorker.compute_score_batch does."""
    loaded = load_reward_manager(config(name, manager, **options), Letters())
    data = rows(texts)
    tasks = [asyncio.create_task(loaded.run_single(data[i : i + 1])) for i in range(len(data))]
    outputs = await asyncio.gather(*tasks, return_exceptions=True)
    return [
        f"{type(o).__name__}: {o}"
        if isinstance(o, Exception)
        else [o["reward_score"], o["reward_extra_info"]]
        for o in outputs
    ]


async def manager(texts, mode):
    """The manager of our own, from the configuration alone."""
    os.environ["RUBRICA_MODE"] = mode
    chosen = {
        "source": "importlib",
        "name": "RubricaRewardManager",
        "module": {"path": "pkg://rubrica.integrations.verl_manager"},
    }
    made = config("compute_score", chosen)
    made.reward.custom_reward_function.path = None
    loaded = load_reward_manager(made, Letters())
    data = rows(texts)
    tasks = [loaded.run_single(data[i : i + 1]) for i in range(len(data))]
    outputs = await asyncio.gather(*tasks, return_exceptions=True)
    return [
        str(o) if isinstance(o, Exception) else [o["reward_score"], o["reward_extra_info"]] for o in outputs
    ]


def batch(texts):
    compute = load_extern_object(MODULE, "compute_score_batch")
    manager = get_reward_manager_cls("batch")(Letters(), 0, compute, mode="text", missing=-3.0)
    found = manager(rows(texts), return_dict=True)
    return found["reward_tensor"].sum(1).tolist(), found["reward_extra_info"]["rubrica_missing"]


print(
    json.dumps(
        {
            "sync": asyncio.run(reward_loop("compute_score", TEXTS)),
            "async": asyncio.run(reward_loop("compute_score_async", TEXTS)),
            "chosen": asyncio.run(reward_loop("compute_score_async", TEXTS, missing=-3.0)),
            "batch": batch(TEXTS),
            "manager": asyncio.run(manager([text + "\x03" for text in TEXTS], "text")),
            "cut_off": asyncio.run(manager(["rude <think> Hmm. </think> good"], "attempt")),
            "without_prompt": asyncio.run(reward_loop("compute_score", ["good"], prompt_key="question")),
        }
    )
)
sys.stdout.flush()
