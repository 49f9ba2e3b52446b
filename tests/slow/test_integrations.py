"""Our adapters under the trainers' own loading code, against a real reward server.

verl, OpenRLHF and verifiers live in an environment of their own (tests/peers/install.sh, named by the variable
RUBRICA_PEERS, default .peers): their proofs run there and print what they got.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_server import FakeServer
from rubrica.core.scoring import ScoredItem
from serving import ATTEMPT, FLOOR, IMPROVED, TOTALS, Serving, rule, serving, write_judge
from tiny import tiny_checkpoint

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("RUBRICA_PEERS", ROOT / ".peers"))
KEY, CHOSEN = "secret", -3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    place = tmp_path_factory.mktemp("rewards")
    with FakeServer(rule) as judge, serving(place, judge, keys=(KEY,), ends=("<eos>",)) as running:
        yield running


def proof(package: str, server: Serving) -> dict:
    """Run the proof for ``package`` where it is installed; skip where it is not."""
    python = PEERS / "bin/python"
    if not python.exists():
        pytest.skip(f"{PEERS}: no environment with {package}; tests/peers/install.sh makes one")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "RUBRICA_URL": server.url,
        "RUBRICA_API_KEY": KEY,
        "RUBRICA_MODE": "attempt",
    }
    there = subprocess.run(
        [python, "-c", f"import {package}"], env=environment, capture_output=True, text=True
    )
    if there.returncode:
        pytest.skip(f"{package} cannot be imported in {PEERS}: {there.stderr.strip().splitlines()[-1]}")
    script = ROOT / f"tests/peers/{package}_proof.py"
    done = subprocess.run(
        [python, script, server.url], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def test_verl_loads_and_calls_the_reward_functions(server):
    found = proof("verl", server)
    known = [TOTALS[word] for word in ("good", "rude", "dull")]
    for kind in ("sync", "async"):
        *scored, lost = found[kind]
        assert [reward for reward, _ in scored] == known
        assert all(extra["score"] == reward for reward, extra in scored)
        assert lost.startswith("JudgeError: no reward") and "no such text" in lost
    assert [reward for reward, _ in found["chosen"]] == [*known, CHOSEN]
    assert [extra["rubrica_missing"] for _, extra in found["chosen"]] == [0, 0, 0, 1]
    assert found["batch"] == [[*known, CHOSEN], [0, 0, 0, 1]]
    [refused] = found["without_prompt"]
    assert "holds no 'question' (but prompt" in refused
    assert [reward for reward, _ in found["manager"][:3]] == known and "no reward" in found["manager"][3]
    assert [reward for reward, _ in found["cut_off"]] == [FLOOR]


def test_openrlhf_takes_rewards_from_the_server_and_from_the_file(server):
    found = proof("openrlhf", server)
    assert found["text"] == {"rewards": [TOTALS["good"]], "scores": [TOTALS["good"]], "malformed": [0]}
    assert (
        found["attempt"] == found["file"] == {"rewards": [IMPROVED], "scores": [IMPROVED], "malformed": [0]}
    )
    assert found["cut_off"] == {"rewards": [FLOOR], "scores": [FLOOR], "malformed": [1]}
    none = {"rewards": None, "scores": None, "malformed": None}
    assert found["missing"] == found["file_missing"] == none
    assert found["chosen"]["rewards"] == [CHOSEN]


def test_verifiers_plugs_the_reward_in(server):
    found = proof("verifiers", server)
    assert found["text"]["reward"] == found["chat"]["reward"] == TOTALS["good"]
    assert found["attempt"]["reward"] == IMPROVED
    assert found["attempt"]["metrics"]["rubrica/draft/p"] == TOTALS["rude"]
    assert "no such text" in found["missing"]["error"] and found["missing"]["rewards"] == {"rubrica": None}
    assert found["chosen"]["reward"] == CHOSEN and found["chosen"]["metrics"]["rubrica/missing"] == 1
    assert found["direct"]["reward"] == 2 * TOTALS["good"]


# --- TRL ------------------------------------------------------------------------------------------


def train(place: Path, reward: object, rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Two updates of a random model by TRL's own trainer; return its log, and its rows."""
    pytest.importorskip("trl", reason="TRL comes with the extra [train]")
    import pyarrow.parquet as parquet
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(
        output_dir=str(place / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=6,
        max_steps=2,
        logging_steps=1,
        log_completions=True,
        num_completions_to_print=0,
        report_to=[],
        save_strategy="no",
    )
    trainer = GRPOTrainer(
        model=str(tiny_checkpoint(place / "policy")),
        args=args,
        reward_funcs=reward,
        train_dataset=Dataset.from_list(rows),
    )
    trainer.train()
    tables = sorted((place / "trl/completions").glob("*.parquet"))
    return trainer.state.log_history, [row for path in tables for row in parquet.read_table(path).to_pylist()]


class Seen:
    """A scorer that lets another one work and keeps what it said."""

    def __init__(self, scorer: object) -> None:
        self.scorer, self.items, self.results = scorer, [], list[ScoredItem]()

    def score(self, items, *, detail=False):
        found = self.scorer.score(items, detail=detail)
        self.items += items
        self.results += found
        return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("conversational", [False, True])
def test_trl_trains_on_the_rewards_of_the_server(tmp_path, server, conversational):
    from rubrica.integrations.client import Client
    from rubrica.integrations.trl import rubrica_reward

    # The random policy writes no attempt, so the server gives the floor; plain texts it does not know have none.
    prompt = [{"role": "user", "content": "Hi"}] if conversational else "Hi"
    seen = Seen(Client(server.url, api_key=KEY, null_retries=0))
    log, rows = train(tmp_path, rubrica_reward(seen), [{"prompt": prompt}] * 4)
    assert [entry["reward"] for entry in log if "reward" in entry] == [FLOOR, FLOOR]
    assert [entry["rubrica/malformed"] for entry in log if "reward" in entry] == [1, 1]
    assert [row["rubrica"] for row in rows] == [FLOOR] * 8
    expected = "Hi" if not conversational else (seen.items[0].prompt[0].content,)
    assert expected in ("Hi", ("Hi",)) and all(isinstance(item.completion, str) for item in seen.items)


@pytest.mark.filterwarnings("ignore")
def test_trl_leaves_out_what_has_no_reward(tmp_path):
    from rubrica.integrations.trl import rubrica_reward
    from rubrica.recipes.scorer import open_scorer

    turn = iter(range(100))

    def answers(body: dict):
        return rule(body)

    with FakeServer(answers) as judge:
        program, named = write_judge(tmp_path, judge)
        with open_scorer(program, named, tmp_path / "out") as scorer:
            seen = Seen(Renamed(scorer, turn))
            log, rows = train(tmp_path, rubrica_reward(seen, mode="text"), [{"prompt": "Hi"}] * 4)
    assert [r.reward for r in seen.results] == [row["rubrica"] for row in rows]
    groups = [rows[:4], rows[4:]]
    for group in groups:
        rewards = [row["rubrica"] for row in group]
        assert rewards == [TOTALS["good"], TOTALS["rude"], None, TOTALS["good"]]
        known = [r for r in rewards if r is not None]
        mean = sum(known) / 3
        spread = (sum((r - mean) ** 2 for r in known) / 2) ** 0.5
        expected = [0.0 if r is None else (r - mean) / (spread + 1e-4) for r in rewards]
        assert [row["advantage"] for row in group] == pytest.approx(expected, abs=1e-4)
    assert [entry["rubrica/missing"] for entry in log if "reward" in entry] == [0.25, 0.25]


class Renamed:
    """Puts words that the judge knows in place of a random model's: its answers are then known by hand."""

    WORDS = ("good", "rude", "unknown text", "good")

    def __init__(self, scorer: object, turn: Iterator[int]) -> None:
        self.scorer, self.turn = scorer, turn

    def score(self, items, *, detail=False):
        named = [item.model_copy(update={"completion": self.WORDS[next(self.turn) % 4]}) for item in items]
        return self.scorer.score(named, detail=detail)


def test_trl_sees_the_same_reward_for_an_attempt_whichever_way_it_is_asked(server):
    from rubrica.integrations.client import Client
    from rubrica.integrations.trl import rubrica_reward

    reward = rubrica_reward(Client(server.url, api_key=KEY), end_ids=(1,))
    chat = [{"role": "user", "content": "Hi"}]
    said = [{"role": "assistant", "content": ATTEMPT}]
    found = reward(["Hi", chat, "Hi"], [ATTEMPT, said, ATTEMPT], completion_ids=[[5, 1], [5, 1], [5, 5]])
    assert found == pytest.approx([IMPROVED, IMPROVED, FLOOR])
