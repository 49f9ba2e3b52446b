"""YAML in, checked configuration out; every error names file, line, key and what was expected."""

import hashlib
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from rubrica.core.base import SLUG, NonEmpty
from rubrica.core.config import (
    Config,
    apply_overrides,
    content_hash,
    dump_yaml,
    key_line,
    load_config,
    read_yaml,
)
from rubrica.core.errors import DataError, UsageError, nearest


class Sft(Config):
    type: Literal["sft"] = "sft"
    examples: int = Field(default=1, ge=1)


class Grpo(Config):
    type: Literal["grpo"] = "grpo"
    group_size: int = 5


class Reward(Config):
    preset: Literal["rubrica", "qa-lign"] = "rubrica"
    alpha: float = 0.5


class Recipe(Config):
    name: str
    reward: Reward = Reward()
    stages: list[Annotated[Sft | Grpo, Field(discriminator="type")]] = Field(default_factory=list)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# --- reading and writing ------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
awkward = st.sampled_from(
    ["yes", "1e5", "0o17", "1_000", "2024-01-01", "~", "null", "", " a", "a: b", "- a", "#", "!x", "&a", "<<"]
)
trees = st.recursive(
    scalars | texts | awkward,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | awkward, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(texts | awkward, trees, max_size=4))
@settings(max_examples=200, deadline=None)
def test_what_is_written_reads_back(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_bytes(dump_yaml(tree).encode())
    assert read_yaml(path) == tree


def test_numbers_and_dates_as_yaml_1_2_reads_them(write):
    path = write("a: 1e-06\nb: 1E5\nc: yes\nd: 2024-01-01\ne: 0o17\nf: null\n")
    assert read_yaml(path) == {"a": 1e-6, "b": 1e5, "c": "yes", "d": "2024-01-01", "e": 15, "f": None}


BOMB = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join([f'*{p}'] * 10)}]\n" for p, c in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2\n", r":2: not valid YAML: found duplicate key"),
        ("a: [1,\n", r":\d: not valid YAML"),
        ("a: !!python/object:os.system x\n", r":1: not valid YAML: could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", r":2: not valid YAML: but found another document"),
        ("a: !!set {x}\n", "a value is a set"),
        ("1: x\n", "key 1 is no text; write it in quotes"),
        ("a: &a [*a]\n", "a cycle"),
        (BOMB, "aliases expand to more than 1,000,000"),
        ("[" * 5000, "nested too deeply"),
        ("a: \x01\n", "not valid YAML"),
    ],
)
def test_hostile_or_broken_yaml_is_a_data_error(write, text, problem):
    with pytest.raises(DataError, match=problem):
        read_yaml(write(text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(DataError, match=r"not UTF-8 text .* at byte 3"):
        read_yaml(tmp_path / "latin.yaml")


# --- hashing ------------------------------------------------------------------------------------


def test_content_hash_is_sha256_of_canonical_json():
    text = '{"a":[1,0.5,null,true],"b":"é"}'
    assert (
        content_hash({"b": "é", "a": [1, 0.5, None, True]}) == hashlib.sha256(text.encode()).hexdigest()[:16]
    )
    assert len(content_hash({}, length=32)) == 32
    assert content_hash(Reward()) == content_hash({"alpha": 0.5, "preset": "rubrica"})


def test_content_hash_takes_any_text():
    assert content_hash("half a pair \ud83d") != content_hash("half a pair ?")


@given(trees, trees)
def test_equal_values_have_equal_hashes(a, b):
    if a == b and repr(a) == repr(b):
        assert content_hash(a) == content_hash(b)
    elif a != b:
        assert content_hash(a) != content_hash(b)


# --- overrides ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("reward.alpha=0.1", {"reward": {"alpha": 0.1}, "stages": [{"type": "sft"}], "judge": "lab"}),
        ("stages.0.examples=3", {"reward": {}, "stages": [{"type": "sft", "examples": 3}], "judge": "lab"}),
        ("judge.spec=a=b", {"reward": {}, "stages": [{"type": "sft"}], "judge": {"spec": "a=b"}}),
        ("stages=[]", {"reward": {}, "stages": [], "judge": "lab"}),
        ("new.deep.key=2024-01-01", None),
    ],
)
def test_overrides(override, expected):
    data = {"reward": {}, "stages": [{"type": "sft"}], "judge": "lab"}
    found = apply_overrides(data, [override])
    if expected is None:
        expected = data | {"new": {"deep": {"key": "2024-01-01"}}}
    assert found == expected
    assert data == {"reward": {}, "stages": [{"type": "sft"}], "judge": "lab"}  # the input is untouched


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("alpha", "expected KEY=VALUE"),
        ("=1", "expected KEY=VALUE"),
        ("a=[1,", "not valid YAML"),
        ("a=!!set {x}", "a value is a set"),
        ("stages.1.type=sft", "'1' is no index of a list of 1"),
        ("stages.²=1", "'²' is no index"),
        ("stages.last=1", "'last' is no index"),
    ],
)
def test_malformed_overrides(override, problem):
    with pytest.raises(UsageError, match=problem):
        apply_overrides({"stages": [{"type": "sft"}]}, [override])


def test_overrides_of_an_empty_file():
    assert apply_overrides(None, ["a.b=1"]) == {"a": {"b": 1}}


# --- validation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ("name: x\nreward:\n  alhpa: 1\n", 3, ["unknown key 'reward.alhpa'", "'alpha'?", "alpha, preset"]),
        (
            "name: x\nreward:\n  preset: qalign\n",
            3,
            ["reward.preset", "got 'qalign'", "did you mean 'qa-lign'"],
        ),
        ("name: x\nreward:\n  alpha: much\n", 3, ["reward.alpha: expected a number,", "got 'much'"]),
        ("reward: {}\n", None, ["name: is missing"]),
        ("nmae: x\n", 1, ["unknown key 'nmae'", "did you mean 'name'"]),
        ("name: x\nstages:\n- {type: sft}\n- {type: grop}\n", 4, ["stages.1", "did you mean 'grpo'"]),
        (
            "name: x\nstages:\n- {type: sft}\n- type: grpo\n  examples: 2\n",
            5,
            ["unknown key 'stages.1.examples'", "group_size, type"],
        ),
        (
            "name: x\nstages:\n- type: sft\n  examples: 0\n",
            4,
            ["examples", "greater than or equal to 1", "got '0'"],
        ),
    ],
)
def test_errors_name_line_key_and_choice(write, text, line, parts):
    path = write(text)
    with pytest.raises(DataError) as caught:
        load_config(Recipe, path)
    assert caught.value.line == line
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("text", ["- a\n", "word\n"])
def test_a_file_that_is_no_mapping(write, text):
    with pytest.raises(DataError, match="expected a mapping with keys name, reward, stages, got"):
        load_config(Recipe, write(text))


def test_an_empty_file_lacks_its_keys(write):
    with pytest.raises(DataError, match="name: is missing"):
        load_config(Recipe, write(""))


def test_a_valid_file_with_overrides(write):
    path = write("name: x\nstages:\n- {type: grpo}\n")
    recipe = load_config(Recipe, path, ["reward.alpha=0.25", "stages.0.group_size=8"])
    assert recipe == Recipe(name="x", reward=Reward(alpha=0.25), stages=[Grpo(group_size=8)])


class Words(Config):
    slug: Annotated[str, Field(pattern=SLUG)] = "a"
    text: NonEmpty = "a"
    parts: tuple[str, ...] = Field(default=("a",), min_length=1)
    count: int = 1
    either: str | Reward = "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "slug: Big Name",
            "slug: expected small letters, digits, '.', '_' and '-' (a letter or digit first), got",
        ),
        ("text: ' '", "text: expected a text that is not blank, got ' '"),
        ("text:", "text: expected a text, got nothing"),
        ("parts: []", "parts: expected at least 1 of them, got 0"),
        ("parts: train.jsonl", "parts: expected a list, got 'train.jsonl'; write [train.jsonl]"),
        ("count: 1e30", "count: expected a whole number, got '1e+30'"),
        ("either: {alhpa: 1}", "unknown key 'either.alhpa' (did you mean 'alpha'?)"),
    ],
)
def test_a_problem_is_told_in_plain_words(write, text, said):
    with pytest.raises(DataError) as caught:
        load_config(Words, write(text))
    assert f":1: {said}" in str(caught.value)


def test_key_line_finds_the_deepest_ancestor(write):
    path = write("a:\n  b:\n  - c: 1\n    d: 2\n")
    assert key_line(path, ["a", "b", 0, "d"]) == 4
    assert key_line(path, ["a", "b", 0, "none"]) == 3
    assert key_line(path, ["a", "b", 7]) == 2
    assert key_line(path, ["none"]) is None
    assert key_line(path.with_name("none.yaml"), ["a"]) is None


def test_nearest():
    assert nearest("grop", ["grpo", "sft"]) == " (did you mean 'grpo'?)"
    assert nearest("zzz", ["grpo", "sft"]) == ""
