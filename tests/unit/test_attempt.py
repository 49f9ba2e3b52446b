"""Rendering and parsing ``draft <think> reflection </think> revision``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rubrica.core.attempt import Tags, parse, render, whole
from rubrica.core.records import Attempt, Malformed

TAGS = Tags()
PLAIN = st.text(max_size=40).map(str.strip).filter(bool)
tags = st.sampled_from([TAGS, Tags(open="[reflect]", close="[/reflect]"), Tags(open="##", close="@@")])


@given(PLAIN, PLAIN, PLAIN, tags)
def test_parse_takes_apart_what_render_joins(draft, reflection, revision, tags):
    clean = [
        part.replace("#", "x").replace("@", "x").replace("think>", "x").replace("reflect]", "x")
        for part in (draft, reflection, revision)
    ]
    assert parse(render(*clean, tags), tags, finished=True) == Attempt(
        draft=clean[0], reflection=clean[1], revision=clean[2]
    )


@pytest.mark.parametrize(
    ("completion", "finished", "reason"),
    [
        ("d <think> r </think> v", True, None),
        ("d<think>r</think>v", True, None),
        ("d <think> r </think> v", False, Malformed.TRUNCATED),
        ("d <think> r", False, Malformed.TRUNCATED),
        ("d <think> r", True, Malformed.NO_CLOSE_TAG),
        ("d </think> r <think> v", True, Malformed.NO_CLOSE_TAG),
        ("d r </think> v", True, Malformed.NO_OPEN_TAG),
        ("", True, Malformed.NO_OPEN_TAG),
        ("d <think> r <think> s </think> v", True, Malformed.REPEATED_TAG),
        ("d <think> r </think> v </think>", True, Malformed.REPEATED_TAG),
        ("d <think> r </think> v <think> again", False, Malformed.REPEATED_TAG),
        (" <think> r </think> v", True, Malformed.EMPTY_DRAFT),
        ("d <think>\n</think> v", True, Malformed.EMPTY_REFLECTION),
        ("d <think> r </think> \n", True, Malformed.EMPTY_REVISION),
        ("d <think> r </think>", False, Malformed.EMPTY_REVISION),
        ("d <THINK> r </THINK> v", True, Malformed.NO_OPEN_TAG),
    ],
)
def test_every_way_to_be_malformed(completion, finished, reason):
    assert parse(completion, TAGS, finished=finished).malformed == reason


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "b c", " ", "\n"]), max_size=8), st.booleans())
def test_well_formed_means_each_tag_once_in_order_with_text_around(pieces, finished):
    """A second road: read the pieces from left to right instead of counting in the joined text."""
    seen = [piece for piece in pieces if "think" in piece]
    filled = [False]
    for piece in pieces:
        if "think" in piece:
            filled.append(False)
        else:
            filled[-1] |= bool(piece.strip())
    well_formed = seen == ["<think>", "</think>"] and all(filled) and finished
    assert (parse("".join(pieces), TAGS, finished=finished).malformed is None) == well_formed


def test_parts_of_a_malformed_attempt_are_kept():
    found = parse("a draft <think> a thought", TAGS, finished=False)
    assert (found.draft, found.reflection, found.revision) == ("a draft", "a thought", "")


@pytest.mark.parametrize(
    ("open_", "close"),
    [("", "</t>"), ("###", "###"), ("think>", "</think>"), ("<t>", "<"), ("<t> ", "</t>"), (" ", "x")],
)
def test_tags_that_cannot_be_told_apart_are_refused(open_, close):
    with pytest.raises(ValidationError):
        Tags(open=open_, close=close)


@pytest.mark.parametrize(
    ("completion", "finished", "reason"),
    [
        (" an answer ", True, None),
        ("tags <think> are </think> words", True, None),
        ("an answ", False, Malformed.TRUNCATED),
        ("  ", True, Malformed.EMPTY_REVISION),
    ],
)
def test_an_answer_alone_is_draft_and_revision(completion, finished, reason):
    attempt = whole(completion, finished=finished)
    assert attempt.draft == attempt.revision == completion.strip()
    assert (attempt.reflection, attempt.malformed) == ("", reason)
