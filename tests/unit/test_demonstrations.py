"""Demonstrations of a recipe, the lab's own, and what is said about wrong ones before a run is started."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.tiny import tiny_checkpoint

from rubrica.core.errors import DataError, UsageError
from rubrica.lab.demonstrations import demonstrations
from rubrica.lab.oracle import Stance, read
from rubrica.recipes.align import align
from rubrica.recipes.config import Recipe
from rubrica.recipes.context import Surroundings
from rubrica.recipes.demonstrations import gather_demonstrations, tokens_of
from rubrica.recipes.models import load_chat_format
from rubrica.recipes.options import LabDemonstrations
from rubrica.recipes.stages.irft import Irft
from rubrica.recipes.surroundings import default_surroundings


def file(folder: Path, *rows: dict[str, object], name: str = "shown.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_request_may_have_several_demonstrations(tmp_path: Path) -> None:
    one = file(tmp_path, {"prompt": "q", "response": "a"}, {"prompt": "q", "response": "b"})
    two = file(
        tmp_path, {"prompt": "q", "response": "a"}, {"prompt": "p", "response": "a"}, name="more.jsonl"
    )
    found = gather_demonstrations([one, two], Surroundings())
    assert [(t.prompt.messages[-1].content, t.text) for t in found] == [("q", "a"), ("q", "b"), ("p", "a")]
    assert len({t.id for t in found}) == 3 and all(t.prompt.id == t.id for t in found)


def test_wrong_demonstrations_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"demonstration 'x' is empty"):
        gather_demonstrations([file(tmp_path, {"id": "x", "prompt": "q", "response": " "})], Surroundings())
    one = file(tmp_path, {"id": "x", "prompt": "q", "response": "a"})
    two = file(tmp_path, {"id": "x", "prompt": "q", "response": "b"}, name="more.jsonl")
    with pytest.raises(DataError, match=r"more\.jsonl: id 'x' stands for two"):
        gather_demonstrations([one, two], Surroundings())
    with pytest.raises(UsageError, match="needs the lab"):
        gather_demonstrations([LabDemonstrations(lab="teacher", examples=2)], Surroundings())


def test_the_longest_are_left_out(tmp_path: Path) -> None:
    chat = load_chat_format(tiny_checkpoint(tmp_path / "m", context=64))
    source = file(tmp_path, {"prompt": "q", "response": "ab"}, {"prompt": "q", "response": "no " * 80})
    shown = gather_demonstrations([source], Surroundings())
    fitting, left_out = tokens_of(shown, chat, None)
    assert ([d.shown.text for d in fitting], left_out) == (["ab"], 1)
    assert fitting[0].answer_ids == chat.completion_ids("ab")
    with pytest.raises(UsageError, match="none of 2 fits into 3 tokens"):
        tokens_of(shown, chat, 3)


def test_the_labs_are_good_and_their_flaws_are_as_many_as_asked() -> None:
    clean, noisy = demonstrations(400), demonstrations(400, noise=0.25)
    assert [t.prompt for t in clean] == [t.prompt for t in noisy]
    assert {t.prompt.tags["split"] for t in clean} == {"train"}
    changed = sum(a.text != b.text for a, b in zip(clean, noisy, strict=True)) / 400
    assert changed == pytest.approx(0.25, abs=0.07)
    harmful = [t for t in clean if t.prompt.tags["kind"] == "harmful"]
    assert all(read(t.prompt, t.text).stance is Stance.REFUSED for t in harmful)


def test_spin_is_a_preset() -> None:
    given = {"demonstrations": ["f"], "preset": "spin"}
    spin = Irft.model_validate(given)
    assert (spin.stages, spin.link, spin.reference) == (1, "sigmoid", "stage")
    with pytest.raises(ValidationError, match="preset spin has stages: 1, not 5"):
        Irft.model_validate(given | {"stages": 5})
    with pytest.raises(ValidationError, match="are both given"):
        Irft.model_validate({"demonstrations": ["f"], "steps": 3, "trainer": {"max_steps": 2}})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"demonstrations": ["nowhere.jsonl"]},
            r"stages\.0\.demonstrations\.0: nowhere\.jsonl: no such file",
        ),
        ({"stages": 3}, "2 for 3 stages"),
        ({"answers": {"max_tokens": 300}}, "do not fit the model's context of 256"),
        ({"trainer": {"betta": 1}}, r"stages\.0\.trainer\.betta: DPOConfig has no such option"),
        ({"trainer": {"beta": 1}}, r"stages\.0\.trainer\.beta: is set by the recipe itself"),
    ],
)
def test_mistakes_are_named_before_a_run_is_started(
    tmp_path: Path, changes: dict[str, object], error: str
) -> None:
    shown = file(tmp_path, {"prompt": "q", "response": "a"}, {"prompt": "p", "response": "a"})
    stage = {"type": "irft", "demonstrations": [shown], "stages": 1, **changes}
    policy = {"model": str(tiny_checkpoint(tmp_path / "m")), "dtype": "float32"}
    recipe = Recipe.model_validate(
        {"name": "r", "policy": policy, "judge": "lab-oracle", "program": "lab", "stages": [stage]}
    )
    with pytest.raises((UsageError, DataError), match=error):
        align(recipe, tmp_path / "out", surroundings=default_surroundings())
    assert not (tmp_path / "out").exists()
