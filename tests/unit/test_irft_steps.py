"""RFT's and IRFT's parts, pairs and guard."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubrica.core.data import Text
from rubrica.core.errors import UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Response, Sampling
from rubrica.methods.irft import Guard, fallen, monitored, pair_up, parts, reward_scale


def shown(id: str, text: str = "yes") -> Text:
    return Text(id, Prompt(id=f"p-{id}", messages=(Message(role="user", content=id),)), text)


def said(text: str, *, finished: bool = True) -> Response:
    return Response(
        id="r", prompt_id="p", text=text, model="m", sampling=Sampling(), tokens=1, finished=finished
    )


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 99))
def test_every_demonstration_has_one_stage(stages: int, more: int, seed: int) -> None:
    demonstrations = [shown(str(i)) for i in range(stages + more)]
    found = parts(demonstrations, stages, seed)
    assert sorted(t.id for part in found for t in part) == sorted(t.id for t in demonstrations)
    assert {len(part) for part in found} <= {len(demonstrations) // stages, -(-len(demonstrations) // stages)}
    assert found == parts(demonstrations, stages, seed)


def test_the_order_is_the_seeds_and_one_stage_is_all_of_them() -> None:
    demonstrations = [shown(str(i)) for i in range(20)]
    (whole,) = parts(demonstrations, 1, 0)
    assert whole != demonstrations and len(whole) == 20
    assert parts(demonstrations, 1, 1) != [whole]
    assert [t for part in parts(demonstrations, 4, 0) for t in part] == whole


def test_fewer_demonstrations_than_stages_are_refused() -> None:
    with pytest.raises(UsageError, match="2 for 3 stages"):
        parts([shown("a"), shown("b")], 3, 0)


def test_equal_answers_are_dropped_and_counted() -> None:
    demonstrations = [shown(id) for id in "abcd"]
    answers = {"a": said(" yes\n"), "b": said("no"), "c": said("yes", finished=False), "d": said("")}
    found = pair_up(demonstrations, answers)
    assert [pair.demonstration.id for pair in found.pairs] == ["b", "c", "d"]
    assert [pair.answer for pair in found.pairs] == [answers["b"], answers["c"], answers["d"]]
    assert found.equal == 1


def test_the_guard_speaks_when_the_fall_is_larger() -> None:
    guard = Guard(fall=0.5)
    assert fallen(-1.0, -1.5, guard) is None
    assert fallen(-1.0, 0.0, guard) is None
    said = fallen(-1.0, -1.6, guard)
    assert said is not None and "-1.000 to -1.600" in said


def test_the_same_demonstrations_are_watched() -> None:
    demonstrations = [shown(str(i)) for i in range(100)]
    watched = monitored(demonstrations, Guard(examples=10), 3)
    assert len({t.id for t in watched}) == 10 and watched == monitored(demonstrations, Guard(examples=10), 3)
    assert len(monitored(demonstrations[:4], Guard(), 3)) == 4


def test_rewards_are_divided_by_their_deviation() -> None:
    assert reward_scale([1.0, 3.0, 5.0]) == pytest.approx(math.sqrt(8 / 3))
    assert reward_scale([2.0, 2.0]) == 1.0
