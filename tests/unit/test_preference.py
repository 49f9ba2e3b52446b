"""Which text is preferred, by likelihood and by reward, against scores of a pass for each text."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.command_line import run_for
from tests.tiny import tiny_model, tiny_reward_model, tiny_tokenizer

from rubrica.core.errors import ModelError, UsageError
from rubrica.core.evaluation import Item, ItemResult, Metric, Standing
from rubrica.core.ports import RewardModel
from rubrica.core.prompts import Message, Prompt
from rubrica.core.store import Store
from rubrica.models.likelihood import answer_rows, likelihoods
from rubrica.models.reward import HFRewardModel
from rubrica.recipes.continuations import ContinuationScorer
from rubrica.recipes.eval_page import render
from rubrica.recipes.options import RewardModelSource
from rubrica.recipes.preference import by_style, score_pairs
from rubrica.recipes.preference_run import PreferenceSettings, evaluate_preference
from rubrica.recipes.sources import Source

TEXTS = (
    ("Boil the root for an hour.", "Boil it."),
    ("Never.", "The apothecary never sells the bane, and you should not ask for it."),
    ("Strain it, and let it cool.", "A fever? Willow bark."),
)


def pair(number: int, texts: Sequence[str], correct: Sequence[int] = (0,), suite: str = "hhh") -> Item:
    prompt = Prompt(id=f"p{number}", messages=(Message(role="user", content=f"What about {number}?"),))
    return Item(
        id=f"i{number}",
        suite=suite,
        prompt=prompt,
        cluster=f"c{number}",
        choices=tuple(texts),
        correct=tuple(correct),
    )


PAIRS = [pair(number, texts) for number, texts in enumerate(TEXTS)]


def test_a_pair_is_won_by_the_likelier_text_whole_or_by_the_token() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", len(tokenizer))
    found = list(score_pairs(PAIRS, ContinuationScorer(model, tokenizer, name="tiny"), Store(":memory:")))
    for item, result in zip(PAIRS, found, strict=True):
        better, worse = likelihoods(model, answer_rows(tokenizer, [item.prompt] * 2, item.choices))
        assert result.counts == {
            "sum": float(better.total > worse.total),
            "mean": float(better.per_token > worse.per_token),
        }
        assert result.value == result.counts["mean"] and result.metric is Metric.PREFERENCE
    by_sum = score_pairs(
        PAIRS, ContinuationScorer(model, tokenizer, name="tiny"), Store(":memory:"), by="sum"
    )
    assert [one.value for one in by_sum] == [one.counts["sum"] for one in found]


def test_a_pair_is_won_by_the_higher_reward(tmp_path: Path) -> None:
    model = HFRewardModel(tiny_reward_model(tmp_path / "rm"))
    with Store(tmp_path / "store.sqlite") as store:
        found = list(score_pairs(PAIRS, model, store))
        assert list(score_pairs(PAIRS, _Dead(model.fingerprint), store)) == found, (
            "known scores are not asked for"
        )
    for item, result in zip(PAIRS, found, strict=True):
        scores = dict(model.score([(item.prompt, text) for text in item.choices]))
        assert (
            result.counts == {"reward": float(scores[0] > scores[1])}
            and result.value == result.counts["reward"]
        )


class _Dead:
    """A reward model that fails on everything."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, float | ModelError]]:
        for index, _ in enumerate(items):
            yield index, ModelError("the call failed")


def test_a_text_without_a_score_leaves_its_item_without_a_value() -> None:
    found = list(score_pairs(PAIRS, _Dead("dead"), Store(":memory:")))
    assert {one.standing for one in found} == {Standing.UNJUDGED}
    assert all(one.value is None and not one.counts for one in found)
    with pytest.raises(UsageError, match="some are right, and some are not"):
        list(score_pairs([pair(0, TEXTS[0], (0, 1))], _Dead("dead"), Store(":memory:")))


def test_styles_of_rm_bench() -> None:
    # right texts 5, 3, 1 (plain to formatted); wrong ones 4, 2, 0: pairs won by row 111, 011, 001
    assert by_style((5, 3, 1, 4, 2, 0), (0, 1, 2)) == {"easy": 0.0, "normal": 1.0, "hard": 1.0}
    assert by_style((1, 3, 5, 0, 2, 4), (0, 1, 2)) == {"easy": 1.0, "normal": 1.0, "hard": 0.0}
    assert by_style((1, 0), (0,)) == {}
    scores = iter((1.0, 3.0, 5.0, 0.0, 2.0, 4.0))

    class Listed(_Dead):
        def score(self, items: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, float | ModelError]]:
            for index, _ in enumerate(items):
                yield index, next(scores)

    styles = pair(0, ["a", "b", "c", "d", "e", "f"], (0, 1, 2), suite="rm-bench-safety")
    [found] = score_pairs([styles], Listed("listed"), Store(":memory:"))
    assert found.value == 6 / 9 and found.counts["hard"] == 0


class _Longest(_Dead):
    """Prefers the longer text."""

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, float | ModelError]]:
        for index, (_, text) in enumerate(items):
            yield index, float(len(text))


def test_suites_of_pairs_are_scored_once_and_the_folder_holds_them(tmp_path: Path) -> None:
    settings = PreferenceSettings(label="long", reward=RewardModelSource(model="x"), suites=["hhh"])
    sources = [Source("hhh", Metric.PREFERENCE, lambda: iter(PAIRS), len(PAIRS))]
    out = tmp_path / "out"
    told: list[tuple[str, int, int]] = []
    [failed] = evaluate_preference(settings, sources, out, lambda store: _Dead("longest"))
    assert {one.name: one.value for one in failed.estimates} == {"unjudged": 1.0}
    [found] = evaluate_preference(
        settings, sources, out, lambda store: _Longest("longest"), lambda *done: told.append(done)
    )
    rates = {one.name: one.value for one in found.estimates}
    assert rates == {"preference": 2 / 3, "reward": 2 / 3}, "the second pair's better text is the shorter one"
    assert told == [("hhh: scoring", 3, 3)]
    text = (out / "report.md").read_text()
    assert "| hhh | preference ↑ | 66.7" in text and "| reward model | x |" in text
    assert "| hhh | the judge failed" not in text
    assert "<td>66.7 [" in render(out)
    rows = [ItemResult.model_validate_json(line) for line in (out / "items.jsonl").open()]
    assert sorted((row.item, row.value) for row in rows) == [("i0", 1), ("i1", 0), ("i2", 1)]
    assert evaluate_preference(settings, sources, out, lambda store: _never()) == [found]
    harmful = [sources[0]._replace(metric=Metric.ASR)]
    with pytest.raises(UsageError, match="expected a suite of preferences"):
        evaluate_preference(settings, harmful, tmp_path / "other", lambda store: _never())


def test_wrong_use_is_told_before_a_folder_says_that_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("eval", "preference", "--data", tmp_path, "--out", tmp_path / "out", "--suite", "own")
    rows = [{"prompt": "How?", "chosen": "So.", "rejected": "Not so."}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.yaml").write_text(_OWN)
    own = ("--suites", tmp_path / "own.yaml")
    assert "expected --reward-model MODEL, or --judge" in run_for(2, capsys, *given, *own).err
    said = run_for(1, capsys, *given, *own, "--reward-model", tmp_path / "nowhere")
    assert "no such folder" in said.err and not (tmp_path / "out").exists()
    said = run_for(2, capsys, *given, *own, "--judge", "lab", "--program", "hh")
    assert "'hhh'" in said.err
    said = run_for(0, capsys, *given, *own, "--reward-model", tiny_reward_model(tmp_path / "rm"), "--json")
    assert json.loads(said.out)[0]["suite"] == "own"


_OWN = """
suites:
- name: own
  title: our own
  metric: preference
  expected: 1
  licence: ours
  citation: none
  source: https://example.com
  layouts:
  - files: own.jsonl
    columns: {prompt: prompt, right: chosen, wrong: rejected}
"""


def _never() -> RewardModel:
    raise AssertionError("what is done is not scored again")
