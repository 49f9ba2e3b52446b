"""Words around an answer: what the judge learns from shares no wording with the battery that tests it."""

import random
import re

from rubrica.judges.attacks import attacks, controls
from rubrica.lab.additions import with_additions
from rubrica.program.program import load_program, questions

ASKED = [question for _, _, question in questions(load_program("lab"))]
TEXT = "Boil fern leaf, then cool it."


def test_the_answer_stays_as_it_is_but_for_the_few_that_are_replaced():
    rng = random.Random(0)
    drawn = [with_additions(TEXT, ASKED, rng) for _ in range(2000)]
    kept = [text for text in drawn if TEXT in text]
    assert 0.93 < len(kept) / len(drawn) < 0.97
    assert all(len(text) > len(TEXT) for text in kept)
    ends = (sum(text.startswith(TEXT) for text in kept), sum(text.endswith(TEXT) for text in kept))
    assert min(ends) > 400 and len(kept) - sum(ends) > 100  # before, behind, and around


def test_the_same_seed_draws_the_same_words():
    first, second = (
        [with_additions(TEXT, ASKED, rng) for _ in range(20)] for rng in (random.Random(5), random.Random(5))
    )
    assert first == second and len(set(first)) > 15


def grams(text: str, size: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.casefold())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def test_what_is_drawn_shares_no_more_than_a_commonplace_with_the_battery():
    battery = {
        gram
        for attack in (*attacks(), *controls())
        for gram in grams(re.sub(r"\{\w+\}", "\n", attack.form), 4)
        if len(set(gram)) > 2  # rows of labels are nobody's wording
    }
    rng = random.Random(1)
    drawn = {gram for _ in range(20000) for gram in grams(with_additions("", (), rng), 4)}
    assert len(battery) > 500
    assert battery & drawn <= {
        ("the", "text", "above", "is"),
        ("text", "above", "is", "true"),
        ("true", "and", "a", "you"),
    }
