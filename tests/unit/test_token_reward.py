"""The token-level reward model: what it learns, that it is an ordinary one, and that it goes on after a kill."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from tests.tiny import FAMILIES, tiny_checkpoint, tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from rubrica.core.errors import DataError, TrainingError
from rubrica.core.run import Stage
from rubrica.train.policy import Lora, Start
from rubrica.train.token_reward import TextPair, token_rewards, train_token_reward

PAIRS = [TextPair([2, 9 + i, 3, 20 + i, 30, 1], [2, 9 + i, 3, 40, 41 + i, 42, 1]) for i in range(8)]
OPTIONS = {"learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_steps": 12, "save_steps": 4}


def train(
    folder: Path, start: Path, options: dict[str, object] = OPTIONS, **changes: object
) -> dict[str, float]:
    settings = Start(model=start, dtype="float32").model_copy(update=changes)
    return train_token_reward(settings, PAIRS, tiny_tokenizer(), Stage(folder), options, seed=3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_position_is_what_the_library_calls_the_score(tmp_path: Path, family: str) -> None:
    folder = tiny_checkpoint(tmp_path, family)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, pad_token_id=0).eval()
    ids = torch.tensor([[5, 6, 7, 1], [8, 9, 0, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        found, expected = (
            token_rewards(model, ids, mask),
            model(input_ids=ids, attention_mask=mask).logits[:, 0],
        )
    assert found.shape == (2, 4)
    assert found[[0, 1], [3, 1]].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_it_learns_to_tell_the_answers_apart_and_goes_on(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start")
    found = train(tmp_path / "one", start)
    assert found["steps"] == 12 and found["last_loss"] < 0.2 < found["first_loss"]
    assert found["last_accuracy"] == 1.0
    again = train(tmp_path / "two", tmp_path / "one" / "model", OPTIONS | {"max_steps": 1})
    assert again["first_loss"] < 0.2  # the head is the trained one, not a new one


def test_a_resumed_run_is_a_straight_one(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start")
    train(tmp_path / "straight", start)
    train(tmp_path / "killed", start)
    shutil.rmtree(tmp_path / "killed" / "model")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "checkpoint-12")
    train(tmp_path / "killed", start)
    weights = [
        AutoModelForSequenceClassification.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("straight", "killed")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_an_adapter_is_merged_with_its_head(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start")
    found = train(tmp_path / "one", start, OPTIONS | {"learning_rate": 0.03}, lora=Lora(r=4, alpha=8))
    assert found["last_loss"] < found["first_loss"]
    assert math.isfinite(found["last_loss"])
    again = train(tmp_path / "two", tmp_path / "one" / "model", OPTIONS | {"max_steps": 1})
    assert again["first_loss"] == pytest.approx(found["last_loss"], abs=0.15)


def test_options_and_rows_are_checked(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start")
    with pytest.raises(DataError, match=r"learning_rat: RewardConfig has no such option.*learning_rate"):
        train(tmp_path / "one", start, {"learning_rat": 1})
    with pytest.raises(TrainingError, match="no pair"):
        train_token_reward(Start(model=start), [], tiny_tokenizer(), Stage(tmp_path / "two"), {}, seed=0)
