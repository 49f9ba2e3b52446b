"""Likelihoods of answers against one plain forward pass each, and the reward that two policies imply."""

from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer

from rubrica.core.errors import ModelError, UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.models.implicit import ImplicitReward
from rubrica.models.likelihood import Row, answer_rows, likelihoods
from rubrica.recipes.options import RewardModelSource
from rubrica.recipes.reward_source import check_reward_model, open_reward_model


def ask(text: str) -> Prompt:
    return Prompt(id=text, messages=(Message(role="user", content=text),))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_padding_and_batches_change_nothing(family: str) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(family, len(tokenizer))
    rows = [Row([5, 6, 7], [9, 1]), Row([5], [8, 8, 8, 8, 1]), Row([4, 4, 4, 4, 4, 4], [3]), Row([2], [7])]
    expected = []
    for row in rows:
        logits = model(torch.tensor([[*row.prompt_ids, *row.answer_ids]])).logits[0].log_softmax(-1)
        places = range(len(row.prompt_ids) - 1, len(row.prompt_ids) + len(row.answer_ids) - 1)
        expected.append(sum(logits[u, t].item() for u, t in zip(places, row.answer_ids, strict=True)))
    found = likelihoods(model, rows, batch_size=3)
    assert [one.total for one in found] == pytest.approx(expected, abs=1e-4)
    assert [one.tokens for one in found] == [2, 5, 1, 1]
    assert found[0].per_token == pytest.approx(expected[0] / 2, abs=1e-4)


def test_an_answer_ends_with_the_end_token_and_spells_no_other() -> None:
    tokenizer = tiny_tokenizer()
    cut, whole = answer_rows(
        tokenizer, [ask("Is it?"), ask("Is it?")], ["<|end|>It is.", "It is."], [False, True]
    )
    assert whole.answer_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in cut.answer_ids
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Is it?"}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(whole.prompt_ids) == text


def test_what_has_no_token_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(UsageError, match="no token"):
        likelihoods(tiny_model("llama", len(tokenizer)), [Row([5], [])])
    with pytest.raises(UsageError, match="1 for 2 prompts"):
        answer_rows(tokenizer, [ask("a"), ask("b")], ["c"])


def test_the_implicit_reward_is_beta_times_the_log_ratio(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    folders = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        tiny_model("llama", len(tokenizer), seed=seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(folder)
    prompts, texts = [ask("Is it?"), ask("And now?")], ["It is.", ""]
    rows = answer_rows(tokenizer, prompts, texts)
    policy, reference = (
        [one.total for one in likelihoods(tiny_model("llama", len(tokenizer), seed=seed), rows)]
        for seed in (0, 1)
    )
    reward = ImplicitReward(folders[0], folders[1], beta=0.3)
    expected = [0.3 * (a - b) for a, b in zip(policy, reference, strict=True)]
    items = list(zip(prompts, texts, strict=True))
    assert dict(reward.score(items)) == pytest.approx(dict(enumerate(expected)), abs=1e-4)
    same = ImplicitReward(folders[0], folders[0])
    assert dict(same.score(items)) == {0: 0.0, 1: 0.0}
    assert reward.fingerprint == ImplicitReward(folders[0], folders[1], beta=0.3).fingerprint
    assert len({reward.fingerprint, same.fingerprint, ImplicitReward(*folders).fingerprint}) == 3


def test_a_text_beyond_the_context_has_an_error_and_no_number(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, context=48)
    found = dict(
        ImplicitReward(folder, folder, batch_size=1).score([(ask("Is it?"), "no " * 60), (ask("a"), "b")])
    )
    assert isinstance(found[0], ModelError) and "exceed the context of 48" in str(found[0])
    assert found[1] == 0.0


def test_an_implicit_reward_says_what_it_cannot_use(tmp_path: Path) -> None:
    one = tiny_checkpoint(tmp_path / "one")
    other = tmp_path / "other"
    tokenizer = tiny_tokenizer(words=("apothecary",))
    tiny_model("llama", len(tokenizer)).save_pretrained(other)
    tokenizer.save_pretrained(other)
    with pytest.raises(UsageError, match="two tokenizers"):
        ImplicitReward(one, other)
    with pytest.raises(UsageError, match="beta 0"):
        ImplicitReward(one, one, beta=0)
    mute = tiny_checkpoint(tmp_path / "mute", chat_template=None)
    with pytest.raises(UsageError, match="no chat template"):
        ImplicitReward(mute, mute)


def test_a_recipe_names_an_implicit_reward_by_its_two_models(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "a")
    source = RewardModelSource(model=f"implicit:{folder}@here", dtype="float32")
    check_reward_model(source, "reward_model", trained=False)
    reward = open_reward_model(source, lambda name: str(folder) if name == "here" else name)
    assert dict(reward.score([(ask("Is it?"), "It is.")])) == {0: 0.0}
    for wrong, said in (
        ({"model": "implicit:only-one"}, r"expected implicit:POLICY@REFERENCE"),
        ({"model": "implicit:a@b", "label": 1}, r"reward_model\.label: has no use for an implicit reward"),
    ):
        with pytest.raises(UsageError, match=said):
            check_reward_model(RewardModelSource.model_validate(wrong), "reward_model", trained=False)
