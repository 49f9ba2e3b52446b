"""The trainers alone: options, adapters, both ways to sample, resuming, and the chat format they train on."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

from fake_server import completion
from rubrica.core.attempt import Tags
from rubrica.core.config import load_config
from rubrica.core.errors import DataError, TrainingError, UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.run import Stage
from rubrica.recipes.config import Recipe
from rubrica.recipes.grpo import fast_rollouts, grpo_size
from rubrica.recipes.models import ChatFormat, load_chat_format
from rubrica.recipes.stages.grpo import Grpo
from rubrica.recipes.writer import open_writer
from rubrica.train.arguments import Numerics
from rubrica.train.callbacks import newest_checkpoint
from rubrica.train.grpo import Completion, LogMetric, PromptRow, grpo_arguments, train_grpo
from rubrica.train.policy import Lora, Start
from rubrica.train.running import epochs_in_order
from rubrica.train.sft import TokenRow, sft_arguments, train_sft
from tiny import CHAT_TEMPLATE, tiny_checkpoint, tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning"),  # peft and torch about tiny models
]
CONFIG = Grpo(
    steps=4, prompts_per_step=2, group_size=3, max_completion_tokens=8, save_steps=2,
    trainer={"learning_rate": 0.01, "beta": 0.1},
)  # fmt: skip
LORA = Lora(r=2, alpha=4)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("policy"))


def rows(count: int) -> list[PromptRow]:
    return [PromptRow(f"p{i}", f"<|user|>Say {i}<|end|><|assistant|>") for i in range(count)]


class Reward:
    """Pays for odd tokens; says nothing about every fifth completion; dies at the start of step ``dies``."""

    def __init__(self, dies: int | None = None) -> None:
        self.dies, self.steps = dies, list[int]()

    def __call__(self, step: int, completions: Sequence[Completion], log: LogMetric) -> list[float | None]:
        self.steps.append(step)
        if step == self.dies:
            raise ConnectionError("the judge died")
        log("half", step / 2)
        paid = [sum(t % 2 for t in c.token_ids) / len(c.token_ids) for c in completions]
        return [None if i % 5 == 4 else r for i, r in enumerate(paid)]


def trained(
    folder: Path, start: Start, chat: ChatFormat, reward: Reward, *, fast: bool, config: Grpo = CONFIG
) -> Stage:
    stage = Stage(folder)
    train_grpo(
        start, rows(8), reward, chat.tokenizer, stage, grpo_size(config), config.trainer,
        seed=3, rollout=fast_rollouts(chat, config, 3) if fast else None,
    )  # fmt: skip
    return stage


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("lora", [None, LORA])
def test_a_stage_that_died_ends_like_one_that_did_not(policy, tmp_path, fast, lora):
    chat = load_chat_format(policy)
    start = Start(model=policy, dtype="float32", lora=lora)
    straight = trained(tmp_path / "a", start, chat, Reward(), fast=fast)
    first, second = Reward(dies=4), Reward()
    with pytest.raises(ConnectionError):
        trained(tmp_path / "b", start, chat, first, fast=fast)
    torn = tmp_path / "b/checkpoints/checkpoint-3"
    torn.mkdir()
    assert newest_checkpoint(tmp_path / "b/checkpoints") == (tmp_path / "b/checkpoints/checkpoint-2", 2)
    resumed = trained(tmp_path / "b", start, chat, second, fast=fast)
    assert (first.steps, second.steps) == ([1, 2, 3, 4], [3, 4])
    for name in ("model/model.safetensors", *(["adapter/adapter_model.safetensors"] if lora else [])):
        assert same(tensors(straight.path / name), tensors(resumed.path / name))
    assert [(r.step, r.metrics["loss"], r.metrics["half"]) for r in straight.metrics()] == [
        (r.step, r.metrics["loss"], r.metrics["half"]) for r in resumed.metrics()
    ]
    assert [r.metrics["half"] for r in resumed.metrics()] == [0.5, 1.0, 1.5, 2.0]
    assert straight.metrics()[0].metrics["kl"] == 0 and straight.metrics()[1].metrics["kl"] > 0
    assert not same(tensors(straight.path / "model/model.safetensors"), tensors(policy / "model.safetensors"))


def test_grpo_goes_on_with_the_adapter_of_sft_and_measures_kl_from_it(policy, tmp_path):
    chat = load_chat_format(policy)
    stage = Stage(tmp_path / "sft")
    examples = [TokenRow(chat.prompt_ids(r.text), chat.completion_ids("Boil the root.")) for r in rows(4)]
    train_sft(
        Start(model=policy, dtype="float32", lora=LORA), examples, chat.tokenizer, stage,
        {"learning_rate": 0.01, "num_train_epochs": 3, "per_device_train_batch_size": 2}, seed=0,
    )  # fmt: skip
    adapter = stage.path / "adapter"
    base = AutoModelForCausalLM.from_pretrained(policy)
    ids = torch.tensor([chat.prompt_ids(rows(1)[0].text)])
    with torch.no_grad():
        apart = PeftModel.from_pretrained(base, adapter)(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(stage.model_dir)(ids).logits
        untouched = AutoModelForCausalLM.from_pretrained(policy)(ids).logits
    assert torch.allclose(apart, merged, atol=1e-5) and not torch.allclose(merged, untouched, atol=1e-2)
    start = Start(model=policy, dtype="float32", lora=LORA, adapter=adapter)
    after = trained(tmp_path / "grpo", start, load_chat_format(stage.model_dir), Reward(), fast=True)
    assert after.metrics()[0].metrics["kl"] == 0, "KL is not measured from the SFT model"
    before = tensors(adapter / "adapter_model.safetensors")
    learnt = tensors(after.path / "adapter/adapter_model.safetensors")
    assert before.keys() == learnt.keys() and not same(before, learnt)
    checkpoint = after.checkpoints / "checkpoint-4"
    assert same(tensors(checkpoint / "ref/adapter_model.safetensors"), before), "the reference moved"


def test_fast_rollouts_near_temperature_zero_are_greedy_generation(policy):
    chat = load_chat_format(policy)
    model = AutoModelForCausalLM.from_pretrained(policy).eval()
    config = CONFIG.model_copy(update={"temperature": 1e-4, "max_completion_tokens": 12})
    texts = [r.text for r in rows(3) for _ in range(2)]
    prompt_ids, completion_ids = fast_rollouts(chat, config, 0)(1, texts, model)
    for prompt, sampled in zip(prompt_ids, completion_ids, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)
        assert sampled == expected[0, len(prompt) :].tolist()


def test_rollouts_differ_between_siblings_and_steps_but_not_between_calls(policy):
    chat = load_chat_format(policy)
    model = AutoModelForCausalLM.from_pretrained(policy).eval()
    sample = fast_rollouts(chat, CONFIG, 0)
    _, one = sample(1, [rows(1)[0].text] * 4, model)
    assert len({tuple(ids) for ids in one}) == 4
    assert sample(1, [rows(1)[0].text] * 4, model)[1] == one != sample(2, [rows(1)[0].text] * 4, model)[1]


@pytest.mark.parametrize(("reward", "said"), [(float("nan"), "finite"), (float("inf"), "finite")])
def test_a_reward_that_is_no_number_stops_the_stage(policy, tmp_path, reward, said):
    chat = load_chat_format(policy)
    with pytest.raises(TrainingError, match=said):
        trained(
            tmp_path / "x",
            Start(model=policy, dtype="float32"),
            chat,
            lambda s, c, log: [reward] * 6,
            fast=True,
        )


def test_trainer_options_are_checked_by_trl(tmp_path):
    here = (Numerics(dtype="float32"), tmp_path, 0, "recipe.yaml")
    with pytest.raises(DataError, match=r"recipe.yaml: trainer.learning_rat: SFTConfig .*'learning_rate'"):
        sft_arguments({"learning_rat": 1}, *here)
    with pytest.raises(DataError, match="set by the recipe itself"):
        grpo_arguments(grpo_size(CONFIG), {"num_generations": 3}, *here)
    with pytest.raises(DataError, match="refuses these options"):
        sft_arguments({"lr_scheduler_type": "zigzag"}, *here)
    with pytest.raises(DataError, match="4 does not divide the 6 completions"):
        grpo_arguments(grpo_size(CONFIG), {"per_device_train_batch_size": 4}, *here)
    made = grpo_arguments(grpo_size(CONFIG), {"per_device_train_batch_size": 2}, *here)
    assert (made.gradient_accumulation_steps, made.steps_per_generation, made.generation_batch_size) == (
        3,
        3,
        6,
    )
    assert (made.loss_type, made.scale_rewards, made.beta) == ("grpo", "group", 0.001)


def test_trl_accepts_the_options_of_the_papers_recipe(tmp_path):
    recipe = load_config(Recipe, Path(__file__).parents[2] / "recipes/qa-lign-8b.yaml")
    sft, grpo = recipe.stages
    here = (Numerics(dtype="bfloat16"), tmp_path, 0, "recipe.yaml")
    made = sft_arguments(sft.trainer, *here)
    assert (
        made.per_device_train_batch_size * made.gradient_accumulation_steps == 16 and made.max_length == 1536
    )
    made = grpo_arguments(grpo_size(grpo), grpo.trainer, *here)
    assert (made.generation_batch_size, made.gradient_accumulation_steps, made.max_steps) == (80, 80, 100)
    assert (made.beta, made.learning_rate, made.temperature, made.bf16) == (0.001, 1e-6, 1.0, True)


def test_epochs_are_whole_passes_in_different_orders():
    items = [TokenRow([i], [1]) for i in range(8)]
    order = [row.prompt_ids[0] for row in epochs_in_order(items, 2.5, 0)]
    assert sorted(order[:8]) == sorted(order[8:16]) == list(range(8)) and order[:8] != order[8:16]
    assert len(order) == 20 and len(set(order[16:])) == 4


# --- the chat format ---


def checkpoint(folder: Path, template: str, **tokens: object) -> Path:
    tokenizer = tiny_tokenizer(chat_template=template)
    tokenizer.add_tokens(tokens.pop("plain", []))
    tokenizer.add_special_tokens({"additional_special_tokens": tokens.pop("special", [])}, False)
    for name, value in tokens.items():
        setattr(tokenizer, name, value)
    tiny_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


HELLO = Prompt(id="h", messages=(Message(role="user", content="Hello"),))


def test_completion_ids_come_back_as_text_and_show_truncation(policy):
    chat = load_chat_format(policy)
    ids = chat.completion_ids("Boil <think> it </think> now")
    assert chat.decode(ids) == ("Boil <think> it </think> now", True)
    assert chat.decode(ids[:-1]) == ("Boil <think> it </think> now", False)
    assert chat.decode([*ids, 0, 0]) == ("Boil <think> it </think> now", True)
    chat.check(Tags(), [chat.render(HELLO)], 100)


def test_a_begin_token_stands_once_though_template_and_tokenizer_both_add_it(tmp_path):
    template = "{{ bos_token }}" + CHAT_TEMPLATE
    tokenizer = load_chat_format(checkpoint(tmp_path, template, bos_token="<|system|>")).tokenizer
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", begin)]
    )
    assert tokenizer("x")["input_ids"][0] == begin
    chat = ChatFormat(tokenizer, frozenset({1}), None)
    ids = chat.prompt_ids(chat.render(HELLO))
    assert ids.count(begin) == 1 and ids[0] == begin
    assert tokenizer.decode(ids) == "<|system|><|user|>Hello<|end|><|assistant|>"


def test_a_tag_that_is_a_special_token_is_refused_with_tags_that_work(tmp_path):
    chat = load_chat_format(checkpoint(tmp_path, CHAT_TEMPLATE, special=["<think>", "</think>"]))
    with pytest.raises(
        UsageError, match=r"does not bring them back; tags that work here: <reflect> </reflect>"
    ):
        chat.check(Tags(), [], 10)
    chat.check(Tags(open="<reflect>", close="</reflect>"), [], 10)


def test_a_template_that_opens_the_tag_itself_is_refused(tmp_path):
    template = CHAT_TEMPLATE.replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}")
    chat = load_chat_format(checkpoint(tmp_path, template))
    with pytest.raises(
        UsageError, match=r"opens the answer with <think> itself; tags that work here: <reflect>"
    ):
        chat.check(Tags(), [chat.render(HELLO)], 10)
    chat.check(Tags(open="<reflect>", close="</reflect>"), [chat.render(HELLO)], 10)


def test_prompts_that_do_not_fit_are_refused_before_the_first_step(policy):
    chat = load_chat_format(policy)
    length = len(chat.prompt_ids(chat.render(HELLO)))
    chat.check(Tags(), [chat.render(HELLO)], 256 - length)
    with pytest.raises(UsageError, match="do not fit the model's context of 256"):
        chat.check(Tags(), [chat.render(HELLO)], 257 - length)


# --- who writes reflections ---


def test_the_judges_model_writes_reflections(policy, fake_server):
    fake_server.answer = lambda body: completion(f"Seen: {body['messages'][-1]['content']}")
    assert open_writer(f"openai:m@{fake_server.url}").complete("Reflect.", 50) == "Seen: Reflect."
    [body] = fake_server.requests
    assert body["temperature"] == 0 and body["model"] == "m"
    assert isinstance(open_writer(f"local:{policy}").complete("Reflect.", 3), str)
    for judge in ("lab-oracle", "openai:m", "local:"):
        with pytest.raises(UsageError, match="cannot write; use reflection: template"):
            open_writer(judge)
