"""Training that goes wrong half-way: one line, the exit code, how to go on, and going on from there."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from align_setup import PROGRAM, command, environment, run

from fake_server import FakeServer, completion, error
from rubrica.core.records import Rollout
from rubrica.core.run import Run
from rubrica.core.store import Store
from rubrica.recipes.examples import Written
from tiny import tiny_checkpoint

pytestmark = pytest.mark.slow
STEPS = 40
GRPO = f"{{type: grpo, steps: {STEPS}, prompts_per_step: 2, group_size: 2, max_completion_tokens: 12, save_steps: 4}}"
SFT = "{type: think-sft, examples: 4, reflection: judge, draft: {max_tokens: 12}, revision: {max_tokens: 12}}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An untaught policy, which writes no attempt: GRPO then asks the judge nothing."""
    tiny_checkpoint(tmp_path / "policy")
    (tmp_path / "program.yaml").write_text(PROGRAM)
    (tmp_path / "prompts.txt").write_text(
        "How do I fold a boat?\nHow do I mend a sock?\nHow?\nWhy?\nWho?\nWhen?\n"
    )
    return tmp_path


def write_recipe(place: Path, stage: str, judge: str = "openai:m@http://127.0.0.1:9/v1") -> Path:
    path = place / "recipe.yaml"
    path.write_text(
        f"name: small\npolicy: {{model: {place / 'policy'}, dtype: float32}}\n"
        f'judge: {{spec: "{judge}", concurrency: 1, retries: 0, timeout: 5}}\nprogram: {place / "program.yaml"}\n'
        f"prompts: {{train: [{place / 'prompts.txt'}]}}\nstages:\n- {stage}\n"
    )
    return path


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(child: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()[1]
        time.sleep(0.005)


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system with room for a store and a checkpoint or two, not for more."""
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_ctrl_c_while_training_says_how_to_go_on(place: Path) -> None:
    recipe, out = write_recipe(place, GRPO), place / "run"
    child = subprocess.Popen(
        command("align", str(recipe), "--out", str(out), "--set", "seed=3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    wait_for(child, lambda: lines(out / "stages/01-grpo/metrics.jsonl") >= 5)
    child.send_signal(signal.SIGINT)
    printed, said = child.communicate(timeout=120)
    assert (child.returncode, printed) == (130, "")
    assert said.splitlines() == [
        f"to go on: rubrica align {recipe} --out {out} --resume --set seed=3",
        "interrupted; everything finished so far is kept",
    ]
    opened = Run.open(out)
    with opened.store:
        assert len(opened.store.all("rollout", Rollout)) >= 5 * 4
    done = run("align", str(recipe), "--out", str(out), "--resume", "--set", "seed=3", timeout=400)
    assert done.returncode == 0, done.stderr
    opened = Run.open(out)
    with opened.store:
        steps = [rollout.step for rollout in opened.store.all("rollout", Rollout)]
    assert steps == [step for step in range(1, STEPS + 1) for _ in range(4)]


def test_a_disk_that_fills_up_while_training(place: Path, small_disk: Path) -> None:
    recipe, out = write_recipe(place, GRPO), small_disk / "run"
    failed = run("align", str(recipe), "--out", str(out), timeout=400)
    told = failed.stderr.splitlines()
    assert failed.returncode == 1, failed.stderr
    assert told[0] == f"to go on: rubrica align {recipe} --out {out} --resume"
    assert len(told) == 2 and told[1].startswith(f"error: {out}") and "free some space" in told[1], told
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    done = run("align", str(recipe), "--out", str(out), "--resume", timeout=400)
    assert done.returncode == 0, done.stderr
    assert (out / "stages/01-grpo/model/model.safetensors").exists()
    rows = Run.open(out).stage(1, "grpo").metrics()
    assert [row.step for row in rows] == list(range(1, STEPS + 1))


def test_a_judge_that_dies_while_it_judges_drafts(place: Path, fake_server: FakeServer) -> None:
    """Of 4 drafts and 5 questions the first 7 answers stay; the rerun asks the other 13, then everything else."""
    fake_server.answer = lambda body: completion("TRUE", {"TRUE": 1.0})
    recipe, out = write_recipe(place, SFT, f"openai:m@{fake_server.url}"), place / "run"
    failed = run("align", str(recipe), "--out", str(out), "--set", "judge.timeout=0", timeout=400)
    assert failed.returncode == 2 and "judge.timeout: expected greater than 0" in failed.stderr
    assert not out.exists()

    def answers(body: dict):
        asked = body["messages"][-1]["content"]
        if len(fake_server.requests) > 7:
            return error(401, "the key was withdrawn")
        label = "D" if "\nHow " in asked else "TRUE"
        return completion(label, {label: 1.0})

    fake_server.answer = answers
    failed = run("align", str(recipe), "--out", str(out), timeout=400)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr, failed.stderr
    assert "none of 4 examples can be trained on" in failed.stderr and "the judge left" in failed.stderr
    assert "to go on: " in failed.stderr and "mend the judge, then --resume asks" in failed.stderr
    with Store(out / "store.sqlite", read_only=True) as store:
        assert store.count_verdicts()[0] == 7
    kept = {body["messages"][-1]["content"] for body in fake_server.requests[:7]}
    fake_server.requests.clear()
    fake_server.answer = lambda body: completion("TRUE", {"TRUE": 1.0})
    run("align", str(recipe), "--out", str(out), "--resume", timeout=400)
    assert fake_server.requests
    assert not kept & {body["messages"][-1]["content"] for body in fake_server.requests}


def test_reflections_that_were_lost_are_asked_again(place: Path, fake_server: FakeServer) -> None:
    """A writer that is down is no fact about a draft: the run stops, nothing is kept of it, the rerun asks anew."""
    down = True

    def answers(body: dict):
        if len(body["messages"]) == 1:  # a reflection is asked for without an examiner's instruction
            return error(400, "overloaded") if down else completion("Hmm, my initial response was rude.")
        label = "D" if "\nHow " in body["messages"][-1]["content"] else "TRUE"
        return completion(label, {label: 1.0})

    fake_server.answer = answers
    recipe = write_recipe(place, SFT.replace("examples: 4", "examples: 5"), f"openai:m@{fake_server.url}")
    out = place / "run"
    failed = run("align", str(recipe), "--out", str(out), timeout=400)
    told = failed.stderr.splitlines()
    assert failed.returncode == 1 and len(told) == 2, failed.stderr
    assert told[0].startswith("to go on: ") and "reflections: 5 calls in a row failed" in told[1]
    assert "overloaded" in told[1] and "mend the judge, then --resume" in told[1]
    with Store(out / "store.sqlite", read_only=True) as store:
        assert store.all("reflection", Written) == []
    down = False
    asked = len(fake_server.requests)
    run("align", str(recipe), "--out", str(out), "--resume", timeout=400)
    assert sum(len(body["messages"]) == 1 for body in fake_server.requests[asked:]) == 5
    with Store(out / "store.sqlite", read_only=True) as store:
        kept = store.all("reflection", Written)
    assert [written.text for written in kept] == ["Hmm, my initial response was rude."] * 5
