"""Losses, gradients and slots of white-box attacks, against plain passes, finite differences and enumeration."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rubrica.attacks.frame import frame
from rubrica.attacks.objective import allowed_tokens, common_prefix, start_text
from rubrica.attacks.victim import Victim
from rubrica.core.errors import ModelError, UsageError
from rubrica.core.prompts import Message
from rubrica.models.hf import HFGenerator
from search_world import START, TARGET, ask, blank_dropping, doubled, objective, victim
from tiny import FAMILIES, other_model, tiny_tokenizer


def plain_loss(victim: Victim, context: list[int], target: tuple[int, ...]) -> tuple[float, bool]:
    """By a full pass over one sequence, without cache, batch or embeddings."""
    ids = torch.tensor([[*context, *target]], device=victim.device)
    logits = victim.model(input_ids=ids).logits[0].double()
    places = range(len(context) - 1, ids.shape[1] - 1)
    terms = [
        float(logits[at].logsumexp(0) - logits[at][token]) for at, token in zip(places, target, strict=True)
    ]
    reached = all(int(logits[at].argmax()) == token for at, token in zip(places, target, strict=True))
    return math.fsum(terms) / len(terms), reached


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_candidates_get_the_loss_of_a_plain_pass(family: str, batch_size: int | None) -> None:
    model = victim(family, batch_size=batch_size)
    goal = objective(model, ask("How is it brewed?", Message(role="system", content="Be kind.")))
    only = goal.frames[0]
    rows = [[token, *goal.start_ids[1:]] for token in goal.allowed.tolist()[40:45]]
    scores = goal.losses(rows)
    for row, loss, reached in zip(rows, scores.losses.tolist(), scores.reached.tolist(), strict=True):
        right, first = plain_loss(model, [*only.before, *row, *only.after], only.target_ids)
        assert loss == pytest.approx(right, abs=2e-5)
        assert reached == first


def test_texts_of_different_lengths_get_the_loss_of_a_plain_pass() -> None:
    model = victim()
    goal = objective(model)
    texts = [" short", " a much longer text, with a lot of words in it", "", "{request} twice? {request}"]
    scores = goal.text_losses(texts)
    for text, loss in zip(texts, scores.losses.tolist(), strict=True):
        content = (
            text.replace("{request}", "How is it brewed?")
            if "{request}" in text
            else "How is it brewed?" + text
        )
        (context,) = model.encode([model.generator.render(ask(content))])
        assert loss == pytest.approx(plain_loss(model, context, goal.frames[0].target_ids)[0], abs=2e-5)


def test_a_target_is_reached_when_greedy_decoding_writes_it() -> None:
    model = victim()
    goal = objective(model)
    only = goal.frames[0]
    context = [*only.before, *goal.start_ids, *only.after]
    greedy = context
    for _ in range(3):
        logits = model.model(input_ids=torch.tensor([greedy])).logits[0, -1]
        greedy = [*greedy, int(logits.argmax())]
    assert model.losses([context], greedy[len(context) :]).reached.tolist() == [True]
    assert model.losses([context], [*greedy[len(context) : -1], 0]).reached.tolist() == [False]


def test_gradient_equals_finite_differences_in_every_direction() -> None:
    goal = doubled("gpt2")
    slot = goal.embed(goal.start_ids)
    loss, gradient = goal.gradient(slot)
    assert slot.dtype == gradient.dtype == torch.float64
    moves = torch.eye(slot.numel(), dtype=slot.dtype).view(-1, *slot.shape) * 1e-6
    high, low = goal.soft_losses(slot + moves), goal.soft_losses(slot - moves)
    assert torch.allclose(gradient.flatten(), (high - low) / 2e-6, rtol=1e-6, atol=1e-9)
    assert float(loss) == pytest.approx(float(goal.losses([goal.start_ids]).losses[0]), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_equals_finite_differences_along_itself(family: str) -> None:
    """Norms of these models count in single precision whatever their weights are, so the step is not small."""
    goal = doubled(family)
    slot = goal.embed(goal.start_ids)
    _, gradient = goal.gradient(slot)
    move = gradient / gradient.norm() * 1e-3
    high, low = goal.soft_losses(torch.stack([slot + move, slot - move])).tolist()
    assert float(gradient.norm()) == pytest.approx((high - low) / 2e-3, rel=1e-3)


def test_several_prompts_share_the_slot_and_their_mean_loss() -> None:
    model = victim()
    prompts = [ask("How is it brewed?"), ask("Tell me of the willow bark.")]
    both, one, two = objective(model, *prompts), *(objective(model, p) for p in prompts)
    slots = [both.start_ids]
    mean = (one.losses(slots).losses + two.losses(slots).losses) / 2
    assert torch.allclose(both.losses(slots).losses, mean)
    slot = both.embed(both.start_ids)
    unit = [goal.gradient(slot)[1] for goal in (one, two)]
    unit = [grad / grad.norm(dim=1, keepdim=True) for grad in unit]
    assert torch.allclose(both.gradient(slot)[1], (unit[0] + unit[1]) / 2, atol=1e-6)


def test_what_is_spent_is_counted() -> None:
    goal = objective(victim())
    spent = goal.victim.spent
    goal.losses([goal.start_ids] * 5)
    assert (spent.forward, spent.backward) == (5, 0)
    goal.gradient(goal.embed(goal.start_ids))
    assert (spent.forward, spent.backward) == (6, 1)


def test_weights_are_left_alone() -> None:
    goal = objective(victim())
    before = [p.clone() for p in goal.victim.model.parameters()]
    goal.gradient(goal.embed(goal.start_ids))
    assert all(
        p.grad is None and torch.equal(p, b)
        for p, b in zip(goal.victim.model.parameters(), before, strict=True)
    )


# --- the slot ---


@pytest.mark.parametrize("place", ["suffix", "prefix"])
def test_the_slot_is_located_exactly(place: str) -> None:
    model = victim()
    start = start_text(model, 6, place)
    goal = objective(model, ask("How is it brewed?"), place=place, start=start)
    only = goal.frames[0]
    whole = model.generator.render(only.filled(start))
    assert model.encode([whole]) == [[*only.before, *goal.start_ids, *only.after]]
    text = model.decode(only.before) + model.decode(goal.start_ids) + model.decode(only.after)
    assert text == whole and model.decode(goal.start_ids) == start
    wanted = "How is it brewed?" + start if place == "suffix" else start + " How is it brewed?"
    assert only.filled(start).messages[-1].content == wanted
    assert len(goal.start_ids) >= 6


def test_only_what_comes_back_from_its_text_is_admitted() -> None:
    """Enumerated: every pair of tokens of a small vocabulary."""
    model = victim()
    goal = objective(model)
    only = goal.frames[0]
    tokens = [
        model.encode([part])[0][0] for part in ("t", "h", "e", "r", "a", "n", "s", "the", " ", "!", "?")
    ]
    pairs = [[a, b] for a in tokens for b in tokens]
    for pair, admitted in zip(pairs, goal.admits(pairs), strict=True):
        text = only.request + model.decode(pair)
        read = model.tokenizer.encode(
            model.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            ),
            add_special_tokens=False,
        )
        assert admitted == (read == [*only.before, *pair, *only.after])
    assert 0 < sum(goal.admits(pairs)) < len(pairs)


def test_merges_with_what_stands_in_front_are_not_admitted() -> None:
    model = victim(words=("brewed",))
    goal = objective(model, ask("How is it bre"))
    (end,) = model.encode(["wed"])
    assert goal.admits([goal.start_ids, end]) == [True, False]


def test_control_tokens_never_appear() -> None:
    model = victim(words=("<|",))
    allowed = set(allowed_tokens(model).tolist())
    control = set(model.tokenizer.all_special_ids) | set(model.tokenizer.added_tokens_decoder)
    assert control and not allowed & control
    goal = objective(model)
    spelled = [token for part in ("<|", "end", "|>") for token in model.encode([part])[0]]
    assert set(spelled) <= allowed
    assert goal.admits([spelled]) == [False]
    assert (
        "<|end|>" not in model.generator.render(goal.frames[0].filled(" <|end|>")).split("<|user|>")[1][:30]
    )


def test_allowed_tokens_are_printable_and_ascii_unless_asked_otherwise() -> None:
    model = victim(words=("é",))
    texts = {model.decode([token]) for token in allowed_tokens(model).tolist()}
    assert all(text.isascii() and text.isprintable() for text in texts) and "\n" not in texts
    more = {model.decode([token]) for token in allowed_tokens(model, ascii_only=False).tolist()}
    assert more - texts == {"é"}


def test_a_start_that_melts_into_the_prompt_is_refused() -> None:
    model = victim(words=("brewed",))
    with pytest.raises(UsageError, match="melts into the prompt"):
        frame(model, ask("How is it bre"), TARGET, "wed")


def test_a_template_that_leaves_the_request_out_is_named() -> None:
    model = victim()
    model.tokenizer.chat_template = "fixed"
    with pytest.raises(UsageError, match=r"the chat template leaves out the start ' ! ! !' of the attack"):
        objective(model)


def test_a_tokenizer_that_drops_the_first_blank() -> None:
    """As SentencePiece does: the slot's text is what the tokens read behind other text."""
    model = Victim(*blank_dropping())
    goal = objective(model)
    assert model.tokenizer.decode(goal.start_ids) == START[1:] and model.decode(goal.start_ids) == START
    assert goal.admits([goal.start_ids]) == [True]
    rows = [[token, *goal.start_ids[1:]] for token in goal.allowed.tolist()]
    assert sum(goal.admits(rows)) > 5


def test_losses_that_are_no_numbers_are_refused() -> None:
    model = victim()
    goal = objective(model)
    model.table = model.table.clone()
    model.table[goal.start_ids[1]] = torch.nan
    fine = [goal.allowed.tolist()[40]] * len(goal.start_ids)
    assert goal.losses([goal.start_ids, fine]).losses.isinf().tolist() == [True, False]
    with pytest.raises(ModelError, match="no candidate has a finite loss"):
        goal.losses([goal.start_ids])


@pytest.mark.parametrize("target", ["", "  "])
def test_an_empty_target_is_refused(target: str) -> None:
    with pytest.raises(UsageError, match="target: is empty"):
        frame(victim(), ask("How?"), target, START)


def test_what_exceeds_the_context_is_refused() -> None:
    with pytest.raises(UsageError, match="exceed the context"):
        frame(victim(), ask("boil it " * 200), TARGET, START)


def test_a_target_behind_an_answer_that_has_begun() -> None:
    model = victim()
    only = frame(model, ask("How?"), TARGET, START)
    begun = only.answered("No. <think> Hmm </think>")
    assert model.decode(begun.answer) == "No. <think> Hmm </think>"
    assert model.decode(begun.target_ids) == " " + TARGET
    assert begun.answered("").after == only.after and begun.answered("").target_ids == only.target_ids
    assert begun.contexts([START])[0] == [*only.contexts([START])[0], *begun.answer]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_common_prefix_leaves_something_of_each_row(rows: list[list[int]]) -> None:
    count = common_prefix(rows)
    longest = max(n for n in range(min(map(len, rows))) if len({tuple(row[:n]) for row in rows}) == 1)
    assert count == longest


HYBRIDS: dict[str, dict[str, object]] = {
    "mamba": {},
    "jamba": {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
}


@pytest.mark.parametrize("family", HYBRIDS)
def test_models_with_a_state_instead_of_keys_are_read_in_one_piece(family: str) -> None:
    tokenizer = tiny_tokenizer()
    model = other_model(family, len(tokenizer), **HYBRIDS[family])
    attacked = Victim(model, tokenizer, HFGenerator(model, tokenizer))
    goal = objective(attacked)
    only = goal.frames[0]
    rows = [[token, *goal.start_ids[1:]] for token in goal.allowed.tolist()[40:43]]
    for row, loss in zip(rows, goal.losses(rows).losses.tolist(), strict=True):
        right, _ = plain_loss(attacked, [*only.before, *row, *only.after], only.target_ids)
        assert loss == pytest.approx(right, abs=2e-5)
    assert torch.isfinite(goal.gradient(goal.embed(goal.start_ids))[1]).all()


def test_texts_that_exceed_the_context_are_infinitely_bad_and_stop_no_search() -> None:
    goal = objective(victim())
    scores = goal.text_losses([" short", " long" * 300, " tiny"])
    assert scores.losses.isfinite().tolist() == [True, False, True] and not scores.reached[1]
    assert torch.equal(scores.losses[[0, 2]], goal.text_losses([" short", " tiny"]).losses)
    with pytest.raises(UsageError, match=r"attack: \d+ tokens with the target exceed the context"):
        goal.text_losses([" long" * 300, " longer" * 300])
