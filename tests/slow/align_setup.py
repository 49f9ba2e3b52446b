"""A small real set-up for ``rubrica align``: a random policy, some prompts, a program, a judge over HTTP."""

import csv
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import torch

from fake_server import FakeServer, Reply, completion
from tiny import tiny_model, tiny_tokenizer

REQUESTS = tuple(
    f"How do I {verb} a {thing}?"
    for verb in ("plant", "fold", "mend", "clean", "find", "draw")
    for thing in ("bean", "boat", "sock", "clock", "bird", "bridge")
)
PROGRAM = """\
name: small
constitution: small
principles:
- id: har
  title: Harmless
  caps: true
  dimensions:
  - id: har.safe
    title: Safety of advice
    questions:
    - {id: har.safe.g1, kind: gate, text: "Does the answer stay away from danger?", clause: c1, protected: true}
    - {id: har.safe.q1, kind: graded, text: "How careful is the answer?", clause: c1}
- id: hlp
  title: Helpful
  dimensions:
  - id: hlp.clear
    title: Clarity of wording
    questions:
    - {id: hlp.clear.g1, kind: gate, text: "Is the answer readable?", clause: c2}
    - {id: hlp.clear.q1, kind: graded, text: "How clear is the answer?", clause: c2}
    - {id: hlp.clear.q2, kind: graded, text: "How complete is the answer?", clause: c2}
"""
PHRASES = {
    "har.safe.g1": "was not safe. I will be careful",
    "har.safe.q1": "was not careful. I will be careful",
    "hlp.clear.g1": "was not clear. I will be clear",
    "hlp.clear.q1": "was not clear. I will be clear",
    "hlp.clear.q2": "was too short. I will say more",
}
_ANSWER = re.compile(r"ANSWER BEGINS\]\n(.*?)\n\[\w+ ANSWER ENDS\]", re.DOTALL)
_QUESTION = re.compile(r"QUESTION\n(.*?)\s*$")


ROUGH = ("Just guess.", "Do it fast.", "Who can say?", "Run and hit it.", "Ask me later.")
CAREFUL = ("Take care and go slow.", "Look at it first.", "Take care and ask a friend.", "Read of it first.")


def verdict(text: str, question: str) -> str:
    """What the judge answers: better for careful words, and not the same for all texts."""
    draw = zlib.crc32(f"{question}|{text}".encode()) % 100
    if not question.startswith("How"):
        return "FALSE" if " hit " in text else "TRUE"
    careful = any(word in text for word in ("care", "first", "slow"))
    return "ABCDF"[max(0, draw // 20 - 3 * careful)]


class SmallJudge:
    """Answers by :func:`verdict`; in GRPO it has nothing to say about the clarity of texts with "Read"."""

    def __init__(self) -> None:
        self.run = Path("nowhere")

    def __call__(self, body: dict) -> Reply:
        content = body["messages"][-1]["content"]
        found, question = _ANSWER.search(content), _QUESTION.search(content)
        assert found and question
        if "Read" in found[1] and "clear" in question[1] and (self.run / "stages/02-grpo").exists():
            return completion("I would rather not say", {"I": 1.0})
        return completion(label := verdict(found[1], question[1]), {label: 1.0})


def write_policy(folder: Path, answers: tuple[str, ...], *, seed: int = 0, family: str = "llama") -> Path:
    """A tiny model that has learnt to say one of ``answers`` to any request."""
    words = (
        "<think>",
        "</think>",
        "Hmm, my initial response",
        "I will be",
        *" ".join(ROUGH + CAREFUL).split(),
    )
    tokenizer = tiny_tokenizer(words=tuple(f" {word}" for word in words))
    model = tiny_model(family, len(tokenizer), context=192, seed=seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = []
    for number, request in enumerate(REQUESTS):
        said = tokenizer.encode(answers[(number * 7 + number // 6) % len(answers)] + "<|end|>")
        head = tokenizer.encode(f"<|user|>{request}<|end|><|assistant|>")
        rows.append((head + said, [-100] * len(head) + said))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([r + [0] * (width - len(r)) for r, _ in rows])
    labels = torch.tensor([r + [-100] * (width - len(r)) for _, r in rows])
    for _ in range(50):
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_recipe(folder: Path, server: FakeServer, extra: str = "") -> Path:
    """Write policy, teacher, prompts, program and recipe into ``folder``; return the recipe's path."""
    write_policy(folder / "policy", ROUGH)
    write_policy(folder / "teacher", CAREFUL, seed=1)
    with (folder / "prompts.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "kind"])
        rows.writerows((text, "benign") for text in REQUESTS)
    (folder / "plain.txt").write_text("How do I open a door?\nHow do I ring a bell?\n")
    (folder / "program.yaml").write_text(PROGRAM)
    phrases = "".join(f"      {id}: {phrase}\n" for id, phrase in PHRASES.items())
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""\
name: small
policy: {{model: {folder / "policy"}, dtype: float32}}
teacher: {{model: {folder / "teacher"}, dtype: float32}}
judge: {{spec: "openai:judge@{server.url}", concurrency: 8, timeout: 10}}
program: {folder / "program.yaml"}
prompts: {{train: [{folder / "prompts.csv"}]}}
stages:
  - type: think-sft
    examples: 24
    draft: {{temperature: 0.5, max_tokens: 28}}
    revision: {{temperature: 0.5, max_tokens: 28}}
    reflection: template
    replay: [{folder / "plain.txt"}]
    replay_examples: 2
    phrases:
{phrases}    trainer: {{learning_rate: 5.0e-3, num_train_epochs: 30, per_device_train_batch_size: 6, save_steps: 50}}
  - type: grpo
    steps: 6
    prompts_per_step: 4
    group_size: 4
    max_completion_tokens: 100
    temperature: 0.8
    save_steps: 2
    diagnostics_every: 3
    diagnostics_texts: 4
    failure_budget: 0.9
    trainer: {{learning_rate: 1.0e-3, log_completions: true}}
{extra}"""
    )
    return recipe


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "rubrica", *args]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def run(*args: str, timeout: float = 170) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args), capture_output=True, text=True, timeout=timeout, env=environment(), check=False
    )
