"""``rubrica map`` from the command line: scorers, files, resumption, hostile texts and bad input."""

import json
import re
from pathlib import Path

import pytest

from fake_server import FakeServer, completion, error
from rubrica.cli import main
from rubrica.core.answers import load_answers
from rubrica.core.config import dump_yaml
from rubrica.core.data import load_pairs
from rubrica.core.store import Store
from rubrica.lab.pairs import pairs as lab_pairs
from rubrica.models.embed import embedder
from rubrica.models.reward import HFRewardModel
from rubrica.models.similarity import WORDS, embedded, tfidf, windows
from rubrica.recipes.map_scorers import reference_scores
from serving import PROGRAM, TOTALS, rule
from tiny import tiny_checkpoint, tiny_reward_model

WORDS_OF = ("willow", "bark", "fever", "root", "boil", "strain", "drink", "cool")


def rows(count: int = 12) -> list[dict]:
    """Prompts whose reference shares more and more words with both answers."""
    return [
        {
            "id": f"p{i}",
            "prompt": f"Question {i}?",
            "reference": " ".join(WORDS_OF),
            "completions": [
                {"response": " ".join((*WORDS_OF[: i % 8 + 1], "alpha")), "rating": 2},
                {"response": " ".join((*WORDS_OF[: i // 4], "beta", "gamma")), "rating": 1},
            ],
            "source": "ab"[i % 2],
        }
        for i in range(count)
    ]


def write(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(capsys, *argv: object, code: int = 0):
    with pytest.raises(SystemExit) as left:
        main(["map", *map(str, argv)])
    printed = capsys.readouterr()
    assert (left.value.code or 0) == code, printed.err
    return printed


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_nearness_to_a_reference_and_all_files(tmp_path: Path, capsys):
    source, out = write(tmp_path / "in.jsonl", rows()), tmp_path / "out"
    found = json.loads(run(capsys, source, "--scorer", "reference", "--out", out, "--json").out)
    assert (found["prompts"], found["answers"], found["left_out"]) == (12, 24, 0)
    assert [r["prompts"] for r in found["regions"].values()] == [4, 4, 4]
    assert found["scorer"]["name"] == "tfidf" and found["selection"]["pairs"] == 4
    points = lines_of(out / "map.jsonl")
    assert points[7]["mean"] == pytest.approx(sum(points[7]["scores"]) / 2)
    assert points[7]["columns"] == {"source": "b"} and points[7]["prompt"] == "Question 7?"
    chosen = load_pairs(out / "selected.jsonl")
    high = [p["id"] for p in points if p["region"] == "high-average"]
    assert [pair.id for pair in chosen] == high
    assert all("alpha" in pair.chosen and "beta" in pair.rejected for pair in chosen)
    assert (out / "map.svg").read_text().startswith("<svg") and (out / "map.png").read_bytes()[
        :4
    ] == b"\x89PNG"
    text = run(capsys, source, "--scorer", "reference", "--out", out, "--region", "low-average").out
    assert "selected: 4 prompts of low-average, 4 pairs by labels" in " ".join(text.split())


def test_suspects_are_ranked_with_their_reason(tmp_path: Path, capsys):
    given = rows()
    given[7]["completions"][0]["rating"] = 0  # the nearest answer, of 8 common words
    source, out = write(tmp_path / "in.jsonl", given), tmp_path / "out"
    found = json.loads(run(capsys, source, "--scorer", "reference", "--out", out, "--json").out)
    suspects = lines_of(out / "suspects.jsonl")
    assert found["suspects"] == len(suspects) and suspects[0]["id"] == "p7"
    assert suspects[0]["pearson"] == pytest.approx(-1.0)
    assert re.match(
        r"the answer labelled 0 scores 0\.\d+, the one labelled 1 scores 0\.\d+: [1-9]", suspects[0]["reason"]
    )
    assert (
        suspects[0]["scored_better"].startswith("willow bark")
        and "Suspects" in (out / "map.html").read_text()
    )


@pytest.fixture
def judged(tmp_path: Path, fake_server: FakeServer) -> list[object]:
    fake_server.answer = rule
    (tmp_path / "program.yaml").write_text(dump_yaml(PROGRAM))
    (tmp_path / "judge.yaml").write_text(f"spec: openai:m@{fake_server.url}\nretries: 0\ntimeout: 2\n")
    names = ("good", "rude", "dull")
    given = [
        {"id": f"{a}-{b}", "prompt": f"Say {a} or {b}.", "chosen": a, "rejected": b}
        for a in names
        for b in names
        if a != b
    ]
    source = write(tmp_path / "in.jsonl", given)
    flags = [
        "--program",
        tmp_path / "program.yaml",
        "--judge",
        tmp_path / "judge.yaml",
        "--out",
        tmp_path / "out",
    ]
    return [source, *flags]


def test_a_judge_gives_totals_and_is_not_asked_twice(tmp_path, judged, fake_server, capsys):
    found = json.loads(run(capsys, *judged, "--scorer", "judge", "--json").out)
    points = {p["id"]: p["scores"] for p in lines_of(tmp_path / "out/map.jsonl")}
    assert points == {id: [TOTALS[word] for word in id.split("-")] for id in points}
    asked = len(fake_server.requests)
    assert found["usage"]["asked"] == asked and found["scorer"]["program"]
    # good against rude and dull, twice each: two right, two wrong, two ties
    assert (found["label_pairs"], found["tied_pairs"], found["agreement"]["value"]) == (6, 2, 0.5)
    assert any("no better than chance" in warning for warning in found["warnings"])
    run(capsys, *judged, "--scorer", "judge", "--region", "all", "--pairs", "all")
    assert len(fake_server.requests) == asked


def test_the_mean_of_graded_answers_leaves_gates_out(tmp_path, judged, capsys):
    run(capsys, *judged, "--scorer", "grades")
    points = {p["id"]: p["scores"] for p in lines_of(tmp_path / "out/map.jsonl")}
    means = {"good": 0.75, "rude": 0.75, "dull": (0.5 - 1) / 2}
    assert points == {id: [means[word] for word in id.split("-")] for id in points}


def test_a_failed_call_leaves_its_prompts_out(tmp_path, judged, fake_server, capsys):
    def lose(body: dict):
        asked = body["messages"][1]["content"]
        return error(400, "lost") if "> dull" in asked and "Say rude or dull" in asked else rule(body)

    fake_server.answer = lose
    found = json.loads(run(capsys, *judged, "--scorer", "judge", "--json").out)
    assert (found["prompts"], found["left_out"]) == (5, 1)
    assert "1 of 6 prompts are not on the map" in found["warnings"][0] and "lost" in found["warnings"][0]
    fake_server.answer = rule
    assert json.loads(run(capsys, *judged, "--scorer", "judge", "--json").out)["left_out"] == 0


def test_the_labs_oracle_finds_flipped_labels(tmp_path: Path, capsys):
    given = [
        {
            "id": f"x{i}" if i % 6 == 0 else f"p{i}",
            "prompt": p.prompt.messages[-1].content,
            "tags": p.prompt.tags,
            "chosen": p.chosen,
            "rejected": p.rejected,
        }
        for i, p in enumerate(lab_pairs(60))
        if len(p.prompt.messages) == 1
    ]
    for row in given:
        if row["id"].startswith("x"):
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    source = write(tmp_path / "in.jsonl", given)
    flags = ("--program", "lab", "--judge", "lab-oracle", "--out", tmp_path / "out", "--json")
    found = json.loads(run(capsys, source, "--scorer", "judge", *flags).out)
    suspects = [row["id"] for row in lines_of(tmp_path / "out/suspects.jsonl")]
    planted = {row["id"] for row in given if row["id"].startswith("x")}
    assert planted and set(suspects) <= planted and len(suspects) > 0.6 * len(planted)
    assert found["agreement"]["value"] > 0.7


def test_references_of_a_file_and_of_a_model(tmp_path: Path, capsys, fake_server: FakeServer):
    given = [{k: v for k, v in row.items() if k != "reference"} for row in rows()]
    source, flags = write(tmp_path / "in.jsonl", given), ("--scorer", "reference", "--json")
    known = [{"prompt": row["prompt"], "response": " ".join(WORDS_OF)} for row in given[:10]]
    references = write(tmp_path / "ref.jsonl", known)
    found = json.loads(run(capsys, source, *flags, "--references", references, "--out", tmp_path / "a").out)
    assert (found["prompts"], found["left_out"]) == (10, 2) and "no reference for 2" in found["warnings"][0]
    fake_server.answer = lambda body: completion(" ".join(WORDS_OF))
    model = ("--reference-model", f"openai:m@{fake_server.url}", "--out", tmp_path / "b")
    found = json.loads(run(capsys, source, *flags, *model).out)
    assert found["prompts"] == 12 and len(fake_server.requests) == 12
    run(capsys, source, *flags, *model)
    assert len(fake_server.requests) == 12


def test_a_reward_model_scores_and_what_it_cannot_read_is_left_out(tmp_path: Path, capsys):
    model = tiny_reward_model(tmp_path / "m")
    given = rows(6)
    given[2]["completions"][0]["response"] = "boil " * 3000
    source = write(tmp_path / "in.jsonl", given)
    (tmp_path / "reward.yaml").write_text(f"model: {model}\ndtype: float32\n")
    flags = ("--scorer", f"reward:{tmp_path / 'reward.yaml'}", "--out", tmp_path / "out", "--json")
    found = json.loads(run(capsys, source, *flags).out)
    assert (found["prompts"], found["left_out"]) == (5, 1) and found["warnings"][0].startswith(
        "1 of 6 prompts"
    )
    scorer = HFRewardModel(model, dtype="float32")
    items = [(a.prompt, text) for a in load_answers(source) for text in a.texts]
    expected = dict(scorer.score(items))
    for point, i in zip(lines_of(tmp_path / "out/map.jsonl"), (0, 1, 3, 4, 5), strict=True):
        assert point["scores"] == pytest.approx([expected[2 * i], expected[2 * i + 1]], abs=1e-5)
    assert found["scorer"]["name"] == f"{model} {scorer.fingerprint}"


def test_scores_that_were_made_elsewhere(tmp_path: Path, capsys):
    pair = {"chosen": "a", "rejected": "b", "reward_chosen": 0.25, "rejected_reward": -0.5}
    given = [pair | {"id": f"p{i}", "prompt": f"Q{i}"} for i in range(3)]
    given[1] |= {"reward_chosen": -1, "rejected_reward": 2}
    source = write(tmp_path / "in.jsonl", given)
    found = json.loads(
        run(capsys, source, "--scorer", "column:reward", "--out", tmp_path / "a", "--json").out
    )
    assert [p["scores"] for p in lines_of(tmp_path / "a/map.jsonl")] == [[0.25, -0.5], [-1, 2], [0.25, -0.5]]
    assert found["suspects"] == 1 and found["agreement"]["value"] == pytest.approx(2 / 3)


def test_maps_are_compared_on_what_they_share(tmp_path: Path, capsys):
    source = write(tmp_path / "in.jsonl", rows())
    run(capsys, source, "--scorer", "reference", "--out", tmp_path / "a")
    run(capsys, source, "--scorer", "labels", "--out", tmp_path / "b", "--limit", 9)
    same = json.loads(run(capsys, "compare", tmp_path / "a", tmp_path / "a", "--json").out)
    assert (same["mean"]["value"], same["macro_f1"]["value"], same["moved"]["value"]) == (1.0, 1.0, 0.0)
    other = json.loads(run(capsys, "compare", tmp_path / "a", tmp_path / "b", "--json").out)
    assert (other["shared"], other["only_first"], other["only_second"]) == (9, 3, 0)
    assert sum(sum(row.values()) for row in other["regions"].values()) == 9
    assert "does not vary" in other["mean"]["reason"]
    shown = " ".join(run(capsys, "compare", tmp_path / "a", tmp_path / "b").out.split())
    assert "first: reference tfidf" in shown and "macro-F1 of regions" in shown


def test_a_hostile_text_stays_text(tmp_path: Path, capsys):
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"
    given = [row | {"prompt": bad + str(i), "source": bad[:40] + str(i % 2)} for i, row in enumerate(rows())]
    given[0]["completions"][0]["response"] += bad
    source = write(tmp_path / "<b>in.jsonl", given)
    run(capsys, source, "--scorer", "reference", "--out", tmp_path / "out")
    page = (tmp_path / "out/map.html").read_text()
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # the chart library names tags too
    assert "<img" not in own and "<script>alert" not in page and "&lt;b&gt;in.jsonl" in own
    assert page.count("<script") == 3 and "script-src 'sha256-" in page and "http-equiv" in page


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--scorer", "jugde"), "did you mean 'judge'"),
        (("--scorer", "judge"), "--program, --judge: missing"),
        (("--scorer", "labels", "--judge", "lab"), "--judge: has no use with --scorer labels"),
        (("--scorer", "labels", "--rating", "no"), "no answer has a field 'no'"),
        (("--scorer", "reference", "--max-calls", 5), "--max-calls: has no use"),
        (("--scorer", "judge:x"), "takes no name"),
        (("--scorer", "reward"), "needs a model: reward:FOLDER"),
        (("--scorer", "reward:vllm:m"), "expected vllm:MODEL@URL"),
        (("--scorer", "column"), "needs the name of the field"),
        (("--scorer", "column:marks"), "no answer has a field 'marks'"),
        (("--scorer", "reference", "--region", "high-averge"), "did you mean 'high-average'"),
        (("--scorer", "reference", "--pairs", "none"), "--pairs: got 'none'"),
        (("--scorer", "reference", "--fraction", 0.9), "expected at most 0.333"),
        (("--scorer", "reference", "--by", "sauce"), "no column 'sauce' (did you mean 'source'"),
        (
            ("--scorer", "reference", "--references", "in.jsonl", "--reference-model", "m"),
            "expected one of them",
        ),
    ],
)
def test_bad_input_is_named(tmp_path: Path, capsys, flags, said: str):
    source = write(tmp_path / "in.jsonl", rows())
    error_text = run(capsys, source, *flags, "--out", tmp_path / "out", code=2).err
    assert said in error_text and error_text.count("\n") == 1


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"chosen": "a", "rejected": "b"}, "all prompts would lie at one point"),
        ({"response_0": "a", "response_1": "b"}, "no answer has one; expected a field rating, score"),
    ],
)
def test_labels_that_tell_nothing_are_refused(tmp_path: Path, capsys, answers: dict[str, str], said: str):
    given = [answers | {"id": f"p{i}", "prompt": f"Q{i}"} for i in range(3)]
    source = write(tmp_path / "in.jsonl", given)
    assert said in run(capsys, source, "--scorer", "labels", "--out", tmp_path / "out", code=2).err


def test_a_folder_without_a_map_is_named(tmp_path: Path, capsys):
    assert "no data map here" in run(capsys, "compare", tmp_path, tmp_path, code=2).err


def test_scores_survive_an_interruption(tmp_path: Path):
    many = rows(160)
    for i, row in enumerate(many):
        for completion_ in row["completions"]:
            completion_["response"] += f" {i}"
    given = load_answers(write(tmp_path / "in.jsonl", many))
    asked: list[int] = []

    def measure(pairs):
        asked.append(len(pairs))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return [len(answer) / 100 for answer, _ in pairs]

    with Store(tmp_path / "store.sqlite") as store:
        ideal = [answers.reference for answers in given]
        with pytest.raises(KeyboardInterrupt):
            reference_scores(given, ideal, measure, store, "m")
        found = reference_scores(given, ideal, measure, store, "m")
        distinct = len({text for answers in given for text in answers.texts})
        assert reference_scores(given, ideal, measure, store, "m") == found
    assert found.values == [tuple(len(text) / 100 for text in answers.texts) for answers in given]
    assert asked[0] + asked[2] == distinct and len(asked) == 3 and asked[1] == asked[2]


# --- similarity -----------------------------------------------------------------------------------


def test_tfidf_is_that_of_scikit_learn():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["Boil the root, boil it long.", "The root is cool", "Strain and drink!", "the the the fever"]
    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+").fit_transform(texts).toarray()
    measure = tfidf(texts)
    for i, one in enumerate(texts):
        for j, two in enumerate(texts):
            assert measure([(one, two)])[0] == pytest.approx(vectors[i] @ vectors[j])
    assert measure([("", "the root"), ("unknown", "unknown words")]) == [0.0, pytest.approx(0.5**0.5)]


def test_embeddings_of_long_texts_are_the_mean_of_their_windows(tmp_path: Path):
    long = " ".join(f"w{i}" for i in range(2 * WORDS))
    pieces = windows(long)
    assert [len(piece.split()) for piece in pieces] == [WORDS, WORDS, 2 * WORDS - 2 * 150]
    assert windows("short  text") == ["short  text"]
    assert set(" ".join(pieces).split()) == set(long.split())
    measure = embedded(embedder(str(tiny_checkpoint(tmp_path / "m"))))
    same, empty, other = measure([(long, long), ("", long), ("Boil the root.", "TRUE or FALSE")])
    assert same == pytest.approx(1.0) and empty == 0.0 and -1 <= other < 0.999
