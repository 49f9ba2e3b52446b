"""Generation: against ``transformers``' own ``generate``, against brute force, and its promises."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from rubrica.core.errors import ModelError, UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Sampling
from rubrica.models.decoding import decode, greedy, sampler, uniforms
from rubrica.models.hf import HFGenerator, stop_ids
from tiny import FAMILIES, SENTENCES, tiny_checkpoint, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def prompt(text: str, id: str = "p") -> Prompt:
    return Prompt(id=id, messages=(Message(role="user", content=text),))


def reference(model, ids, max_tokens, stop):
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=sorted(stop),
        pad_token_id=0,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_rows_equal_generate_token_for_token(family):
    """Rows of unequal length, one of them twice; many end tokens, so that rows end at different steps."""
    model = tiny_model(family, len(TOKENIZER))
    prompts = [TOKENIZER.encode(s)[: 6 + 5 * n] for n, s in enumerate(SENTENCES)]
    prompts.append(prompts[1])
    free = [c.ids for c in decode(model, prompts, max_tokens=12, stop=frozenset(), pick=greedy)]
    assert all(len(ids) == 12 for ids in free)
    stop = frozenset({free[0][2], free[2][7]})
    found = decode(model, prompts, max_tokens=12, stop=stop, pick=greedy)
    assert [c.ids for c in found] == [reference(model, ids, 12, stop) for ids in prompts]
    assert [c.finished for c in found] == [c.ids[-1] in stop for c in found]
    assert len({len(c.ids) for c in found}) > 1


def test_a_row_samples_the_same_alone_and_among_rows_that_end_early():
    model = tiny_model("llama", len(TOKENIZER))
    prompts = [TOKENIZER.encode(s)[:9] for s in SENTENCES] * 4
    keys = [("p", n) for n in range(len(prompts))]
    stop = frozenset(range(0, 300, 7))

    def run(rows):
        pick = sampler([keys[n] for n in rows], temperature=1.0, top_p=0.95, seed=3, max_tokens=30)
        return decode(model, [prompts[n] for n in rows], max_tokens=30, stop=stop, pick=pick)

    together = run(range(len(prompts)))
    alone = [run([n])[0] for n in range(len(prompts))]
    assert together == alone
    assert len({len(c.ids) for c in together}) > 3  # rows were dropped at several steps
    assert len({tuple(c.ids) for c in together[::4]}) == 4  # one prompt, four different rows


def test_sampling_follows_the_softmax_and_top_p_cuts_its_tail():
    logits = torch.log(torch.tensor([[0.5, 0.0, 0.3, 0.15, 0.05]]))
    for top_p, expected in ((1.0, [0.5, 0.0, 0.3, 0.15, 0.05]), (0.75, [0.625, 0.0, 0.375, 0.0, 0.0])):
        pick = sampler(range(1), temperature=1.0, top_p=top_p, seed=0, max_tokens=4000)
        rows = torch.zeros(1, dtype=torch.long)
        counts = Counter(int(pick(logits, rows, step)) for step in range(4000))
        for token, share in enumerate(expected):
            bound = 4 * math.sqrt(4000 * share * (1 - share))  # four standard deviations
            assert abs(counts[token] - 4000 * share) <= bound


def test_temperature_sharpens_as_its_formula_says():
    """At temperature 1/2 the shares are squared: 0.8, 0.2 -> 16/17, 1/17."""
    logits = torch.log(torch.tensor([[0.8, 0.2]]))
    pick = sampler(range(1), temperature=0.5, top_p=1.0, seed=1, max_tokens=2000)
    drawn = uniforms(1, 0, 2000)
    rows = torch.zeros(1, dtype=torch.long)
    assert [int(pick(logits, rows, s)) for s in range(2000)] == (drawn >= 16 / 17).astype(int).tolist()


def test_random_numbers_depend_on_seed_and_key_alone():
    assert np.array_equal(uniforms(5, ("a", 0), 8), uniforms(5, ("a", 0), 16)[:8])
    different = [uniforms(5, ("a", 0), 8), uniforms(6, ("a", 0), 8), uniforms(5, ("a", 1), 8)]
    assert len({tuple(u) for u in different}) == 3


def test_generator_repeats_itself_in_any_order_and_batch_size(tmp_path):
    path = tiny_checkpoint(tmp_path)
    prompts = [prompt(s, f"p{n}") for n, s in enumerate(SENTENCES)] + [prompt(SENTENCES[0], "p0")]
    sampling = Sampling(temperature=0.9, top_p=0.9, max_tokens=8, seed=11)
    first = dict(HFGenerator(path, batch_size=2).generate(prompts, sampling))
    again = dict(HFGenerator(path, batch_size=5).generate(prompts, sampling))
    backwards = dict(HFGenerator(path).generate(prompts[3::-1], sampling))
    assert first == again
    assert [backwards[3 - n] for n in range(4)] == [first[n] for n in range(4)]
    assert first[0].text != first[4].text  # the second sample of one prompt is another
    assert len({r.id for r in first.values()}) == 5
    other = dict(HFGenerator(path).generate(prompts, sampling.model_copy(update={"seed": 12})))
    assert [other[n].text for n in range(5)] != [first[n].text for n in range(5)]


def test_greedy_text_of_the_generator_equals_generate(tmp_path):
    generator = HFGenerator(tiny_checkpoint(tmp_path))
    model = tiny_model("llama", len(TOKENIZER))
    asked = prompt(SENTENCES[1])
    ((_, response),) = generator.generate([asked], Sampling(temperature=0, max_tokens=10))
    ids = TOKENIZER.encode(f"<|user|>{SENTENCES[1]}<|end|><|assistant|>")
    expected = reference(model, ids, 10, stop_ids(model, TOKENIZER))
    assert response.text == TOKENIZER.decode(expected, skip_special_tokens=True)
    assert (response.tokens, response.finished) == (len(expected), expected[-1] == 1)
    assert response.model == generator.name == str(tmp_path)


def test_a_prefix_is_continued_and_not_repeated(tmp_path):
    """Greedy: what follows the first half of an answer is its second half."""
    generator = HFGenerator(tiny_checkpoint(tmp_path))
    greedy_12 = Sampling(temperature=0, max_tokens=12)
    ((_, whole),) = generator.generate([prompt("Boil the root")], greedy_12)
    half = whole.text[:1]
    ids = TOKENIZER.encode("<|user|>Boil the root<|end|><|assistant|>") + TOKENIZER.encode(half)
    ((_, rest),) = generator.generate([prompt("Boil the root")], greedy_12, [half])
    expected = reference(tiny_model("llama", len(TOKENIZER)), ids, 12, frozenset({1}))
    assert rest.text == TOKENIZER.decode(expected, skip_special_tokens=True)


def test_control_tokens_vanish_and_tags_of_ordinary_text_stay():
    """A model that writes ``<think>x</think>`` and then the control token of a user turn, by rule."""
    script = [*TOKENIZER.encode("<think>x</think>"), TOKENIZER.convert_tokens_to_ids("<|user|>"), 1]
    model = tiny_model("llama", len(TOKENIZER))
    generator = HFGenerator(model, TOKENIZER)
    start = len(TOKENIZER.encode(generator.render(prompt("hi"))))

    def speak(module, args, kwargs, output):
        step = int(kwargs["position_ids"][0, -1]) - start + 1
        output.logits = torch.nn.functional.one_hot(torch.tensor([[script[step]]]), len(TOKENIZER)).float()
        return output

    with model.register_forward_hook(speak, with_kwargs=True):
        ((_, response),) = generator.generate([prompt("hi")], Sampling(temperature=0, max_tokens=40))
    assert response.text == "<think>x</think>"
    assert (response.tokens, response.finished) == (len(script), True)


def test_a_prompt_without_room_is_refused_before_anything_is_generated(tmp_path):
    generator = HFGenerator(tiny_checkpoint(tmp_path, context=64))
    long = prompt("the bane " * 40, "too-long")
    with pytest.raises(UsageError, match=r"prompt 'too-long': \d+ tokens and max_tokens 8 exceed .*\(64\)"):
        next(generator.generate([prompt("hi"), long], Sampling(max_tokens=8)))


def test_a_tokenizer_without_chat_template_is_refused_unless_plain(tmp_path):
    path = tiny_checkpoint(tmp_path, chat_template=None)
    with pytest.raises(UsageError, match=r"no chat template.*template='plain'"):
        HFGenerator(path)
    generator = HFGenerator(path, template="plain")
    assert generator.render(prompt("one")) == "one\n\n"
    ((_, response),) = generator.generate([prompt("one")], Sampling(max_tokens=3))
    assert response.tokens <= 3


def test_wrong_use_names_the_remedy(tmp_path):
    path = tiny_checkpoint(tmp_path / "model")
    with pytest.raises(ModelError, match="no such folder; check the path"):
        HFGenerator(tmp_path / "nowhere at all")
    with pytest.raises(UsageError, match="expected one of auto, float32"):
        HFGenerator(path, dtype="int3")
    with pytest.raises(UsageError, match="batch_size 0; expected at least 1"):
        HFGenerator(path, batch_size=0)
    with pytest.raises(UsageError, match="without a tokenizer"):
        HFGenerator(tiny_model("llama", 300))
    with pytest.raises(UsageError, match="1 prefixes for 2 prompts"):
        list(HFGenerator(path).generate([prompt("a"), prompt("b")], Sampling(), ["x"]))
