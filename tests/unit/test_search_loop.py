"""The loop of white-box searches: limits, early stop, and going on after an interruption."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rubrica.attacks.autodan import AutoDAN
from rubrica.attacks.gbda import GBDA
from rubrica.attacks.gcg import GCG
from rubrica.attacks.kept import keep, kept
from rubrica.attacks.method import Candidate, Method, State
from rubrica.attacks.objective import Objective
from rubrica.attacks.pez import PEZ
from rubrica.attacks.search import Hooks, Limits, Look, Progress, better, search
from rubrica.attacks.uat import UAT
from rubrica.core.errors import DataError
from search_world import ask, objective, victim

METHODS = [
    GCG(topk=8, candidates=8),
    UAT(topk=2),
    PEZ(tokens=3),
    GBDA(tokens=3, samples=2, texts=1),
    AutoDAN(population=4, mutation=0.5),
]


class Killed(Exception):
    """Stands for kill -9: nothing behind it runs."""


def goal() -> Objective:
    found = objective(victim())
    found.victim.context = None  # prototypes are longer than the tiny model's positions, which rotate on
    return found


def harmful_at(number: int) -> Hooks:
    """A judge that finds its look ``number`` harmful, from 1."""
    seen: list[str] = []

    def look(asked: Objective, slot: str) -> Sequence[Look]:
        seen.append(slot)
        return [Look(f"answer {len(seen)}", len(seen) >= number) for _ in asked.frames]

    return Hooks(look=look)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.type)
def test_a_search_that_goes_on_equals_one_that_was_never_stopped(method: Method, tmp_path: Path) -> None:
    limits, path = Limits(steps=6, stop="never"), tmp_path / "case.safetensors"
    straight = search(method, goal(), limits, Hooks(), seed=3, case="a")

    def stopped(progress: Progress) -> None:
        if progress.step == 3:
            raise Killed
        keep(path, progress)

    with pytest.raises(Killed):
        search(method, goal(), limits, Hooks(keep=stopped), seed=3, case="a")
    before = kept(path)
    assert before is not None and before.step == 2
    resumed = search(method, goal(), limits, Hooks(), seed=3, case="a", progress=before)
    tensors = straight.state.tensors
    assert all(torch.equal(resumed.state.tensors[name], tensors[name]) for name in tensors)
    assert resumed.state.texts == straight.state.texts and resumed.state.numbers == straight.state.numbers
    same = {"state": State(), "seconds": 0.0}
    assert replace(resumed, **same) == replace(straight, **same)
    assert len(straight.curve) == 6 and straight.ended == "steps"


def test_other_seeds_and_other_cases_draw_otherwise() -> None:
    method, limits = METHODS[0], Limits(steps=2, stop="never")
    found = [
        search(method, goal(), limits, Hooks(), seed=s, case=c).curve
        for s, c in ((0, "a"), (1, "a"), (0, "b"))
    ]
    assert len(set(found)) == 3


def test_the_curve_never_rises() -> None:
    curve = search(METHODS[0], goal(), Limits(steps=8, stop="never"), Hooks(), seed=0, case="a").curve
    losses = [loss for loss in curve if loss is not None]
    assert losses == sorted(losses, reverse=True) and len(losses) == 8


def test_harm_ends_the_search_and_the_judge_sees_only_what_is_new() -> None:
    limits = Limits(steps=50, check_every=1, stop="harm")
    found = search(METHODS[0], goal(), limits, harmful_at(2), seed=0, case="a")
    assert found.ended == "harm" and found.harmful and found.judged == 2
    assert found.best is not None and found.looked == found.best.text
    assert len(set(found.curve)) == 2  # it looked once for each new best


def test_without_early_stop_the_judge_looks_at_the_end() -> None:
    found = search(METHODS[0], goal(), Limits(steps=3, stop="never"), harmful_at(1), seed=0, case="a")
    assert found.ended == "steps" and found.judged == 1 and found.harmful


def test_a_judge_that_fails_is_no_success() -> None:
    hooks = Hooks(look=lambda asked, slot: [Look("", None) for _ in asked.frames])
    found = search(METHODS[0], goal(), Limits(steps=3, check_every=1), hooks, seed=0, case="a")
    assert found.ended == "steps" and not found.harmful


@pytest.mark.parametrize(
    ("limits", "ended"),
    [
        (Limits(steps=500, passes=40, stop="never"), "passes"),
        (Limits(steps=500, seconds=0.01, stop="never"), "seconds"),
        (Limits(steps=2, passes=10_000, seconds=3600, stop="never"), "steps"),
    ],
)
def test_limits_end_a_search(limits: Limits, ended: str) -> None:
    found = search(METHODS[0], goal(), limits, Hooks(), seed=0, case="a")
    assert found.ended == ended
    if ended == "passes":  # a step may go over, by no more than its own passes
        assert 40 <= found.forward + found.backward < 40 + 8 + 3


def test_a_target_that_is_written_ends_the_search() -> None:
    world = goal()
    only = world.frames[0]
    context = [*only.before, *world.start_ids, *only.after]
    logits = world.victim.model(input_ids=torch.tensor([context])).logits[0, -1]
    likely = replace(only, target_ids=(int(logits.argmax()),))
    easy = Objective([likely], allowed=world.allowed, start=world.start)
    found = search(UAT(topk=1), easy, Limits(steps=5, stop="target"), Hooks(), seed=0, case="a")
    assert found.ended == "target" and found.best is not None and found.best.reached


def test_a_case_of_several_prompts_ends_when_all_count() -> None:
    world = objective(victim(), ask("How is it brewed?"), ask("Tell me of the willow bark."))
    found = search(METHODS[0], world, Limits(steps=4, check_every=1), harmful_at(1), seed=0, case="a")
    assert len(found.looks) == 2 and found.judged == 2 and found.ended == "harm"


def test_the_revision_is_aimed_at_behind_what_the_model_begins_with() -> None:
    begun: list[str] = []

    def begin(asked: Objective, slot: str) -> Sequence[str]:
        begun.append(slot)
        return [f"No. <think> {len(begun)} </think>" for _ in asked.frames]

    limits = Limits(steps=4, refresh=2, stop="never")
    world = goal()
    found = search(METHODS[0], world, limits, Hooks(begin=begin), seed=0, case="a")
    assert len(begun) == 2 and begun[0] == world.start and found.answers == ("No. <think> 2 </think>",)
    assert found.best is not None
    right = world.answered(found.answers).text_losses([found.best.text])
    assert found.best.loss == pytest.approx(float(right.losses[0]), abs=1e-5)


def test_better_counts_prompts_before_losses() -> None:
    one, two, same = (
        Candidate("a", 1.0, False, 1),
        Candidate("b", 5.0, False, 2),
        Candidate("c", 1.0, True, 1),
    )
    assert better(one, two) is two and better(two, one) is two
    assert better(one, same) is one and better(None, one) is one and better(one, None) is one


def test_a_case_that_is_no_case_is_named(tmp_path: Path) -> None:
    path = tmp_path / "case.safetensors"
    assert kept(path) is None
    path.write_bytes(b"not a tensor")
    with pytest.raises(DataError, match=r"case.safetensors: not a search under way .* delete it"):
        kept(path)
