"""Lessons in keeping a rule: where it stands, and how much text lies over it."""

import random
import re

from rubrica.checkpoint import load_description
from rubrica.lab.checkpoints import checkpoint
from rubrica.lab.obedience import RULE, WORDS, filler, questions, rows

TOKENIZER = load_description(checkpoint("starter"))[1]


def lessons(count: int, **options: object) -> list[tuple[str, str, int]]:
    """Prompt and completion as text, and the prompt's tokens."""
    drawn = rows(TOKENIZER, **options)(random.Random(0), count)
    return [(TOKENIZER.decode(p), TOKENIZER.decode(c), len(p)) for p, c in drawn]


def test_the_answer_keeps_the_rule_that_is_there():
    places = {"nowhere": 0, "system": 0, "within": 0}
    for prompt, answer, _ in lessons(200, longest=60):
        named = set(re.findall(re.escape(RULE).replace(r"\{word\}", "(.*?)"), prompt))
        begins = answer.split()[0]
        if not named:
            places["nowhere"] += 1
            assert begins not in WORDS
            continue
        places["system" if prompt.startswith("<|system|>") else "within"] += 1
        assert named == {begins}
    # a quarter, a half, a quarter of 200: within four standard deviations
    assert abs(places["nowhere"] - 50) < 25
    assert abs(places["system"] - 100) < 29


def test_the_text_is_as_long_as_asked():
    short = [tokens for *_, tokens in lessons(40, longest=0, where=("nowhere",))]
    long = [tokens for *_, tokens in lessons(40, shortest=100, longest=100, where=("nowhere",))]
    assert max(short) < 40
    assert abs(sum(long) / 40 - sum(short) / 40 - 100) < 8


def test_a_pool_is_all_there_is():
    assert len(set(lessons(100, longest=30, pool=5))) <= 5
    assert len(set(lessons(100, longest=30))) > 90
    assert lessons(9, longest=30, pool=5, seed=1) == lessons(9, longest=30, pool=5, seed=1)


def test_requests_and_filler():
    train, test = questions("train", 60, 0), questions("test", 60, 0)
    assert {p.tags["core"] for p in train}.isdisjoint(p.tags["core"] for p in test if p.tags["subject"])
    assert questions("test", 60, 0) == test
    assert len({p.tags["word"] for p in test}) > 8
    assert "bane" not in filler(0)
    assert filler(0) != filler(1)
    assert not any(word in filler(0).split() for word in WORDS)  # the rule's word is found in the rule alone
