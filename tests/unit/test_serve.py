"""The reward server over real HTTP on loopback, with a scripted judge."""

import base64
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from fake_server import FakeServer, completion, error
from rubrica.cli import main
from rubrica.core.attempt import Tags
from rubrica.core.errors import JudgeError
from rubrica.core.programs import Dimension, Principle, Program
from rubrica.core.prompts import PromptQuestion
from rubrica.core.records import Label
from rubrica.core.scoring import ScoreItem
from rubrica.core.store import Store
from rubrica.judges.budget import Budget
from rubrica.models.scripted import ScriptedJudge
from rubrica.program.reward import RewardConfig
from rubrica.recipes.scorer import ItemScorer
from rubrica.serve.batcher import Batcher
from serving import ATTEMPT, FLOOR, IMPROVED, TOTALS, call, item, rule, serving


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A server with narrow limits, and its judge; for requests that it refuses."""
    with FakeServer(rule) as judge:
        limits = {"max_text": 1000, "max_items": 10, "max_body": 200_000}
        with serving(tmp_path_factory.mktemp("strict"), judge, **limits) as server:
            yield server.url, judge


@pytest.fixture
def judge(fake_server):
    fake_server.answer = rule
    return fake_server


def score(url, *items, **headers):
    found = call(f"{url}/v1/score", {"items": list(items)}, **headers)
    assert found.status == 200, found.text
    return found.json["results"]


def wait_until(reached, seconds=90.0):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.01)


# --- rewards ------------------------------------------------------------------------------------


def test_texts_and_attempts_earn_what_follows_from_the_answers(tmp_path, judge):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    with serving(tmp_path, judge) as server:
        results = score(
            server.url,
            item("good"),
            item("rude", id="second"),
            item(ATTEMPT, mode="attempt"),
            item("good", mode="attempt"),
            item(ATTEMPT, mode="attempt", finished=False),
            {"prompt": chat, "response": "dull", "mode": "text"},
        )
    assert [r["reward"] for r in results] == pytest.approx(
        [TOTALS["good"], TOTALS["rude"], IMPROVED, FLOOR, FLOOR, TOTALS["dull"]]
    )
    assert [r["malformed"] for r in results] == [None, None, None, "no_open_tag", "truncated", None]
    assert [[t["part"] for t in r["texts"]] for r in results] == [
        *[["text"]] * 2,
        ["draft", "revision"],
        [],
        [],
        ["text"],
    ]
    assert results[1]["id"] == "second"
    [text] = results[1]["texts"]
    assert text["principles"] == {"p": -0.25} and text["dimensions"] == {"d1": -1.0, "d2": 0.5}
    assert text["card"] is None


def test_the_scorecard_comes_with_detail_only(tmp_path, judge):
    with serving(tmp_path, judge) as server:
        found = call(f"{server.url}/v1/score", {"items": [item("good")], "detail": True}).json
    [verdicts] = [
        t["card"]["principles"][0]["dimensions"][0]["verdicts"] for t in found["results"][0]["texts"]
    ]
    assert [(v["question_id"], v["label"]) for v in verdicts] == [("g", "TRUE"), ("s", "A")]
    assert found["usage"]["asked"] == 3 and found["usage"]["requests"] == 1


def test_what_is_known_is_not_asked_again(tmp_path, judge):
    with serving(tmp_path, judge) as server:
        score(server.url, item("good"), item("good"), item(ATTEMPT, mode="attempt"))
        # good: three questions; rude: gate and brevity, for behind a failed gate clarity cannot matter.
        assert len(judge.requests) == 5
        score(server.url, item("good"), item("rude"))
        assert len(judge.requests) == 5
    with serving(tmp_path, judge) as again:
        score(again.url, item("good"), item("rude"), item("dull"))
        assert len(judge.requests) == 8


def test_requests_at_the_same_time_are_judged_together(tmp_path, judge):
    gate = threading.Event()
    with serving(tmp_path, judge) as server, ThreadPoolExecutor(32) as pool:
        score(server.url, item("good", prompt="first"))
        before = server.batcher.batches
        judge.answer = lambda body: _held(body, gate)
        held = pool.submit(score, server.url, item("good", prompt="held"))
        wait_until(lambda: judge.busy > 0 or len(judge.requests) > 3)
        others = [pool.submit(score, server.url, item("rude", prompt=f"p{n}")) for n in range(20)]
        wait_until(lambda: server.batcher.waiting == 20)
        gate.set()
        assert [f.result()[0]["reward"] for f in others] == [TOTALS["rude"]] * 20
        assert held.result()[0]["reward"] == TOTALS["good"]
        assert server.batcher.batches - before == 2


def _held(body, gate):
    reply = rule(body)
    return reply if gate.is_set() else type(reply)(reply.body, reply.status, reply.headers, delay=0.3)


def test_a_failing_judge_gives_no_reward_and_says_why(tmp_path, judge):
    with serving(tmp_path, judge) as server:
        [good, lost] = score(server.url, item("good"), item("unknown text"))
        assert good["reward"] == TOTALS["good"]
        assert lost["reward"] is None and "no such text" in lost["reason"]
        assert call(f"{server.url}/ready").status == 200
        # The judge has learned the text: only what was missing is asked.
        judge.answer = lambda body: completion("TRUE" if "polite" in str(body) else "A", None)
        asked = len(judge.requests)
        [found] = score(server.url, item("unknown text"))
        assert found["reward"] == 1.0 and len(judge.requests) > asked


def test_an_answer_that_cannot_matter_may_be_missing(tmp_path, judge):
    judge.answer = lambda body: error(400, "no") if "clear" in str(body) else rule(body)
    with serving(tmp_path, judge) as server:
        [rude, good] = score(server.url, item("rude"), item("good"))
    assert rude["reward"] == TOTALS["rude"] and good["reward"] is None


# --- a judge that goes and comes back --------------------------------------------------------------


def test_a_judge_that_is_down_makes_503_and_the_server_goes_on_when_it_is_back(tmp_path, judge):
    judge.stop()
    with serving(tmp_path, judge, probe=0.2) as server:
        down = call(f"{server.url}/v1/score", {"items": [item("good")]})
        assert (down.status, down.json["error"]) == (503, "judge_unavailable")
        assert "Retry-After" in {k.title() for k in down.headers}
        ready = call(f"{server.url}/ready")
        assert ready.status == 503 and ready.json["reason"]
        assert call(f"{server.url}/health").status == 200
        assert call(f"{server.url}/v1/score", {"items": [item("good")]}).status == 503
        judge.start()
        wait_until(lambda: call(f"{server.url}/ready").status == 200)
        assert score(server.url, item("good"))[0]["reward"] == TOTALS["good"]
        assert len(judge.requests) == 1 + 3  # one to see whether it is there


@pytest.mark.slow
def test_texts_that_cannot_be_judged_do_not_take_the_rewards_of_others(tmp_path, judge):
    lost = [item("unknown text", prompt=f"p{n}") for n in range(6)]
    with serving(tmp_path, judge) as server:
        results = score(server.url, item("rude"), *lost, item("good"))
        assert [r["reward"] for r in results] == [TOTALS["rude"], *[None] * 6, TOTALS["good"]]
        assert {r["reason"] for r in results[1:-1]} == {
            "no total of the text: 3 answers missing, most often: HTTP 400: no such text"
        }
        assert call(f"{server.url}/ready").status == 200


def test_a_request_that_cannot_be_scored_spoils_no_other(tmp_path, judge):
    strange = [{"id": "q", "text": "Is it blue?", "dimension": "d9"}]
    with serving(tmp_path, judge) as server, ThreadPoolExecutor(4) as pool:
        assert score(server.url, item("good"))[0]["reward"] == TOTALS["good"]
        judge.answer = lambda body: _held(body, threading.Event())
        held = pool.submit(score, server.url, item("good", prompt="held"))
        wait_until(lambda: len(judge.requests) > 3)
        wrong = pool.submit(call, f"{server.url}/v1/score", {"items": [item("good", questions=strange)]})
        right = pool.submit(score, server.url, item("rude"))
        wait_until(lambda: server.batcher.waiting == 2)
        assert held.result()[0]["reward"] == TOTALS["good"]
        assert wrong.result().status == 422 and "no dimension 'd9'" in wrong.result().json["message"]
        assert right.result()[0]["reward"] == TOTALS["rude"]


@pytest.mark.slow
def test_the_failure_budget_of_a_run_holds_for_the_server(tmp_path, judge):
    with serving(tmp_path, judge, probe=0.2) as server:
        assert score(server.url, item("good"))[0]["reward"] == TOTALS["good"]
        judge.answer = lambda body: error(400, "out of order")
        items = [item("good", prompt=f"p{n}") for n in range(20)]
        down = call(f"{server.url}/v1/score", {"items": items})
        assert down.status == 503 and "out of order" in down.json["message"]
        assert call(f"{server.url}/ready").status == 503
        judge.answer = rule
        wait_until(lambda: call(f"{server.url}/ready").status == 200)
        assert [r["reward"] for r in score(server.url, *items)] == [TOTALS["good"]] * 20


def test_a_spent_budget_leaves_what_is_stored(tmp_path, judge):
    with serving(tmp_path, judge, budget=Budget(calls=4)) as server:
        assert score(server.url, item("good"))[0]["reward"] == TOTALS["good"]
        spent = call(f"{server.url}/v1/score", {"items": [item("dull")]})
        assert (spent.status, spent.json["error"]) == (503, "budget_spent")
        assert "--max-calls" in spent.json["message"]
        assert call(f"{server.url}/ready").status == 503
        assert score(server.url, item("good"))[0]["reward"] == TOTALS["good"]
        assert len(judge.requests) == 4


def test_a_program_whose_prompts_bring_all_questions_outlives_a_dead_judge():
    """Nothing of the program's own can be put to the judge to see whether it is back."""
    place = Dimension(id="d", title="d", instance=True, pool="weighted")
    program = Program(
        name="p", constitution="c", principles=(Principle(id="a", title="a", dimensions=(place,)),)
    )
    asked = [PromptQuestion(id=id, text=f"Is it {id}?", weight=1.0) for id in ("good", "bad")]
    item = ScoreItem(prompt="Hi", completion="x", mode="text", id=" ", questions=asked)
    alive = []

    def answer(query):
        if not alive:
            raise JudgeError("gone")
        return Label.FALSE if "bad" in query.question.text else Label.TRUE

    judge = ScriptedJudge(answer)
    with ItemScorer(judge, Store(":memory:"), program=program, reward=RewardConfig(), tags=Tags()) as scorer:
        batcher = Batcher(scorer, probe=0.01)
        with pytest.raises(JudgeError, match="gone"):
            batcher.submit([item], detail=False).result(10)
        alive.append(True)
        wait_until(lambda: not batcher.trouble, 10)
        assert batcher.submit([item], detail=False).result(10).results[0].reward == 0.0
        batcher.close(0.0)
        assert batcher.join(10)


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "items: is missing; write it"),
        ({"items": []}, "expected at least one"),
        ({"items": [{"prompt": "Hi"}]}, "items.0.completion: is missing; write it"),
        (
            {"items": [{"promt": "Hi", "completion": ""}]},
            "items.0.promt: unknown key (did you mean 'prompt'?)",
        ),
        ({"items": [item("x", prompt="")]}, "items.0.prompt"),
        ({"items": [item("x", prompt=[])]}, "items.0.prompt: expected a text"),
        (
            {"items": [item("x", prompt=[{"role": "assistant", "content": "x"}])]},
            "messages that end with one of the user",
        ),
        (
            {"items": [item("x", prompt=[{"role": "tool", "content": "x"}])]},
            "items.0.prompt.0.role: expected 'system', 'user' or 'assistant'; see",
        ),
        ({"items": [item("x", prompt=3)]}, "items.0.prompt: expected a text or a list, got a number; see"),
        ({"items": item("x")}, "items: expected a list, got a mapping; see"),
        ({"items": [item("x", finished="maybe")]}, "items.0.finished: expected true or false, got a text"),
        ({"items": [item("x", response="y")]}, "items.0: completion and response are two names of one text"),
        ({"items": [item("x", rubric=[{"points": 1}])]}, "items.0: rubric: no text in criterion 1"),
        ({"items": [item("x", rubric="terse")]}, "items.0.rubric: unknown key"),
        ({"items": [item("x", mode="both")]}, "items.0.mode: expected 'attempt' or 'text'; see"),
        ({"items": [item("x" * 2000)]}, "items.0.completion: got 2000 characters; expected at most 1000"),
        ({"items": [item("x", prompt="y" * 2000)]}, "items.0.prompt: got 2000 characters"),
        ({"items": [item("x")] * 11}, "items: got 11; expected at most 10"),
        (
            {"items": [item("x", questions=[{"id": "q", "text": t} for t in ("A?", "B?")])]},
            "'q' stands for two",
        ),
        ([1, 2], "body: expected a mapping, got a list"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(strict, body, said):
    url, judge = strict
    asked = len(judge.requests)
    found = call(f"{url}/v1/score", body)
    assert found.status == 422 and found.json["error"] == "invalid_request"
    assert said in found.json["message"] and len(found.text) < 600
    assert len(judge.requests) == asked


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_json_of_ours_is_refused(strict, raw):
    url, _ = strict
    found = call(f"{url}/v1/score", raw=raw)
    assert found.status in (400, 422) and found.json["error"] == "invalid_request", found.text
    assert score(url, item("good"))[0]["reward"] == TOTALS["good"]


def test_half_a_surrogate_pair_is_judged_as_a_question_mark(strict):
    url, judge = strict
    odd = chr(0xD800)
    [one] = score(url, item(f"good {odd}", prompt=f"Hi {odd}", id=odd))
    [two] = score(url, item(f"good {odd}", prompt=[{"role": "user", "content": f"Hi {odd}"}]))
    asked = len(judge.requests)
    assert one["reward"] == two["reward"] == TOTALS["good"] and one["id"] == "?"
    assert score(url, item("good ?", prompt="Hi ?"))[0]["reward"] == TOTALS["good"]
    assert len(judge.requests) == asked


def test_large_bodies_are_refused_also_without_a_length(strict):
    url, _ = strict
    assert call(f"{url}/v1/score", raw=b" " * 200_000).status in (400, 422)
    assert _post(url, b" " * 250_000) == (413, "too_large")
    assert _post(url, b" " * 5_000_000) in (None, (413, "too_large"))  # None: cut off while it was sending
    assert _post(url, iter([b" " * 50_000] * 6)) == (413, "too_large")
    form = call(f"{url}/v1/score", raw=b"items=1", content_type="text/plain")
    assert (form.status, form.json["error"]) == (415, "not_json")


def _post(url, body):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request("POST", "/v1/score", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["error"]
    except ConnectionError:
        return None
    finally:
        connection.close()


def test_other_paths_and_methods_get_json(tmp_path, judge):
    with serving(tmp_path, judge) as server:
        assert (call(f"{server.url}/v2").status, call(f"{server.url}/v2").json["error"]) == (
            404,
            "no_such_path",
        )
        assert call(f"{server.url}/v1/score").json["error"] == "wrong_method"
        assert "/v1/score" in call(f"{server.url}/openapi.json").json["paths"]


def test_a_full_queue_sends_clients_away_for_a_while(tmp_path, judge):
    judge.answer = lambda body: type(rule(body))(rule(body).body, delay=0.2)
    with serving(tmp_path, judge, max_queue=4, max_batch=2) as server, ThreadPoolExecutor(8) as pool:
        first = pool.submit(score, server.url, item("good"))
        wait_until(lambda: judge.busy > 0)
        second = pool.submit(score, server.url, *[item("good", prompt=f"p{n}") for n in range(4)])
        wait_until(lambda: server.batcher.waiting == 4)
        full = call(f"{server.url}/v1/score", {"items": [item("rude")]})
        assert (full.status, full.json["error"]) == (429, "busy")
        assert int({k.title(): v for k, v in full.headers.items()}["Retry-After"]) > 0
        assert first.result()[0]["reward"] == TOTALS["good"] and len(second.result()) == 4


def test_a_request_that_takes_too_long_is_told_to_come_again(tmp_path, judge):
    judge.answer = lambda body: type(rule(body))(rule(body).body, delay=0.4)
    with serving(tmp_path, judge, timeout=0.2) as server:
        late = call(f"{server.url}/v1/score", {"items": [item("good")]})
        assert (late.status, late.json["error"]) == (504, "still_judging")
        wait_until(lambda: server.batcher.batches == 1)
        assert score(server.url, item("good"))[0]["reward"] == TOTALS["good"]
        assert len(judge.requests) == 3


# --- keys -----------------------------------------------------------------------------------------


def test_only_a_key_opens_the_door(tmp_path, judge):
    basic = base64.b64encode(b"rubrica:second").decode()
    with serving(tmp_path, judge, keys=("first", "second")) as server:
        for given in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Bearer "},
            {"authorization": "first"},
            {"authorization": "Basic \xe9"},
        ):
            for path in ("/metrics", "/docs", "/openapi.json", "/v1/nothing"):
                assert call(f"{server.url}{path}", **given).status == 401
            refused = call(f"{server.url}/v1/score", {"items": [item("good")]}, **given)
            assert (refused.status, refused.json["error"]) == (401, "unauthorized")
        assert not judge.requests
        assert call(f"{server.url}/health").status == call(f"{server.url}/ready").status == 200
        for right in ("Bearer first", "bearer second", f"Basic {basic}"):
            assert score(server.url, item("good"), authorization=right)[0]["reward"] == TOTALS["good"]


def test_a_page_in_a_browser_cannot_reach_a_server_of_this_machine(tmp_path, judge):
    with serving(tmp_path, judge, hosts=("127.0.0.1", "localhost")) as server:
        for wrong in ("evil.example", "127.0.0.1.evil.example:80", "x@127.0.0.1", "[::1", ""):
            refused = call(f"{server.url}/health", host=wrong)
            assert (refused.status, refused.json["error"]) == (400, "wrong_host")
            assert "expected 127.0.0.1, localhost" in refused.json["message"]
        assert call(f"{server.url}/health", host="LOCALHOST:1").status == 200
        assert call(f"{server.url}/health").status == 200


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "put a key into RUBRICA_API_KEY"),
        (["--api-key-env", "NO_SUCH_KEY"], "empty or not set"),
        (["--reward", "rubric"], "expected"),
        (["--tags", "<think>", "<think>"], "neither inside the other"),
        (["--host", "256.1.1.1", "--insecure"], "cannot listen there"),
        (["--program", "labb"], "did you mean"),
        (["--judge", "labb"], "no such judge"),
        (["--port", "70000"], "port"),
        (["--end", " "], "blank text"),
    ],
)
def test_a_server_that_cannot_be_started_says_why(tmp_path, capsys, monkeypatch, flags, said):
    monkeypatch.delenv("RUBRICA_API_KEY", raising=False)
    usual = ["--program", "lab", "--judge", "lab-oracle", "--out", str(tmp_path / "out"), "--port", "0"]
    with pytest.raises(SystemExit) as leaving:
        main(["serve", *usual, *flags])  # of a flag that is given twice the last counts
    assert leaving.value.code == 2 and said in capsys.readouterr().err


# --- counters -------------------------------------------------------------------------------------


def test_the_counters_add_up(tmp_path, judge):
    with serving(tmp_path, judge) as server:
        score(
            server.url, item("good"), item("good"), item(ATTEMPT, mode="attempt"), item("x", mode="attempt")
        )
        score(server.url, item("unknown text"))
        call(f"{server.url}/nothing/of/the/kind")
        found = call(f"{server.url}/metrics")
    rows = dict(line.rsplit(" ", 1) for line in found.text.splitlines() if not line.startswith("#"))
    assert rows['rubrica_requests_total{path="/v1/score",status="200"}'] == "2"
    assert rows['rubrica_requests_total{path="other",status="404"}'] == "1"
    assert rows['rubrica_rewards_total{kind="scored"}'] == "3"
    assert (
        rows['rubrica_rewards_total{kind="malformed"}'] == rows['rubrica_rewards_total{kind="none"}'] == "1"
    )
    assert float(rows["rubrica_reward_sum"]) == pytest.approx(2 * 0.75 + IMPROVED + FLOOR)
    asked = len(judge.requests) - 1  # one to see whether the judge is there
    assert rows['rubrica_questions_total{outcome="asked"}'] == str(asked)
    # The text that the judge does not know: gate and brevity, each in three rounds.
    assert rows['rubrica_questions_total{outcome="failed"}'] == str(asked - 5)
    assert rows['rubrica_principle_sum{part="revision",principle="p"}'] == "0.75"
    assert rows["rubrica_ready"] == "1" and rows["rubrica_requests_in_flight"] == "1"


def test_a_judge_that_dies_under_a_small_request_is_down_and_not_a_missing_reward(tmp_path, judge):
    with serving(tmp_path, judge, probe=0.2) as server:
        assert score(server.url, item("good"))[0]["reward"] == TOTALS["good"]
        judge.stop()
        down = call(f"{server.url}/v1/score", {"items": [item("rude")]})
        assert (down.status, down.json["error"]) == (503, "judge_unavailable")
        assert call(f"{server.url}/ready").status == 503
        judge.start()
        wait_until(lambda: call(f"{server.url}/ready").status == 200)
        assert score(server.url, item("rude"))[0]["reward"] == TOTALS["rude"]


def test_a_question_of_a_prompt_needs_no_id(tmp_path, judge):
    with serving(tmp_path, judge) as server:
        asked = {**item("good"), "questions": [{"text": "Is it polite, and to whom?"}]}
        got = call(f"{server.url}/v1/score", {"items": [asked]})
        assert "id" not in got.json.get("message", "") and "no dimension" in got.json["message"]
        assert "polite" not in got.json["message"]


def test_a_question_that_is_given_twice_counts_once():
    twice = [
        {"text": "Is it  polite?"},
        {"text": "Is it polite?"},
        {"text": "Is it polite?", "dimension": "d"},
    ]
    item = ScoreItem.model_validate({"prompt": "Hi", "completion": "x", "questions": [*twice[:2]]})
    assert [question.text for question in item.questions] == ["Is it polite?"]
    with pytest.raises(ValueError, match="stands for two questions"):
        ScoreItem.model_validate({"prompt": "Hi", "completion": "x", "questions": twice})


def test_a_mistyped_option_of_openrlhf_is_refused(tmp_path, judge):
    with serving(tmp_path, judge) as server:
        body = {"query": ["ab"], "prompts": ["a"], "labels": []}
        got = call(f"{server.url}/openrlhf?mode=text&mising=-3", body)
        assert got.status == 422 and got.json["message"].startswith("mising: ")
