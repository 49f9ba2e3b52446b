"""How fast the local judge is: one text, a program's worth of questions, the same random weights for everybody.

plain    one prompt a question, in padded batches through ``transformers``
ours     :class:`rubrica.judges.tree.TreeScorer`: every distinct token once
limit    2 x parameters of the layers x distinct tokens / measured rate of the machine's matrix products
vllm     a real vLLM server with prefix caching, one completion of one token a question
"""

import ctypes
import gc
import json
import os
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rubrica.core.config import Json
from rubrica.core.errors import JudgeError
from rubrica.judges.forest import Branch, Group, Ids
from rubrica.judges.tree import TreeScorer, pass_tokens
from rubrica.lab.checkpoints import checkpoint
from rubrica.packed import CausalLM

DType = Literal["float32", "bfloat16"]
Progress = Callable[[str], None]
LABELS = 3
"""Answers allowed to a question, of one token each."""
PLAIN_BATCH = 16
SERVER_SECONDS = 300
"""Longest wait for the server to come up."""


class Shape(NamedTuple):
    """A Llama's size."""

    layers: int
    width: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int = 8192


SHAPES = {
    "110M": Shape(layers=30, width=576, heads=9, key_heads=3, inner=1536),
    "20M": Shape(layers=12, width=384, heads=6, key_heads=2, inner=1024),
    "small": Shape(layers=4, width=128, heads=4, key_heads=2, inner=320),
}


class Load(NamedTuple):
    """What is judged: ``texts`` behind one prefix, each asked the same questions."""

    questions: int = 167
    prefix_tokens: int = 400
    question_tokens: int = 28
    """On average; they differ by a quarter up and down."""
    texts: int = 1
    text_tokens: int = 100
    """Tokens of a text's own where there are several; a single one is part of the prefix."""

    def groups(self, seed: int = 0) -> list[Group]:
        """Random token ids; below 1000, so that any tokenizer can write them."""
        rng = np.random.default_rng(seed)

        def draw(count: int) -> Ids:
            return tuple(rng.integers(20, 1000, size=count).tolist())

        spread = self.question_tokens // 4
        sizes = rng.integers(-spread, spread + 1, size=self.questions) + self.question_tokens
        labels = tuple((int(token),) for token in range(10, 10 + LABELS))
        branches = [Branch(draw(int(size)), labels) for size in sizes]
        prefix = draw(self.prefix_tokens)
        texts = [prefix + draw(self.text_tokens) for _ in range(self.texts)] if self.texts > 1 else [prefix]
        return [
            Group(text, branches, range(n * self.questions, (n + 1) * self.questions))
            for n, text in enumerate(texts)
        ]


def random_model(shape: Shape, dtype: DType, context: int = 8192) -> LlamaForCausalLM:
    """Return an untrained Llama; the same weights for the same shape, rounded to ``dtype``."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return cast(LlamaForCausalLM, LlamaForCausalLM(config).to(getattr(torch, dtype)).eval())


def bench_judge(
    shape: Shape,
    load: Load,
    dtype: DType,
    *,
    plain: bool = True,
    growth: bool = False,
    vllm: Path | None = None,
    repeats: int = 3,
    progress: Progress = lambda _: None,
) -> dict[str, Json]:
    """Measure everything asked for; times in seconds, the best of ``repeats`` for ours.

    ``vllm`` is a Python interpreter in whose environment vLLM is installed. Raises ``JudgeError`` if it does not serve.
    """
    model = random_model(shape, dtype)
    body = sum(p.numel() for p in model.model.layers.parameters())
    groups = load.groups()
    scorer = TreeScorer(cast(CausalLM, model), pass_tokens(model.device), "tree")
    distinct = sum(score.tokens for batch in scorer.score(groups) for score in batch)  # warms up as well
    progress("rate of matrix products")
    rate = matmul_rate(shape, distinct, dtype)
    progress("ours")
    with peak_memory() as peak:
        ours = min(_seconds(lambda: list(scorer.score(groups))) for _ in range(repeats))
    result: dict[str, Json] = {
        "dtype": dtype,
        "parameters": sum(p.numel() for p in model.parameters()),
        "questions": load.questions,
        "texts": load.texts,
        "prefix_tokens": load.prefix_tokens,
        "distinct_tokens": distinct,
        "threads": torch.get_num_threads(),
        "matmul_gflops": round(rate / 1e9, 1),
        "limit_s": 2 * body * distinct / rate,
        "ours_s": ours,
        "ours_peak_mb": round(peak[0] / 2**20, 1),
        "plain_s": None,
        "max_difference": None,
        "vllm_s": None,
    }
    if plain:
        progress("plain batches")
        start = time.perf_counter()
        expected = plain_batches(model, groups)
        result["plain_s"] = time.perf_counter() - start
        found = {score.owner: score.logprobs for batch in scorer.score(groups) for score in batch}
        result["max_difference"] = max(float(np.abs(found[n] - row).max()) for n, row in expected.items())
    if growth:
        result["growth"] = _growth(scorer, load, progress)
    if vllm is not None:
        del scorer
        result["vllm_s"] = vllm_seconds(vllm, model, groups, dtype, progress)
    return result


def matmul_rate(shape: Shape, tokens: int, dtype: DType) -> float:
    """Floating-point operations a second of the fastest matrix product of the model's own shapes."""
    kind = getattr(torch, dtype)
    best = 0.0
    for inputs, outputs in (
        (shape.width, shape.inner),
        (shape.inner, shape.width),
        (shape.width, shape.width),
    ):
        for rows in sorted({min(tokens, n) for n in (512, 2048, tokens)}):
            x, weight = torch.randn(rows, inputs, dtype=kind), torch.randn(outputs, inputs, dtype=kind)
            torch.nn.functional.linear(x, weight)
            work = 2 * rows * inputs * outputs
            times = max(3, int(2e10 // work))
            start = time.perf_counter()
            for _ in range(times):
                torch.nn.functional.linear(x, weight)
            best = max(best, times * work / (time.perf_counter() - start))
    return best


@torch.inference_mode()
def plain_batches(model: LlamaForCausalLM, groups: Sequence[Group]) -> dict[int, np.ndarray]:
    """Log-probabilities of the labels, owner by owner, as a straightforward script computes them."""
    rows = [
        ([*group.prefix, *branch.question], [label[0] for label in branch.labels], owner)
        for group in groups
        for branch, owner in zip(group.branches, group.owners, strict=True)
    ]
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(rows), PLAIN_BATCH):
        part = rows[start : start + PLAIN_BATCH]
        longest = max(len(ids) for ids, _, _ in part)
        ids = torch.tensor([[0] * (longest - len(ids)) + ids for ids, _, _ in part])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _, _ in part])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1, use_cache=False
        ).logits[:, -1]
        logprobs = logits.float().log_softmax(-1)
        for row, (_, labels, owner) in zip(logprobs, part, strict=True):
            found[owner] = row[labels].double().numpy()
    return found


def _growth(scorer: TreeScorer, load: Load, progress: Progress) -> Json:
    """Seconds of ours as one size grows and the others stay."""
    table: list[Json] = []
    sizes: dict[str, list[int]] = {
        "questions": [load.questions // 8, load.questions // 4, load.questions // 2, load.questions],
        "texts": [1, 2, 4, 8],
        "prefix_tokens": [load.prefix_tokens // 4, load.prefix_tokens, 4 * load.prefix_tokens],
    }
    for name, values in sizes.items():
        for value in values:
            progress(f"growth: {value} {name}")
            groups = load._replace(**{name: max(1, value)}).groups()
            with peak_memory() as peak:
                start = time.perf_counter()
                tokens = sum(score.tokens for batch in scorer.score(groups) for score in batch)
                seconds = time.perf_counter() - start
            table.append(
                {
                    "varied": name,
                    "value": value,
                    "distinct_tokens": tokens,
                    "seconds": round(seconds, 4),
                    "peak_mb": round(peak[0] / 2**20, 1),
                }
            )
    return table


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yield a list whose one entry is, at the end, the bytes that the process held beyond those at the start."""
    gc.collect()
    page, found, done = os.sysconf("SC_PAGE_SIZE"), [0], threading.Event()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * page

    if not Path("/proc/self/statm").exists():  # other systems than Linux
        yield found
        return
    with suppress(
        AttributeError
    ):  # give freed memory back, where the C library can, so that use shows as growth
        ctypes.CDLL(None).malloc_trim(0)
    before = resident()

    def watch() -> None:
        while not done.wait(0.005):
            found[0] = max(found[0], resident() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def vllm_seconds(
    python: Path, model: LlamaForCausalLM, groups: Sequence[Group], dtype: DType, progress: Progress
) -> float:
    """Serve the model by vLLM and ask every question over HTTP; seconds from the first question to the last answer.

    The first question of every text goes alone, so that the others find its prefix in the cache. Raises
    ``JudgeError`` if the server does not come up.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(checkpoint("starter")).save_pretrained(folder)
        progress("vLLM starts")
        with vllm_server(python, Path(folder), dtype) as url:

            def ask(group: Group) -> None:
                bodies = [
                    {
                        "model": "m",
                        "prompt": [*group.prefix, *branch.question],
                        "max_tokens": 1,
                        "temperature": 0,
                        "logprobs": 5,
                    }
                    for branch in group.branches
                ]
                _post(f"{url}/v1/completions", bodies[0])
                with ThreadPoolExecutor(64) as pool:
                    list(pool.map(lambda body: _post(f"{url}/v1/completions", body), bodies[1:]))

            ask(Load(questions=8, prefix_tokens=50).groups(seed=1)[0])  # warms up
            progress("vLLM answers")
            start = time.perf_counter()
            for group in groups:
                ask(group)
            return time.perf_counter() - start


@contextmanager
def vllm_server(python: Path, folder: Path, dtype: DType, *flags: str, context: int = 2048) -> Iterator[str]:
    """Serve the checkpoint in ``folder`` as model ``m`` on loopback; give the URL once it is up.

    ``flags`` are further ones of ``vllm serve``. Raises ``JudgeError`` with the last line of its log if it does not come up.
    """
    port = 8400 + os.getpid() % 500
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += [
        "--served-model-name",
        "m",
        "--port",
        str(port),
        "--dtype",
        dtype,
        "--max-model-len",
        str(context),
    ]
    command += ["--enforce-eager", "--enable-prefix-caching", "--host", "127.0.0.1", *flags]
    surroundings = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1"}
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=surroundings)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(SERVER_SECONDS):
                if process.poll() is not None:
                    break
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=2).close()
                    yield url
                    return
                except (urllib.error.URLError, OSError):
                    time.sleep(1)
            tail = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise JudgeError(f"vLLM did not come up; its last line: {tail[-1] if tail else 'none'}")
        finally:
            process.terminate()
            process.wait(30)


def _post(url: str, body: dict[str, object]) -> None:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        json.load(reply)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
