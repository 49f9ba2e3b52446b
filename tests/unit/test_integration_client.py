"""The client of the reward server against real HTTP: what it asks again, and what it does not."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rubrica.core.errors import JudgeError, UsageError
from rubrica.core.prompts import Message
from rubrica.core.scoring import ScoredItem, ScoreItem
from rubrica.integrations.client import Client
from rubrica.integrations.exchange import number, prompt_of
from rubrica.integrations.trl import metrics
from serving import TOTALS, rule, serving


@contextmanager
def scripted(*replies):
    """Answer with ``replies`` in turn, (status, body, headers), the last one for ever; gives URL and requests."""
    left, seen = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, dict(self.headers), json.loads(body)))
            status, found, headers = left.pop(0) if len(left) > 1 else left[0]
            sent = (found(json.loads(body)) if callable(found) else found).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(sent))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def reply(*rewards):
    results = [{"reward": reward, "reason": "" if reward is not None else "lost"} for reward in rewards]
    return 200, json.dumps({"results": results, "usage": {}, "judge": "j", "program": "p"}), {}


BUSY = (429, '{"error": "busy", "message": "full"}', {"Retry-After": "0.2"})
DOWN = (503, '{"error": "judge_unavailable", "message": "no judge"}', {})


def items(*texts):
    return [ScoreItem(prompt="Hi", completion=text, mode="text") for text in texts]


def test_faults_that_may_pass_are_tried_again_and_retry_after_is_honoured():
    with scripted(DOWN, BUSY, (500, "<html>", {}), reply(0.5)) as (url, seen):
        started = time.monotonic()
        [found] = Client(url, api_key="k").score(items("a"))
        assert found.reward == 0.5 and time.monotonic() - started >= 0.2
    assert [headers["Authorization"] for _, headers, _ in seen] == ["Bearer k"] * 4
    assert len({json.dumps(body) for _, _, body in seen}) == 1


def test_a_server_that_stays_down_is_a_judge_error_and_no_score():
    with scripted(DOWN) as (url, seen), pytest.raises(JudgeError, match=r"no judge; tried 2 times"):
        Client(url, retries=1).score(items("a"))
    assert len(seen) == 2
    with pytest.raises(JudgeError, match="cannot be reached"):
        Client(url, retries=0).score(items("a"))


@pytest.mark.parametrize(
    ("status", "headers"), [(401, {}), (413, {}), (422, {}), (307, {"Location": "http://127.0.0.1:9/"})]
)
def test_a_refusal_is_not_tried_again_and_no_redirect_is_followed(status, headers):
    with scripted((status, '{"message": "not so"}', headers)) as (url, seen):
        with pytest.raises(UsageError, match=f"HTTP {status}: not so"):
            Client(url).score(items("a"))
    assert len(seen) == 1


def test_only_what_has_no_reward_is_asked_again():
    with scripted(reply(0.5, None, 0.25), reply(None), reply(1.0)) as (url, seen):
        found = Client(url, null_retries=3).score(items("a", "b", "c"))
    assert [result.reward for result in found] == [0.5, 1.0, 0.25]
    assert [[i["completion"] for i in body["items"]] for _, _, body in seen] == [
        ["a", "b", "c"],
        ["b"],
        ["b"],
    ]
    with scripted(reply(None)) as (url, seen):
        [lost] = Client(url, null_retries=1).score(items("a"))
    assert lost.reward is None and lost.reason == "lost" and len(seen) == 2


@pytest.mark.parametrize(
    "body", ["", "{}", "[]", '{"results": []}', reply(0.1, 0.2)[1], reply(0.1)[1].replace("0.1", "NaN")]
)
def test_a_reply_that_is_not_the_servers_is_refused(body):
    with scripted((200, body, {})) as (url, _), pytest.raises(JudgeError):
        Client(url).score(items("a"))


@pytest.mark.parametrize("url", ["localhost:8700", "ftp://x", "http://"])
def test_an_address_that_is_none_is_named(url):
    with pytest.raises(UsageError, match="expected an address"):
        Client(url)


def test_large_requests_are_cut_and_many_may_wait_at_once(tmp_path, fake_server):
    fake_server.answer = rule
    words = ["good", "rude", "dull"] * 4
    with serving(tmp_path, fake_server) as server:
        client = Client(server.url, chunk=5, concurrency=4)
        assert [r.reward for r in client.score(items(*words))] == [TOTALS[word] for word in words]

        async def all_at_once():
            return await asyncio.gather(*[client.ascore(items(*words)) for _ in range(8)])

        for results in asyncio.run(all_at_once()):
            assert [r.reward for r in results] == [TOTALS[word] for word in words]
    assert len(fake_server.requests) == 3 + 2 + 3


# --- prompts in, numbers out ----------------------------------------------------------------------


def test_prompts_of_every_trainer_are_read():
    one = (Message(role="user", content="Hi"),)
    assert prompt_of("Hi", "x") == "Hi"
    assert prompt_of([{"role": "user", "content": "Hi"}], "x") == one
    assert prompt_of(np.array([{"role": "user", "content": "Hi"}], dtype=object), "x") == one
    assert prompt_of([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "x") == one
    assert prompt_of(one, "x") == one
    for wrong in ("", " ", [], None, 3, [{"role": "tool", "content": "x"}], [{"role": "user"}], ["Hi"]):
        with pytest.raises(UsageError, match=r"extra_info\.prompt"):
            prompt_of(wrong, "extra_info.prompt")


def test_a_missing_reward_is_never_a_number_unless_one_was_chosen():
    lost = ScoredItem(reward=None, reason="the judge is down")
    with pytest.raises(JudgeError, match="the judge is down"):
        number(lost)
    assert number(lost, -3.0) == number(lost, "-3") == -3.0
    assert number(ScoredItem(reward=0.5), "raise") == 0.5
    with pytest.raises(UsageError, match="expected a number or 'raise'"):
        number(lost, "zero")


def test_metrics_count_only_values_that_exist():
    results = [ScoredItem(reward=None), ScoredItem(reward=-2.5, malformed="no_open_tag")]
    assert metrics(results) == {"rubrica/malformed": 0.5, "rubrica/missing": 0.5}
