"""Teach the lab's judge the examiner's prompt as chat models read it, and draw texts to measure its ways of asking.

    python benchmarks/chat_judge.py train --out chat-judge
    python benchmarks/chat_judge.py texts --out chat-judge --count 200
    rubrica bench modes --judge chat-judge/label.yaml --judge chat-judge/reason.yaml --judge lab-oracle \\
        --program lab --input chat-judge/texts.jsonl
    vllm serve chat-judge/judge --served-model-name judge --dtype bfloat16 --max-model-len 1024 --enforce-eager &
    rubrica bench modes --judge chat-judge/one.yaml --judge chat-judge/four.yaml --judge chat-judge/eight.yaml \\
        --judge lab-oracle --program lab --input chat-judge/texts.jsonl

No small model reads the examiner's prompt, so nothing here could tell whether a reason first, or several questions in
one call, change what a judge answers. The lab's judge (0.89 M parameters, its own layout) is continued here: two
layers more, which begin as the identity; its byte-level BPE with merges for the examiner's wording, so that a
sentence that stands in every prompt is one token; the lab's chat template. It learns from fresh texts under fresh marks
and codes, each prompt as the judges render it:

    label    the label, right after the prompt
    reason   a line with the evidence, a line with the label (local mode ``reason``)
    list     two to eight questions behind their codes, a line with code and label for each (``questions_per_call``)

First it learns to copy codes, on short lists without any text: from whole prompts alone it had not begun to after 353
updates, and a list without its codes answers nothing.
"""

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path

import torch
from chat_reasons import reason
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from rubrica.core.config import dump_yaml
from rubrica.core.programs import Question
from rubrica.core.prompts import Prompt
from rubrica.core.records import Label, Query
from rubrica.core.run import write_json
from rubrica.judges.layout import CLOSING, Encoder, chat_layout
from rubrica.judges.listing import LENGTH, LETTERS, codes, list_messages
from rubrica.judges.local import CARD
from rubrica.judges.template import Mode, fence_marker
from rubrica.lab import truth
from rubrica.lab.answers import any_answer, labelled
from rubrica.lab.build import save
from rubrica.lab.checkpoints import checkpoint
from rubrica.lab.generator import draw_prompt
from rubrica.lab.judge_data import HARD, JudgeRow, judge_loss
from rubrica.lab.oracle import Reading, read
from rubrica.lab.tokenizer import CHAT_TEMPLATE, END, PAD
from rubrica.lab.training import train
from rubrica.program.program import load_program, questions

LABELS, REASONS, LIST = 5, 3, (2, 8)
"""Questions of a row that are answered with a label, with a reason first, and together."""
LISTS = 0.4
"""Share of rows that are lists."""
DEEPER = 2
"""Layers on top of the lab's judge."""
CALLS = {"one": 1, "four": 4, "eight": 8}
"""Questions per call of the served judge."""
SERVED = "judge@http://localhost:8000/v1"
UPDATES, BATCH, RATE = 600, 16, 1.5e-3
WARM_UP, WARM_BATCH = 1500, 32
"""Updates on :meth:`Rows.copying`, and rows of each."""
_WORDS = r"\n| ?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
"""A line break by itself, so that a prompt has the same tokens in pieces and as a whole."""

Row = JudgeRow


def wording() -> list[str]:
    """Return the stretches of the examiner's wording that stand in every prompt, the longest first."""
    folder = resources.files("rubrica.judges").joinpath("prompts")
    files = [
        file for place in (folder, folder.joinpath("list")) for file in place.iterdir() if file.is_file()
    ]
    texts = [file.read_text(encoding="utf-8") for file in files if file.name.endswith(".txt")]
    parts = {part for text in texts for part in re.split(r"\{[a-z]+\}|\n", text) if len(part) > 3}
    return sorted(parts | {"QUESTIONS", "Reason:", CLOSING.strip()}, key=lambda part: (-len(part), part))


def chat_tokenizer(lab: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Continue the lab's BPE until every stretch of :func:`wording`, and every label behind a blank, is one token."""
    spec = json.loads(lab.backend_tokenizer.to_str())
    pattern = "|".join([*map(re.escape, wording()), _WORDS])
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    before = Tokenizer.from_str(json.dumps(spec))
    before.pre_tokenizer = splitter
    words = [before.encode(word).tokens for word in (*wording(), *(f" {label.value}" for label in Label))]
    vocabulary, size = spec["model"]["vocab"], len(lab)
    vocabulary |= {token["content"]: token["id"] for token in spec["added_tokens"]}
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        pair = pairs.most_common(1)[0][0]
        spec["model"]["merges"].append(list(pair))
        size += vocabulary.setdefault("".join(pair), size) == size
        words = [_merged(word, pair) for word in words]
    after = Tokenizer.from_str(json.dumps(spec))
    after.pre_tokenizer, after.decoder = splitter, decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=after,
        pad_token=PAD,
        eos_token=END,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for token in word:
        if found and (found[-1], token) == pair:
            found[-1] += token
        else:
            found.append(token)
    return found


def deeper(folder: Path, vocabulary: int) -> LlamaForCausalLM:
    """Load the lab's judge with room for new tokens and ``DEEPER`` more layers that change nothing yet."""
    shallow = AutoModelForCausalLM.from_pretrained(folder)
    shallow.resize_token_embeddings(vocabulary, mean_resizing=False)
    config = shallow.config
    config.num_hidden_layers += DEEPER
    model = LlamaForCausalLM(config)
    model.load_state_dict(shallow.state_dict(), strict=False)
    with torch.no_grad():
        for layer in model.model.layers[-DEEPER:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model.generation_config = shallow.generation_config
    return model


class Rows:
    """Makes rows: what a judge is shown, token by token as the judges of the package show it, and what it is to reply."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """``tokenizer`` is the chat judge's."""
        self._tokenizer, self._encoder = tokenizer, Encoder(tokenizer)
        self._asked = [question for _, _, question in questions(load_program("lab"))]
        self._weights = [3.0 if question.id in HARD else 1.0 for question in self._asked]

    def draw(self, rng: random.Random, count: int) -> list[Row]:
        """Draw rows about fresh texts, each under a secret of its own."""
        rows = []
        for _ in range(count):
            prompt, secret = draw_prompt(rng), f"{rng.random()}"
            text = any_answer(prompt.tags, rng)
            if rng.random() < LISTS:
                rows.append(self.together(prompt, text, self._sample(rng, rng.randint(*LIST)), secret))
            else:
                asked = [("label", q) for q in self._sample(rng, LABELS)]
                asked += [("reason", q) for q in self._sample(rng, REASONS)]
                rows.append(self.single(prompt, text, asked, secret))
        return rows

    def copying(self, rng: random.Random, count: int) -> list[Row]:
        """Draw lists of codes with labels beside them, to be said again."""
        rows = []
        for _ in range(count):
            lines = [
                f"{''.join(rng.choices(LETTERS, k=LENGTH))}: {rng.choice(tuple(Label)).value}"
                for _ in range(rng.randint(*LIST))
            ]
            shown = [{"role": "user", "content": "\n\n".join(["QUESTIONS", *lines])}]
            asked = self._tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
            rows.append(Row((), ((self._ids(asked), self._ids("\n".join(lines), END)),)))
        return rows

    def single(self, prompt: Prompt, text: str, asked: Sequence[tuple[Mode, Question]], secret: str) -> Row:
        """One prompt a question, as :class:`rubrica.judges.local.LocalJudge` asks; all share what stands before the task."""
        reading = read(prompt, text)
        layouts = {mode: chat_layout(self._tokenizer, secret, mode) for mode in ("label", "reason")}
        shared: tuple[int, ...] = ()
        branches = []
        for mode, question in asked:
            parts = layouts[mode](Query(prompt=prompt, text=text, question=question))
            shared = shared or self._encoder.encode(parts.shared[:-1])
            own = self._encoder.encode(parts.shared[-1:], keep=True) + self._encoder.encode(
                parts.own, keep=True
            )
            branches.append((own, self.reply(mode, question, reading)))
        return Row(shared, tuple(branches))

    def reply(self, mode: Mode, question: Question, reading: Reading) -> tuple[int, ...]:
        """Tokens that answer one question."""
        label = truth.label(question.id, reading).value
        if mode == "label":
            return self._ids(label, END)
        return self._ids(f" {reason(question.id, reading)}", CLOSING, f" {label}", END)

    def together(self, prompt: Prompt, text: str, asked: Sequence[Question], secret: str) -> Row:
        """All questions in one prompt, as :class:`rubrica.judges.server.ServerJudge` asks."""
        reading = read(prompt, text)
        queries = [Query(prompt=prompt, text=text, question=question) for question in asked]
        names = codes(queries, secret)
        messages = list_messages(queries, names, fence_marker(secret), "label")
        shown = self._tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            tokenize=False,
            add_generation_prompt=True,
        )
        lines = [f"{name}: {truth.label(q.id, reading).value}" for name, q in zip(names, asked, strict=True)]
        return Row((), ((self._ids(shown), self._ids("\n".join(lines), END)),))

    def _ids(self, *pieces: str) -> tuple[int, ...]:
        return tuple(
            token for piece in pieces for token in self._tokenizer.encode(piece, add_special_tokens=False)
        )

    def _sample(self, rng: random.Random, count: int) -> list[Question]:
        """Distinct questions in any order, hard ones more often."""
        ranked = sorted(
            zip(self._asked, self._weights, strict=True), key=lambda pair: rng.random() ** (1 / pair[1])
        )
        return [question for question, _ in ranked[-count:]]


def train_judge(
    out: Path, *, warm_up: int, updates: int, seed: int, report: Callable[[int, int, float], None]
) -> None:
    """Train and save the checkpoint."""
    torch.manual_seed(seed)
    tokenizer = chat_tokenizer(AutoTokenizer.from_pretrained(checkpoint("judge")))
    model = deeper(checkpoint("judge"), len(tokenizer))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    rows, exact = Rows(tokenizer), judge_loss(tokenizer)

    def loss(model: LlamaForCausalLM, drawn: Sequence[Row]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return exact(model, drawn)

    for draw, count, batch in ((rows.copying, warm_up, WARM_BATCH), (rows.draw, updates, BATCH)):
        train(
            model,
            draw,
            loss,
            size=lambda row: row.size,
            updates=count,
            batch=batch,
            learning_rate=RATE,
            seed=seed,
            progress=report,
        )
    save(model, tokenizer, out / "judge")
    write_json(out / "judge" / CARD, {"format": "chat"})


def write_judges(out: Path) -> None:
    """Write the judges that ``rubrica bench modes`` compares: local modes, and questions per call of a server."""
    for mode in ("label", "reason"):
        config = dump_yaml({"spec": f"local:{out / 'judge'}", "mode": mode})
        (out / f"{mode}.yaml").write_text(config, encoding="utf-8")
    for name, count in CALLS.items():
        config = dump_yaml({"spec": f"openai:{SERVED}", "questions_per_call": count})
        (out / f"{name}.yaml").write_text(config, encoding="utf-8")


def write_texts(out: Path, count: int, seed: str) -> None:
    """Write texts of every quality that no training row was drawn from, with the tags that the oracle reads."""
    lines = [
        json.dumps(
            {"messages": [m.model_dump() for m in prompt.messages], "response": text, "tags": prompt.tags}
        )
        for prompt, text in labelled(seed, count)
    ]
    (out / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Train, or write texts and judges."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    training = steps.add_parser("train")
    training.add_argument("--warm-up", type=int, default=WARM_UP)
    training.add_argument("--updates", type=int, default=UPDATES)
    training.add_argument("--seed", type=int, default=0)
    texts = steps.add_parser("texts")
    texts.add_argument("--count", type=int, default=200)
    texts.add_argument("--seed", default="chat-judge-report")
    for step in (training, texts):
        step.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.step == "texts":
        write_texts(given.out, given.count, given.seed)
        write_judges(given.out)
        return
    start = time.perf_counter()

    def report(update: int, updates: int, loss: float) -> None:
        if update % 20 == 0:
            print(f"{update}/{updates} loss {loss:.4f} {time.perf_counter() - start:.0f} s", flush=True)

    train_judge(given.out, warm_up=given.warm_up, updates=given.updates, seed=given.seed, report=report)


if __name__ == "__main__":
    main()
