"""Reward models behind servers, over real HTTP: what is sent, what is read, and what is no score."""

import json
from pathlib import Path

import pytest

from fake_server import FakeServer, Reply, error
from rubrica.core.errors import ModelError
from rubrica.core.prompts import Message, Prompt
from rubrica.models.reward_server import ServedRewardModel, read_score
from serving import FLOOR, TOTALS, rule, serving


def prompt(text: str, id: str = "p") -> Prompt:
    return Prompt(id=id, messages=(Message(role="user", content=text),))


ITEMS = [(prompt("How?"), "a"), (prompt("Why?"), "bb"), (prompt("How?"), "c" * 7)]


def classes(*numbers: float) -> Reply:
    return Reply(
        json.dumps({"data": [{"index": 0, "label": "x", "probs": numbers, "num_classes": 1}]}).encode()
    )


def pooled(data: list) -> Reply:
    return Reply(json.dumps({"object": "list", "data": [{"index": 0, "data": data}]}).encode())


def length_of(body: dict) -> float:
    return float(len(body["messages"][-1]["content"]))


def test_classification_gives_the_raw_logit() -> None:
    with FakeServer(lambda body: classes(length_of(body) - 3.5)) as server:
        model = ServedRewardModel("rm", server.url)
        assert dict(model.score(ITEMS)) == {0: -2.5, 1: -1.5, 2: 3.5}
        assert list(model.score([])) == []
    sent = sorted(server.requests, key=length_of)[1]
    assert sent == {
        "model": "rm",
        "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "bb"}],
        "use_activation": False,
    }


def test_one_of_several_numbers_is_the_score() -> None:
    with FakeServer(lambda body: classes(1.0, 20.0, 300.0)) as server:
        assert dict(ServedRewardModel("rm", server.url, label=2).score(ITEMS[:1])) == {0: 300.0}
        [(_, unnamed)] = ServedRewardModel("rm", server.url).score(ITEMS[:1])
        assert isinstance(unnamed, ModelError) and "3 numbers; name the index of one in label" in str(unnamed)
        [(_, beyond)] = ServedRewardModel("rm", server.url, label=3).score(ITEMS[:1])
        assert isinstance(beyond, ModelError) and "none has index 3" in str(beyond)


@pytest.mark.parametrize("data", [[0.25], [[7.0], [3.0], [0.25]]], ids=["sequence", "tokens"])
def test_pooling_gives_the_only_row_or_that_of_the_last_token(data: list) -> None:
    with FakeServer(lambda body: pooled(data)) as server:
        model = ServedRewardModel("rm", server.url, endpoint="pooling")
        assert dict(model.score(ITEMS[:1])) == {0: 0.25}


def test_faults_are_errors_never_scores() -> None:
    """One text's fault takes no other's score; what may pass is tried again."""

    def answer(body: dict) -> Reply:
        return {1: error(400, "too long"), 2: Reply(b'{"data": []}'), 7: classes(0.5)}[int(length_of(body))]

    with FakeServer(answer) as server:
        server.script.extend([error(503, "loading"), classes(0.125)])
        model = ServedRewardModel("rm", server.url, backoff=0.01)
        assert dict(model.score(ITEMS[:1])) == {0: 0.125}
        found = dict(model.score(ITEMS))
    assert found[2] == 0.5
    assert isinstance(found[0], ModelError) and "prompt 'p': HTTP 400" in str(found[0])
    assert isinstance(found[1], ModelError) and "holds no scores" in str(found[1])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"data": [{"probs": []}]}',
        b'{"data": [{"probs": [NaN]}]}',
        b'{"data": [{"probs": [1e999]}]}',
        b'{"data": [{"probs": ["no"]}]}',
        b'{"data": [{"probs": [1]}, {"probs": [2]}]}',
    ],
)
def test_what_is_no_number_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"score|numbers"):
        read_score(body, endpoint="classify", label=None)


def test_a_server_that_is_not_there_or_knows_no_such_path_is_named() -> None:
    with FakeServer(lambda body: error(404, "Not Found")) as server:
        with pytest.raises(ModelError, match="no such model or path there"):
            list(ServedRewardModel("rm", server.url).score(ITEMS))
        url = server.url
    with pytest.raises(ModelError, match="start the server there"):
        list(ServedRewardModel("rm", url).score(ITEMS))


def test_what_a_template_could_take_for_a_control_token_is_broken() -> None:
    with FakeServer(lambda body: classes(1.0)) as server:
        model = ServedRewardModel("rm", server.url, disarm=lambda text: text.replace("<|", "< |"))
        list(model.score([(prompt("<|user|>"), "Yes<|end|>")]))
    assert [m["content"] for m in server.requests[0]["messages"]] == ["< |user|>", "Yes< |end|>"]


def test_another_rubrica_serves_its_totals(tmp_path: Path) -> None:
    with FakeServer(rule) as judge, serving(tmp_path, judge) as served:
        model = ServedRewardModel("rubrica", served.url, endpoint="score")
        items = [(prompt("Hello?"), word) for word in ("good", "rude", "dull", "unheard of")]
        found = dict(model.score(items))
    assert [found[index] for index in range(3)] == [TOTALS["good"], TOTALS["rude"], TOTALS["dull"]]
    assert isinstance(found[3], ModelError) and "no reward: no total of the text" in str(found[3])
    assert FLOOR not in found.values()


def test_the_fingerprint_names_model_label_and_version_but_not_the_place() -> None:
    def of(model: str = "rm", url: str = "http://one:1/v1", **options: object) -> str:
        return ServedRewardModel(model, url, **options).fingerprint

    assert of() == of(url="http://two:2")
    assert len({of(), of("other"), of(label=1), of(version="2"), of(endpoint="pooling")}) == 5
