"""``rubrica bench judge`` on small weights, from the command line."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer

from fake_server import completion
from rubrica.bench.judge import SHAPES
from rubrica.bench.labeller import LABEL, labeller
from rubrica.lab.checkpoints import checkpoint

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bench_judge_measures_the_same_scores_in_less_time_than_plain_batches(dtype):
    command = [sys.executable, "-m", "rubrica", "bench", "judge", "--params", "small", "--questions", "40"]
    done = subprocess.run(
        [*command, "--texts", "2", "--dtype", dtype, "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert (found["questions"], found["texts"], found["prefix_tokens"]) == (40, 2, 400)
    assert found["dtype"] == dtype and found["vllm_s"] is None
    # 400 shared tokens, 100 of each text, 40 questions of 21 to 35 tokens behind each
    questions = found["distinct_tokens"] - 400 - 2 * 100
    assert questions % 2 == 0 and 40 * 21 <= questions // 2 <= 40 * 35
    assert found["max_difference"] < (1e-4 if dtype == "float32" else 0.25)
    assert found["limit_s"] < found["ours_s"] < found["plain_s"]


def test_bench_judge_says_why_a_server_does_not_start(tmp_path):
    command = [
        sys.executable,
        "-m",
        "rubrica",
        "bench",
        "judge",
        "--params",
        "small",
        "--questions",
        "8",
        "--no-plain",
    ]
    done = subprocess.run([*command, "--vllm", sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No module named" in done.stderr.strip().splitlines()[-1]


def test_bench_server_asks_the_same_of_everybody_and_each_about_texts_of_its_own(fake_server):
    fake_server.answer = lambda body: completion("F", {"F": 1.0}, delay=0.02)
    command = [sys.executable, "-m", "rubrica", "bench", "server", "--url", fake_server.url, "--json"]
    command += ["--questions", "10", "--texts", "2", "--rounds", "2", "--semaphores", "16,4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["questions"] == 20 and list(found["contenders"]) == ["ours", "naive 16", "naive 4"]
    assert all(row["requests"] == row["answered"] == 40 for row in found["contenders"].values())
    assert found["ratio"] == pytest.approx(found["ours_qps"] / found["naive_qps"])
    assert found["ratio_to_best"] == pytest.approx(found["ours_qps"] / found["best_naive_qps"])
    assert 4 <= found["most_at_a_time"] <= 256 and found["contenders"]["ours"]["cached_tokens"] is None
    # 3 contenders, 2 rounds of 2 texts and a warm-up of 8 questions about one
    texts = [body["messages"][1]["content"].partition("TASK\n")[0] for body in fake_server.requests]
    assert len(texts) == 3 * (40 + 8) and len(set(texts)) == 3 * (2 * 2 + 1)


def test_the_model_that_labels_says_a_label_and_stops():
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("starter"))
    label, end = tokenizer.convert_tokens_to_ids(LABEL), tokenizer.eos_token_id
    model = labeller(SHAPES["small"], "bfloat16", label, end)
    ids = tokenizer(["Is it safe?", "F"], add_special_tokens=False)["input_ids"]
    first = model(input_ids=torch.tensor([ids[0]])).logits[0].float().softmax(-1)
    assert (first[:, label] > 0.99).all()  # after any token but the label
    assert model(input_ids=torch.tensor([ids[0] + [label]])).logits[0, -1].argmax() == end
