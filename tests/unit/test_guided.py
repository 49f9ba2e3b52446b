"""The decoder against a script that does the same with one full forward pass for every token of every candidate."""

import hashlib
import math

import numpy as np
import pytest
import torch

from rubrica.checkpoint import context_length
from rubrica.core.errors import ModelError, UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Sampling
from rubrica.methods.transfer_q import Indirect
from rubrica.models import trunks
from rubrica.models.decoding import uniforms
from rubrica.recipes.best_of_n import BestOfN
from rubrica.recipes.decoders import Policy
from rubrica.recipes.guided import Guide, Guided
from rubrica.recipes.models import ChatFormat
from tiny import SENTENCES, tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPTS = [
    Prompt(id=f"p{n}", messages=(Message(role="user", content=text),))
    for n, text in enumerate([SENTENCES[0], "hi", SENTENCES[1][:30], SENTENCES[3] + SENTENCES[2], "Boil it?"])
]
STOP = frozenset({1, 40, 77})
ALPHA, K, MAX = 0.2, 3, 6


def policy_of(family="llama", seed=0, tokenizer=TOKENIZER):
    model = tiny_model(family, len(tokenizer), seed=seed)
    return Policy(model, ChatFormat(tokenizer, STOP, context_length(model.config)), f"{family}{seed}")


BASE, BASELINE = policy_of(), policy_of(seed=1)


class HashReward:
    """A number between -1 and 1 for any text; texts with a letter of ``refuses`` cannot be scored."""

    fingerprint = "hash"

    def __init__(self, salt="", refuses=""):
        self.salt, self.refuses, self.calls, self.texts = salt, refuses, 0, []

    def value(self, prompt, text):
        if self.refuses == "all" or set(text) & set(self.refuses):
            return None
        digest = hashlib.sha256(f"{self.salt}{prompt.id}{text}".encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**31 - 1

    def score(self, items):
        self.calls += 1
        self.texts += [(prompt.id, text) for prompt, text in items]
        for index in reversed(range(len(items))):
            value = self.value(*items[index])
            yield index, ModelError("refused") if value is None else value


KNOWN = {}
"""What a model says behind tokens: many cases ask the same."""


def logprobs_of(policy, ids):
    key = policy.name, tuple(ids)
    if key not in KNOWN:
        with torch.no_grad():
            KNOWN[key] = policy.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    return KNOWN[key]


def greedy(policy, ids, most):
    new = []
    while len(new) < most and (not new or new[-1] not in STOP):
        new.append(int(logprobs_of(policy, [*ids, *new]).argmax()))
    return new


def text_of(ids):
    return TOKENIZER.decode([i for i in ids if i not in STOP], skip_special_tokens=True)


def straightforward(prompt, base, roller, reward, *, ahead, block=1, proposer=None, read=None):
    """Greedy choice, greedy rollouts; returns tokens and KL. ``read`` collects (model, prefix) that were needed."""
    proposer, read = proposer or base, read if read is not None else set()
    heads = {p.name: p.chat.prompt_ids(p.chat.render(prompt)) for p in (base, roller or base)}
    for name, head in heads.items():
        read |= {(name, tuple(head[:n])) for n in range(1, len(head) + 1)}
    written, kl = [], 0.0
    while len(written) < MAX and (not written or written[-1] not in STOP):
        here = logprobs_of(proposer, heads[proposer.name] + written)
        in_base = logprobs_of(base, heads[base.name] + written)
        found = []
        for logprob, token in zip(*(x.tolist() for x in here.topk(K)), strict=True):
            tokens, excess = [token], 0.0
            while len(tokens) < min(block, MAX - len(written)) and tokens[-1] not in STOP:
                row = logprobs_of(proposer, heads[proposer.name] + written + tokens)
                tokens.append(int(row.argmax()))
                excess -= float(row.max())
            whole = list(tokens)
            if roller is not None and tokens[-1] not in STOP:
                most = MAX - len(written) - len(tokens)
                whole += greedy(
                    roller, heads[roller.name] + written + tokens, min(ahead, most) if ahead else most
                )
                if len(whole) > len(tokens):
                    own = heads[roller.name] + written + whole
                    read |= {(roller.name, tuple(own[:-n])) for n in range(1, len(whole))}
            own = heads[proposer.name] + written + tokens
            read |= {(proposer.name, tuple(own[:-n])) for n in range(1, len(tokens))}
            value = reward.value(prompt, text_of(written + whole))
            if value is not None:
                found.append((logprob + value / ALPHA, tokens, excess - float(in_base[token])))
        if not found:
            token = int(here.argmax())
            found = [(0.0, [token], -float(in_base[token]))]
        _, tokens, more = max(found, key=lambda each: each[0])
        written += tokens
        kl += more
        if len(written) < MAX and written[-1] not in STOP:
            own = heads[base.name] + written
            read |= {(base.name, tuple(own[: len(own) - n])) for n in range(len(tokens))}
    return written, kl


def decode(decoder, prompts=PROMPTS, *, trace=False, **sampling):
    given = Sampling(temperature=sampling.pop("temperature", 0.0), max_tokens=MAX, seed=3, **sampling)
    found = dict(decoder.decode(prompts, given, trace=trace))
    return [found[index] for index in range(len(prompts))]


CASES = [
    ("baseline", 4, 1, False),
    ("baseline", None, 1, False),
    ("baseline", 3, 3, False),
    ("baseline", 4, 1, True),
    ("base", 4, 1, False),
    ("base", None, 2, False),
    ("nobody", None, 1, False),
    ("nobody", None, 2, False),
]


@pytest.mark.parametrize(("roller", "ahead", "block", "from_baseline"), CASES)
@pytest.mark.parametrize("batch_tokens", [1, 100_000])
def test_decoding_equals_one_forward_pass_a_token(roller, ahead, block, from_baseline, batch_tokens):
    """All prompts beside each other, and one after the other in a single slot; the work done is the least possible."""
    guide = Guide(roller, ALPHA, K, ahead, 1, 0.0, block, from_baseline, None, batch_tokens)
    reward = HashReward()
    baseline = BASELINE if roller == "baseline" else None
    decoder = Guided(BASE, baseline, reward, None, guide, "guided")
    rolls = {"baseline": BASELINE, "base": BASE, "nobody": None}[roller]
    prompts = PROMPTS[:4] if batch_tokens > 1 else PROMPTS[1:3]
    for prompt, found in zip(prompts, decode(decoder, prompts), strict=True):
        read = set()
        wanted, kl = straightforward(
            prompt,
            BASE,
            rolls,
            reward,
            ahead=ahead,
            block=block,
            proposer=BASELINE if from_baseline else BASE,
            read=read,
        )
        assert found.response.text == text_of(wanted)
        assert found.response.tokens == len(wanted)
        assert found.response.finished == (wanted[-1] in STOP)
        assert found.kl == pytest.approx(kl, abs=1e-3)
        assert found.reward == reward.value(prompt, found.response.text)
        assert found.spent.computed == found.spent.least == len(read)
    assert len(reward.texts) == len(set(reward.texts))


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma3_text"])
def test_other_families_decode_the_same(family):
    base, baseline, reward = policy_of(family), policy_of(family, 1), HashReward()
    decoder = Guided(base, baseline, reward, None, Guide("baseline", ALPHA, K, 3, 1, 0.0), "guided")
    for prompt, found in zip(PROMPTS[:2], decode(decoder, PROMPTS[:2]), strict=True):
        wanted, _ = straightforward(prompt, base, baseline, reward, ahead=3)
        assert found.response.text == text_of(wanted)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampled_rollouts_in_blocks_do_not_depend_on_how_they_are_computed(monkeypatch, temperature):
    """Shared rows, a model that reads everything anew, and one prompt alone: one answer."""
    guide = Guide("baseline", ALPHA, K, 4, 3, 1.0, 2, False, Indirect("snis", 0.5, 10))

    def run(prompts):
        decoder = Guided(BASE, BASELINE, HashReward(), HashReward("other"), guide, "guided")
        return [
            (d.response.text, d.reward, round(d.kl, 3), d.spent.least)
            for d in decode(decoder, prompts, temperature=temperature)
        ]

    together = run(PROMPTS)
    assert together == [run([prompt])[0] for prompt in PROMPTS]
    monkeypatch.setattr(trunks, "shares", lambda model: False)
    assert run(PROMPTS) == together


def test_equal_prompts_are_answered_anew():
    guide = Guide("base", ALPHA, K, 3, 2, 1.0)
    decoder = Guided(BASE, None, HashReward(), None, guide, "guided")
    found = decode(decoder, [PROMPTS[0]] * 4, temperature=3.0)
    assert len({each.response.text for each in found}) > 1
    assert [each.response.text for each in found] == [
        each.response.text for each in decode(decoder, [PROMPTS[0]] * 4, temperature=3.0)
    ]


def test_the_choice_follows_its_probabilities():
    """At temperature 1 the first decision of many equal prompts is spread as the trace says."""
    guide = Guide("nobody", 1.0, K, None, 1, 0.0)
    decoder = Guided(BASE, None, HashReward(), None, guide, "guided")
    found = decode(decoder, [PROMPTS[1]] * 300, temperature=1.0, trace=True)
    shares = [candidate.probability for candidate in found[0].trace[0].candidates]
    counts = np.bincount([each.trace[0].chosen for each in found], minlength=K)
    assert sum(shares) == pytest.approx(1)
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - 300 * share) <= 4 * math.sqrt(300 * share * (1 - share)) + 1e-9


def test_a_candidate_that_cannot_be_scored_is_not_chosen_and_a_blind_decision_is_the_bases():
    reward, guide = HashReward(refuses="all"), Guide("base", ALPHA, K, 2, 1, 0.0)
    [found] = decode(Guided(BASE, None, reward, None, guide, "g"), PROMPTS[:1])
    head = BASE.chat.prompt_ids(BASE.chat.render(PROMPTS[0]))
    assert found.response.text == text_of(greedy(BASE, head, MAX))
    assert found.reward is None
    assert found.blind == found.decisions == found.response.tokens
    some = HashReward(refuses="aeiou")
    decoder = Guided(BASE, None, some, None, Guide("nobody", ALPHA, K, None, 1, 0.0), "g")
    for prompt, found in zip(PROMPTS, decode(decoder, trace=True), strict=True):
        assert found.response.text == text_of(straightforward(prompt, BASE, None, some, ahead=None)[0])
        for decision in found.trace:
            chosen = decision.candidates[decision.chosen]
            known = [c for c in decision.candidates if c.value is not None]
            assert all(c.probability == 0 for c in decision.candidates if c.value is None and known)
            assert chosen.value is not None or not known
        assert found.blind == sum(all(c.value is None for c in d.candidates) for d in found.trace)
        assert found.spent.missing > 0


def test_an_answer_goes_on_from_its_prefix_and_is_scored_with_it():
    reward = HashReward()
    decoder = Guided(BASE, None, reward, None, Guide("nobody", ALPHA, K, None, 1, 0.0), "g")
    sampling = Sampling(temperature=0.0, max_tokens=3)
    [(_, response)] = decoder.generate(PROMPTS[:1], sampling, ["Boil the "])
    assert all(text.startswith("Boil the ") for _, text in reward.texts)
    assert not response.text.startswith("Boil the")
    [(_, plain)] = decoder.generate(PROMPTS[:1], sampling)
    assert plain.text != response.text


def test_best_of_n_keeps_the_best_of_the_answers_that_are_drawn():
    reward = HashReward()
    decoder = BestOfN(BASE, reward, 6, "best", batch_tokens=200)
    for prompt, found in zip(PROMPTS, decode(decoder, temperature=1.0, trace=True), strict=True):
        head = BASE.chat.prompt_ids(BASE.chat.render(prompt))
        points = uniforms(3, (prompt.id, 0, "best of n"), 6 * MAX).reshape(6, MAX)
        drawn = []
        for own in points:
            new = []
            while len(new) < MAX and (not new or new[-1] not in STOP):
                total = logprobs_of(BASE, [*head, *new]).exp().cumsum(0)
                new.append(int((total <= own[len(new)] * total[-1]).sum()))
            drawn.append(new)
        rewards = [reward.value(prompt, text_of(new)) for new in drawn]
        assert found.reward == max(rewards)
        assert found.response.text == text_of(drawn[int(np.argmax(rewards))])
        assert [c.value for c in found.trace[0].candidates] == rewards
        nodes = {tuple(new[:n]) for new in drawn for n in range(1, len(new))}
        assert found.spent.computed == found.spent.least == len(head) + len(nodes)
        assert found.kl == pytest.approx(math.log(6) - 5 / 6)
    with pytest.raises(UsageError, match="temperature 0"):
        decode(decoder)


def test_what_cannot_work_is_said_before_anything_is_generated():
    other = tiny_tokenizer(words=("willowbark",))
    with pytest.raises(UsageError, match="two vocabularies"):
        Guided(
            BASE,
            policy_of(seed=2, tokenizer=other),
            HashReward(),
            None,
            Guide("baseline", 1.0, 2, 2, 1, 0.0),
            "g",
        )
    decoder = Guided(BASE, None, HashReward(), None, Guide("nobody", 1.0, 2, None, 1, 0.0), "g")
    with pytest.raises(UsageError, match="exceed the context of llama0 \\(256\\)"):
        list(decoder.generate(PROMPTS, Sampling(max_tokens=250)))
    with pytest.raises(UsageError, match="1 prefixes for 5 prompts"):
        list(decoder.generate(PROMPTS, Sampling(max_tokens=5), ["x"]))
    assert list(decoder.generate([], Sampling(max_tokens=5))) == []
