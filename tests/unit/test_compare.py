"""Two evaluations side by side: what is matched, what is tested, what a gate says of it."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from command_line import run_for
from eval_folder import row, rows, write_folder
from rubrica.core.agreement import rogan_gladen
from rubrica.core.compared import Comparison
from rubrica.core.errors import DataError, UsageError
from rubrica.core.evaluation import Metric, Standing
from rubrica.core.mcnemar import holm, mcnemar
from rubrica.core.records import Estimate, Unmeasured, Usage
from rubrica.core.stats import wilson
from rubrica.judges.passport import Passport
from rubrica.recipes import gates
from rubrica.recipes.comparable import load
from rubrica.recipes.compare import Options, compare
from rubrica.recipes.eval_columns import SHARES, folders, read_models
from rubrica.recipes.judge_errors import Errors

A = [1.0] * 30 + [0.0] * 70
"""30 of 100."""
B = [0.0] * 12 + [1.0] * 18 + [0.0] * 68 + [1.0] * 2
"""20 of 100: 12 lost, 2 gained."""


def sides(tmp_path, first, second, **more):
    write_folder(tmp_path / "a", first)
    write_folder(tmp_path / "b", second, **more)
    return load(str(tmp_path / "a")), load(str(tmp_path / "b"))


def compared(tmp_path, first, second, options=Options()) -> Comparison:  # noqa: B008
    return compare(*sides(tmp_path, first, second), options)


def yaml_of(gate: str) -> dict[str, str]:
    return dict(pair.split(": ") for pair in gate.split(", "))


# --- numbers ---


def test_one_suite_by_hand(tmp_path):
    [found] = compared(tmp_path, rows("advbench", A), rows("advbench", B)).suites
    assert (found.pairs, found.clusters, found.lost, found.gained) == (100, 100, 0.12, 0.02)
    assert found.first == wilson(30, 100, name="asr")
    assert found.second == wilson(20, 100, name="asr")
    assert found.difference.value == pytest.approx(-0.1)
    assert (found.p, found.mid_p) == tuple(mcnemar(2, 12))
    assert found.test == "exact McNemar"
    assert found.finding == "better"  # lower is better: 12 against 2 has p = .0129
    assert found.detectable == pytest.approx(0.105, abs=0.005)


def test_of_accuracy_more_is_better(tmp_path):
    [found] = compared(tmp_path, rows("gsm8k", A, Metric.ACCURACY), rows("gsm8k", B, Metric.ACCURACY)).suites
    assert (found.lower_is_better, found.finding) == (False, "worse")


def test_many_suites_are_tested_together(tmp_path):
    # ten sets without a difference beside one with p = .0129: by Holm, nothing is shown
    names = [f"s{n}" for n in range(10)]
    same = [each for name in names for each in rows(name, A)]
    found = compared(tmp_path, [*rows("advbench", A), *same], [*rows("advbench", B), *same]).suites
    assert [r.adjusted_p for r in found] == holm([r.p for r in found])
    assert found[0].p < 0.05 < found[0].adjusted_p
    assert {r.finding for r in found} == {"no difference shown"}
    alone = compared(tmp_path / "2", rows("advbench", A), rows("advbench", B)).suites[0]
    # the strictest step of Holm asks for more
    assert found[0].detectable > alone.detectable


def test_items_of_one_goal_are_one_observation(tmp_path):
    # every answer thrice under one cluster: the p-value stays that of 14 goals, not of 42 pairs
    def thrice(values):
        return [
            row("pez", f"{n}-{k}", value, cluster=f"goal {n}", attack=f"pez-{k}")
            for n, value in enumerate(values)
            for k in range(3)
        ]

    [found] = compared(tmp_path, thrice(A), thrice(B)).suites
    assert (found.pairs, found.clusters) == (300, 100)
    assert found.p == pytest.approx(mcnemar(2, 12).p)
    assert found.test == "exact McNemar by cluster"


def test_a_margin_tells_not_inferior_from_not_shown(tmp_path):
    given = (
        rows("xstest", [0.0] * 395 + [1.0] * 5, Metric.FRR),
        rows("xstest", [1.0] + [0.0] * 399, Metric.FRR),
    )
    [found] = compared(tmp_path, *given, Options(margin=0.02)).suites
    assert found.not_inferior is (found.difference.high <= 0.02)
    assert found.finding == "not inferior"
    [strict] = compared(tmp_path / "2", *given, Options(margin=0.0001)).suites
    assert strict.finding == "no difference shown"


def test_seeds_of_a_recipe_are_clusters(tmp_path):
    # three seeds that refuse nothing, everything or a third: their mean says little of a fourth
    base = write_folder(tmp_path / "a", rows("advbench", A))
    for seed, hits in enumerate((0, 50, 100)):
        write_folder(tmp_path / "b" / str(seed), rows("advbench", [1.0] * hits + [0.0] * (100 - hits)))
    found = compare(load(str(base)), load(str(tmp_path / "b")), Options())
    [result] = found.suites
    assert found.second.models == 3
    assert result.second.value == pytest.approx(0.5)
    assert result.test == "cluster-robust t over items and models"
    # rates 0, .5, 1: SD .5, so the mean's error is at least .5 / sqrt(3)
    assert result.difference.high - result.difference.low > 2 * 1.96 * 0.5 / math.sqrt(3) * 0.8
    assert result.finding == "no difference shown"
    listed = ",".join(str(tmp_path / "b" / str(seed)) for seed in range(3))
    assert compare(load(str(base)), load(listed), Options()).suites == found.suites


def test_seeds_that_all_differ_alike_have_a_test(tmp_path):
    """Nothing varies, so there is no t: 20 requests that all go one way have the sign test's p, 2 / 2^20."""
    first, second = (
        [each for seed in range(3) for each in rows("advbench", [value] * 20, seed=seed)]
        for value in (1.0, 0.0)
    )
    [found] = compared(tmp_path, first, second).suites
    assert (found.p, found.test) == (pytest.approx(2**-19), "exact test of signs by cluster")
    assert found.finding == "better"
    [same] = compared(tmp_path / "same", first, first).suites
    assert (same.p, same.finding) == (1.0, "no difference shown")


def test_seeds_within_one_folder_are_models_too(tmp_path):
    both = [*rows("advbench", A, seed=0), *rows("advbench", B, seed=1)]
    found = compared(tmp_path, rows("advbench", A), both)
    assert found.second.models == 2
    assert found.suites[0].second.value == pytest.approx(0.25)


def test_averages_over_suites(tmp_path):
    # goal x is in both sets; macro: mean of the sets' rates, pooled: every goal once
    first = [
        row("advbench", "1", 1.0, cluster="x"),
        row("advbench", "2", 0.0, cluster="y"),
        row("pez", "1", 1.0, cluster="x"),
        row("pez", "2", 1.0, cluster="z"),
        row("pez", "3", 1.0, cluster="w"),
    ]
    second = [each.model_copy(update={"value": 0.0}) for each in first]
    macro, pooled = compared(tmp_path, first, second).averages
    assert (macro.suite, macro.first.value) == ("macro", pytest.approx((1 / 2 + 1) / 2))
    assert (pooled.suite, pooled.first.value, pooled.clusters) == ("pooled", pytest.approx(3 / 4), 4)
    assert macro.second.value == pooled.second.value == 0


def test_drafts_groups_and_answers(tmp_path):
    first = [
        *rows("advbench", A, category="x", draft=1.0),
        row("advbench", "u", None, category="y", draft=1.0),
    ]
    second = [
        *rows("advbench", B, category="x", draft=0.0),
        row("advbench", "u", 0.0, category="y", draft=0.0),
    ]
    found = compared(tmp_path, first, second, Options(by="category"))
    [draft] = found.drafts
    assert (draft.metric, draft.first.value, draft.second.value) == ("draft_asr", 1, 0)
    one, other = found.groups
    assert (one.group, one.pairs) == ("category:x", 100)
    assert (other.finding, other.without_value) == ("not compared", 1)
    assert isinstance(other.difference, Unmeasured)
    assert {each.metric for each in found.answers} == {*(share.value for share in SHARES), "tokens"}
    unjudged = next(each for each in found.answers if each.metric == "unjudged")
    assert (unjudged.first.value, unjudged.second.value) == (pytest.approx(1 / 101), 0)
    tokens = next(each for each in found.answers if each.metric == "tokens")
    assert tokens.difference.value == 0


def test_a_missing_revision_that_counts_as_harmful_is_a_value(tmp_path):
    lost = row("advbench", "x", 1.0, standing=Standing.NO_REVISION)
    found = compared(
        tmp_path,
        [*rows("advbench", B), lost],
        [*rows("advbench", A), lost.model_copy(update={"value": None})],
    )
    assert (found.suites[0].pairs, found.suites[0].without_value) == (100, 1)


def test_missing_values_leave_a_range(tmp_path):
    # A is 1, 0, ?, 0 and B 0, 0, 1, ?: B-A is least if ? is 1 in A and 0 in B: 1/4 - 2/4; at most 2/4 - 1/4
    [found] = compared(
        tmp_path, rows("advbench", [1.0, 0.0, None, 0.0]), rows("advbench", [0.0, 0.0, 1.0, None])
    ).suites
    assert (found.pairs, found.without_value) == (2, 2)
    assert found.however_missing == (-0.25, 0.25)


def test_corrected_beside_raw(tmp_path):
    def known(name, value):
        return Estimate(name=name, value=value, low=value, high=value, n=10**8, method="wilson")

    errors = Errors("judge-1", known("sensitivity", 0.8), known("specificity", 0.9))
    [found] = compared(
        tmp_path, rows("advbench", A), rows("advbench", B), Options(errors={Metric.ASR: errors})
    ).suites
    # (.3 - .1) / .7 and (.2 - .1) / .7
    assert found.corrected.first.value == pytest.approx(0.2 / 0.7)
    assert found.corrected.second.value == pytest.approx(0.1 / 0.7)
    assert found.corrected.difference.value == pytest.approx(-0.1 / 0.7)
    other = Options(errors={Metric.ASR: errors._replace(judge="judge-2")})
    [found] = compared(tmp_path / "2", rows("advbench", A), rows("advbench", B), other).suites
    assert "the passport is of judge-2" in found.corrected.difference.reason


# --- matching ---


def test_what_one_side_lacks_is_named_and_left_out(tmp_path):
    first = rows("advbench", A) + rows("pez", A)
    second = rows("advbench", B[:98]) + rows("advbench", [1.0], trial=1) + rows("gbda", B)
    found = compared(tmp_path, first, second)
    [matching] = found.matching
    assert (matching.matched, matching.only) == (98, (2, 1))
    assert matching.examples == (("advbench-98", "advbench-99"), ("advbench-0",))
    assert found.only == (("pez",), ("gbda",))


def test_order_of_rows_does_not_matter(tmp_path):
    one = compared(tmp_path, rows("advbench", A), rows("advbench", B))
    other = compared(tmp_path / "2", rows("advbench", A)[::-1], rows("advbench", B)[::-1])
    assert one.suites == other.suites


def test_different_judges_are_refused_unless_anyway(tmp_path):
    both = sides(tmp_path, rows("advbench", A), rows("advbench", B), judge="judge-2")
    with pytest.raises(UsageError, match=r"judge of advbench: judge-1 in .*a, judge-2 in .*b; .*--anyway"):
        compare(*both, Options())
    found = compare(*both, Options(anyway=True))
    assert "judge-2" in found.differs[0]


def test_a_model_that_revises_may_be_compared_with_one_that_does_not(tmp_path):
    rules = "protocol own; judges read the goal"
    revises = f"{rules}; the revision is judged, a missing one is counted apart"
    both = sides(tmp_path, rows("advbench", A), rows("advbench", B), protocol=revises)
    assert compare(*both, Options()).differs == ()
    with pytest.raises(UsageError, match="protocol of advbench"):
        compare(
            both[0],
            load(str(write_folder(tmp_path / "c", rows("advbench", B), protocol="qa-lign"))),
            Options(),
        )


def test_settings_that_differ_are_told(tmp_path):
    both = sides(tmp_path, rows("advbench", A), rows("advbench", B))
    for side, tokens in (("a", 256), ("b", 512)):
        (tmp_path / side / "evaluation.yaml").write_text(
            f"program: harm\nsampling: {{max_tokens: {tokens}}}\n", encoding="utf-8"
        )
    assert "sampling max_tokens: " in compare(*both, Options()).differs[0]
    assert "256 in" in compare(*both, Options()).differs[0]
    (tmp_path / "b" / "evaluation.yaml").write_text("program: hhh\n", encoding="utf-8")
    with pytest.raises(UsageError, match="program: harm in"):
        compare(*both, Options())


# --- files ---


def test_a_folder_that_is_no_evaluation_is_refused(tmp_path):
    for name, message in (
        ("nowhere", "no such folder"),
        (".", "no items.jsonl there"),
        (" , ", "names no folder"),
    ):
        with pytest.raises(UsageError, match=message):
            folders(str(tmp_path / name) if name != " , " else name)
    write_folder(tmp_path / "a", rows("advbench", A))
    with pytest.raises(UsageError, match="names a folder twice"):
        folders(f"{tmp_path / 'a'},{tmp_path / 'a'}")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "store.sqlite").touch()
    with pytest.raises(UsageError, match="not finished; run the same rubrica eval again"):
        folders(str(tmp_path / "begun"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"items.jsonl:3: .*expected a row of rubrica eval"),
        ('{"suite": "advbench"}', r"items.jsonl:3: item: is missing"),
        (
            row("advbench", "advbench-0", 1.0).model_dump_json(),
            "'advbench-0', trial 0, seed 0 is there twice",
        ),
        (row("advbench", "z", 1.0, Metric.FRR).model_dump_json(), "has metrics asr and frr"),
    ],
)
def test_bad_rows_are_named(tmp_path, line, message):
    folder = write_folder(tmp_path / "a", rows("advbench", A[:2]))
    with (folder / "items.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        read_models(folder)


def test_an_empty_file_and_broken_results_are_named(tmp_path):
    folder = write_folder(tmp_path / "a", rows("advbench", A))
    (folder / "results.json").write_text('[{"label": "x"}]', encoding="utf-8")
    with pytest.raises(DataError, match=r"results\.json: model: is missing"):
        load(str(folder))
    (folder / "items.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="empty: expected a row for each item"):
        load(str(folder))


# --- gates ---


def outcomes(tmp_path, text: str, first, second, options=Options()):  # noqa: B008
    path = tmp_path / "gates.yaml"
    path.write_text(text, encoding="utf-8")
    both = sides(tmp_path / text[:40].replace("/", "_"), first, second)
    policy = gates.load_policy(path)
    return gates.check(policy, path, compare(*both, options), both, options.interval)


@pytest.mark.parametrize(
    ("gate", "outcome"),
    [
        # 20 of 100: Wilson's interval is [.134, .289]
        ("{metric: asr, max: 0.3}", "PASS"),
        ("{metric: asr, max: 0.25}", "UNDECIDED"),
        ("{metric: asr, max: 0.25, on: point}", "PASS"),
        ("{metric: asr, max: 0.1}", "FAIL"),
        ("{metric: asr, max: 0.3, min_n: 101}", "UNDECIDED"),
        ("{metric: asr, min: 0.1}", "PASS"),
        ("{metric: asr, min: 0.3}", "FAIL"),
        # the difference is -.1, about [-.18, -.03]
        ("{metric: asr, not_worse_by: 0}", "PASS"),
        ("{metric: asr, better_by: 0}", "PASS"),
        ("{metric: asr, better_by: 0.1}", "UNDECIDED"),
        ("{metric: asr, better_by: 0.2}", "FAIL"),
        ("{suite: advbench, metric: asr, better_by: 0}", "PASS"),
        ("{metric: unjudged, max: 0}", "PASS"),
        ("{metric: unjudged, not_worse_by: 0}", "PASS"),
        ("{metric: unjudged, max: 0.01, on: interval}", "UNDECIDED"),
        ("{metric: tokens, max: 100}", "PASS"),
        ("{metric: tokens, not_worse_by: 20}", "PASS"),
    ],
)
def test_a_gate_has_three_outcomes(tmp_path, gate, outcome):
    [found] = outcomes(tmp_path, f"gates: [{gate}]", rows("advbench", A), rows("advbench", B))
    assert found.outcome == outcome, found.reason
    assert found.passes is (outcome == "PASS")


def test_a_loss_fails(tmp_path):
    text = "gates: [{metric: asr, not_worse_by: 0.01}, {metric: asr, better_by: 0}]"
    found = outcomes(tmp_path, text, rows("advbench", B), rows("advbench", A))
    assert [each.outcome for each in found] == ["FAIL", "FAIL"]


def test_a_gate_without_suite_holds_for_each(tmp_path):
    first = rows("advbench", A) + rows("pez", B)
    second = rows("advbench", B) + rows("pez", A)
    found = outcomes(tmp_path, "gates: [{metric: asr, not_worse_by: 0.01}]", first, second)
    assert [(each.suite, each.outcome) for each in found] == [("advbench", "PASS"), ("pez", "FAIL")]
    [macro] = outcomes(tmp_path, "gates: [{suite: macro, metric: asr, not_worse_by: 0.1}]", first, second)
    assert (macro.suite, macro.outcome) == ("macro", "PASS")


def test_what_a_side_did_not_evaluate_is_not_passed(tmp_path):
    text = "gates: [{metric: asr, not_worse_by: 0.01}, {metric: asr, max: 0.9}, {suite: advbench, metric: asr, max: 0.9}]"
    first, second = rows("advbench", A) + rows("pez", A), rows("advbench", B) + rows("gbda", A)
    found = outcomes(tmp_path, text, first, second)
    assert [(each.suite, each.outcome) for each in found] == [
        ("advbench", "PASS"),
        ("pez", "UNDECIDED"),
        ("gbda", "UNDECIDED"),
        ("advbench", "PASS"),
        ("gbda", "PASS"),
        ("pez", "UNDECIDED"),
        ("advbench", "PASS"),
    ]
    assert "the second side lacks the suite" in found[1].reason
    assert "the first side lacks the suite" in found[2].reason


def test_undecided_may_be_let_through(tmp_path):
    text = "undecided: pass\ngates: [{metric: asr, max: 0.25}, {metric: asr, max: 0.25, undecided: fail}]"
    found = outcomes(tmp_path, text, rows("advbench", A), rows("advbench", B))
    assert [each.passes for each in found] == [True, False]
    # 1.96^2 * .25 * .75 / .05^2 = 288.1
    assert "about 289 independent items would tell" in found[0].reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gates: [{metric: acuracy, max: 1}]", r"gates.yaml:1: .*unknown 'acuracy' \(did you mean 'accuracy'\?\)"),
        ("gates: [{metric: asr}]", "got no limit; expected one of max, min, not_worse_by, better_by"),
        ("gates: [{metric: asr, max: 1, min: 0}]", "got max and min"),
        ("gates: [{metric: asr, maks: 1}]", r"unknown key 'gates.0.maks' \(did you mean 'max'\?\)"),
        ("gates: [{metric: asr, max: .nan}]", "finite"),
        ("gates: []", "at least 1"),
        ("gates:\n- {metric: asr, max: .9}\n- {suite: advbenhc, metric: asr, max: .9}", r"yaml:3: gates.1: no suite 'advbenhc' \(did you mean 'advbench'"),
        ("gates: [{metric: frr, max: .9}]", "nothing with metric frr was measured"),
        ("gates: [{metric: draft_asr, max: .9}]", "nothing with metric draft_asr was measured"),
        ("gates: [{metric: asr, group: 'category:x', better_by: 0}]", "compare with --by category"),
        ("gates: [{metric: asr, group: 'category:x', max: .1}]", "group goes with not_worse_by or better_by"),
    ],
)  # fmt: skip
def test_a_gate_that_tests_nothing_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        outcomes(tmp_path, text, rows("advbench", A), rows("advbench", B))


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("metric: asr, max: 5", "max is 5, and nothing can fail that; expected a share such as 0.05"),
        ("metric: asr, max: 1, on: point", "nothing can fail"),
        ("metric: asr, max: -0.1", "max is -0.1, and nothing can pass"),
        (
            "metric: asr, max: 0",
            "nothing can pass that: an interval never ends there; say on: point, or leave room",
        ),
        ("metric: accuracy, min: 0", "nothing can fail"),
        ("metric: accuracy, min: 80", "min is 80, and nothing can pass"),
        ("metric: accuracy, min: 1", "nothing can pass that: an interval never ends there"),
        ("metric: asr, not_worse_by: 2", "not_worse_by is 2, and nothing can fail"),
        ("metric: asr, better_by: 1", "better_by is 1, and nothing can pass"),
        ("metric: tokens, min: 0", "nothing can fail that; expected a positive number"),
        ("metric: unjudged, max: 0, on: interval", "nothing can pass"),
    ],
)
def test_a_gate_that_nothing_can_pass_or_fail_is_refused(tmp_path, gate, message):
    # a limit in per cent would otherwise let everything through
    with pytest.raises(DataError, match=message):
        outcomes(tmp_path, f"gates: [{{{gate}}}]", rows("advbench", A), rows("advbench", B))


@pytest.mark.parametrize(
    "gate",
    ["metric: asr, max: 0, on: point", "metric: accuracy, min: 1, on: point", "metric: unjudged, max: 0",
     "metric: asr, not_worse_by: 0", "metric: tokens, not_worse_by: 200", "metric: tokens, max: 20"],
)  # fmt: skip
def test_limits_at_the_ends_that_something_can_pass_and_fail_are_taken(gate):
    assert gates.Policy.model_validate({"gates": [yaml_of(gate)]})


def test_gates_on_averages_and_groups_say_what_there_is(tmp_path):
    def other(number):
        path = tmp_path / str(number)
        path.mkdir()
        return path

    both = rows("advbench", A), rows("advbench", B)
    with pytest.raises(
        DataError, match="macro is an average over several suites of asr; both sides share fewer"
    ):
        outcomes(tmp_path, "gates: [{suite: macro, metric: asr, better_by: 0}]", *both)
    with pytest.raises(DataError, match="pooled goes with not_worse_by or better_by only"):
        outcomes(other(2), "gates: [{suite: pooled, metric: asr, max: 0.1}]", *both)
    grouped = [[each.model_copy(update={"category": "fraud"}) for each in side] for side in both]
    text = "gates: [{metric: asr, group: 'category:fruad', better_by: 0}]"
    with pytest.raises(DataError, match=r"'category:fruad' \(did you mean 'category:fraud'\?\) was compared"):
        outcomes(other(3), text, *grouped, options=Options(by="category"))


# --- the command line ---


def test_sides_without_a_common_item_are_refused(tmp_path):
    other = [each.model_copy(update={"item": f"x{each.item}"}) for each in rows("advbench", B)]
    both = sides(tmp_path, rows("advbench", A), other)
    with pytest.raises(
        UsageError, match="no item is on both sides: advbench has advbench-0 in the first, xadvbench-0"
    ):
        compare(*both, Options())


def test_names_are_whole_and_nothing_is_minus_zero_at_eighty_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    name = "harmbench-human-jailbreaks-of-2024"
    write_folder(tmp_path / "a", rows(name, [1.0], tokens=9))
    write_folder(tmp_path / "b", rows(name, [0.0], tokens=9))
    said = run_for(0, capsys, "compare", tmp_path / "a", tmp_path / "b").out
    assert "…" not in said and "-0" not in said.replace("-0-", "").replace("-100", "")
    assert name in "".join(line.split(" ")[0] for line in said.splitlines())


def test_the_command_prints_gates_and_fails_on_them(tmp_path, capsys):
    write_folder(tmp_path / "a", rows("advbench", A))
    write_folder(tmp_path / "b", rows("advbench", B))
    policy = tmp_path / "gates.yaml"
    policy.write_text("gates: [{metric: asr, max: 0.1}, {metric: asr, better_by: 0}]", encoding="utf-8")
    command = ("compare", tmp_path / "a", tmp_path / "b")
    assert "advbench" in run_for(0, capsys, *command).out
    said = run_for(1, capsys, *command, "--policy", policy)
    assert "FAIL" in said.out and "PASS" in said.out
    found = json.loads(run_for(1, capsys, *command, "--policy", policy, "--json").out)
    assert [gate["outcome"] for gate in found["gates"]] == ["FAIL", "PASS"]
    assert Comparison.model_validate(found).suites[0].finding == "better"
    assert "| advbench | 100 | 30.0 | 20.0 | -10.0 |" in run_for(0, capsys, *command, "--markdown").out


def passport(path, judge: str, question: str, n: int) -> None:
    """A passport with sensitivity .8 and specificity .9."""
    measures = [
        wilson(n * k // 10, n, name=name, group=question)
        for name, k in (("sensitivity", 8), ("specificity", 9))
    ]
    named = dict.fromkeys(("spec", "template", "changes", "program", "program_hash", "texts_hash"), "x")
    found = Passport(
        created="2026-11-22T00:00:00+00:00",
        judge=judge,
        **named,
        questions={question: "x"},
        texts=2 * n,
        labels="l",
        labels_hash="x",
        own="",
        own_hash="",
        options={},
        versions={},
        measures=tuple(measures),
        confusion={},
        usage=Usage(),
    )
    path.write_text(found.model_dump_json(), encoding="utf-8")


def test_a_passport_corrects_the_metric_of_its_question(tmp_path, capsys):
    both = [[*rows("advbench", values), *rows("xstest", values, Metric.FRR)] for values in (A, B)]
    write_folder(tmp_path / "a", both[0])
    write_folder(tmp_path / "b", both[1])
    passport(tmp_path / "harm.json", "judge-1", "harm.none", 500)
    command = ("compare", tmp_path / "a", tmp_path / "b", "--passport")
    found = Comparison.model_validate(
        json.loads(run_for(0, capsys, *command, tmp_path / "harm.json", "--json").out)
    )
    harm, refusal = found.suites
    known = [wilson(500 * k // 10, 500) for k in (8, 9)]
    by_hand, corrected = rogan_gladen(wilson(30, 100), *known), harm.corrected.first
    assert (corrected.low, corrected.high) == pytest.approx((by_hand.low, by_hand.high))
    assert refusal.corrected is None
    assert "Corrected for the judge's errors" in run_for(0, capsys, *command, tmp_path / "harm.json").out
    passport(tmp_path / "other.json", "judge-1", "hon.truth", 500)
    assert "no question of harm or refusal" in run_for(2, capsys, *command, tmp_path / "other.json").err


def test_hostile_names_reach_no_markup(tmp_path, capsys):
    write_folder(tmp_path / "a", rows("advbench", A, category="<script>|x"), label="[bold]a\x1b[2J")
    write_folder(tmp_path / "b", rows("advbench", B, category="<script>|x"), label="b")
    command = ("compare", tmp_path / "a", tmp_path / "b", "--by", "category")
    said = run_for(0, capsys, *command)
    assert "\x1b" not in said.out and "[bold]a" in said.out
    marked = run_for(0, capsys, *command, "--markdown").out
    assert "<script>" not in marked and "&lt;script&gt;\\|x" in marked


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--by", "categories"), "did you mean 'category'"),
        (("--metric", "acc"), "expected asr or frr"),
        (("--metric", "frr"), "no suite of frr on both sides"),
        (("--interval", "wald"), "expected score or bootstrap"),
        (("--level", "95"), "between 0 and 1"),
        (("--json", "--markdown"), "leave one of them out"),
        (("--policy", "none.yaml"), "no such file"),
    ],
)
def test_wrong_use_is_told(tmp_path, capsys, more, message):
    write_folder(tmp_path / "a", rows("advbench", A))
    write_folder(tmp_path / "b", rows("advbench", B))
    said = run_for(2, capsys, "compare", tmp_path / "a", tmp_path / "b", *more)
    assert message in said.err and "Traceback" not in said.err


def test_the_p_value_of_a_large_suite_is_the_binomial_one(tmp_path):
    rng = np.random.default_rng(0)
    first = (rng.random(20_000) < 0.3).astype(float).tolist()
    second = (rng.random(20_000) < 0.28).astype(float).tolist()
    [found] = compared(tmp_path, rows("alert", first), rows("alert", second)).suites
    gained = sum(b > a for a, b in zip(first, second, strict=True))
    lost = sum(b < a for a, b in zip(first, second, strict=True))
    assert found.p == pytest.approx(2 * stats.binom.cdf(min(gained, lost), gained + lost, 0.5))


def test_direct_prompts_are_a_group_beside_attacks_and_only_there(tmp_path):
    write_folder(
        tmp_path / "a",
        [row("s", "1", 1.0), row("s", "1/p", 0.0, attack="persona"), row("plain", "1", 0.0)],
    )
    [model] = read_models(tmp_path / "a")
    found = {name: inside.tolist() for name, inside in model.suites["s"].groups.items()}
    assert set(found) == {"attack:direct", "attack:persona"}
    assert sorted(zip(*found.values(), strict=True)) == [(False, True), (True, False)]
    assert model.suites["plain"].groups == {}
