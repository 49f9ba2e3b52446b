"""Methods by sets: what stands in a cell, what is bold, and that names stay names in every format."""

import json
import re

import pytest

from command_line import run_for
from eval_folder import rows, write_folder
from rubrica.core.boards import MACRO
from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Metric
from rubrica.core.mcnemar import mcnemar
from rubrica.core.records import Estimate, Unmeasured
from rubrica.core.stats import wilson
from rubrica.recipes.boards import make_boards, read_methods
from rubrica.reports.boards import escaped_latex, latex, markdown
from rubrica.reports.eval_plots import specs

A = [1.0] * 30 + [0.0] * 70
"""30 of 100."""
B = [0.0] * 12 + [1.0] * 18 + [0.0] * 68 + [1.0] * 2
"""20 of 100: 12 lost, 2 gained; McNemar's exact p is .0129."""
C = [1.0] * 60 + [0.0] * 40
HOSTILE = r"a|b_{c}^d\input{x}%&$#~ <b>[x](y)" + "\n`e`\x1b[31m"


def boards(tmp_path, given, **more):
    for name, found in given.items():
        write_folder(tmp_path / name, found)
    return make_boards(read_methods([str(tmp_path / name) for name in given]), **more)


def test_cells_are_wilson_and_the_best_is_shown_by_mcnemar(tmp_path):
    found = boards(tmp_path, {"a": rows("advbench", A), "b": rows("advbench", B), "c": rows("advbench", C)})
    [board] = found.boards
    assert (board.metric, board.columns, board.lower_is_better) == ("asr", ("advbench",), True)
    for row, count in zip(board.rows, (30, 20, 60), strict=True):
        expected = wilson(count, 100)
        [cell] = row.cells
        assert (cell.value, cell.low, cell.high) == pytest.approx(
            (expected.value, expected.low, expected.high)
        )
    [lead] = board.leads
    assert (lead.best, lead.second, lead.shown) == ("b", "a", True)
    assert (lead.p, lead.difference.value) == pytest.approx((mcnemar(2, 12).p, 0.1))


def test_with_many_sets_holm_takes_the_bold_away(tmp_path):
    names = [f"s{n}" for n in range(10)]
    same = [each for name in names for each in rows(name, A)]
    found = boards(tmp_path, {"a": [*rows("advbench", A), *same], "b": [*rows("advbench", B), *same]})
    first = found.boards[0].leads[0]
    assert first.p < 0.05 < first.adjusted_p == pytest.approx(11 * first.p)
    # the mean over sets is one test of its own
    assert [lead.column for lead in found.boards[0].leads if lead.shown] in ([], [MACRO])
    assert "**20.0**" not in markdown(found)


def test_of_accuracy_the_best_is_the_highest(tmp_path):
    found = boards(tmp_path, {"a": rows("gsm8k", A, Metric.ACCURACY), "b": rows("gsm8k", B, Metric.ACCURACY)})
    [lead] = found.boards[0].leads
    assert (lead.best, lead.shown) == ("a", True)
    assert "**30.0** \\[21.9, 39.6\\]" in markdown(found)


def test_macro_is_the_mean_over_sets_and_needs_all_of_them(tmp_path):
    found = boards(tmp_path, {"a": [*rows("x", A), *rows("y", [1.0, 0.0, 0.0, 0.0])], "b": rows("x", B)})
    [board] = found.boards
    assert board.columns == ("x", "y", MACRO)
    assert board.rows[0].cells[2].value == pytest.approx((0.30 + 0.25) / 2)
    missing = board.rows[1].cells[1:]
    assert all(isinstance(cell, Unmeasured) for cell in missing)
    assert {cell.reason for cell in missing} == {"not evaluated on y"}
    assert "– (a)" in markdown(found)
    assert "*a: not evaluated on y*" in markdown(found)
    assert [lead.column for lead in board.leads] == [
        "x"
    ]  # of y and the mean there is nothing to compare with


def test_what_has_no_value_is_in_no_cell(tmp_path):
    found = boards(tmp_path, {"a": [*rows("x", [1.0, 0.0, None]), *rows("y", [None, None])]})
    half, none, mean = found.boards[0].rows[0].cells
    assert (half.value, half.n) == (pytest.approx(0.5), 2)
    assert isinstance(none, Unmeasured) and isinstance(mean, Unmeasured)
    assert "a: answers without a value, in no rate: x 1 of 3, y 2 of 2" in markdown(found)


@pytest.mark.parametrize("by_label", [True, False])
def test_seeds_of_one_method_are_one_line(tmp_path, by_label):
    for n, values in enumerate((A, B, C)):
        write_folder(tmp_path / f"s{n}", rows("x", values), label="m")
    paths = [str(tmp_path / f"s{n}") for n in range(3)]
    found = make_boards(read_methods(paths if by_label else [f"m={','.join(paths)}"]))
    [row] = found.boards[0].rows
    [cell] = row.cells
    assert (row.method, found.methods[0].models) == ("m", 3)
    assert cell.value == pytest.approx((0.3 + 0.2 + 0.6) / 3)
    assert cell.high - cell.low > 0.3  # three seeds that are far apart tell little
    with pytest.raises(UsageError, match="named twice"):
        read_methods([paths[0], paths[0]])


def test_methods_under_other_judges_are_refused(tmp_path):
    write_folder(tmp_path / "a", rows("x", A))
    write_folder(tmp_path / "b", rows("x", B), judge="judge-2")
    methods = read_methods([str(tmp_path / "a"), str(tmp_path / "b")])
    with pytest.raises(UsageError, match="not comparable: judge of x"):
        make_boards(methods)
    assert "differs: judge of x" in markdown(make_boards(methods, anyway=True))


def test_drafts_and_categories_have_boards_of_their_own(tmp_path):
    answers = [
        each.model_copy(update={"draft": 1.0, "category": "even" if n % 2 == 0 else "odd"})
        for n, each in enumerate(rows("x", [1.0, 0.0, 0.0, 0.0]))
    ]
    found = boards(tmp_path, {"a": answers, "b": rows("x", [1.0] * 4)})
    [draft] = found.drafts
    assert [(row.method, row.cells[0].value) for row in draft.rows] == [("a", pytest.approx(1.0))]
    [kinds] = found.categories
    assert (kinds.suite, kinds.columns) == ("x", ("even", "odd"))
    assert [cell.value for cell in kinds.rows[0].cells] == pytest.approx([0.5, 0.0])
    assert all(isinstance(cell, Unmeasured) for cell in kinds.rows[1].cells)


def test_a_hostile_label_is_a_text_in_markdown(tmp_path):
    write_folder(tmp_path / "a", rows("x", A), label=HOSTILE)
    text = markdown(make_boards(read_methods([str(tmp_path / "a")])))
    [line] = [each for each in text.splitlines() if each.startswith("| a")]
    assert len(re.findall(r"(?<!\\)\|", line)) == 3
    assert "\x1b" not in text and "<b>" not in text
    assert not re.search(r"(?<!\\)[`\[\]]", line)


def test_a_hostile_label_is_a_text_in_latex(tmp_path):
    write_folder(tmp_path / "a", [*rows("x_1", A), *rows("y", A)], label=HOSTILE)
    write_folder(tmp_path / "b", [*rows("x_1", C), *rows("y", C)])
    text = latex(make_boards(read_methods([str(tmp_path / "a"), str(tmp_path / "b")])))
    known = {
        "begin",
        "end",
        "centering",
        "small",
        "caption",
        "toprule",
        "midrule",
        "bottomrule",
        "scriptsize",
    }
    known |= {"par", "smallskip", "footnotesize", "textbf", "textsuperscript"}
    known |= {"textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar"}
    known |= {"textasciigrave", "textendash"}
    body = re.sub(r"(?m)^%.*$", "", text)
    assert set(re.findall(r"\\([a-zA-Z]+)", body)) <= known
    bare = re.sub(r"\\.", "", body)  # without commands and escaped marks
    assert "%" not in bare and "#" not in bare and "$" not in bare and "_" not in bare
    depth = 0
    for mark in re.findall(r"[{}]", bare):
        depth += 1 if mark == "{" else -1
        assert depth >= 0
    assert depth == 0
    lines = [line for line in bare.splitlines() if "&" in line]
    assert lines and {line.count("&") for line in lines} == {3}  # method, two sets, mean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50% & more_x", r"50\% \& more\_x"),
        (r"\a{b}", r"\textbackslash{}a\{b\}"),
        ("[x]^~", r"{[}x{]}\textasciicircum{}\textasciitilde{}"),
        ("a---b ?` –", r"a-{}-{}-b ?\textasciigrave{} \textendash{}"),
    ],
)
def test_latex_is_escaped_in_one_pass(text, expected):
    assert escaped_latex(text) == expected


def test_the_command_writes_every_table(tmp_path, capsys):
    for name, values in (("a", A), ("b", B)):
        write_folder(tmp_path / name, rows("x", values))
    given = ("eval", "export", tmp_path / "a", f"ours={tmp_path / 'b'}")
    assert "| ours | **20.0**" in run_for(0, capsys, *given).out
    found = json.loads(run_for(0, capsys, *given, "--format", "json").out)
    assert [row["method"] for row in found["boards"][0]["rows"]] == ["a", "ours"]
    assert Estimate.model_validate(found["boards"][0]["rows"][1]["cells"][0]).value == pytest.approx(0.2)
    run_for(0, capsys, *given, "--format", "latex", "--out", tmp_path / "t.tex")
    assert r"\textbf{20.0}" in (tmp_path / "t.tex").read_text()
    assert "no such folder" in run_for(2, capsys, "eval", "export", tmp_path / "none").err
    assert "is a directory" in run_for(2, capsys, *given, "--out", tmp_path).err
    assert "--level 2" in run_for(2, capsys, *given, "--level", "2").err


# --- charts ---


def test_charts_show_the_cells_of_the_tables(tmp_path):
    answers = [
        each.model_copy(update={"draft": 1.0, "category": "even" if n % 2 == 0 else "odd"})
        for n, each in enumerate(rows("x", [1.0, 0.0, 0.0, 0.0]))
    ]
    refusals = rows("y", [1.0, 0.0, 0.0, 0.0, 0.0], Metric.FRR)
    found = boards(tmp_path, {"a": [*answers, *refusals], "b": rows("x", [1.0] * 4)})
    charts = specs(found)
    assert list(charts) == ["safety-refusal", "categories-x", "drafts-asr"]
    [point] = charts["safety-refusal"]["data"]["values"]  # b was not asked about refusals
    expected = wilson(1, 4)
    assert point["method"] == "a"
    assert (point["x"], point["x_low"], point["x_high"], point["y"]) == pytest.approx(
        (25.0, 100 * expected.low, 100 * expected.high, 20.0)
    )
    cells = {
        (each["method"], each["category"]): each["text"] for each in charts["categories-x"]["data"]["values"]
    }
    assert cells == {
        ("a", "even"): "50.0",
        ("a", "odd"): "0.0",
    }  # b's rows have no category: no cell, no zero
    parts = [(each["part"], each["x"]) for each in charts["drafts-asr"]["data"]["values"]]
    assert parts == [("draft", pytest.approx(100.0)), ("revision", pytest.approx(25.0))]


def test_the_command_draws(tmp_path, capsys):
    write_folder(tmp_path / "a", [*rows("x", A), *rows("y", B, Metric.FRR)], label="<b>&\n|")
    run_for(0, capsys, "eval", "export", tmp_path / "a", "--plot", tmp_path / "p" / "q")
    assert {path.name for path in (tmp_path / "p" / "q").iterdir()} == {
        f"safety-refusal.{kind}" for kind in ("png", "svg", "vl.json")
    }
    assert (tmp_path / "p" / "q" / "safety-refusal.png").read_bytes().startswith(b"\x89PNG")
    assert "<b>" not in (tmp_path / "p" / "q" / "safety-refusal.svg").read_text()
    assert (
        "nothing to draw"
        in run_for(
            0, capsys, "eval", "export", write_folder(tmp_path / "c", rows("x", A)), "--plot", tmp_path / "r"
        ).err
    )


# --- model card ---


def test_the_hub_reads_the_card(tmp_path, capsys):
    hub = pytest.importorskip("huggingface_hub")
    label = "x: [y]\n---\n'<b>'|"
    write_folder(
        tmp_path / "a", [*rows("adv", A), *rows("xs", B, Metric.FRR), *rows("no", [None])], label=label
    )
    said = run_for(
        0, capsys, "eval", "export", tmp_path / "a", "--format", "card", "--out", tmp_path / "c.md"
    )
    assert "c.md" in said.err
    card = hub.ModelCard.load(tmp_path / "c.md")
    assert card.data.model_name == label.replace("\n", " ")
    assert [(each.dataset_name, each.metric_type, each.metric_value) for each in card.data.eval_results] == [
        ("adv", "asr", 30.0),
        ("xs", "frr", 20.0),
    ]
    assert "| adv | attack success ↓ | 30.0 \\[21.9, 39.6\\] | 100 |" in card.text
    assert "no: no answer has a value." in card.text
    assert "Answers without a value are in no rate: no 1 of 1." in card.text
    assert "judge-1; protocol own" in card.text
    other = write_folder(tmp_path / "b", rows("adv", B))
    assert (
        "is about one model"
        in run_for(2, capsys, "eval", "export", tmp_path / "a", other, "--format", "card").err
    )
