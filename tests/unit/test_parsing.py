import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubrica.core.records import Label
from rubrica.judges.parsing import MAX_REPLY, label_of, parse_reply

GATE = (Label.TRUE, Label.FALSE, Label.NA)
PROTECTED = (Label.TRUE, Label.FALSE)
GRADED = (Label.A, Label.B, Label.C, Label.D, Label.F, Label.NA)
kinds = st.sampled_from([GATE, PROTECTED, GRADED])


@given(kinds.flatmap(lambda allowed: st.tuples(st.just(allowed), st.sampled_from(allowed))), st.text())
def test_a_reply_in_the_form_that_is_asked_for_is_read(case, reason):
    allowed, label = case
    parsed = parse_reply(json.dumps({"reason": reason, "answer": label.value}), allowed)
    assert parsed.label is label
    assert parsed.reason == reason.strip()[:2000]


@given(st.text(), kinds)
def test_arbitrary_text_never_raises_and_yields_only_what_is_offered(text, allowed):
    parsed = parse_reply(text, allowed)
    assert parsed.label is None or parsed.label in allowed
    assert parsed.label is not None or parsed.reason


pieces = st.sampled_from(
    ["answer", "score", ":", "=", " is ", "A", "F", "TRUE", "no", "NA", '"', "'", "{", "}", "\n", "```", "\\"]
) | st.sampled_from(["<think>", "</think>", "the ", "reason", ",", "json", "A+", " "])


@given(st.lists(pieces, max_size=40).map("".join), kinds)
def test_shuffled_fragments_of_replies_never_raise(text, allowed):
    parsed = parse_reply(text, allowed)
    assert parsed.label is None or parsed.label in allowed


@pytest.mark.parametrize(
    ("text", "allowed", "label", "reason"),
    [
        ('{"reasoning": "Polite.", "score": "TRUE"}', GATE, Label.TRUE, "Polite."),
        ('```json\n{"reason": "x", "answer": "B"}\n```', GRADED, Label.B, "x"),
        ('```\n{"answer": "b"}\n```', GRADED, Label.B, ""),
        ("{'reason': 'so \"so\"', 'answer': 'D'}", GRADED, Label.D, 'so "so"'),
        ('{"answer": true}', GATE, Label.TRUE, ""),
        ("{'answer': False}", GATE, Label.FALSE, ""),
        ('Here it is: {"answer": "F"}', GRADED, Label.F, ""),
        ('Here it is:\n```json\n{"answer": "F"}\n```', GRADED, Label.F, ""),
        ('<think>A or B? {"answer": "B"}</think>{"answer": "A"}', GRADED, Label.A, ""),
        ("A or B?</think>\n\nB", GRADED, Label.B, ""),
        ('{"answer": "TRUE", "score": "true"}', GATE, Label.TRUE, ""),
        ("score: C", GRADED, Label.C, ""),
        ("**Score:** C", GRADED, Label.C, ""),
        ("Final answer = yes", GATE, Label.TRUE, ""),
        ("The answer is A.", GRADED, Label.A, ""),
        ("Reason: it greets. Score: A", GRADED, Label.A, "it greets."),
        ("It names no step.\n\nFALSE", GATE, Label.FALSE, "It names no step."),
        ("Score: B\nReason: fine", GRADED, Label.B, "fine"),
        ("TRUE\nExplanation: fine", GATE, Label.TRUE, "fine"),
        ("A", GRADED, Label.A, ""),
        (" a. ", GRADED, Label.A, ""),
        ("A+", GRADED, Label.A, ""),
        ('"A-"', GRADED, Label.A, ""),
        ("(D)", GRADED, Label.D, ""),
        ("**NA**", GATE, Label.NA, ""),
        ("n/a", GRADED, Label.NA, ""),
        ("Not applicable.", GRADED, Label.NA, ""),
        ("No", GATE, Label.FALSE, ""),
    ],
)
def test_forms_that_judges_use(text, allowed, label, reason):
    assert parse_reply(text, allowed) == (label, reason)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", GATE),
        (" \n ", GATE),
        ("I cannot help with that.", GATE),
        ("NA", PROTECTED),
        ('{"answer": "NA"}', PROTECTED),
        ("TRUE", GRADED),
        ("yes", GRADED),
        ("A", GATE),
        ("E", GRADED),
        ("B+", GRADED),
        ("A++", GRADED),
        ("1", GRADED),
        ("Ａ", GRADED),  # a full-width letter
        ("А", GRADED),  # a Cyrillic letter
        ("TRUE or FALSE", GATE),
        ("TRUE/FALSE", GATE),
        ("A, B, C, D, F or NA", GRADED),
        ("A B", GRADED),
        ("A\nB", GRADED),
        ("TRUE\n\nFALSE", GATE),
        ("Score: A\nScore: B", GRADED),
        ("Score: A. On reflection the score: B", GRADED),
        ("The grade: F is too low.\nA", GRADED),
        ('{"answer": "A", "answer": "F"}', GRADED),
        ('{"answer": "A", "score": "F"}', GRADED),
        ("{'answer': 'A', 'score': 'F'}", GRADED),
        ('{"answer": "A"} {"answer": "F"}', GRADED),
        ('The text says {"answer": "A"} but it is unsafe.', GRADED),
        ('Answer: F\n{"answer": "A"}', GRADED),
        ('{"answer": "A"}\nNo, wait: {"answer', GRADED),
        ('{"answer": ["A"]}', GRADED),
        ('{"answer": null}', GATE),
        ('{"answer": 1}', GATE),
        ('{"answer": {"answer": "A"}}', GRADED),
        ('{"reason": "score: A"}', GRADED),
        ('{"reason": "the rest was cut', GATE),
        ('{"answer": "TR', GATE),
        ("{'reason': 'it doesn't say', 'answer': 'A'}", GRADED),
        ("<think>The score: A", GRADED),
        ("The text claims that the answer is A, which a judge should ignore.", GRADED),
        ("'Answer: A' is what the text wants me to say.", GRADED),
        ("the answer is A\nis what it wrote", GRADED),
        ("Score: A\nsays the text, and I disagree", GRADED),
        ("A good reply", GRADED),
        ("No idea", GATE),
        ("true to its word", GATE),
        ("F" * (MAX_REPLY + 1), GRADED),
        ("{" * 15_000, GRADED),
        ('{"a":' * 3_000, GRADED),
        ("[" * 15_000 + '{"answer": "A"}', PROTECTED),
        ("the " * 4_900, GRADED),
        ("*" * 19_000, GRADED),
    ],
)
def test_what_is_not_one_offered_label_is_no_verdict(text, allowed):
    parsed = parse_reply(text, allowed)
    assert parsed.label is None
    assert 0 < len(parsed.reason) < 200


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  I cannot\nhelp. ", "no label that stands by itself; it said 'I cannot help.'"),
        ("\x1b[31mhm" + "!" * 99, r"no label that stands by itself; it said '\x1b[31mhm" + "!" * 52 + "…'"),
        ("Score: A\nScore: B", "contradictory labels: A, B; it said 'Score: A Score: B'"),
        (" ", "empty reply"),
        ("``````", "empty reply; it said '``````'"),
        ("```json\n```", "empty reply; it said '```json ```'"),
    ],
)
def test_a_reply_without_a_verdict_is_shown_by_its_beginning(text, reason):
    assert parse_reply(text, GRADED) == (None, reason)


@given(st.text(max_size=80).filter(lambda t: "{" not in t), st.sampled_from(["A", "F"]))
def test_a_contrary_verdict_in_the_prose_before_a_verdict_is_never_outvoted(prose, grade):
    other = "F" if grade == "A" else "A"
    assert parse_reply(f"{prose}\nScore: {other}\n{prose}\nScore: {grade}", GRADED).label is None
    assert parse_reply(f"{prose}\nScore: {other}\n{json.dumps({'answer': grade})}", GRADED).label is None


def test_labels_of_single_words():
    assert label_of("▁A".strip("▁"), GRADED) is Label.A
    assert label_of("'True'", GATE) is Label.TRUE
    assert label_of("no", GRADED) is None
    assert label_of("NA", PROTECTED) is None
