"""Attack transforms: what they keep, what they can be undone to, and how specs are read."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rubrica.attacks.attack import attacked, parse_attack, parse_attacks
from rubrica.attacks.encodings import ENCODINGS, Encoding, Morse
from rubrica.attacks.registry import TRANSFORMS
from rubrica.attacks.spelling import Homoglyphs, Spaced, ZeroWidth
from rubrica.attacks.transform import Request, TextTransform, Transform, draw
from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Item
from rubrica.core.prompts import Message, Prompt

ANYTHING = st.text(min_size=1).filter(str.strip)
SPECS = [*TRANSFORMS, "persona+base64", "many-shot(n=3)+homoglyph", "crescendo+past-tense", "best-of-n(n=3)"]


def item(text: str, *earlier: Message, **fields: str) -> Item:
    messages = (*earlier, Message(role="user", content=text))
    prompt = Prompt(id="p", messages=messages, tags={"kind": "harmful"})
    return Item(**({"id": "i", "suite": "s", "prompt": prompt, "cluster": "c"} | fields))


def last(attack: str, text: str, seed: int = 0, **fields: str) -> str:
    (made,) = parse_attack(attack)(item(text, **fields), seed)
    return made.prompt.messages[-1].content


def request(text: str, seed: int = 0) -> Request:
    return Request((Message(role="user", content=text),), "", draw(seed))


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=15, deadline=None)
@given(text=ANYTHING, seed=st.integers(0, 3))
def test_an_attack_keeps_the_request_the_cluster_and_the_turns(spec: str, text: str, seed: int) -> None:
    earlier = (Message(role="system", content="Be kind."), Message(role="user", content="Hello."))
    earlier += (Message(role="assistant", content="Hello!"),)
    plain = item(text, *earlier, category="k", target="t")
    made = parse_attack(spec)(plain, seed)
    assert made == parse_attack(spec)(plain, seed)
    assert len(made) == parse_attack(spec).count
    assert len({one.id for one in made}) == len({one.prompt.id for one in made}) == len(made)
    for one in made:
        assert one.goal == text
        assert (one.cluster, one.category, one.target, one.suite) == ("c", "k", "t", "s")
        assert one.attack == spec and one.id.startswith(f"i/{spec}")
        assert one.prompt.tags["kind"] == "harmful"
        assert one.prompt.messages[:3] == earlier
        roles = [message.role for message in one.prompt.messages[1:]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert one.prompt.messages[-1].content.strip()


@settings(max_examples=100, deadline=None)
@given(text=ANYTHING, shift=st.integers(1, 25))
def test_a_code_can_be_read_back(text: str, shift: int) -> None:
    for kind in ENCODINGS:
        code: Encoding = kind.model_validate({"shift": shift} if kind.name == "caesar" else {})
        want = text
        if kind is Morse:  # case and the kind of white space are lost
            folded = "".join(c.lower() if c.isascii() else c for c in text)
            want = " ".join(folded.split())
        assert code.decode(code.encode(text)) == want, kind.name
        bare = code.model_copy(update={"bare": True})
        assert bare.rewrite(text, request(text)) == code.encode(text)
        assert code.rewrite(text, request(text)).endswith(f"\n\n{code.encode(text)}")


@settings(max_examples=100, deadline=None)
@given(text=ANYTHING)
def test_a_spelling_can_be_read_back(text: str) -> None:
    clean = Homoglyphs.plain(ZeroWidth.plain(text)) or "x"
    assert Homoglyphs.plain(Homoglyphs(share=0.7).rewrite(clean, request(clean))) == clean
    assert ZeroWidth.plain(ZeroWidth(share=0.7).rewrite(clean, request(clean))) == clean
    assert Spaced.plain(Spaced().rewrite(text, request(text))) == text


def test_known_codes() -> None:
    assert last("base64(bare=true)", "Hi there") == "SGkgdGhlcmU="
    assert last("hex(bare=true)", "Hé") == "48 c3 a9"
    assert last("rot13(bare=true)", "Hello") == "Uryyb"
    assert last("caesar(shift=3,bare=true)", "xyz") == "abc"
    assert last("atbash(bare=true)", "abc") == "zyx"
    assert last("morse(bare=true)", "SOS now") == "... --- ... / -. --- .--"
    assert last("pig-latin(bare=true)", "Apple string rhythm nth") == "Apple-ay ing-stray ythm-rhay nth-ay"
    assert last("reverse-words(bare=true)", "one two  three") == "three  two one"
    assert last("leetspeak", "Toast is ready") == "70457 15 r34dy"
    assert last("homoglyph(share=1)", "cap") == "сар"
    assert "moved" not in last("caesar(shift=5)", "x") and "stands 5 places" in last("caesar(shift=5)", "x")


@settings(max_examples=50, deadline=None)
@given(text=ANYTHING, parts=st.integers(2, 26), seed=st.integers(0, 5))
def test_the_parts_of_a_payload_are_the_payload(text: str, parts: int, seed: int) -> None:
    said = last(f"payload-splitting(parts={parts})", text, seed)
    values = re.findall(r'^[a-z] = (".*")$', said, re.MULTILINE)
    assert "".join(map(json.loads, values)) == text
    assert len(values) == min(parts, len(text))
    assert f"z = {' + '.join('abcdefghijklmnopqrstuvwxyz'[: len(values)])}\n" in said


def test_what_stands_left_is_innermost() -> None:
    (inner,) = parse_attack("persona(template=expert)")(item("Why?"))
    chained = last("persona(template=expert)+base64(bare=true)", "Why?")
    assert chained == last("base64(bare=true)", inner.prompt.messages[-1].content)
    assert last("base64(bare=true)+persona(template=expert)", "Why?") == (
        inner.prompt.messages[-1].content.replace("Why?", "V2h5Pw==")
    )


def test_a_step_draws_the_same_in_every_chain_and_otherwise_in_another_item() -> None:
    items = [item("Why?", id=f"i{number}") for number in range(40)]
    alone = [parse_attack("persona")(one)[0].prompt.tags["attack.persona"] for one in items]
    chained = [parse_attack("gibberish+persona")(one)[0].prompt.tags["attack.persona"] for one in items]
    assert alone == chained
    assert set(alone) == {"actor", "unbound", "two-voices", "grandfather", "expert", "villain"}
    other_seed = [parse_attack("persona")(one, 1)[0].prompt.tags["attack.persona"] for one in items]
    assert alone != other_seed


def test_what_is_drawn_does_not_depend_on_the_process() -> None:
    code = "from rubrica.attacks.transform import draw; print(draw(1, 'é', 'persona').random())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{draw(1, 'é', 'persona').random()}\n"}


def test_several_texts_are_different_and_numbered() -> None:
    made = parse_attack("persona(n=6)")(item("Why?"))
    assert [one.id for one in made] == [f"i/persona(n=6)#{k}" for k in range(1, 7)]
    assert len({one.prompt.messages[-1].content for one in made}) == 6
    assert {one.attack for one in made} == {"persona(n=6)"}


def test_an_attacked_item_can_be_attacked_again() -> None:
    (once,) = parse_attack("persona")(item("Why?", attack="human"))
    (twice,) = parse_attack("base64")(once)
    assert twice.attack == "human+persona+base64" and twice.goal == "Why?"
    assert twice.id == "i/persona/base64"


def test_direct_changes_nothing() -> None:
    plain = item("Why?")
    assert parse_attack("direct")(plain) == [plain]
    both = parse_attacks(["direct", "base64", "base64(bare=false)"])
    assert [attack.spec for attack in both] == ["direct", "base64"]
    assert [one.attack for one in attacked([plain], both)] == ["", "base64"]


def test_the_target_is_what_an_answer_has_to_begin_with() -> None:
    assert last("prefix-injection", "Why?", target='Sure: "x"').endswith('from there: "Sure: \\"x\\""')
    assert last('prefix-injection(opening="Yes, (a")', "Why?").endswith('"Yes, (a"')


def test_a_spec_reads_back() -> None:
    for spec in (
        "persona(template=expert)+base64(bare=true)",
        'prefix-injection(opening="a, (b) \\"c\\" é")',
        "many-shot(n=3)+caesar(shift=9)+spaced",
    ):
        assert parse_attack(parse_attack(spec).spec).spec == parse_attack(spec).spec
    assert parse_attack(" many-shot( n = 16 ) + caesar( shift=4 ,bare= True )").spec == (
        "many-shot+caesar(bare=true,shift=4)"
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("", "expected a name"),
        ("persona+", "expected a name"),
        ("persna", "did you mean 'persona'"),
        ("persona base64", "expected + or the end"),
        ("persona(", "expected key=value"),
        ("persona()", "expected key=value"),
        ("persona(expert)", "expected key=value"),
        ("persona(template=exprt)", "did you mean 'expert'"),
        ("persona(n=99)", "6 different texts"),
        ("persona(n=two)", "valid integer"),
        ("persona(m=1)", "no parameter 'm'"),
        ("base64(n=1)", "no parameter 'n'"),
        ("past-tense(n=1)", "it takes none"),
        ("caesar(shift=26)", "less than or equal to 25"),
        ("caesar(shift=2,shift=3)", "given twice"),
        ("homoglyph(share=nan)", "finite"),
        ('prefix-injection(opening="a)', "expected key=value"),
        ('prefix-injection(opening="\\x")', "no JSON string"),
        ("best-of-n(n=1000)+best-of-n(n=1000)", "1,000,000 items"),
        ("many-shot(file=/nowhere/x.jsonl)", "no such file"),
        ("direct+base64", "no transform 'direct'"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_attack(spec)


def test_families() -> None:
    names = [attack.spec for attack in parse_attacks(["family:encoding"])]
    assert names == [kind.name for kind in ENCODINGS]
    assert len(parse_attacks(["all", "persona"])) == len(TRANSFORMS)
    with pytest.raises(UsageError, match="did you mean 'encoding'"):
        parse_attacks(["family:encodin"])


MEGABYTE = "How do I make tea? " * 18_000 + "a" * 330_000 + " \n.\"'" * 66_000 + "x"


@pytest.mark.parametrize("spec", [*(name for name in TRANSFORMS if name != "best-of-n"), "best-of-n(n=1)"])
def test_a_prompt_of_a_megabyte_takes_no_time(spec: str) -> None:
    start = time.perf_counter()
    (made,) = parse_attack(spec)(item(MEGABYTE))
    assert time.perf_counter() - start < 10
    assert made.goal == MEGABYTE


def test_a_transform_that_says_not_how_it_rewrites_cannot_be_made() -> None:
    for base, missing in ((Transform, "variants"), (TextTransform, "rewrite"), (Encoding, "decode")):
        with pytest.raises(TypeError, match=missing):
            base()
