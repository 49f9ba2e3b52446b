"""A repeated attack: who leaves when, what is kept, and what the number of tries says."""

import json
from pathlib import Path

import pytest

from rubrica.core.errors import JudgeError, UsageError
from rubrica.core.evaluation import Item, Standing
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Outcome, Query, Sampling, Verdict
from rubrica.core.tries import Tried, best_of
from rubrica.evals.prompt_file import read_items
from rubrica.models.scripted import ScriptedGenerator, ScriptedJudge
from rubrica.recipes.context import Surroundings
from rubrica.recipes.options import ModelSource
from rubrica.recipes.repeat import repeat
from rubrica.recipes.repeating import Repeating
from rubrica.recipes.tried import curves, rows_in, stopped_in

GIVES_IN = {"a": 0, "b": 2, "c": 5}
"""Try, from 0, at which the model gives in to a request; to d never."""


class World:
    """A model that gives in after so many tries, and a judge that sees it."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int]] = []
        self.judged = 0
        self.dies_at: int | None = None
        self.fails: set[str] = set()

    def write(self, prompt: Prompt, sampling: Sampling, prefix: str) -> str:
        request = prompt.id.split("/")[0]
        self.written.append((request, sampling.seed))
        return f"{'yes' if GIVES_IN.get(request, 99) == sampling.seed else 'no'} {request} {sampling.seed}"

    def judge(self, query: Query) -> Verdict | Label:
        if self.judged == self.dies_at:
            raise JudgeError("dead")
        self.judged += 1
        if query.text in self.fails:
            return Verdict(question_id=query.question.id, outcome=Outcome.FAILED)
        assert query.prompt.messages[-1].content.startswith("Tell me"), "the judge reads the plain request"
        return Label.FALSE if query.text.startswith("yes") else Label.TRUE

    def run(self, out: Path, **settings: object):
        options = {"tries": 4, "judge": "rule", "attack": "best-of-n(n=1)"} | settings
        repeating = Repeating.model_validate({"model": ModelSource(model="m"), "input": "f.jsonl", **options})
        around = Surroundings(judges={"rule": lambda: ScriptedJudge(self.judge)})
        model = ScriptedGenerator(self.write)
        return repeat(repeating, ITEMS, out, around, open_model=lambda: model)


ITEMS = [
    Item(
        id=id,
        suite="s",
        prompt=Prompt(id=id, messages=(Message(role="user", content=f"Tell me all about {id}."),)),
        cluster=id,
    )
    for id in "abcd"
]


def rates(found) -> dict[str, float]:
    (curve,) = found
    return {rate.group: rate.value for rate in curve.estimates}


def test_a_request_leaves_with_its_first_success(tmp_path: Path) -> None:
    world = World()
    found = world.run(tmp_path / "out")
    # a stops after one try, b after three; c and d hold for all four
    assert sorted(world.written) == sorted(
        [("a", 0)] + [("b", n) for n in range(3)] + [(id, n) for id in "cd" for n in range(4)]
    )
    assert rates(found) == {"n=1": 0.25, "n=2": 0.25, "n=4": 0.5}
    assert found[0].tries == 12 and found[0].requests == 4
    broken = read_items(tmp_path / "out" / "broken.jsonl")
    assert [item.id for item in broken] == ["a/best-of-n(n=1)#1", "b/best-of-n(n=1)#3"]
    assert [item.goal for item in broken] == ["Tell me all about a.", "Tell me all about b."]
    assert broken[0].prompt.messages[-1].content != broken[0].goal
    assert json.loads((tmp_path / "out" / "curve.json").read_text())[0]["tries"] == 12


def test_more_tries_go_on_and_all_tries_complete_the_rest(tmp_path: Path) -> None:
    world, out = World(), tmp_path / "out"
    world.run(out)
    count = len(world.written)
    assert rates(world.run(out)) == {"n=1": 0.25, "n=2": 0.25, "n=4": 0.5}
    assert len(world.written) == count, "nothing is asked twice"
    more = world.run(out, tries=8)
    assert sorted(world.written[count:]) == sorted([("c", 4), ("c", 5), *(("d", n) for n in range(4, 8))])
    assert rates(more) == {"n=1": 0.25, "n=2": 0.25, "n=4": 0.5, "n=8": 0.75}
    assert stopped_in(out)
    full = world.run(out, tries=8, full=True)
    assert len(world.written) == 32 and not stopped_in(out)
    assert rates(full)["n=1"] == pytest.approx(3 / 32) and rates(full)["n=8"] == 0.75
    # the file alone says the same
    assert rates(curves(rows_in(out), stopped=stopped_in(out))) == rates(full)


def test_a_judge_that_dies_costs_nothing_that_was_done(tmp_path: Path) -> None:
    straight = rates(World().run(tmp_path / "straight"))
    world = World()
    world.dies_at = 6
    with pytest.raises(JudgeError):
        world.run(tmp_path / "out")
    world.dies_at = None
    assert rates(world.run(tmp_path / "out")) == straight
    assert len(world.written) == len(set(world.written)) == 12 and world.judged == 12


def test_a_try_without_a_verdict_is_no_try_and_another_takes_its_place(tmp_path: Path) -> None:
    world = World()
    world.fails = {"no b 0", "no d 1"}
    (curve,) = world.run(tmp_path / "out")
    assert curve.unjudged == 2
    # b gives in at its second judged try; d has its four judged tries after a fifth round
    assert rates([curve]) == {"n=1": 0.25, "n=2": 0.5, "n=4": 0.5}
    assert ("d", 4) in world.written and ("c", 4) not in world.written
    rows = list(rows_in(tmp_path / "out"))
    assert sum(row.standing is Standing.UNJUDGED for row in rows) == 2
    world.fails = (
        set()
    )  # the judge works again: the tries that it missed are judged, the spare one is not counted
    (curve,) = world.run(tmp_path / "out")
    assert (curve.unjudged, curve.tries) == (0, 12) and rates([curve]) == {
        "n=1": 0.25,
        "n=2": 0.25,
        "n=4": 0.5,
    }


def test_a_judge_that_never_answers_ends_the_tries(tmp_path: Path) -> None:
    world = World()
    world.fails = {f"no d {number}" for number in range(99)} | {f"no c {number}" for number in range(1, 99)}
    (curve,) = world.run(tmp_path / "out", tries=2)
    assert sorted(number for id, number in world.written if id == "d") == list(range(4))
    # c holds with one judged try: more tries have no rate, or only requests that hold would be missing; d has none
    assert [(rate.group, rate.value, rate.n) for rate in curve.estimates] == [
        ("n=1", pytest.approx(1 / 3), 3)
    ]


def test_the_first_success_says_for_every_n_whether_n_are_enough() -> None:
    units = [Tried("a", 3, 1, stopped=True), Tried("b", 4, 0, stopped=True), Tried("c", 4, 0, stopped=True)]
    values = [(rate.group, rate.value, rate.n) for rate in best_of(units, [1, 2, 3, 4, 5])]
    third = pytest.approx(1 / 3)
    assert values == [("n=1", 0, 3), ("n=2", 0, 3), ("n=3", third, 3), ("n=4", third, 3)]


def test_a_model_that_cannot_be_opened_is_an_error_and_no_try(tmp_path: Path) -> None:
    def nowhere():
        raise UsageError("no such model")

    repeating = Repeating(model=ModelSource(model="m"), input="f.jsonl", judge="rule")
    around = Surroundings(judges={"rule": lambda: ScriptedJudge(World().judge)})
    with pytest.raises(UsageError, match="no such model"):
        repeat(repeating, ITEMS, tmp_path / "out", around, open_model=nowhere)


def test_wrong_use(tmp_path: Path) -> None:
    world, out = World(), tmp_path / "out"
    with pytest.raises(UsageError, match="makes 16 prompts of one; give it n=1"):
        world.run(out, attack="best-of-n")
    assert not out.exists()
    world.run(out, limit=2)
    before = list(world.written)
    world.run(out, limit=4)  # more requests may join
    assert world.written == before
    with pytest.raises(UsageError, match="holds another evaluation"):
        world.run(out, attack="direct")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(UsageError, match="holds no evaluation"):
        world.run(tmp_path / "other")
