"""Forced tokens in the cache: every logit is that of a fresh forward pass over the augmented sequence."""

import pytest
import torch

from rubrica.models.decoding import decode, greedy, sampler
from rubrica.models.forced import decode_forced, slides
from tiny import FAMILIES, tiny_config, tiny_model

PROMPTS = [[5, 6, 7, 8, 9], [11], [20, 21, 22], [5, 6, 7, 8, 9]]
NOBODY = frozenset({-1})


class Recorder:
    """Picks with ``inner``, and remembers the logits of each row in order."""

    def __init__(self, inner):
        self.inner, self.seen = inner, {}

    def __call__(self, logits, rows, step):
        for place, row in enumerate(rows.tolist()):
            self.seen.setdefault(row, []).append(logits[place].clone())
        return self.inner(logits, rows, step)


def run(model, prompts, rule, *, steps=14, stop=NOBODY, pick=greedy):
    """Return the augmented sequence, the sampled tokens and the logits of every row; ``rule(row, n)``: forced ids."""
    counts = [0] * len(prompts)

    def force(row, token):
        counts[row] += 1
        return rule(row, counts[row])

    recorder = Recorder(pick)
    whole, sampled = [list(p) for p in prompts], [[] for _ in prompts]
    steps_of = decode_forced(model, prompts, max_tokens=steps, stop=stop, pick=recorder, force=force)
    for grown in steps_of:
        for one in grown:
            whole[one.row] += [one.token, *one.forced]
            sampled[one.row].append(one.token)
    return whole, sampled, recorder.seen


def check(model, prompts, whole, sampled, seen, rule):
    for row, prompt in enumerate(prompts):
        fresh = model(torch.tensor([whole[row]])).logits[0]
        at = len(prompt) - 1
        for number, logits in enumerate(seen[row], 1):
            torch.testing.assert_close(logits, fresh[at], rtol=1e-4, atol=1e-4)
            assert whole[row][at + 1] == sampled[row][number - 1]
            at += 1 + len(rule(row, number))


def together(row, number):
    return [30, 31, 32] if number % 4 == 0 else []


def apart(row, number):
    return list(range(30, 31 + row)) if (number + row) % 3 == 0 else []


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("rule", [together, apart])
def test_logits_equal_a_fresh_pass(family, rule):
    model = tiny_model(family, 64)
    with torch.inference_mode():
        check(model, PROMPTS, *run(model, PROMPTS, rule), rule)


def test_a_model_that_slides_is_exact_row_by_row():
    model = tiny_model("gemma3_text", 64)
    assert [slides(tiny_config(family, 64)) for family in FAMILIES] == [False, False, False, True]
    with torch.inference_mode():
        for prompt in PROMPTS:
            check(model, [prompt], *run(model, [prompt], apart, steps=20), apart)


def test_a_cache_full_of_padding_is_compacted(monkeypatch):
    """One row gets six tokens at every step, the others none: their cache would be six parts padding of seven."""
    from rubrica.models import forced

    compacted = []
    original = forced._Reader._compact
    monkeypatch.setattr(forced._Reader, "_compact", lambda self: (compacted.append(1), original(self)))
    model = tiny_model("llama", 64)

    def rule(row, number):
        return [40] * 6 if row == number % 4 else []

    with torch.inference_mode():
        check(model, PROMPTS, *run(model, PROMPTS, rule, steps=24), rule)
    assert compacted


def test_without_forced_tokens_it_is_ordinary_decoding():
    model = tiny_model("llama", 64)
    pick = sampler(range(4), temperature=0.9, top_p=0.9, seed=3, max_tokens=14)
    stop = frozenset({1, 2, 3, 4, 5, 6, 7})
    plain = decode(model, PROMPTS, max_tokens=14, stop=stop, pick=pick)
    _, sampled, _ = run(model, PROMPTS, lambda row, number: [], stop=stop, pick=pick)
    assert sampled == [completion.ids for completion in plain]
    assert len({len(ids) for ids in sampled}) > 1  # some rows ended earlier


def test_nothing_is_forced_behind_the_last_token():
    asked = []

    def rule(row, number):
        asked.append((row, number))
        return [9]

    whole, sampled, _ = run(tiny_model("llama", 64), [[5]], rule, steps=3)
    assert [len(sampled[0]), len(whole[0])] == [3, 1 + 3 + 2]
    assert asked == [(0, 1), (0, 2)]
