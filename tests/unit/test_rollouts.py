"""Rows that share what they have read, against full forward passes of one sequence at a time."""

import numpy as np
import pytest
import torch

from rubrica.models.distinct import Distinct
from rubrica.models.rollouts import Start, Style, likeliest, roll
from rubrica.models.trunk import Line, Rows, SharedTrunk
from rubrica.models.trunks import PlainTrunk, make_trunk, shares
from rubrica.packed import PackedModel
from tiny import FAMILIES, SENTENCES, other_model, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
IDS = [TOKENIZER.encode(sentence) for sentence in SENTENCES]
PROMPTS = {0: IDS[0][:13], 1: IDS[1][:5], 2: IDS[2][:21]}
POINTS = np.random.default_rng(5).random((6, 9))


def model_of(family):
    return tiny_model(family, len(TOKENIZER))


def trunk_of(model, slots=3):
    return SharedTrunk(PackedModel(model), slots, 64)


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double()


def by_hand(model, ids, target, stop, points=None, temperature=1.0, top_p=1.0):
    """New tokens of one continuation: one full pass a token, the inverse of the cumulative distribution written out."""
    new = []
    while len(new) < target and (not new or new[-1] not in stop):
        scores = logits_of(model, [*ids, *new])
        if points is None:
            new.append(int(scores.argmax()))
            continue
        shares = (scores / temperature).softmax(-1).numpy()
        order = np.argsort(-shares, kind="stable")
        kept, held = set(), 0.0
        for token in order:
            if held >= top_p:
                break
            kept.add(int(token))
            held += shares[token]
        at, total = points[len(new)] * sum(shares[t] for t in sorted(kept)), 0.0
        for token in sorted(kept):
            total += shares[token]
            if total > at:
                break
        new.append(token)
    return new


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_sampled_rollouts_equal_one_sequence_at_a_time(family):
    """Prompts of three lengths, starts of one and of three tokens, end tokens that come at different places."""
    model = model_of(family)
    trunk = trunk_of(model)
    first = trunk.fill(PROMPTS)
    for row, prompt in zip(first, PROMPTS.values(), strict=True):
        assert torch.allclose(row.double(), logits_of(model, prompt), atol=1e-4)
    free = by_hand(model, [*PROMPTS[1], 40], 9, frozenset())
    stop = frozenset({free[4]}) - {33, 34, 35, 40, 41, 50}
    begun = [(0, [33, 34, 35], None), (1, [40], None), (1, [41], POINTS), (2, [50], POINTS[:2])]
    starts = [Start(slot, tokens, len(tokens) + 9, points) for slot, tokens, points in begun]
    found = roll(trunk, starts, Style(1.3, 0.9, stop))
    for (slot, tokens, points), samples in zip(begun, found.samples, strict=True):
        for number, sample in enumerate(samples):
            own = None if points is None else points[number]
            wanted = by_hand(model, [*PROMPTS[slot], *tokens], 9, stop, own, 1.3, 0.9)
            assert sample == [*tokens, *wanted]
    assert not stop or (found.samples[1][0][-1] in stop and len(found.samples[1][0]) < 10)


def test_samples_share_their_beginnings_and_cost_the_distinct_ones():
    model = model_of("llama")
    trunk = trunk_of(model)
    trunk.fill(PROMPTS)
    peaked = np.repeat(POINTS[:2], 3, axis=0)  # each sample three times
    found = roll(trunk, [Start(0, [40], 8, peaked[:, :7])], Style(0.7, 1.0, frozenset()))
    paths = {tuple(s[:n]) for s in found.samples[0] for n in range(1, 8)}  # the last token is not read
    assert trunk.computed == [len(PROMPTS[0]) + len(paths), len(PROMPTS[1]), len(PROMPTS[2])]
    distinct = Distinct()
    for sample in found.samples[0]:
        distinct.need(sample[:-1])
    assert distinct.count == len(paths)


def test_a_committed_row_is_part_of_its_slot_and_a_line_is_not_read_again():
    model = model_of("qwen3")
    trunk = trunk_of(model)
    trunk.fill(PROMPTS)
    style = Style(1.0, 1.0, frozenset(), top=4)
    once = roll(trunk, [Start(0, [40], 9, None), Start(2, [41], 9, None)], style)
    trunk.commit(once.rows, {0: once.first[0], 2: once.first[1]}, 2)
    lines = [Line(once.rows, once.first[0], 2), Line(once.rows, once.first[1], 2)]
    taken = once.samples[0][0][2]
    before = list(trunk.computed)
    starts = [
        Start(0, [taken], 8, None, lines[:1]),
        Start(0, [99], 8, None, lines[:1]),
        Start(2, [98], 8, None),
    ]
    again = roll(trunk, starts, style)
    assert trunk.computed[0] - before[0] == 1 + 7  # the line lacks one token, the other start all seven
    for start, [sample], first in zip(starts, again.samples, again.first, strict=True):
        head = [*PROMPTS[start.slot], *once.samples[0 if start.slot == 0 else 1][0][:2]]
        assert sample == [*start.tokens, *by_hand(model, [*head, *start.tokens], 7, frozenset())]
        tops = again.rows.tops[first]
        assert len(tops) == 7
        for depth, top in enumerate(tops):
            wanted = logits_of(model, [*head, *sample[: depth + 1]]).log_softmax(-1).topk(4)
            assert top.tokens == wanted.indices.tolist()
            assert top.logprobs == pytest.approx(wanted.values.tolist(), abs=1e-4)


def test_a_slot_is_filled_anew_and_slots_are_renumbered():
    model = model_of("gpt2")
    trunk = trunk_of(model)
    trunk.fill(PROMPTS)
    trunk.fill({1: IDS[3][:30]})
    trunk.keep([2, 1])
    found = roll(trunk, [Start(0, [7], 5, None), Start(1, [8], 5, None)], Style(1.0, 1.0, frozenset()))
    for sample, head in zip(found.samples, (PROMPTS[2], IDS[3][:30]), strict=True):
        assert sample[0][1:] == by_hand(model, [*head, sample[0][0]], 4, frozenset())


def test_excess_is_the_log_ratio_to_the_model():
    model = model_of("llama")
    trunk = trunk_of(model)
    trunk.fill(PROMPTS)
    found = roll(trunk, [Start(1, [40], 4, POINTS[:1, :3])], Style(2.0, 1.0, frozenset()))
    [sample], total = found.samples[0], 0.0
    for depth in (1, 2, 3):
        scores = logits_of(model, [*PROMPTS[1], *sample[:depth]])
        total += float((scores / 2).log_softmax(-1)[sample[depth]] - scores.log_softmax(-1)[sample[depth]])
    assert found.excess[0] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(
    ("family", "options", "shared"),
    [
        ("llama", {}, True),
        ("bloom", {"n_layer": 2, "n_head": 4}, False),
        ("granite", {"logits_scaling": 4.0}, False),
    ],
)
def test_other_families_share_or_read_anew(family, options, shared):
    model = other_model(family, len(TOKENIZER), **options)
    assert shares(model) is shared
    trunk = make_trunk(model, 2, 40)
    assert isinstance(trunk, SharedTrunk if shared else PlainTrunk)
    trunk.fill({0: PROMPTS[0], 1: PROMPTS[1]})
    found = roll(
        trunk, [Start(0, [40], 6, None), Start(1, [41], 6, POINTS[:3, :5])], Style(1.0, 1.0, frozenset())
    )
    assert found.samples[0][0][1:] == by_hand(model, [*PROMPTS[0], 40], 5, frozenset())
    for sample, points in zip(found.samples[1], POINTS, strict=False):
        assert sample[1:] == by_hand(model, [*PROMPTS[1], 41], 5, frozenset(), points)


def test_distinct_prefixes_behind_a_growing_beginning():
    distinct = Distinct()
    distinct.need([1, 2, 3])
    distinct.need([1, 2, 4])
    distinct.need([5])
    assert distinct.count == 5  # 1, 12, 123, 124, 5
    distinct.advance([1])
    distinct.need([2, 3, 6])  # 2 and 23 are known
    distinct.need([5])  # another 5: its beginning is 1
    assert distinct.count == 7


def test_likeliest_are_log_probabilities_over_the_whole_vocabulary():
    [top] = likeliest(torch.log(torch.tensor([[0.2, 0.5, 0.3]])) + 4.0, 2)
    assert top.tokens == [1, 2]
    assert top.logprobs == pytest.approx(np.log([0.5, 0.3]), abs=1e-6)


def test_rows_keep_what_they_know():
    rows = Rows(room=3, capacity=2)
    assert [rows.add(4, [1, 2]), rows.add(5, [3])] == [0, 1]
    assert (rows.slots, rows.tokens, rows.read) == ([4, 5], [[1, 2], [3]], [0, 0])


def test_half_precision_shares_as_well():
    model = model_of("llama").to(torch.bfloat16)
    assert shares(model)
    trunk = trunk_of(model)
    trunk.fill(PROMPTS)
    [sample] = roll(trunk, [Start(0, [40], 6, None)], Style(1.0, 1.0, frozenset())).samples[0]
    for depth in range(1, 6):
        with torch.no_grad():
            scores = model(torch.tensor([[*PROMPTS[0], *sample[:depth]]])).logits[0, -1].float()
        assert scores.max() - scores[sample[depth]] < 0.1  # equal up to the rounding of ties
