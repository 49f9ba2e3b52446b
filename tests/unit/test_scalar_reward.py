"""Rewards from a reward model's scores: worked examples, invariance, the floor, missing scores."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rubrica.core.errors import ModelError, TrainingError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Attempt, Malformed
from rubrica.core.store import Store
from rubrica.methods.scalar_reward import Scale, fit_scale, scalar_rewards, scored_texts
from rubrica.program.reward import RewardConfig
from rubrica.recipes.reward_scores import KIND, RewardScore, stored_scores

PLAIN = Scale(center=0.0, spread=1.0)
BROKEN = Attempt(malformed=Malformed.NO_OPEN_TAG)


def attempt(draft: str = "d", revision: str = "r") -> Attempt:
    return Attempt(draft=draft, reflection="why", revision=revision)


def prompt(id: str = "p") -> Prompt:
    return Prompt(id=id, messages=(Message(role="user", content=f"ask {id}"),))


def test_both_texts_earn_what_a_rubrics_totals_would() -> None:
    """Spread 2 around 10: scores 12 and 14 are 1 and 2. R = 1 + 2 + 0.5 (2 - 1) = 3.5; 11 and 7: 0.5 - 1.5 - 0.5 x 2."""
    scale, config = Scale(center=10.0, spread=2.0), RewardConfig()
    found = scalar_rewards(["p", "p"], [attempt(), attempt()], [12, 14, 11, 7], config, scale, "both")
    assert found == [(1.0, 2.0, 3.5), (0.5, -1.5, -2.0)]
    published = scalar_rewards(["p"], [attempt()], [12, 14], RewardConfig(preset="qa-lign"), scale, "both")
    assert published == [(1.0, 2.0, 11 * 2.0 - 9 * 1.0)]


def test_the_revision_alone_earns_its_score() -> None:
    found = scalar_rewards(
        ["p", "p"],
        [attempt(), attempt()],
        [12, 7],
        RewardConfig(),
        Scale(center=10.0, spread=2.0),
        "revision",
    )
    assert found == [(None, 1.0, 1.0), (None, -1.5, -1.5)]
    asked = [prompt(), prompt()]
    assert scored_texts(asked, [attempt("a", "b"), BROKEN], "revision") == [(asked[0], "b")]
    assert scored_texts(asked, [attempt("a", "b"), BROKEN], "both") == [(asked[0], "a"), (asked[0], "b")]


def test_the_floor_lies_below_the_group_and_is_the_rubrics_where_scores_are_small() -> None:
    """Lowest normalised score -3: R(-3, -3) = -6, less the margin 0.5. In the other group the square [-1, 1]: -2.5."""
    groups, attempts = ["p", "p", "q", "q"], [attempt(), BROKEN, attempt(), BROKEN]
    found = scalar_rewards(groups, attempts, [-3.0, 0.5, 0.25, 0.5], RewardConfig(), PLAIN, "both")
    assert [scored.reward for scored in found[1::2]] == [-6.5, -2.5]
    alone = scalar_rewards(groups, attempts, [-3.0, 0.5], RewardConfig(), PLAIN, "revision")
    assert [scored.reward for scored in alone[1::2]] == [-3.5, -1.5]
    # beta 5: R(1, -1) = 0 - 5 x 2 = -10 is worse than R(-1, -1) = -2
    harsh = RewardConfig(preset="qa-lign", beta=5.0)
    assert scalar_rewards(["p"], [BROKEN], [], harsh, PLAIN, "both") == [(None, None, -10.5)]


scores = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=2, max_size=6)
presets = st.sampled_from(
    [RewardConfig(), RewardConfig(preset="qa-lign"), RewardConfig(alpha=0.25, beta=0.75)]
)


def advantages(rewards: Sequence[float]) -> list[float]:
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return [(r - mean) / std if std > 1e-6 else 0.0 for r in rewards]


@given(scores, presets, st.sampled_from(["both", "revision"]), st.floats(-20, 20), st.floats(0.1, 10))
def test_no_scale_changes_an_advantage_between_well_formed_completions(
    pairs: list[tuple[float, float]], config: RewardConfig, texts: str, center: float, spread: float
) -> None:
    """So it does not matter that the scale comes from the first step."""
    flat = [s for pair in pairs for s in (pair if texts == "both" else pair[1:])]
    attempts, groups = [attempt()] * len(pairs), ["p"] * len(pairs)
    one, other = (
        [s.reward for s in scalar_rewards(groups, attempts, flat, config, scale, texts)]
        for scale in (PLAIN, Scale(center=center, spread=spread))
    )
    if max(one) - min(one) > 1e-3:
        assert advantages(other) == pytest.approx(advantages(one), abs=1e-6)


@given(scores, presets, st.sampled_from(["both", "revision"]))
def test_the_floor_is_below_every_well_formed_completion(
    pairs: list[tuple[float, float]], config: RewardConfig, texts: str
) -> None:
    flat = [s for pair in pairs for s in (pair if texts == "both" else pair[1:])]
    attempts = [*[attempt()] * len(pairs), BROKEN]
    found = scalar_rewards(["p"] * len(attempts), attempts, flat, config, PLAIN, texts)
    assert found[-1].reward <= min(s.reward for s in found[:-1]) - config.malformed_margin + 1e-9
    assert found[-1].reward <= config.floor or texts == "revision"


def test_a_missing_score_gives_no_signal_and_no_floor() -> None:
    attempts = [attempt(), attempt(), BROKEN]
    found = scalar_rewards(["p"] * 3, attempts, [1.0, None, None, -9.0], RewardConfig(), PLAIN, "both")
    assert [scored.reward for scored in found] == [None, None, -18.5]
    with pytest.raises(TrainingError, match="fewer scores than texts"):
        scalar_rewards(["p"], [attempt()], [1.0], RewardConfig(), PLAIN, "both")


def test_the_scale_is_mean_and_population_spread() -> None:
    assert fit_scale([1.0, None, 3.0, 5.0]) == Scale(center=3.0, spread=math.sqrt(8 / 3))
    assert fit_scale([2.0, 2.0, None]) is None and fit_scale([]) is None


class Lengths:
    """A reward model that scores the length of a text, and counts; texts of one character fail for a while."""

    def __init__(self, fingerprint: str = "lengths", faults: int = 0) -> None:
        self.fingerprint, self.faults = fingerprint, faults
        self.asked: list[str] = []

    def score(self, items: Sequence[tuple[Prompt, str]]):
        for index, (_, text) in reversed(list(enumerate(items))):
            self.asked.append(text)
            if len(text) == 1 and self.faults:
                self.faults -= 1
                yield index, ModelError("busy")
            else:
                yield index, float(len(text))


def test_scores_are_kept_as_they_come_and_never_asked_again() -> None:
    with Store(":memory:") as store:
        model, items = Lengths(), [(prompt(), "aa"), (prompt(), "bbb"), (prompt(), "aa")]
        assert stored_scores(store, model, items) == [2.0, 3.0, 2.0]
        assert sorted(model.asked) == ["aa", "bbb"]
        again = Lengths()
        assert stored_scores(store, again, [*items, (prompt("q"), "aa")]) == [2.0, 3.0, 2.0, 2.0]
        assert again.asked == ["aa"]  # the same text in answer to another prompt
        other = Lengths("another model")
        assert stored_scores(store, other, items[:1]) == [2.0] and other.asked == ["aa"]
        kept = store.all(KIND, RewardScore)
        assert sorted((s.model, s.prompt_id, s.score) for s in kept) == [
            ("another model", "p", 2.0),
            ("lengths", "p", 2.0),
            ("lengths", "p", 3.0),
            ("lengths", "q", 2.0),
        ]


def test_a_failure_is_asked_again_and_not_kept() -> None:
    with Store(":memory:") as store:
        found = stored_scores(store, Lengths(faults=1), [(prompt(), "a"), (prompt(), "bb")], retries=1)
        assert found == [1.0, 2.0]
    with Store(":memory:") as store:
        items = [(prompt(), "a"), (prompt(), "bb")]
        found = stored_scores(store, Lengths(faults=9), items, retries=1)
        assert isinstance(found[0], ModelError) and found[1] == 2.0
        assert stored_scores(store, Lengths(), items) == [1.0, 2.0]


def test_what_arrived_before_a_crash_is_kept() -> None:
    class Dying(Lengths):
        def score(self, items):
            yield next(iter(super().score(items)))
            raise ModelError("the server is gone")

    with Store(":memory:") as store:
        items = [(prompt(), "a"), (prompt(), "bb"), (prompt(), "ccc")]
        with pytest.raises(ModelError, match="gone"):
            stored_scores(store, Dying(), items)
        after = Lengths()
        assert stored_scores(store, after, items) == [1.0, 2.0, 3.0]
        assert sorted(after.asked) == ["a", "bb"]
