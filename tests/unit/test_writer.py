"""Who writes reflections: the judge's own server, key and limits."""

import pytest

from fake_server import FakeServer, completion
from rubrica.judges.factory import JudgeConfig, server_of
from rubrica.recipes.writer import can_write, open_writer


@pytest.mark.parametrize(
    ("spec", "server"),
    [
        ("openai:m@http://h:1/v1", ("m", "http://h:1/v1")),
        (" openai:owner/name:tag@https://user:word@h/v1 ", ("owner/name:tag", "https://user:word@h/v1")),
        ("openai:m", None),
        ("openai:m@h/v1", None),
        ("local:m@http://h", None),
        ("lab", None),
    ],
)
def test_a_spec_is_taken_apart_in_one_place(spec: str, server: tuple[str, str] | None) -> None:
    assert server_of(spec) == server
    assert can_write(spec) == (server is not None or spec.startswith("local:"))


def test_the_writer_has_the_judges_key(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-judge")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    fake_server.answer = lambda body: completion("Hmm.")
    writer = open_writer(JudgeConfig(spec=f"openai:m@{fake_server.url}", api_key_env="JUDGE_KEY"))
    assert writer.complete("Reflect.", 50) == "Hmm."
    assert fake_server.headers[0]["authorization"] == "Bearer sk-judge"
