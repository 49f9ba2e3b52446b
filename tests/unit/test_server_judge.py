import asyncio
import json
import math
import time

import pytest

from fake_server import FakeServer, Reply, completion, error
from rubrica.chat import CallFailed, Chat, Session
from rubrica.core.errors import JudgeError, UsageError
from rubrica.core.limits import RateLimit
from rubrica.core.programs import Question, QuestionKind
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Outcome, Query
from rubrica.core.wire import ChatRequest, TokenLogprob
from rubrica.judges.server import ServerJudge, read_logprobs

GATE = Question(id="g", kind=QuestionKind.GATE, text="Is it safe?", clause="c")
PROTECTED = GATE.model_copy(update={"id": "p", "protected": True})
GRADED = Question(id="s", kind=QuestionKind.GRADED, text="How clear is it?", clause="c")
PROMPT = Prompt(id="1", messages=(Message(role="user", content="Hello"),))
UNTRUE = ["Ja, das stimmt.", "是", "1", "B+", "TRUE or FALSE", "maybe", "NaN"]


def query(text: str = "Good day.", question: Question = GATE) -> Query:
    return Query(prompt=PROMPT, text=text, question=question)


def judge(server: FakeServer, **options: object) -> ServerJudge:
    settings = {"secret": "s", "timeout": 20.0, "backoff": 0.01} | options
    return ServerJudge("m", server.url, **settings)


def ask(server: FakeServer, question: Question = GATE, **options: object):
    [(index, verdict)] = judge(server, **options).answer([query(question=question)])
    assert index == 0
    return verdict


def test_every_index_comes_once_and_belongs_to_its_query(fake_server):
    def answer(body: dict) -> Reply:
        number = int(body["messages"][1]["content"].split("text no ")[1].split()[0])
        return completion("A", {"A" if number % 2 else "F": 1.0}, delay=0.002 * (number % 3))

    fake_server.answer = answer
    verdicts = dict(
        judge(fake_server, concurrency=5).answer([query(f"text no {n} .", GRADED) for n in range(40)])
    )
    assert sorted(verdicts) == list(range(40))
    assert all(verdicts[n].label is (Label.A if n % 2 else Label.F) for n in range(40))
    assert fake_server.peak <= 5 and len(fake_server.requests) == 40


def test_label_mode_sums_the_spellings_of_a_label_and_renormalises(fake_server):
    # TRUE: 0.4 + 0.1 + 0.05; FALSE: 0.2 + 0.05; the rest says nothing. 0.55 / 0.80 = 0.6875.
    fake_server.script.append(
        completion("T", {"TR": 0.4, " true": 0.1, "Yes": 0.05, "FAL": 0.2, "no": 0.05, "The": 0.2})
    )
    verdict = ask(fake_server)
    assert verdict.label is Label.TRUE and verdict.outcome is Outcome.ANSWERED
    assert verdict.probabilities == pytest.approx({Label.TRUE: 0.6875, Label.FALSE: 0.3125, Label.NA: 0.0})
    assert (verdict.prompt_tokens, verdict.completion_tokens) == (11, 1)
    [body] = fake_server.requests
    assert body["max_tokens"] == 1 and body["top_logprobs"] == 20
    assert body["temperature"] == 0 and isinstance(body["seed"], int)


@pytest.mark.parametrize(
    ("top", "labels", "expected"),
    [
        ({"A": 0.5, "a": 0.1, " A": 0.1, "A+": 0.1, "B": 0.2}, "ABCDF", {"A": 0.8, "B": 0.2}),
        ({"N": 0.5, "F": 0.5}, ("F", "NA"), {"F": 0.5, "NA": 0.5}),
        ({"▁F": 0.6, '"TRUE': 0.4}, ("TRUE", "FALSE", "NA"), {"FALSE": 0.6, "TRUE": 0.4}),
        ({"NA": 0.9, "TRUE": 0.6 * 0.1, "FALSE": 0.04}, ("TRUE", "FALSE"), None),
        ({"N": 0.5, "Ye": 0.5}, ("TRUE", "FALSE"), {"FALSE": 0.5, "TRUE": 0.5}),
        ({"N": 0.6, "TRUE": 0.4}, ("TRUE", "FALSE", "NA"), None),  # the beginning of NA, or of No
        ({"No": 0.6, "A": 0.4}, ("A", "F", "NA"), None),
        ({"<think>": 0.6, "A": 0.4}, "ABCDF", None),
    ],
)
def test_logprobs_become_probabilities_of_what_is_allowed(top, labels, expected):
    allowed = [Label(label) for label in labels]
    reading = read_logprobs([TokenLogprob(token=t, logprob=math.log(p)) for t, p in top.items()], allowed)
    if expected is None:
        assert reading.probabilities is None and not reading.problem
    else:
        assert reading.probabilities == pytest.approx(dict.fromkeys(allowed, 0.0) | expected)


def test_a_tie_is_an_abstention(fake_server):
    fake_server.script.append(completion("A", {"A": 0.5, "F": 0.5}))
    assert ask(fake_server, GRADED).outcome is Outcome.ABSTAINED


def test_without_logprobs_text_is_read_and_the_lack_is_remembered(fake_server):
    fake_server.answer = lambda body: completion("FALSE." if body["max_tokens"] > 1 else "FAL")
    subject = judge(fake_server)
    for _ in range(2):
        [(_, verdict)] = subject.answer([query()])
        assert verdict.label is Label.FALSE and verdict.probabilities is None
    assert [body["max_tokens"] for body in fake_server.requests] == [1, 8, 8]
    assert "logprobs" not in fake_server.requests[-1]


def test_labels_with_little_mass_are_not_renormalised_noise(fake_server):
    fake_server.script += [completion("**", {"**": 0.98, "FALSE": 0.02}), completion("**TRUE**")]
    verdict = ask(fake_server)
    assert verdict.label is Label.TRUE and verdict.probabilities is None
    assert verdict.completion_tokens == 2


@pytest.mark.parametrize("option", ["logprobs", "seed", "max_tokens"])
def test_an_option_that_the_server_refuses_is_left_out_from_then_on(fake_server, option):
    said = {"max_tokens": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'."}

    def answer(body: dict) -> Reply:
        if option in body:
            return error(400, said.get(option, f"unknown field {option}"))
        return completion("TRUE", {"TRUE": 1.0})

    fake_server.answer = answer
    subject = judge(fake_server, retries=0)
    verdicts = [v for _ in range(2) for _, v in subject.answer([query()])]
    assert [v.label for v in verdicts] == [Label.TRUE] * 2
    assert sum(option in body for body in fake_server.requests) == 1


def test_reason_mode_reads_label_and_reason(fake_server):
    fake_server.answer = lambda body: completion(json.dumps({"reason": "It greets.", "answer": "A-"}))
    verdict = ask(fake_server, GRADED, mode="reason")
    assert (verdict.label, verdict.reason) == (Label.A, "It greets.")
    assert "logprobs" not in fake_server.requests[0]


def test_a_protected_gate_takes_no_na(fake_server):
    fake_server.answer = lambda body: completion("NA")
    assert ask(fake_server, PROTECTED, mode="reason").outcome is Outcome.UNPARSEABLE
    assert ask(fake_server, GATE, mode="reason").outcome is Outcome.NOT_APPLICABLE
    fake_server.answer = lambda body: completion("NA", {"NA": 0.9, "TRUE": 0.06, "FALSE": 0.04})
    assert ask(fake_server, PROTECTED).outcome is Outcome.UNPARSEABLE


# --- faults: no verdict is lost, invented or counted as a score ---------------------------------

NAN = completion("TRUE", {"TRUE": 0.9, "FALSE": 0.1}).body.replace(b"-2.3025850929940455", b"NaN")
GOOD = completion("TRUE", {"TRUE": 1.0})
LASTING = {
    "truncated JSON": (Reply(GOOD.body[:90]), Outcome.FAILED),
    "truncated verdict": (completion('{"reason": "x", "answer": "TR'), Outcome.UNPARSEABLE),
    "HTML": (Reply(b"<html>TRUE</html>", headers={"content-type": "text/html"}), Outcome.FAILED),
    "no body": (Reply(b""), Outcome.FAILED),
    "null": (Reply(b"null"), Outcome.FAILED),
    "no choices": (Reply(b'{"choices": []}'), Outcome.FAILED),
    "not UTF-8": (Reply(GOOD.body.replace(b"TRUE", b"\xff\xfe")), Outcome.FAILED),
    "empty": (completion(""), Outcome.UNPARSEABLE),
    "no text": (completion(None), Outcome.UNPARSEABLE),
    "NaN": (Reply(NAN), Outcome.UNPARSEABLE),
    "positive": (completion("TRUE", {"TRUE": 2.0}), Outcome.UNPARSEABLE),
    "twice one": (completion("TRUE", {"TRUE": 1.0, "FALSE": 1.0}), Outcome.UNPARSEABLE),
    "wrong kind": (completion("A", {"A": 1.0}), Outcome.UNPARSEABLE),
    "huge text": (completion("TRUE " * 100_000), Outcome.UNPARSEABLE),
    "10 MB": (completion("TRUE " * 2_000_000), Outcome.FAILED),
    "400": (error(400, "prompt too long"), Outcome.FAILED),
} | {f"says {text}": (completion(text), Outcome.UNPARSEABLE) for text in UNTRUE}


LOGPROBS = ("NaN", "positive", "twice one")  # faultless replies for mode reason, which reads none


@pytest.mark.parametrize(
    ("mode", "fault"),
    [(m, fault) for fault in LASTING for m in ("label", "reason") if m == "label" or fault not in LOGPROBS],
)
def test_a_reply_that_is_no_verdict_yields_none(fake_server, fault, mode):
    reply, outcome = LASTING[fault]
    fake_server.answer = lambda body: reply
    verdict = ask(fake_server, mode=mode)
    assert verdict.outcome is outcome
    assert verdict.label is None and verdict.probabilities is None
    assert 0 < len(verdict.reason) < 500
    assert len(fake_server.requests) <= 2, "what no retry can mend is not retried"


PASSING = {
    "500": error(500, "oops"),
    "503": error(503, "loading"),
    "408": error(408, "slow"),
    "409": error(409, "busy"),
    "429": error(429, "slow down"),
    "reset": Reply(reset=True),
    "cut body": Reply(GOOD.body[:50], headers={"content-length": "5000"}),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_retried(fake_server, fault):
    fake_server.script += [PASSING[fault], PASSING[fault]]
    assert ask(fake_server).label is Label.TRUE
    assert len(fake_server.requests) == 3


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_stays_is_a_failed_verdict_with_its_reason(fake_server, fault):
    fake_server.answer = lambda body: PASSING[fault]
    verdict = ask(fake_server, retries=2)
    assert verdict.outcome is Outcome.FAILED and verdict.reason
    assert len(fake_server.requests) == 3


def test_retry_after_is_honoured(fake_server):
    fake_server.script.append(error(429, "slow down", retry_after="0.3"))
    assert ask(fake_server).label is Label.TRUE
    first, second = fake_server.times
    assert second - first >= 0.3


def test_a_retry_after_beyond_the_timeout_is_not_waited_for(fake_server):
    fake_server.answer = lambda body: error(429, "come back tomorrow", retry_after="86400")
    start = time.monotonic()
    verdict = ask(fake_server, timeout=30.0)
    assert verdict.outcome is Outcome.FAILED and "429" in verdict.reason
    assert time.monotonic() - start < 15.0


@pytest.mark.parametrize("fault", [Reply(GOOD.body, delay=30.0), Reply(GOOD.body, trickle=0.02)])
def test_a_hang_is_bounded_by_the_timeout(fake_server, fault):
    fake_server.answer = lambda body: fault
    start = time.monotonic()
    verdict = ask(fake_server, timeout=0.5)
    assert verdict.outcome is Outcome.FAILED and "no reply" in verdict.reason
    assert 0.4 < time.monotonic() - start < 15.0


def test_one_slow_call_holds_up_no_other(fake_server):
    fake_server.answer = lambda body: Reply(
        GOOD.body, delay=30.0 if "slow" in body["messages"][1]["content"] else 0.0
    )
    texts = ["first", "slow", *(f"text {n}" for n in range(10))]
    found = list(judge(fake_server, timeout=0.8, concurrency=3).answer([query(t) for t in texts]))
    assert found[-1][0] == 1 and found[-1][1].outcome is Outcome.FAILED
    assert sorted(i for i, _ in found) == list(range(12))
    assert sum(v.label is Label.TRUE for _, v in found) == 11


def test_a_server_that_dies_and_comes_back(fake_server):
    subject = judge(fake_server, retries=8, backoff=0.1, concurrency=2)
    verdicts = {}
    for index, verdict in subject.answer([query(f"text {n}") for n in range(12)]):
        verdicts[index] = verdict
        if len(verdicts) == 3:
            fake_server.stop()
            time.sleep(0.1)
            fake_server.start()
    assert sorted(verdicts) == list(range(12))
    assert all(v.label is Label.TRUE for v in verdicts.values())


def test_a_server_that_dies_for_good_fails_the_rest_and_raises_nothing(fake_server):
    fake_server.answer = lambda body: Reply(GOOD.body, delay=0.0 if len(fake_server.requests) <= 3 else 30.0)
    subject = judge(fake_server, retries=1, concurrency=2)
    verdicts = []
    for _, verdict in subject.answer([query(f"text {n}") for n in range(12)]):
        verdicts.append(verdict)
        if len(verdicts) == 3:
            fake_server.stop()
    assert len(verdicts) == 12
    assert {v.outcome for v in verdicts[3:]} == {Outcome.FAILED}


# --- an endpoint that cannot work ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "JUDGE_KEY"), (403, "another key or model"), (404, "ends in /v1")]
)
def test_wrong_key_or_model_at_first_contact_is_one_clear_error(fake_server, status, remedy):
    fake_server.answer = lambda body: error(status, "no")
    with pytest.raises(JudgeError, match=remedy):
        list(judge(fake_server, api_key_env="JUDGE_KEY").answer([query()] * 20))
    assert len(fake_server.requests) == 1


def test_later_the_same_status_is_one_failed_verdict(fake_server):
    fake_server.script += [GOOD, error(403, "blocked by policy")]
    found = dict(judge(fake_server, concurrency=1).answer([query()] * 3))
    assert [found[n].outcome for n in range(3)] == [Outcome.ANSWERED, Outcome.FAILED, Outcome.ANSWERED]


def test_nobody_listening_is_one_clear_error(fake_server):
    fake_server.stop()
    start = time.monotonic()
    with pytest.raises(JudgeError, match=r"127\.0\.0\.1.*start the server"):
        list(judge(fake_server, timeout=30.0).answer([query()] * 20))
    assert time.monotonic() - start < 15.0


def test_a_server_that_never_answers_is_given_up_after_three_calls(fake_server):
    fake_server.answer = lambda body: Reply(GOOD.body, delay=60.0)
    subject = judge(fake_server, timeout=0.4, concurrency=2)
    with pytest.raises(
        JudgeError, match=r"first \d calls failed.*no reply within .*timeout: 0.4 s.*raise timeout"
    ):
        list(subject.answer([query(f"text {n}") for n in range(60)]))
    assert len(fake_server.requests) <= 3 * 5 + 5, "three calls of up to five attempts, and one under way"


@pytest.mark.parametrize(
    ("left", "reason", "asked"), [(0.0, r"no time left.*timeout: 10 s", 0), (0.8, "HTTP 503", 1)]
)
def test_an_attempt_without_time_is_not_made_and_hides_no_cause(fake_server, left, reason, asked):
    fake_server.answer = lambda body: error(503, "loading", retry_after="0.4")

    async def call() -> None:
        chat = Chat("m", fake_server.url, unusable=JudgeError, timeout=10.0)
        async with chat.client() as client:
            session = Session(chat, client)
            clock = session.clock()
            clock.left = left
            await session.call(ChatRequest(messages=PROMPT.messages, max_tokens=1), clock)

    with pytest.raises(CallFailed, match=reason):
        asyncio.run(call())
    assert len(fake_server.requests) == asked


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://h/v1", "http://", "http://h:99999/v1", "http://[/v1"]
)
def test_a_base_url_that_is_none_is_refused(url):
    with pytest.raises(UsageError, match="expected a base URL"):
        ServerJudge("m", url, secret="s")


def test_the_key_is_sent_and_never_shown(fake_server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    fake_server.script += [GOOD, error(400, "bad request of sk-very-secret")]
    subject = judge(fake_server, api_key_env="JUDGE_KEY")
    list(subject.answer([query()]))
    [(_, verdict)] = subject.answer([query()])
    assert fake_server.headers[0]["authorization"] == "Bearer sk-very-secret"
    assert "sk-very" not in verdict.reason and "***" in verdict.reason


def test_a_key_with_a_line_break_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-one\nX-Other: two")
    with pytest.raises(UsageError, match="JUDGE_KEY: holds no key"):
        ServerJudge("m", "http://localhost/v1", secret="s", api_key_env="JUDGE_KEY")


def test_half_a_surrogate_pair_in_a_text_costs_no_verdict(fake_server):
    [(_, verdict)] = judge(fake_server).answer([query("cut \ud83d")])
    assert verdict.label is Label.TRUE
    assert "> cut ?" in fake_server.requests[0]["messages"][1]["content"]


# --- identity and limits ------------------------------------------------------------------------


def test_the_fingerprint_knows_who_answers_and_not_where_nor_how_fast():
    def fingerprint(model="m", url="http://h/v1", **options):
        return ServerJudge(model, url, **{"secret": "s", **options}).fingerprint

    same = fingerprint()
    assert same == fingerprint(secret="other", timeout=3, concurrency=1)
    assert same == fingerprint(url="http://u:p@h/v1/") == fingerprint(url="https://elsewhere:1/v1")
    others = [fingerprint("n"), fingerprint(version="2026-11"), fingerprint(mode="reason")]
    assert len({same, *others}) == 4


def test_questions_about_one_text_share_their_prefix(fake_server):
    fake_server.answer = lambda body: completion("NA", {"NA": 1.0})
    list(judge(fake_server).answer([query(), query(question=GRADED)]))
    first, second = (body["messages"] for body in fake_server.requests)
    assert first[0] == second[0]
    head, _, tail = first[1]["content"].partition("TASK\n")
    assert second[1]["content"].startswith(head) and "Is it safe?" in tail and "Good day." in head


def test_leaving_early_stops_the_calls(fake_server):
    fake_server.answer = lambda body: Reply(GOOD.body, delay=0.02)
    found = judge(fake_server, concurrency=2).answer([query()] * 500)
    next(found)
    found.close()
    time.sleep(0.15)
    count = len(fake_server.requests)
    time.sleep(0.15)
    assert len(fake_server.requests) == count < 20


def test_no_queries_no_calls(fake_server):
    assert list(judge(fake_server).answer([])) == []
    assert fake_server.requests == []


@pytest.mark.parametrize(("rpm", "tpm", "tokens"), [(3, None, 1), (None, 30, 10)])
def test_no_window_ever_holds_more_than_the_limit(rpm, tpm, tokens):
    limit, times = RateLimit(rpm, tpm, window=0.2), []

    async def call():
        await limit.admit(tokens)
        times.append(time.monotonic())

    async def main():
        await asyncio.gather(*(call() for _ in range(9)))

    asyncio.run(main())
    # Three a window: the 4th may start a window after the 1st, and so on; nine need two full windows.
    assert all(late - early >= 0.195 for early, late in zip(times, times[3:], strict=False))
    assert 0.39 < times[-1] - times[0] < 0.9
