import pytest
from pydantic import ValidationError

from fake_server import completion
from rubrica.core.errors import RubricaError, UsageError
from rubrica.core.programs import Question, QuestionKind
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Query
from rubrica.judges.budget import LABEL_TOKENS
from rubrica.judges.factory import (
    JudgeConfig,
    answer_tokens,
    check_spec,
    judge_identity,
    make_judge,
    read_judge,
)
from rubrica.judges.listing import LIST_TOKENS
from rubrica.judges.server import ServerJudge

QUERY = Query(
    prompt=Prompt(id="1", messages=(Message(role="user", content="Hello"),)),
    text="Good day.",
    question=Question(id="s", kind=QuestionKind.GRADED, text="How clear is it?", clause="c"),
)


def test_a_builtin_is_made_by_its_maker(fake_server):
    shipped = ServerJudge("m", fake_server.url, secret="s")
    assert make_judge("lab", secret="s", builtin={"lab": lambda: shipped}) is shipped
    assert make_judge(JudgeConfig(spec=" lab "), secret="s", builtin={"lab": lambda: shipped}) is shipped


def test_a_server_spec_reaches_the_model_that_it_names(fake_server):
    fake_server.answer = lambda body: completion('{"answer": "B"}')
    config = JudgeConfig(spec=f"openai:org/model-7b@v2@{fake_server.url}", mode="reason", max_tokens=33)
    [(_, verdict)] = make_judge(config, secret="s", builtin={}).answer([QUERY])
    assert verdict.label is Label.B
    assert fake_server.requests[0]["model"] == "org/model-7b@v2"
    assert fake_server.requests[0]["max_tokens"] == 33


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("labb", "did you mean 'lab'"),
        ("", "expected one of lab, lab-oracle, local:PATH"),
        ("local:", "expected local:PATH"),
        ("gpt-4o", "openai:MODEL@http"),
        ("openai:m@localhost:8000/v1", "full URL"),
        ("openai:@http://h/v1", "full URL"),
        ("openai:m", "for example openai:my-model@"),
    ],
)
def test_a_wrong_spec_is_told_what_is_right(spec, said):
    with pytest.raises(UsageError, match=said):
        make_judge(spec, secret="s", builtin={"lab": lambda: pytest.fail("not asked for")})


def test_a_local_judge_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(RubricaError, match="nowhere"):
        make_judge(f"local:{tmp_path / 'nowhere'}", secret="s", builtin={})


@pytest.mark.parametrize(
    ("spec", "options"),
    [("lab", {"questions_per_call": 4}), ("lab", {"version": "2"}), ("local:x", {"questions_per_call": 2})],
)
def test_an_option_that_would_judge_otherwise_is_not_passed_over(spec, options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} is for openai:MODEL@URL alone"):
        check_spec(JudgeConfig(spec=spec, **options), {"lab"})


def test_a_server_has_no_reason_tokens():
    with pytest.raises(
        UsageError, match="reason_tokens is for local:PATH alone; behind a server it is max_tokens"
    ):
        check_spec(JudgeConfig(spec="openai:m@http://x/v1", mode="reason", reason_tokens=65), {"lab"})


@pytest.mark.parametrize(
    "beside",
    [{"spec": "lab"}, {"mode": "reason"}, {"concurrency": 4}, {"price": {"prompt": 1, "completion": 1}}],
)
def test_a_cascade_takes_no_options_of_its_judges(beside):
    both = {"cheap": "lab", "expensive": "lab-oracle", "thresholds": "t.json"}
    kept = JudgeConfig.model_validate({"cascade": both, "passport": "p.json"})
    assert JudgeConfig.model_validate(kept.model_dump(mode="json")) == kept
    with pytest.raises(ValidationError, match=f"{next(iter(beside))} says nothing of a cascade"):
        JudgeConfig.model_validate({"cascade": both, **beside})


def test_no_judge_at_all_is_told_what_there_is():
    with pytest.raises(UsageError, match="expected one of lab"):
        read_judge("")


def test_limits_are_checked():
    assert JudgeConfig(spec="lab", concurrency="auto").concurrency == "auto"
    for wrong in (
        {"concurrency": 0},
        {"timeout": float("inf")},
        {"concurrency": "fast"},
        {"questions_per_call": 0},
        {"timeout": 0},
        {"rpm": 0},
        {"mode": "chat"},
        {"speed": 1},
    ):
        with pytest.raises(ValidationError):
            JudgeConfig(spec="lab", **wrong)


@pytest.mark.parametrize(
    ("spec", "options", "most"),
    [
        ("openai:m@http://x/v1", {}, LABEL_TOKENS),
        ("openai:m@http://x/v1", {"mode": "reason", "max_tokens": 300}, 300),
        ("openai:m@http://x/v1", {"questions_per_call": 4}, LABEL_TOKENS + LIST_TOKENS),
        ("openai:m@http://x/v1", {"mode": "reason", "max_tokens": 300, "questions_per_call": 4}, 600),
        ("local:x", {"mode": "reason", "reason_tokens": 2000}, 2000),
    ],
)
def test_a_budget_reserves_what_a_question_may_make_the_judge_write(spec, options, most):
    """A question of a list whose reply leaves it in doubt is answered twice: in the list, and by itself."""
    assert answer_tokens(JudgeConfig(spec=spec, **options)) == most


def test_a_judge_stays_itself_when_it_moves_or_is_asked_faster():
    here = judge_identity("openai:org/m@v2@http://here:8000/v1")
    assert here == judge_identity(" openai:org/m@v2@https://there/v1 ")
    moved = {"spec": "openai:org/m@v2@http://x/v1", "concurrency": 64, "timeout": 5, "api_key_env": "K"}
    assert here == judge_identity(moved)
    for other in ({"mode": "reason"}, {"version": "2"}):
        assert here != judge_identity({"spec": "openai:org/m@v2@http://here:8000/v1", **other})
    assert here != judge_identity("openai:org/m@http://here:8000/v1") != judge_identity("local:org/m")
    there = [
        {
            "cascade": {
                "cheap": "lab",
                "thresholds": "t",
                "expensive": {"spec": f"openai:m@{url}", "timeout": wait},
            }
        }
        for url, wait in (("http://here/v1", 5), ("http://there/v1", 6))
    ]
    assert judge_identity(there[0]) == judge_identity(there[1])
    there[1]["cascade"]["cheap"] = "lab-oracle"
    assert judge_identity(there[0]) != judge_identity(there[1])
    assert judge_identity(None) is None and judge_identity({"speed": 1}) == {"speed": 1}
