import json
import time

import pytest

from fake_server import FakeServer, Reply, completion, error
from rubrica.core.errors import ModelError, ModelUnusable, UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Sampling
from rubrica.models.server import ServerGenerator

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=5, seed=3)
REFUSED = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."


def prompt(number: int) -> Prompt:
    return Prompt(id=f"p{number}", messages=(Message(role="user", content=f"Say {number}"),))


def generator(server: FakeServer, **options: object) -> ServerGenerator:
    return ServerGenerator("m", server.url, **{"timeout": 2.0, "backoff": 0.01, **options})


def echo(body: dict) -> Reply:
    return completion("heard: " + body["messages"][-1]["content"])


def like_vllm(body: dict) -> Reply:
    """Continue the last message; refuse contradictory options."""
    if body.get("continue_final_message") and body.get("add_generation_prompt"):
        return error(400, REFUSED)
    return completion(" and on" if body.get("continue_final_message") else "from the start")


def test_each_response_belongs_to_its_prompt_and_passes_the_sampling_on(fake_server):
    fake_server.answer = echo
    found = dict(generator(fake_server).generate([prompt(n) for n in range(30)], SAMPLING))
    assert {n: r.text for n, r in found.items()} == {n: f"heard: Say {n}" for n in range(30)}
    assert all(r.prompt_id == f"p{n}" and r.sampling == SAMPLING and r.finished for n, r in found.items())
    body = fake_server.requests[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 5)


def test_repeats_of_a_prompt_have_seeds_of_their_own_and_are_repeatable(fake_server):
    fake_server.answer = echo
    subject = generator(fake_server, concurrency=1)
    first = list(subject.generate([prompt(1)] * 3, SAMPLING))
    again = list(subject.generate([prompt(1)] * 3, SAMPLING))
    seeds = [body["seed"] for body in fake_server.requests]
    assert len(set(seeds)) == 3 and seeds[:3] == seeds[3:]
    assert len({r.id for _, r in first}) == 3 and first == again


def test_a_cut_completion_is_not_finished(fake_server):
    cut = json.loads(completion("one two").body)
    cut["choices"][0]["finish_reason"] = "length"
    fake_server.script.append(Reply(json.dumps(cut).encode()))
    [(_, response)] = generator(fake_server).generate([prompt(1)], SAMPLING)
    assert not response.finished and response.text == "one two"


def test_prefixes_are_continued_where_the_server_can(fake_server):
    fake_server.answer = like_vllm
    subject = generator(fake_server, concurrency=1)
    found = dict(subject.generate([prompt(1), prompt(2)], SAMPLING, ["It goes on", ""]))
    assert (found[0].text, found[1].text) == (" and on", "from the start")
    continued = fake_server.requests[1]
    assert continued["messages"][-1] == {"role": "assistant", "content": "It goes on"}
    assert continued["add_generation_prompt"] is False
    list(subject.generate([prompt(1)], SAMPLING, ["More"]))
    assert len(fake_server.requests) == 4, "the server is probed once"


@pytest.mark.parametrize("ignores", [echo, lambda body: error(422, "unknown field: continue_final_message")])
def test_prefixes_are_refused_where_the_server_would_start_anew(fake_server, ignores):
    fake_server.answer = ignores
    with pytest.raises(UsageError, match="cannot continue a given text; serve the model with vLLM"):
        list(generator(fake_server).generate([prompt(1)], SAMPLING, ["It goes on"]))


def test_a_prompt_beyond_the_context_is_named(fake_server):
    fake_server.answer = lambda body: error(400, "This model's maximum context length is 4096 tokens.")
    with pytest.raises(UsageError, match="prompt 'p7': too long"):
        list(generator(fake_server).generate([prompt(7)], SAMPLING))


def test_what_fails_for_good_is_an_error_that_names_the_prompt(fake_server):
    fake_server.answer = lambda body: error(500, "oops")
    with pytest.raises(ModelError, match="prompt 'p7': HTTP 500"):
        list(generator(fake_server, retries=1).generate([prompt(7)], SAMPLING))
    fake_server.answer = lambda body: error(404, "no model m")
    with pytest.raises(ModelError, match="check the model's name"):
        list(generator(fake_server).generate([prompt(7)], SAMPLING))
    fake_server.answer = lambda body: Reply(delay=30.0)
    start = time.monotonic()
    with pytest.raises(ModelError, match="no reply within"):
        list(generator(fake_server, timeout=0.4).generate([prompt(7)], SAMPLING))
    assert time.monotonic() - start < 15.0


def test_complete_returns_the_text_or_says_why_not(fake_server):
    fake_server.script += [completion("a poem"), completion(" "), error(400, "no")]
    subject = generator(fake_server)
    assert subject.complete("Write.", 9) == "a poem"
    assert fake_server.requests[0]["temperature"] == 0 and fake_server.requests[0]["max_tokens"] == 9
    with pytest.raises(ModelError, match="empty answer"):
        subject.complete("Write.", 9)
    with pytest.raises(ModelError, match="HTTP 400"):
        subject.complete("Write.", 9)


def test_as_many_prefixes_as_prompts(fake_server):
    with pytest.raises(UsageError, match="1 prefixes for 2 prompts"):
        generator(fake_server).generate([prompt(1), prompt(2)], SAMPLING, ["x"])


def test_what_the_server_keeps_to_itself_costs_one_prompt_and_what_it_can_never_do_stops(fake_server):
    """A content filter is about the prompt; a wrong key is about every prompt."""
    fake_server.answer = lambda body: error(400, "The prompt triggered the content management policy")
    with pytest.raises(UsageError, match="refused by the server"):
        list(generator(fake_server).generate([prompt(1)], SAMPLING))
    body = json.loads(completion("Sure, fir").body)
    body["choices"][0]["finish_reason"] = "content_filter"
    fake_server.answer = lambda _: Reply(json.dumps(body).encode())
    with pytest.raises(UsageError, match="withheld"):
        list(generator(fake_server).generate([prompt(1)], SAMPLING))
    fake_server.answer = lambda body: error(401, "bad key")
    with pytest.raises(ModelUnusable, match="bad key"):
        list(generator(fake_server).generate([prompt(1)], SAMPLING))
