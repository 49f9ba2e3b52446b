"""The report says what the run folder holds, and nothing in a run can speak through it."""

import base64
import hashlib
import json
import random
import re
import shutil
import sqlite3
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import command_line
import sample_run
from command_line import Said
from rubrica.core.errors import DataError, UsageError
from rubrica.core.records import Estimate, EvalResult, Label, PrincipleScore, Scorecard
from rubrica.core.run import MetricRow, Run
from rubrica.program.pooling import pool
from rubrica.program.reward import RewardConfig
from rubrica.program.valuation import Veto
from rubrica.reports import before_after_table, render_report, write_report
from rubrica.reports.accounts import costs, question_costs, think_examples, trust
from rubrica.reports.evaluation import suites
from rubrica.reports.examples import choose, last_quarter
from rubrica.reports.metrics import spans, thin
from rubrica.reports.plots import lines
from rubrica.reports.run_data import RunData, StageData
from rubrica.reports.run_report import LONGEST_TEXT, dollars, duration, shown_text
from rubrica.reports.svg import inline_svg, sparkline
from rubrica.reports.tables import MEASURES
from rubrica.reports.waterfall import ladder, reward_ladder, tree

ASR, TOKENS = (next(m for m in MEASURES if m.name == name) for name in ("asr", "tokens"))


class Page(HTMLParser):
    """Elements, attributes and text of a page, as a browser's parser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.script = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._inside = tag if tag in ("script", "style") else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.script += data
        elif not self._inside:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_run.build(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def html(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render_report(sample_run.build(tmp_path_factory.mktemp("hostile") / "run", hostile=True))


def records(run_dir: Path, kind: str) -> list[dict]:
    """The stored records, read without our code."""
    with sqlite3.connect(run_dir / "store.sqlite") as db:
        rows = db.execute("SELECT record FROM records WHERE kind = ? ORDER BY step, id", (kind,)).fetchall()
    return [json.loads(row[0]) for row in rows]


# --- one offline file -----------------------------------------------------------------------------


def test_the_report_is_one_small_file_that_asks_for_nothing(html: str, run_dir: Path) -> None:
    page = Page(html)
    assert (run_dir / "report.html").stat().st_size < 3_000_000
    assert not {"iframe", "object", "embed", "img", "base", "form"} & set(page.elements)
    loads = [
        (tag, name, value) for tag, name, value in page.attributes if name in ("src", "href", "xlink:href")
    ]
    assert all(value.startswith("#") or (tag, value) == ("link", "data:,") for tag, _, value in loads)
    assert "url(" not in html and "@import" not in html


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    rng = random.Random(5)
    run = Run.start(tmp_path / "run", sample_run.Recipe(), sample_run.program(), seed=0)
    stage = run.stage(2, "grpo")
    run.close()
    rows = [
        {
            "step": step,
            "metrics": {
                **{f"gate_fail.q{i}": rng.random() for i in range(60)},
                **{
                    f"principle.{p}.{w}": rng.random() for p in ("a", "b", "c") for w in ("draft", "revision")
                },
                "reward": rng.random(),
                "reward/draft": rng.random(),
                "kl": rng.random(),
            },
        }
        for step in range(1, 2001)
    ]
    (stage.path / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    html = render_report(tmp_path / "run")
    assert len(html.encode()) < 3_000_000
    assert "Drawn as means over equal spans of steps." in Page(html).text
    assert "The 30 that failed most of 60." in Page(html).text


def test_only_the_reports_own_script_may_run(html: str) -> None:
    page = Page(html)
    policy = next(v for tag, name, v in page.attributes if tag == "meta" and "script-src" in v)
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_report_is_the_same_each_time(run_dir: Path, html: str) -> None:
    assert render_report(run_dir) == html


def test_hostile_texts_stay_texts(hostile: str, html: str) -> None:
    page, honest = Page(hostile), Page(html)
    assert page.elements["script"] == honest.elements["script"] == 1
    assert page.elements["img"] == 0
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    # verbatim in the prompt, the draft, a question, a dimension's title, an attack family
    verbatim = "".join(sample_run.HOSTILE.split())
    packed = "".join("".join(page.words).split())
    for before in ("velmetbane?", "darkbottle.", "breachofdisclosure?", "Disclosure", "persona"):
        assert before + verbatim in packed
    assert page.script == honest.script


def test_keys_and_credentials_of_a_recipe_are_hidden(html: str) -> None:
    assert "hunter2" not in html and "sk-hidden" not in html
    assert "openai:judge@http://localhost:1" in html


def test_control_characters_show_and_long_texts_are_cut() -> None:
    assert shown_text("a\x1b[31mb\u202ec\td\n") == "a\ufffd[31mb\ufffdc\td\n"
    shown = shown_text("x" * (LONGEST_TEXT + 1234))
    assert shown.startswith("x" * LONGEST_TEXT + " […]") and "1,234 more" in shown


# --- numbers ----------------------------------------------------------------------------------------


def test_every_estimate_stands_in_the_report(html: str) -> None:
    text = Page(html).text
    for result in sample_run.evaluations():
        for e in result.estimates:
            shown = f"{e.value:,.0f}" if e.name == "tokens" else f"{100 * e.value:.1f} %"
            low_high = (
                f"{e.low:.0f}–{e.high:.0f}" if e.name == "tokens" else f"{100 * e.low:.1f}–{100 * e.high:.1f}"
            )
            assert f"{shown}{low_high}" in text.replace(f"{shown} {low_high}", f"{shown}{low_high}")


def test_models_stand_in_the_order_of_training(run_dir: Path) -> None:
    with RunData(run_dir) as data:
        (suite,) = suites(data)
        # file names sort as qa-lign, starter, think-sft
        assert [r.label for r in suite.results] == ["starter", "think-sft", "qa-lign"]
        changes = {c.measure.name: (c.trend, c.verb) for c in suite.changes}
    # intervals from the values of sample_run: asr 85-90 to 9-13, frr 0.4-3.6 to 1.8-6.2, honesty 35-47 to 66-76
    assert changes["asr"] == ("better", "fell")
    assert changes["frr"] == ("unclear", "no clear change")
    assert changes["honesty"] == ("better", "rose")
    assert changes["tokens"] == ("unclear", "no clear change")


def test_stage_two_counts_match_the_store(run_dir: Path) -> None:
    rows = records(run_dir, "think-example")
    with RunData(run_dir) as data:
        found = think_examples(data)
    assert found is not None
    assert found.total == len(rows) == 60
    assert found.kept == sum(r["dropped"] is None for r in rows)
    assert dict(found.dropped) == Counter(r["dropped"] for r in rows if r["dropped"])
    assert found.confirmed == (sum(r["confirmed"] is True for r in rows), 60)
    checked = [r for r in rows if r["cured"] is not None]
    assert found.cured == (sum(r["cured"] for r in checked), len(checked))
    assert sum(n for _, n in found.weaknesses) == 60


def test_na_and_veto_shares_match_a_recount(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rubrica.reports.accounts.CARDS", 10_000)
    cards = records(run_dir, "scorecard")
    na: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    for card in cards:
        for v in (v for p in card["principles"] for d in p["dimensions"] for v in d["verdicts"]):
            na[v["question_id"]] += v["label"] == "NA"
            answered[v["question_id"]] += v["label"] is not None
    with RunData(run_dir) as data:
        found = trust(data)
    assert found.cards == len(cards)
    assert sum(n for _, n, _ in found.vetoes) == sum(bool(card["vetoed_by"]) for card in cards)
    assert {id: (n, of) for id, _, n, of in found.na} == {
        id: (na[id], answered[id]) for id in [id for id, *_ in found.na]
    }
    shares = [n / of for *_, n, of in found.na]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == max(na[id] / answered[id] for id in na)
    assert found.false_veto == [("02-grpo, checked by the reference judge", pytest.approx(0.03))]


def test_the_judges_passport_is_shown_as_far_as_it_was_measured(run_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    with RunData(copy) as data:
        assert trust(data).passport == []
    measured = {
        "name": "injection",
        "group": "",
        "value": 0.25,
        "low": 0.125,
        "high": 0.5,
        "n": 8,
        "method": "m",
    }
    missing = {"name": "agreement", "group": "", "value": None, "n": 0, "reason": "no labels"}
    family = {**measured, "group": "orders", "value": 0.3}
    (copy / "passport.json").write_text(json.dumps({"measures": [measured, missing, family]}))
    with RunData(copy) as data:
        ((title, found),) = trust(data).passport
    assert (title, found.value) == ("attacks that succeed", 0.25)
    page = render_report(copy)
    assert "<td>attacks that succeed</td><td>0.250</td><td>0.125 to 0.500</td><td>8</td>" in page
    (copy / "passport.json").write_text("[]")
    with pytest.raises(DataError, match=r"passport\.json"):
        render_report(copy)


def test_costs_come_from_the_summary_else_from_the_sum_of_steps(run_dir: Path) -> None:
    with RunData(run_dir) as data:
        first, second = costs(data)
        stage = data.stages[1]
        data.stages = [StageData("02-grpo", stage.rows, {}, False)]
        (running,) = costs(data)
    assert first.usage and second.usage
    assert (second.usage.asked, second.usage.cached, second.seconds) == (18_204, 2_977, 612.5)
    assert running.usage and running.usage.asked == 455 * sample_run.STEPS
    assert running.seconds is None


def test_costs_by_question_add_up_to_the_account(run_dir: Path) -> None:
    """Against sums over the table itself."""
    with RunData(run_dir) as data:
        rows = question_costs(data)
    with sqlite3.connect(run_dir / "store.sqlite") as store:
        asked = "judge = 'lab' AND answer NOT IN ('cached', 'skipped')"
        read, written, total = store.execute(
            f"SELECT sum(prompt_tokens), sum(completion_tokens), sum(count) FROM account WHERE {asked}"
        ).fetchone()
        skipped = store.execute("SELECT sum(count) FROM account WHERE answer = 'skipped'").fetchone()[0]
    money = [row.money or 0 for row in rows]
    assert money == sorted(money, reverse=True)
    assert sum(money) == pytest.approx((0.15 * read + 0.6 * written) / 1e6)
    assert sum(row.tokens for row in rows) == read + written
    assert sum(row.asked for row in rows) == total + 60  # the reference judge's
    assert sum(row.skipped for row in rows) == skipped and {row.cached for row in rows} == {25}
    assert all(sum(n for _, n in row.answers) == row.asked for row in rows)
    assert {row.answers[0] for row in rows} <= {("TRUE", 700), ("TRUE", 760), ("A", 300)}


@pytest.mark.parametrize(
    ("money", "words"), [(None, "–"), (0, "$0.00"), (0.00123, "$0.0012"), (1234.5, "$1,234.50")]
)
def test_dollars(money: float | None, words: str) -> None:
    assert dollars(money) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.25, "0.2 s"), (42.4, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


# --- metrics ------------------------------------------------------------------------------------


def test_names_with_dots_and_slashes_are_read_alike() -> None:
    rows = [
        MetricRow(1, {"reward.mean": 0.5, "gate_fail/a.b/c": 0.25, "principle.x.y.draft": 1.0, "kl": 2.0}),
        MetricRow(2, {"reward.mean": 0.75, "gate_fail.a.b/c": 0.5, "principle/x.y/draft": 3.0}),
    ]
    stage = StageData("02-grpo", rows, {}, True)
    assert stage.series("reward/mean") == [(1.0, 0.5), (2.0, 0.75)]
    assert stage.series("objective/kl", "kl") == [(1.0, 2.0)]
    assert stage.family("gate_fail") == {"a.b/c": [(1.0, 0.25), (2.0, 0.5)]}
    assert stage.family("principle", "draft") == {"x.y": [(1.0, 1.0), (2.0, 3.0)]}
    assert stage.family("principle", "revision") == {}


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=400), st.integers(1, 130))
def test_a_thinned_series_keeps_its_mean_and_its_end(values: list[float], count: int) -> None:
    points = [(float(i), v) for i, v in enumerate(values)]
    short = thin(points, count)
    assert len(short) <= count
    assert short[-1][0] == points[-1][0]
    sizes = [int(b - a) + 1 for a, b in spans([x for x, _ in points], count)]
    assert sum(sizes) == len(values)
    if len(points) > count:
        pooled = sum(y * n for (_, y), n in zip(short, sizes, strict=True)) / len(values)
        assert pooled == pytest.approx(sum(values) / len(values), abs=1e-9)
    else:
        assert short == points


def labels(points: list[tuple[float, float]]) -> list[str]:
    """The words of a drawn chart: ticks across, the title, ticks upwards."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", inline_svg(lines({"a": points}, 446), "t"))


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([(1.0, -2.5), (2.0, -2.5), (3.0, -2.5)], "1 2 3 step −3.5 −3.0 −2.5 −2.0 −1.5"),
        ([(1.0, 0.0), (2.0, 0.0)], "1 2 step 0.0 0.2 0.4 0.6 0.8 1.0"),
        ([(4.0, 1.0)], "4 step 0.6 0.8 1.0 1.2 1.4"),
        ([(float(i), i / 10) for i in range(21)], "0 5 10 15 20 step 0.0 0.5 1.0 1.5 2.0"),
    ],
)
def test_ticks_fall_on_steps_and_constant_series_have_a_scale(points, words) -> None:
    assert labels(points) == words.split()


def test_one_value_is_a_dot() -> None:
    assert 'class="dot" points="0.0,12.0 0.0,12.0"' in sparkline([0.0], -1.0, 1.0)
    assert 'class="line" points="0.0,22.0 100.0,2.0"' in sparkline([-1.0, 1.0], -1.0, 1.0)


def test_families_are_folded_under_the_measures(html: str) -> None:
    shown, folded = html.split("<summary>The same by family</summary>")
    table = shown[shown.index("<tbody>") :]
    assert "Attack success" in table and "</table>" in table and 'class="family"' not in table
    assert folded.index('class="family"') < folded.index("</details>")


# --- waterfalls ----------------------------------------------------------------------------------


def card(
    *values: float | None, total: float | None, known: bool = True, veto: tuple[str, ...] = ()
) -> Scorecard:
    principles = tuple(
        PrincipleScore(id=id, value=value, known=known or value is not None, dimensions=())
        for id, value in zip(("harmless", "helpful", "honest"), values, strict=True)
    )
    return Scorecard(program="p", judge="j", principles=principles, total=total, vetoed_by=veto)


def test_shares_mean_cap_and_veto_of_a_card_worked_out_by_hand() -> None:
    # values -0.4, 1, 0.9: shares -0.4/3, 1/3, 0.3; mean 0.5; capped by harmlessness at -0.4; vetoed to -1
    steps = ladder(card(-0.4, 1.0, 0.9, total=-1.0, veto=("steps.gate",)), sample_run.program())
    found = {s.name: (s.start, s.end) for s in steps}
    assert found["Harmlessness"] == pytest.approx((0, -0.4 / 3))
    assert found["Helpfulness"] == pytest.approx((-0.4 / 3, 0.2))
    assert found["Honesty"] == pytest.approx((0.2, 0.5))
    assert found["Mean"] == pytest.approx((0, 0.5))
    assert found["Cap"] == pytest.approx((0.5, -0.4))
    assert found["Veto"] == pytest.approx((-0.4, -1.0))
    assert found["Total"] == (0, -1.0)


def test_a_principle_without_value_leaves_the_mean() -> None:
    steps = ladder(card(None, 1.0, 0.5, total=0.75), sample_run.program())
    assert [(s.name, s.label) for s in steps] == [
        ("Harmlessness", "not applicable"),
        ("Helpfulness", "+0.50"),
        ("Honesty", "+0.25"),
        ("Mean", "0.75"),
        ("Total", "0.75"),
    ]


def test_unasked_principles_give_no_mean_and_a_missing_total_no_bar() -> None:
    steps = ladder(card(-1.0, None, None, total=-1.0, known=False), sample_run.program())
    assert [(s.name, s.label) for s in steps] == [
        ("Harmlessness", "−1.00"),
        ("Helpfulness", "not needed"),
        ("Honesty", "not needed"),
        ("Total", "−1.00"),
    ]
    assert (
        ladder(card(0.5, None, None, total=None, known=False), sample_run.program())[-1].label == "no total"
    )


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_ladders_of_pooled_cards_join_up(seed: int, quality: float) -> None:
    source = sample_run.program()
    scored = sample_run._card(source, quality, random.Random(seed))
    steps = ladder(scored, source)
    assert steps[-1].end == scored.total
    parts = [s for s in steps if s.kind == "part"]
    assert sum(s.end - s.start for s in parts) == pytest.approx(scored.total)
    at = 0.0
    for part in parts:
        assert part.start == pytest.approx(at)
        at = part.end


@pytest.mark.parametrize("preset", ["rubrica", "qa-lign"])
def test_the_reward_ladder_ends_at_the_reward(run_dir: Path, preset: str) -> None:
    rule = RewardConfig(preset=preset)
    with RunData(run_dir) as data:
        rollout = next(r for r in data.rollouts if r.r1 is not None and r.r2 is not None and r.r2 > r.r1)
    reward = rule.combine(rollout.r1 or 0, rollout.r2 or 0)
    draft, revision, change, last = reward_ladder(rollout.model_copy(update={"reward": reward}))
    alpha = rule.weights[0]
    assert change.name == "Improvement"
    assert change.end - change.start == pytest.approx(alpha * ((rollout.r2 or 0) - (rollout.r1 or 0)))
    assert (draft.end, revision.end) == pytest.approx((rollout.r1, (rollout.r1 or 0) + (rollout.r2 or 0)))
    assert last.end == reward
    assert reward_ladder(rollout.model_copy(update={"reward": None})) == []


def test_the_tree_shows_labels_values_and_what_changed() -> None:
    source = sample_run.program()
    questions = {q.id: q for p in source.principles for d in p.dimensions for q in d.questions}
    rng = random.Random(3)
    verdicts = {id: sample_run._verdict(q, 0.9, rng) for id, q in questions.items()}
    good = pool(source, verdicts, veto=Veto())
    failed = verdicts["steps.gate"].model_copy(
        update={"label": Label.FALSE, "probabilities": {Label.FALSE: 0.97}}
    )
    bad = pool(source, verdicts | {"steps.gate": failed}, veto=Veto())
    first = tree(source, (bad, good, None))[0]
    gate = first.dimensions[0].questions[0]
    assert [c.label for c in gate.cells] == ["FALSE", "TRUE", "not asked"]
    assert [c.tone for c in gate.cells] == ["bad", "good", "none"]
    assert gate.cells[0].probability == 0.97
    assert gate.changed and gate.veto
    assert [q.changed for d in first.dimensions for q in d.questions].count(True) == 1
    assert first.decisive is first.dimensions[0]  # the veto outweighs every other difference
    assert tree(source, (good, good))[0].dimensions[0].weight == (False, 0.0)
    assert list(first.dimensions[0].values) == [-1.0, good.principles[0].dimensions[0].value, None]


# --- worked examples ----------------------------------------------------------------------------


def test_examples_are_the_ones_that_the_rules_name(run_dir: Path) -> None:
    rows = records(run_dir, "rollout")
    kinds = {p["id"]: p["tags"]["kind"] for p in records(run_dir, "prompt")}
    late = [r for r in rows if r["step"] > 30]  # steps 31 to 40 of 40
    whole = [r for r in late if r["attempt"]["malformed"] is None]
    gains = [(r["r2"] - r["r1"], r["step"], r["id"]) for r in whole if kinds[r["prompt_id"]] == "harmful"]
    best = max(g for g, *_ in gains)
    latest = max(step for g, step, _ in gains if g == best)
    cured = min(id for g, step, id in gains if g == best and step == latest)
    friendly = sorted(
        (r["reward"], r["step"], r["id"]) for r in whole if kinds[r["prompt_id"]] in ("benign", "lookalike")
    )
    with RunData(run_dir) as data:
        examples = choose(data)
        vetoed = {r["id"] for r in whole if (c := data.card(r["revision_card"])) and c.vetoed_by}
    assert [e.rollout.id for e in examples][:2] == [cured, friendly[(len(friendly) - 1) // 2][2]]
    rest = [r for r in whole if r["id"] not in {e.rollout.id for e in examples[:2]}]
    pick = [r for r in rest if r["id"] in vetoed] or rest
    assert examples[2].rollout.id == min((r["reward"], r["step"], r["id"]) for r in pick)[2]


def test_a_prompt_without_a_kind_is_not_called_harmful(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunData(run_dir) as data:
        assert choose(data)[0].title == "A harmful prompt, cured"
        tagged = data.prompt
        monkeypatch.setattr(data, "prompt", lambda id: tagged(id).model_copy(update={"tags": {}}))
        assert choose(data)[0].title == "A prompt of no stated kind, cured"


def test_the_last_quarter_has_at_least_one_step(run_dir: Path) -> None:
    with RunData(run_dir) as data:
        assert {r.step for r in last_quarter(data.rollouts)} == set(range(31, 41))
        assert {r.step for r in last_quarter([r for r in data.rollouts if r.step < 3])} == {2}
    assert last_quarter([]) == []


# --- runs that are not finished, or broken --------------------------------------------------------


def test_a_run_that_has_only_started_says_what_is_missing(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", sample_run.Recipe(), sample_run.program(), seed=0)
    run.stage(1, "think-sft").log(1, {"loss": 2.0})
    run.close()
    page = Page(render_report(tmp_path / "run"))
    for words in (
        "Not finished when this was written: 01-think-sft.",
        "holds no evaluation yet. Suites are named under evaluate: in the recipe.",
        "No stage of this run logged a reward or a loss.",
        "No completion with a reward is in the store yet.",
        "This run holds no stage 2 examples.",
        "The run recorded no false-veto rate.",
    ):
        assert words in page.text


def test_a_stage_without_a_judge_shows_its_loss_and_claims_no_reward(tmp_path: Path) -> None:
    recipe = sample_run.Recipe(judge={"spec": "none"}, stages=[{"type": "dpo", "examples": 2}])
    run = Run.start(tmp_path / "run", recipe, sample_run.program(), seed=0)
    stage = run.stage(1, "dpo")
    for step, loss in ((1, 0.7), (2, 0.5)):
        stage.log(step, {"loss": loss, "pairs/margin": 1 - loss, "pairs/accuracy": 1.0})
    run.close()
    page = Page(render_report(tmp_path / "run"))
    for words in (
        "trained by dpo (2 examples): the recipe names no judge. Seed",
        "Stage 01-dpo, 2 logged steps.",
        "Margin of chosen over rejected",
        "Share of pairs ranked right",
    ):
        assert words in page.text
    assert "the reward asks" not in page.text
    for words in (
        "completions without a total",
        "Gates and dimensions",
        "Worked examples",
        "Think-SFT",
        "The judge",
    ):
        assert words not in page.text


def test_a_stage_that_warns_is_heard_at_the_top(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", sample_run.Recipe(), sample_run.program(), seed=0)
    run.stage(2, "grpo").finish({"warning": "every completion was malformed (truncated 100%)"})
    run.close()
    page = Page(render_report(tmp_path / "run"))
    assert "02-grpo: every completion was malformed (truncated 100%)." in page.text


def test_a_folder_without_a_run_and_a_broken_evaluation_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run here \(no recipe.yaml\)"):
        write_report(tmp_path)
    run = Run.start(tmp_path / "run", sample_run.Recipe(), sample_run.program(), seed=0)
    run.close()
    (tmp_path / "run" / "eval" / "x.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.json: not a JSON file"):
        write_report(tmp_path / "run")


def test_a_program_edited_after_the_run_is_pointed_out(tmp_path: Path) -> None:
    Run.start(tmp_path / "run", sample_run.Recipe(), sample_run.program(), seed=0).close()
    path = tmp_path / "run" / "program.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("filler", "padding"), encoding="utf-8")
    assert "program.yaml was changed after the run" in Page(render_report(tmp_path / "run")).text


# --- the terminal -----------------------------------------------------------------------------------


def printed(*results: EvalResult) -> str:
    out = StringIO()
    Console(file=out, width=120, color_system=None).print(before_after_table(results))
    return out.getvalue()


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(name="asr", value=value, low=low, high=high, n=9, method="wilson")


def test_before_and_after_in_the_terminal() -> None:
    text = printed(*sample_run.evaluations())
    row = next(line for line in text.splitlines() if "Attack success" in line)
    # (0.86+0.81+0.9+0.88+0.93)/5 = 0.876; (0.61+0.64+0.72+0.69+0.8)/5 = 0.692; (.04+.07+.13+.09+.22)/5 = 0.11
    assert re.findall(r"[−+\d.]+ (?:%|pp)", row) == ["87.6 %", "69.2 %", "11.0 %", "−76.6 pp"]
    row = next(line for line in text.splitlines() if "Tokens per answer" in line)
    assert re.findall(r"[−+]?\d+", row) == ["48", "103", "96", "+48"]
    assert text.index("Attack success") < text.index("persona") < text.index("False refusals")


@pytest.mark.parametrize(
    ("before", "after", "trend"),
    [
        (estimate(0.8, 0.7, 0.9), estimate(0.1, 0.0, 0.2), "better"),
        (estimate(0.1, 0.0, 0.2), estimate(0.8, 0.7, 0.9), "worse"),
        (estimate(0.8, 0.7, 0.9), estimate(0.6, 0.5, 0.7), "unclear"),  # they touch at 0.7
    ],
)
def test_only_intervals_that_do_not_touch_make_a_trend(before: Estimate, after: Estimate, trend: str) -> None:
    assert ASR.trend(before, after) == trend
    assert TOKENS.trend(before, after) == "unclear"


def test_estimates_of_other_names_are_shown_too() -> None:
    first = sample_run.evaluations()[0]
    extra = (
        Estimate(name="frr", group="look-alike", value=0.25, low=0.2, high=0.3, n=9, method="wilson"),
        Estimate(name="undetermined", group="harmful", value=0.125, low=0.1, high=0.2, n=9, method="wilson"),
        Estimate(name="steps", value=12, low=10, high=14, n=9, method="t"),
    )
    lines = printed(first.model_copy(update={"estimates": (*first.estimates, *extra)})).splitlines()
    cells = {c[0].strip(): c[1].strip() for line in lines if len(c := line.strip("│").split("│")) == 2}
    assert cells["look-alike"] == "25.0 %"
    assert cells["undetermined, harmful"] == "12.5 %"
    assert cells["steps"] == "12"


def test_names_are_printed_as_they_are() -> None:
    first = sample_run.evaluations()[0]
    odd = Estimate(
        name="asr", group="[red]x[/red]\x1b[2J", value=0.5, low=0.4, high=0.6, n=9, method="wilson"
    )
    text = printed(first.model_copy(update={"label": "[bold]a", "estimates": (odd,)}))
    assert "[bold]a" in text and "[red]x[/red] [2J" in text and "\x1b" not in text


def command(capsys: pytest.CaptureFixture[str], *args: str) -> Said:
    return command_line.run(capsys, "report", *args)


def test_the_command_prints_where_the_report_is(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.html"
    code, out, _ = command(capsys, str(run_dir), "--out", str(target), "--json")
    assert code == 0
    assert json.loads(out) == {"run": str(run_dir), "report": str(target), "bytes": target.stat().st_size}
    code, out, _ = command(capsys, str(run_dir))
    assert (code, out.strip()) == (0, str(run_dir / "report.html"))


def test_the_command_names_a_folder_that_holds_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, str(tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and "no run here" in err and len(err.splitlines()) == 1
