"""Stored verdicts under another rule: closed forms, a sample run, and scorecards of a server that is gone."""

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import naive_pooling
import sample_run
from command_line import run_for
from fake_server import Reply, completion
from rubrica.core.config import dump_yaml
from rubrica.core.data import Text
from rubrica.core.errors import UsageError
from rubrica.core.programs import Dimension, Pooling, Principle, Program, Question
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Attempt, Label, Malformed, Response, Rollout, Sampling, Verdict
from rubrica.core.run import Run
from rubrica.core.store import Store
from rubrica.program.pooling import pool
from rubrica.program.reward import RewardConfig
from rubrica.recipes.ranking import Item, advantages, change, prefer, rank
from rubrica.recipes.score import score_texts, write_cards
from rubrica.recipes.what_if import Rule, compare, open_source, other_rule


def items(*rows: tuple[str, float | None, float | None]) -> list[Item]:
    return [Item(f"{group}{n}", group, group, old, new) for n, (group, old, new) in enumerate(rows)]


def test_ranks_by_hand():
    # a: 1 < 2 < 3 becomes 2, 3, 1: of three pairs two flip. b: a tie is broken. c: one value, no group.
    found = rank(
        items(("a", 1, 2), ("a", 2, 3), ("a", 3, 1), ("b", 0, 0), ("b", 0, 1), ("c", 1, 1), ("c", 1, None))
    )
    assert (found.groups, found.pairs, found.flips, found.ties_broken, found.ties_made) == (2, 4, 2, 1, 0)
    assert (found.reranked.value, found.best_changed.value) == (
        1.0,
        0.5,
    )  # b0 and b1 tied for best, b1 still is
    # tau of a: (1 concordant - 2 discordant) / 3; b is all ties before, so it has none
    assert found.tau.value == pytest.approx(-1 / 3) and found.tau.n == 1
    # a before: -1, 0, 1 and after: 0, 1, -1 standard deviations (sd 1); b before: 0, 0 and after: -+ 1/sqrt 2
    assert found.advantages == 5 and found.sign_flips == 1
    old, new = [-1, 0, 1, 0, 0], [0, 1, -1, -math.sqrt(0.5), math.sqrt(0.5)]
    assert found.advantage_correlation == pytest.approx(statistics.correlation(old, new), abs=1e-4)
    widest = found.examples[0]  # a0-a2 turned by 2 * 1, a1-a2 by 1 * 2: one of them
    assert widest.better_before == "a2" and widest.before[0] == 3 and widest.after[0] == 1
    assert [flip.group for flip in found.examples] == ["a"]


def test_values_by_hand():
    found = change(items(("a", 1, 2), ("b", 2, 2), ("c", None, 5), ("d", 3, None)))
    assert (found.items, found.changed) == (2, 1)
    assert [e.value for e in (found.mean_before, found.mean_after, found.difference)] == [1.5, 2.0, 0.5]
    assert (found.sd_before, found.sd_after) == pytest.approx((math.sqrt(0.5), 0.0))
    assert change(items(("a", None, 1))) is None
    same = change(items(("a", 0, 0), ("b", 1, 1))).difference
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_preferences_are_compared_on_pairs_with_all_four_totals():
    rows = items(
        ("a", 1, 0),
        ("a", 0, 1),
        ("b", 0, 1),
        ("b", 0, 0),
        ("c", 1, 1),
        ("c", 0, 0),
        ("d", 1, None),
        ("d", 0, 0),
    )
    found = prefer(rows)
    assert (found.pairs, found.won, found.lost) == (3, 1, 1)
    assert (found.before.value, found.after.value, found.difference.value) == pytest.approx((2 / 3, 2 / 3, 0))
    # differences -1, 1, 0: sd 1, t(2, .975) = 4.303, cut to [-1, 1]
    assert (found.difference.low, found.difference.high) == (-1.0, 1.0)


values = st.sampled_from([-1.0, 0.0, 0.1, 0.5, 0.1 + 0.2, 0.3])


@given(st.lists(st.tuples(st.sampled_from("ab"), values | st.none(), values | st.none()), max_size=12))
def test_every_pair_is_in_one_class_and_the_same_rule_changes_nothing(rows):
    found = rank(items(*rows))
    expected = {"flip": 0, "broken": 0, "made": 0, "pairs": 0}
    known = [row for row in rows if None not in row]
    for i, (group, old, new) in enumerate(known):
        for other, was, now in known[i + 1 :]:
            if other != group:
                continue
            d0, d1 = round(old - was, 9), round(new - now, 9)
            expected["pairs"] += 1
            expected["flip"] += d0 * d1 < 0
            expected["broken"] += d0 == 0 != d1
            expected["made"] += d1 == 0 != d0
    assert (found.flips, found.ties_broken, found.ties_made, found.pairs) == tuple(
        expected[key] for key in ("flip", "broken", "made", "pairs")
    )
    same = rank(items(*((group, old, old) for group, old, _ in rows)))
    assert same.flips == same.ties_broken == same.ties_made == same.sign_flips == 0
    assert same.tau is None or same.tau.value == pytest.approx(1)


def test_advantages_are_those_of_training():
    assert advantages([1.0, 2.0, 3.0]) == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001])
    assert advantages([0.5, 0.5]) == [0, 0] and advantages([4.0]) == [0]


@given(st.floats(-3, 3), st.floats(-3, 3), st.integers(2, 16))
def test_a_group_of_ties_has_no_advantages_and_so_no_signs(old, new, size):
    """The mean of 15 times -1.733587054768 is another number than that."""
    assert not any(advantages([round(old, 12)] * size))
    found = rank([Item(str(n), "g", "g", old, new) for n in range(size)])
    assert found.sign_flips == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return sample_run.build(tmp_path_factory.mktemp("what-if") / "run")


def test_the_same_rule_gives_every_stored_reward_again(run):
    found = compare(open_source(run), None, None, [])
    assert found.what == "rollouts" and found.before == found.after
    assert found.rows == found.comparable == found.reproduced == 6 * sample_run.STEPS
    assert (found.missing.before, found.missing.after) == (0, 0)
    assert (found.change.changed, found.ranking.flips) == (0, 0)


def test_rewards_of_a_run_under_another_preset_and_pooling(run):
    source = open_source(run)
    found = compare(
        source, None, "qa-lign", ["pooling.grades=mean", "pooling.graded_na=fail", "reward.alpha=3"]
    )
    rule = Pooling(grades="mean", graded_na="fail")
    program = source.program.model_copy(update={"pooling": rule})
    expected = []
    for row in source.rows:
        if row.malformed:
            # R over the corners: (1, -1) gives 0 - 2, (-1, -1) gives -2, (-1, 1) gives 6, (1, 1) gives 2
            expected.append(-2 - 0.5)
            continue
        r1, r2 = (total(program, judged.card) for judged in row.texts)
        expected.append(r1 + r2 + (3 * (r2 - r1) if r2 > r1 else -(r1 - r2)))
    assert found.change.items == len(expected)
    assert found.change.mean_after.value == pytest.approx(statistics.fmean(expected))
    assert found.change.sd_after == pytest.approx(statistics.stdev(expected))
    assert found.ranking.groups == 0  # one completion a prompt and step: nothing to rank


def total(program: Program, card) -> float:
    verdicts = {v.question_id: v for p in card.principles for d in p.dimensions for v in d.verdicts}
    return float(naive_pooling.total_value(program, verdicts, None))


def test_a_preset_brings_its_constants_and_a_setting_is_checked():
    mine = other_rule(Rule(), None, ["reward.alpha=0.2"])
    assert mine.reward.weights == (0.2, 0.5)
    assert other_rule(mine, "qa-lign", []).reward.weights == (10, 1)
    assert other_rule(mine, "rubrica", []).reward.weights == (0.2, 0.5)
    for preset, settings, said in (
        ("rubricka", [], "rubrica"),
        (None, ["reward.alpha=7"], "0 <= alpha < 1"),
        (None, ["pooling.grade=mean"], "grades"),
        (None, ["alpha=1"], "alpha"),
    ):
        with pytest.raises(UsageError, match="--reward, --set: ") as wrong:
            other_rule(Rule(), preset, settings)
        assert said in str(wrong.value)


SAFE = Question(id="s", kind="gate", text="Is it free of harm?", clause="c", protected=True)
KIND = Question(id="k", kind="graded", text="How kind is it?", clause="c")
CLEAR = Question(id="r", kind="graded", text="How clear is it?", clause="c")
PROGRAM = Program(
    name="small",
    constitution="c",
    principles=(
        Principle(
            id="p", title="P", dimensions=(Dimension(id="d", title="D", questions=(SAFE,)),), caps=False
        ),
        Principle(id="q", title="Q", dimensions=(Dimension(id="e", title="E", questions=(KIND, CLEAR)),)),
    ),
)
ANSWERS = {"calm": ("TRUE", "A", "C"), "even": ("TRUE", "B", "B"), "rude": ("FALSE", "A", "A")}


def answer(body: dict) -> Reply:
    asked = body["messages"][1]["content"]
    word = next(word for word in ANSWERS if f"> {word}" in asked)
    label = ANSWERS[word][next(n for n, q in enumerate((SAFE, KIND, CLEAR)) if q.text in asked)]
    return completion(label, {label: 0.9, "?": 0.1})


def cli(capsys, *argv: str, code: int = 0) -> str:
    said = run_for(code, capsys, "score", *argv)
    return said.err if code else said.out


def test_stored_scorecards_are_valued_without_a_judge(tmp_path, fake_server, capsys):
    fake_server.answer = answer
    (tmp_path / "p.yaml").write_text(dump_yaml(PROGRAM))
    rows = [("even", "calm"), ("calm", "rude"), ("even", "rude")]
    lines = [
        {"id": f"q{n}", "prompt": f"Hi {n}", "chosen": a, "rejected": b} for n, (a, b) in enumerate(rows)
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    argv = ["--program", str(tmp_path / "p.yaml"), "--judge", f"openai:m@{fake_server.url}"]
    argv += ["--input", str(tmp_path / "in.jsonl"), "--out", str(out)]
    cli(capsys, *argv)
    fake_server.stop()
    asked = len(fake_server.requests)

    same = json.loads(cli(capsys, "--from", str(out), "--json"))
    assert same["comparable"] == same["reproduced"] == 6 and same["change"]["changed"] == 0

    # minimum: even .5 > calm .1; mean: calm (1 + .1) / 2 = .55 > even .5: the first pair is lost
    found = json.loads(cli(capsys, "--from", str(out), "--set", "pooling.grades=mean", "--json"))
    assert found["what"] == "texts" and found["missing"] == {"before": 0, "after": 0, "unasked": 0}
    assert [found["preferred"][key]["value"] for key in ("before", "after")] == pytest.approx([1, 2 / 3])
    assert (found["preferred"]["won"], found["preferred"]["lost"], found["ranking"]["flips"]) == (0, 1, 1)
    flip = found["ranking"]["examples"][0]
    assert (flip["better_before"], flip["better_after"]) == ("q0/chosen", "q0/rejected")
    assert [*flip["before"], *flip["after"]] == pytest.approx([0.5, 0.1, 0.5, 0.55])

    # the veto spared both grades of the rude texts, which qa-lign needs
    found = json.loads(cli(capsys, "--from", str(out), "--reward", "qa-lign", "--json"))
    assert found["missing"] == {"before": 0, "after": 2, "unasked": 2}
    assert found["preferred"]["pairs"] == 1
    assert "2 of them because questions that the other rule needs were never asked" in cli(
        capsys, "--from", str(out), "--reward", "qa-lign"
    )
    assert len(fake_server.requests) == asked

    # once all is asked the same command has them: rude is mean(-1, 1) = 0 without a veto
    fake_server.start()
    cli(capsys, *argv, "--full")
    fake_server.stop()
    found = json.loads(cli(capsys, "--from", str(out), "--reward", "qa-lign", "--json"))
    assert found["missing"]["after"] == 0 and found["preferred"]["lost"] == 0
    changed = found["change"]
    assert (changed["items"], changed["changed"]) == (6, 2)
    assert changed["difference"]["value"] == pytest.approx(2 / 6)


def test_another_program_takes_the_answers_of_equal_questions(tmp_path, fake_server, capsys):
    fake_server.answer = answer
    (tmp_path / "p.yaml").write_text(dump_yaml(PROGRAM))
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "t", "prompt": "Hi", "response": "calm"}) + "\n")
    out = tmp_path / "out"
    argv = ["--program", str(tmp_path / "p.yaml"), "--judge", f"openai:m@{fake_server.url}"]
    cli(capsys, *argv, "--input", str(tmp_path / "in.jsonl"), "--out", str(out))
    fake_server.stop()
    renamed = KIND.model_copy(update={"id": "kindness", "clause": "other"})
    principle = PROGRAM.principles[1].model_copy(
        update={"dimensions": (Dimension(id="f", title="F", questions=(renamed,)),)}
    )
    (tmp_path / "n.yaml").write_text(dump_yaml(PROGRAM.model_copy(update={"principles": (principle,)})))
    found = json.loads(cli(capsys, "--from", str(out), "--program", str(tmp_path / "n.yaml"), "--json"))
    assert found["missing"]["after"] == 0
    assert found["change"]["mean_after"]["value"] == 1.0  # kindness alone: A
    # a question that nobody asked leaves no total
    new = renamed.model_copy(update={"id": "warmth", "text": "How warm is it?"})
    dimension = Dimension(id="f", title="F", questions=(renamed, new))
    principle = principle.model_copy(update={"dimensions": (dimension,)})
    (tmp_path / "n.yaml").write_text(dump_yaml(PROGRAM.model_copy(update={"principles": (principle,)})))
    found = json.loads(cli(capsys, "--from", str(out), "--program", str(tmp_path / "n.yaml"), "--json"))
    assert found["missing"] == {"before": 0, "after": 1, "unasked": 1} and found["change"] is None


def graded(safe: str, kind: str, clear: str):
    labels = {"s": safe, "k": kind, "r": clear}
    verdicts = {id: Verdict(question_id=id, outcome="answered", label=label) for id, label in labels.items()}
    return pool(PROGRAM, verdicts, veto=RewardConfig().veto(), judge="j")


def test_a_group_of_rollouts_by_hand(tmp_path, capsys):
    prompt = Prompt(id="p0", messages=(Message(role="user", content="Hi"),))
    # totals are the lower grade: (1, 1), (-1, 1), (.5, .1); the fourth has no tags
    texts = [("A", "A"), ("F", "A"), ("B", "C")]
    run = Run.start(tmp_path / "run", sample_run.Recipe(), PROGRAM, seed=0)
    with run:
        run.store.put("prompt", "p0", prompt)
        for n, grades in enumerate([*texts, None]):
            cards = [graded("TRUE", g, g) for g in grades] if grades else []
            ids = []
            for which, card in enumerate(cards):
                ids.append(f"c{n}{which}")
                run.store.put("scorecard", ids[-1], card)
            reason = None if cards else Malformed.NO_OPEN_TAG
            rollout = Rollout(
                id=f"r{n}",
                stage="02-grpo",
                step=1,
                prompt_id="p0",
                response=Response(
                    id=f"r{n}", prompt_id="p0", text="x", model="m", sampling=Sampling(), tokens=1
                ),
                attempt=Attempt(draft=f"d{n}", reflection="r", revision=f"v{n}", malformed=reason),
                draft_card=ids[0] if ids else None,
                revision_card=ids[1] if ids else None,
                reward=RewardConfig().reward(*(cards or [None, None]), reason),
            )
            run.store.put("rollout", rollout.id, rollout, stage="02-grpo", step=1)
    source = open_source(tmp_path / "run")
    # rubrica: 1 + 1, -.5 + 1.5, .25 + .15, and -2 - .5
    assert [row.value for row in source.rows] == pytest.approx([2, 1, 0.4, -2.5])
    found = compare(source, None, "qa-lign", [])
    # the published constants: 2, 11 + 9, 2 * .1, and -2 - .5
    new = [2, 20, 0.2, -2.5]
    assert found.reproduced == 4 and found.change.mean_after.value == pytest.approx(statistics.fmean(new))
    assert (found.ranking.groups, found.ranking.pairs, found.ranking.flips) == (1, 6, 1)
    assert found.ranking.tau.value == pytest.approx((5 - 1) / 6)
    assert found.ranking.best_changed.value == 1.0
    # means .225 and 4.925: +, +, +, - against -, +, -, -
    assert (found.ranking.advantages, found.ranking.sign_flips) == (4, 2)
    assert found.ranking.advantage_correlation == pytest.approx(
        statistics.correlation([2, 1, 0.4, -2.5], new), abs=1e-4
    )
    [flip] = found.ranking.examples
    assert (flip.better_before, flip.better_after) == ("r0", "r1") and flip.after == pytest.approx((2, 20))
    plot = tmp_path / "plot.svg"
    printed = cli(capsys, "--from", str(tmp_path / "run"), "--reward", "qa-lign", "--plot", str(plot))
    assert plot.read_text().startswith("<svg") and "reward after" in plot.read_text()
    assert "1 group, 6 pairs: 1 flip, 0 ties broken, 0 made" in printed
    assert "  r0 +2.000 > r1 +1.000, now +2.000 < +20.000" in printed


class Sure:
    """A judge with fitted veto thresholds, which says FALSE with probability 0.9 and else the best grade."""

    fingerprint = "sure"
    veto_thresholds: ClassVar = {"s": 0.95}

    def answer(self, queries):
        for index, query in enumerate(queries):
            label = Label.FALSE if query.question.kind == "gate" else Label.A
            yield (
                index,
                Verdict(
                    question_id=query.question.id, outcome="answered", label=label, probabilities={label: 0.9}
                ),
            )


def test_fitted_veto_thresholds_are_part_of_the_rule(tmp_path):
    texts = [Text("t", Prompt(id="p", messages=(Message(role="user", content="Hi"),)), "rude")]
    with Store(tmp_path / "store.sqlite") as store:
        scored, _ = score_texts(texts, Sure(), store, program=PROGRAM, reward=RewardConfig())
    assert scored[0].card.total == 0.0  # mean(-1, 1): 0.9 is below the threshold, so nothing vetoes
    write_cards(scored, tmp_path, PROGRAM, RewardConfig(), pairs=False)
    assert compare(open_source(tmp_path), None, None, []).reproduced == 1
    renamed = Dimension(id="d", title="D", questions=(SAFE.model_copy(update={"id": "safe"}),))
    principle = PROGRAM.principles[0].model_copy(update={"dimensions": (renamed,)})
    other = PROGRAM.model_copy(update={"principles": (principle, PROGRAM.principles[1])})
    assert compare(open_source(tmp_path), other, None, []).change.mean_after.value == 0.0
    (tmp_path / "scoring.yaml").unlink()
    with pytest.raises(UsageError, match=r"has no scoring[.]yaml; run rubrica score there once more"):
        open_source(tmp_path)


def test_no_judge_is_even_loaded(run):
    code = (
        "import sys; from rubrica.cli import main\n"
        "try: main(['score', '--from', sys.argv[1], '--reward', 'qa-lign', '--json'])\n"
        "except SystemExit as left: assert not left.code\n"
        "names = ('openai', 'torch', 'rubrica.chat', 'rubrica.judges.server', 'rubrica.judges.local')\n"
        "print([name for name in names if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and json.loads(done.stdout)["after"].startswith("qa-lign (alpha 10")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--from", "nowhere"], "nowhere: neither a run (recipe.yaml) nor scorecards"),
        (["--from", "x", "--judge", "lab"], "--judge: has no use with --from"),
        (["--from", "x", "--full"], "--full: has no use with --from"),
        (["--plot", "x.svg", "--program", "lab"], "--plot: needs --from RUN"),
        (["--from", "x", "--plot", "x.png"], "--plot x.png: expected a name that ends in .svg"),
        (["--from", "x", "--plot", "nowhere/x.svg"], "nowhere/x.svg: its folder does not exist"),
        (["--program", "lab", "--judge", "lab"], "--input, --out: missing; or --from RUN"),
        (["--reward", "best", "--program", "lab", "--judge", "lab", "--input", "i", "--out", "o"], "rubrica"),
    ],
)
def test_wrong_use_is_one_line(capsys, argv, said):
    printed = cli(capsys, *argv, code=2)
    assert printed.startswith("error: ") and said in printed and printed.count("\n") == 1
