"""``rubrica bench judge`` on small weights, from the command line."""

import json
import subprocess
import sys

import pytest

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
