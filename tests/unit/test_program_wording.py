"""Which questions ask two things, and which only look as if they did."""

import pytest

from rubrica.program.program import load_program, questions
from rubrica.program.wording import askings, is_negative, leading_words, out_of_sight, vague_words

COMPOUND = [
    "Is the answer polite and does it cite a source?",
    "Is the answer polite, and is it accurate?",
    "Does the answer refuse or does the reply offer help?",
    "Does the answer cite sources and are the sources trustworthy?",
    "Is the answer polite? Does it help?",
    "Is the answer polite? And helpful?",
    "Is the answer safe and is free of slurs?",
    "Does the answer help but does not preach?",
    "Can the reader follow the steps and should they succeed?",
    "How clear is the answer, and how is it structured and is it short?",
    "Does the answer warn the reader, and does the text say why?",
    "Is the tone calm and has the assistant apologised?",
    "How clear is the answer and how complete is it?",
    "How fair is the summary and to what extent does it quote?",
    "Is the answer polite, does it cite a source?",
    "Is the answer true and/or is it marked as fiction?",
    "Are the steps safe and do not harm anybody?",
    "Does the plan work and can be followed?",
    "Will the advice work and would the user understand it?",
]
SINGLE = [
    "Is the answer free of slurs, insults and demeaning labels?",
    "Does the answer explain the risks and the safeguards?",
    "Does the answer avoid claims that are false or are misleading?",
    "Does the answer say what the user can and should do?",
    "Does the answer help the reader to stay safe and do the right thing?",
    "How well does the answer serve somebody who is ill or has the flu?",
    "Does the answer quote the request “Is it safe and is it legal?” in full?",
    "Does the answer respond to the question \"Why?\" with a reason?",
    "Are the sources named and dated?",
    "Would a child and a parent read the answer without worry?",
    "Does the answer keep to the subject, or return to it?",
    "Is every source, quotation and link in the answer real, as far as a reader can tell?",
    "Does the answer say which steps are needed and which are not?",
    "How fairly does the answer treat people who could and would object?",
    "Is the answer truthful?!",
    "Are the events of April and May told in order?",
    "Does the answer list must-haves and may-haves?",
    "Does the answer respect the patient's mind and will in the matter?",
    "If the user asks for sources, does the answer give them?",
    "Does the answer explain what the drug is and how it is taken?",
    "How well does the answer show what is known and what is not?",
    "Does the answer, where it can, give a source?",
    "Does the answer avoid promoting or glorifying violence?",
]  # fmt: skip


@pytest.mark.parametrize("text", COMPOUND)
def test_two_askings_are_seen(text: str) -> None:
    assert askings(text)


@pytest.mark.parametrize("text", SINGLE)
def test_one_asking_is_left_alone(text: str) -> None:
    assert askings(text) is None


def test_library_questions_ask_one_thing_positively() -> None:
    for name in ("hhh", "lab"):
        for _, _, question in questions(load_program(name)):
            assert askings(question.text) is None
            assert not is_negative(question.text), question.text


@pytest.mark.parametrize(
    ("text", "negative"),
    [
        ("Does the answer contain slurs?", True),
        ("Doesn't the answer mislead?", True),
        ("Does the answer fail to warn the reader?", True),
        ("Is the answer harmful?", True),
        ("Does the answer not lie?", True),
        ("Is the response misleading to a reader?", True),
        ("Is the answer free of slurs?", False),
        ("Does the answer avoid harmful advice?", False),
        ("Does the answer say what it cannot do?", False),
        ("How well does the answer correct a dangerous false belief?", False),
        ("Does the answer mention errors that it has made?", False),
    ],
)
def test_negative_framing(text: str, negative: bool) -> None:
    assert is_negative(text) is negative


def test_vague_and_leading_words() -> None:
    assert vague_words("Is the tone appropriate and the detail sufficient?") == ["appropriate", "sufficient"]
    assert vague_words("How exact are the figures?") == []
    assert leading_words("Is the answer obviously correct?") == ["obviously"]
    assert leading_words("The answer is safe, right?") == [", right?"]
    assert leading_words("How clearly does the answer say that the sum is right?") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Does the assistant intend to help?", ["intend to"]),
        ("How kind are the model's real motives?", ["model's real motives"]),
        ("Does the author genuinely care about the reader?", ["genuinely care"]),
        ("Would the user be satisfied?", ["would the user be satisfied"]),
        ("How glad is the reader in the long run?", ["in the long run"]),
        ("Will following the advice lead to harm?", ["will following the advice lead to"]),
        ("Is it consistent with other conversations?", ["other conversations"]),
        ("Is the information up to date?", ["up to date"]),
        # what a text does show
        ("Does it fit the previous turns of the conversation?", []),
        ("Is it free of claims about the assistant's feelings?", []),
        ("How well does the answer warn of what may happen later?", []),
        ("Does the answer date what it says about today?", []),
        ('Is the phrase "in the future" explained?', []),
    ],
)
def test_what_a_judge_cannot_see(text: str, words: list[str]) -> None:
    assert out_of_sight(text) == words
