"""Training on pairs with the real trainer: TRL's own DPO, SimPO by hand, kill and resume, LoRA, the stage."""

import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tests.tiny import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from rubrica.core.errors import DataError, TrainingError
from rubrica.core.run import Stage
from rubrica.recipes.models import load_chat_format
from rubrica.train.arguments import Numerics
from rubrica.train.pairs import PairLoss, PairRow, pair_arguments, train_pairs
from rubrica.train.policy import Lora, Start

OPTIONS = {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
LOSSES = {
    "dpo": PairLoss(beta=0.3),
    "simpo": PairLoss(margin="length", beta=2.0, gamma=0.5),
    "weighted": PairLoss(margin="length", beta=2.0, weight_power=1.0),
    "hinge": PairLoss(link="hinge", beta=0.3),
    "literal": PairLoss(link="literal", beta=0.3, sft=0.5),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = tiny_tokenizer()
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ROWS = [
    PairRow([5, 6, 7], [8, 9, 1], [10, 1], weight=1.0, offset=0.2),
    PairRow([5, 11], [12, 1], [13, 14, 15, 1], weight=3.0),
    PairRow([6, 20, 21, 22], [23, 1], [24, 25, 1], weight=2.0),
    PairRow([7], [30, 31, 32, 1], [33, 1], weight=2.0, offset=-0.1),
]


def log_prob(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return sum(logits[len(prompt) + i - 1, token] for i, token in enumerate(answer))


def by_hand(model, reference, row: PairRow, loss: PairLoss) -> torch.Tensor:
    """One pair at a time, without padding."""
    chosen, rejected = (log_prob(model, row.prompt_ids, ids) for ids in (row.chosen_ids, row.rejected_ids))
    if loss.margin == "ratio":
        with torch.no_grad():
            chosen_0, rejected_0 = (
                log_prob(reference, row.prompt_ids, ids) for ids in (row.chosen_ids, row.rejected_ids)
            )
        margin = loss.beta * (chosen - chosen_0 - rejected + rejected_0)
    else:
        margin = loss.beta * (chosen / len(row.chosen_ids) - rejected / len(row.rejected_ids))
    u = margin - loss.gamma - row.offset
    return {"sigmoid": -torch.nn.functional.logsigmoid(u), "hinge": torch.relu(1 - u), "literal": -u}[
        loss.link
    ]


def trained(folder: Path, start: Start, loss: PairLoss, rows=ROWS, **options):
    stage = Stage(folder)
    chat = load_chat_format(start.model)
    summary = train_pairs(start, rows, chat.tokenizer, stage, loss, {**OPTIONS, **options}, seed=0)
    return stage, summary


@pytest.mark.parametrize("name", LOSSES)
def test_the_first_loss_and_gradient_are_those_computed_pair_by_pair(policy, tmp_path, name):
    loss = LOSSES[name]
    stage, summary = trained(
        tmp_path / "a", Start(model=policy, dtype="float32"), loss, max_steps=1, per_device_train_batch_size=4
    )
    model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32")
    weights = [w / 2.0 for w in (1.0, 3.0, 2.0, 2.0)] if loss.weight_power else [1.0, 3.0, 2.0, 2.0]
    value = sum(w * by_hand(model, model, row, loss) for w, row in zip(weights, ROWS, strict=True)) / 4
    if loss.sft:
        tokens = sum(len(row.chosen_ids) for row in ROWS)
        value = value - loss.sft * sum(log_prob(model, r.prompt_ids, r.chosen_ids) for r in ROWS) / tokens
    value.backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None))
    logged = stage.metrics()[0].metrics
    assert logged["loss"] == pytest.approx(value.item(), abs=2e-4)
    assert logged["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert summary["steps"] == 1


def test_plain_dpo_is_trls_own(policy, tmp_path):
    rows = [row._replace(weight=1.0, offset=0.0) for row in ROWS]
    _, _ = trained(tmp_path / "ours", Start(model=policy, dtype="float32"), LOSSES["dpo"], rows, max_steps=2)
    ordered = [rows[i] for i in order_of(rows)]

    class Tokens(DPOTrainer):
        def _prepare_dataset(self, dataset, *unused):
            return dataset

    args = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        beta=0.3,
        max_steps=2,
        report_to="none",
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        seed=0,
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32"},
        **OPTIONS,
    )
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    data = Dataset.from_list([{name: getattr(row, name) for name in columns} for row in ordered])
    theirs = Tokens(
        model=str(policy), args=args, train_dataset=data, processing_class=load_chat_format(policy).tokenizer
    )
    theirs.train()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours" / "model", dtype="float32").state_dict()
    for name, value in theirs.model.state_dict().items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-4)


def order_of(rows):
    import random

    return random.Random("sft/0").sample(range(len(rows)), len(rows))


def test_a_killed_stage_goes_on_as_if_nothing_had_happened(policy, tmp_path):
    start, loss = Start(model=policy, dtype="float32"), LOSSES["weighted"]
    straight, _ = trained(tmp_path / "straight", start, loss, num_train_epochs=3, save_steps=2)

    class Killed(Exception):
        pass

    def kill(label: str, done: int, total: int) -> None:
        if done == 3:
            raise Killed

    stage, chat = Stage(tmp_path / "killed"), load_chat_format(policy)
    options = {**OPTIONS, "num_train_epochs": 3, "save_steps": 2}
    with pytest.raises(Killed):
        train_pairs(start, ROWS, chat.tokenizer, stage, loss, options, seed=0, progress=kill)
    train_pairs(start, ROWS, chat.tokenizer, stage, loss, options, seed=0)
    assert [(r.step, r.metrics["loss"]) for r in stage.metrics()] == [
        (r.step, r.metrics["loss"]) for r in straight.metrics()
    ]
    a, b = ((s.model_dir / "model.safetensors").read_bytes() for s in (straight, stage))
    assert a == b


def test_another_reference_than_the_start_changes_the_first_margin(policy, tmp_path):
    other = tmp_path / "other"
    torch.manual_seed(9)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(other)
    stage, chat = Stage(tmp_path / "a"), load_chat_format(policy)
    train_pairs(
        Start(model=policy, dtype="float32"),
        ROWS,
        chat.tokenizer,
        stage,
        LOSSES["dpo"],
        {**OPTIONS, "per_device_train_batch_size": 4, "max_steps": 1},
        seed=0,
        reference=other,
    )
    policy_model = AutoModelForCausalLM.from_pretrained(policy, dtype="float32")
    with torch.no_grad():
        margins = [
            0.3
            * (
                log_prob(policy_model, r.prompt_ids, r.chosen_ids)
                - log_prob(model, r.prompt_ids, r.chosen_ids)
                - log_prob(policy_model, r.prompt_ids, r.rejected_ids)
                + log_prob(model, r.prompt_ids, r.rejected_ids)
            )
            for r in ROWS
        ]
    assert stage.metrics()[0].metrics["pairs/margin"] == pytest.approx(float(sum(margins)) / 4, abs=1e-4)


def test_an_adapter_is_trained_and_merged_and_the_next_stage_goes_on_with_it(policy, tmp_path):
    lora = Lora(r=2, alpha=4)
    first, _ = trained(
        tmp_path / "1", Start(model=policy, lora=lora, dtype="float32"), LOSSES["dpo"], max_steps=2
    )
    again = Start(model=policy, lora=lora, adapter=first.path / "adapter", dtype="float32")
    second, _ = trained(tmp_path / "2", again, LOSSES["dpo"], max_steps=1)
    assert second.metrics()[0].metrics["pairs/margin"] == pytest.approx(
        0.0, abs=1e-6
    )  # the reference is stage 1
    base, one = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (policy, first.model_dir))
    changed = [name for name in base if not torch.equal(base[name], one[name])]
    assert changed and all("proj" in name for name in changed)


def test_options_that_are_ours_and_no_rows_are_refused(policy, tmp_path):
    here = (Numerics(dtype="float32"), tmp_path, 0, "recipe.yaml")
    for name in ("beta", "loss_type", "label_smoothing", "precompute_ref_log_probs"):
        with pytest.raises(DataError, match="set by the recipe itself"):
            pair_arguments({name: 1}, *here)
    with pytest.raises(DataError, match=r"trainer.learning_rat: DPOConfig .*'learning_rate'"):
        pair_arguments({"learning_rat": 1}, *here)
    with pytest.raises(TrainingError, match="no pair"):
        trained(tmp_path / "x", Start(model=policy, dtype="float32"), LOSSES["dpo"], rows=[])
