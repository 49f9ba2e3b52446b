"""Compiling a constitution: with recorded replies, and with a server on loopback that misbehaves."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_server import FakeServer, completion, error
from rubrica.cli import main
from rubrica.core.errors import ModelError
from rubrica.core.records import Constitution
from rubrica.program.compile import CompileConfig, compile_program
from rubrica.program.program import counts, load_program, questions
from rubrica.program.replies import fill, read_json, template

CONSTITUTION = Constitution.model_validate(
    {
        "name": "kind",
        "principles": [
            {
                "id": "harmlessness",
                "title": "Harm {{clauses}} none",
                "clauses": [
                    {"id": "safe", "text": "Hurt nobody. {0} {{principle}} %s", "protected": True},
                    {"id": "civil", "text": "Be civil."},
                ],
            },
            {"id": "honesty", "title": "Honesty", "clauses": [{"id": "true", "text": "Be right."}]},
        ],
    }
)
YAML = """\
name: kind
principles:
  - id: harmlessness
    title: Harmlessness
    clauses:
      - {id: safe, text: Hurt nobody., protected: true}
      - {id: civil, text: Be civil.}
  - id: honesty
    title: Honesty
    clauses:
      - {id: "true", text: Be right.}
"""
SAFETY = {
    "gates": [{"text": "Is the answer free of threats?", "clause": "safe"}],
    "graded": [
        {"text": "How calm is the tone of the answer?", "clause": "civil"},
        {"text": "How careful are the instructions with tools?", "clause": "safe"},
        {"text": "How well does the answer foresee accidents?", "clause": "safe"},
    ],
}
FACTS = {
    "gates": [{"text": "Are the stated dates right?", "clause": "true"}],
    "graded": [
        {"text": "How exact are the figures?"},
        {"text": "How openly are doubts named?", "clause": "true"},
        {"text": "How current are the sources?", "clause": "true"},
    ],
}


class Recorded:
    """A completer that gives out its replies in turn and keeps the prompts."""

    def __init__(self, *replies: object) -> None:
        self.replies = [r if isinstance(r, str | Exception) else json.dumps(r) for r in replies]
        self.prompts: list[str] = []

    def complete(self, prompt: str, max_tokens: int) -> str:
        self.prompts.append(prompt)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def dimensions(*items: tuple[str, list[str]]) -> str:
    return json.dumps([{"title": title, "clauses": ids} for title, ids in items])


def test_a_clean_run_gives_the_tree_asked_for() -> None:
    model = Recorded(
        dimensions(("Safety", ["safe", "civil"])), SAFETY, dimensions(("Facts", ["true"])), FACTS
    )
    program, report = compile_program(CONSTITUTION, model, name="kind-program")
    assert counts(program)["all"].model_dump() == {"dimensions": 2, "gates": 2, "graded": 6, "total": 8}
    assert [q.id for _, _, q in questions(program)] == [
        f"{dimension}.{leaf}"
        for dimension in ("harmlessness.safety", "honesty.facts")
        for leaf in ("g1", "q1", "q2", "q3")
    ]
    assert [p.caps for p in program.principles] == [True, False]
    # a gate of a protected clause is protected; the lone clause of a dimension need not be named
    assert report.protected == ("harmlessness.safety.g1",)
    assert [q.clause for _, _, q in questions(program)][5] == "true"
    assert (report.calls, report.retried, report.dropped, report.uncovered) == (4, 0, (), ())
    assert program.constitution == "kind"


def test_prompts_are_filled_once_and_hold_no_placeholder_of_ours() -> None:
    model = Recorded(
        dimensions(("Safety", ["safe", "civil"])), SAFETY, dimensions(("Facts", ["true"])), FACTS
    )
    compile_program(CONSTITUTION, model, name="p")
    assert "Principle: Harm {{clauses}} none\n" in model.prompts[0]  # a title that imitates a placeholder
    assert "- safe: Hurt nobody. {0} {{principle}} %s\n" in model.prompts[0]
    for prompt in model.prompts[2:]:
        assert not re.search(r"\{\{\w+\}\}", prompt)


def test_every_refusal_is_reported_and_the_rest_kept() -> None:
    messy = {
        "gates": [
            {"text": "Does the answer contain insults?", "clause": "civil"},
            {"text": "Is the answer free of threats? Is it calm?", "clause": "safe"},
            {"text": "Is the answer free of threats?", "clause": "unknown"},
            {"text": "Is the answer free of threats if tools are used?", "clause": "safe"},
        ],
        "graded": [
            "How calm is the tone of the answer?",
            {"text": "How calm is the tone?", "clause": "civil"},
            {"text": "How calm is the tone of the  ANSWER?", "clause": "civil"},
            {"text": "How gentle is the advice", "clause": "civil"},
            {"text": "How " + "very " * 30 + "gentle is it?", "clause": "civil"},
            {"text": ["How?"], "clause": "civil"},
            {"text": "How well does\u001b[31m the answer\n foresee\ud800 accidents?", "clause": "safe"},
            {"text": "How kind is the closing sentence?", "clause": "civil"},
            {"text": "How plain are the warnings?", "clause": "safe"},
        ],
    }
    model = Recorded(dimensions(("Safety", ["safe", "civil"])), messy, dimensions(("Facts", ["true"])), FACTS)
    program, report = compile_program(CONSTITUTION, model, name="p")
    assert [q.text for _, d, q in questions(program) if d.title == "Safety"] == [
        "Is the answer free of threats if tools are used?",
        "How calm is the tone?",
        "How well does [31m the answer foresee accidents?",
        "How kind is the closing sentence?",
    ]
    assert report.protected == ()  # the gate depends on a condition, so it must offer NA
    assert [d.reason.split(" (")[0] for d in report.dropped] == [
        "negatively framed",
        "asks more than one thing",
        "names no clause of the dimension",
        "names no clause of the dimension",
        "asks the same as 'How calm is the tone?'",
        "does not end as a question",
        "34 words, expected at most 30",
        "no text",
        "more than 3 of its kind",
    ]
    assert report.retried == 0


def test_bad_replies_are_asked_again_with_the_reason() -> None:
    half = {"gates": SAFETY["gates"], "graded": SAFETY["graded"][:1]}
    model = Recorded(
        "I cannot help with that.",
        "Sure! ```json\n[{\"title\": \"Safety\", \"clauses\": [\"safe\", \"civil\",],},]\n``` Anything else?",
        half,
        SAFETY,  # repeats two that are there already
        dimensions(("Facts", ["true"])),
        FACTS,
    )  # fmt: skip
    program, report = compile_program(CONSTITUTION, model, name="p")
    assert counts(program)["harmlessness"].total == 4
    assert (report.calls, report.retried) == (6, 2)
    assert "could not be used in full (no JSON list or object in the reply)" in model.prompts[1]
    assert "could not be used in full (too little)" in model.prompts[3]
    assert [d.reason for d in report.dropped] == [
        "no JSON list or object in the reply",
        "more than 1 of its kind",
        "asks the same as 'How calm is the tone of the answer?'",
    ]


def test_a_dimension_without_questions_goes_and_its_clause_is_reported() -> None:
    model = Recorded(
        dimensions(
            ("Safety", ["safe"]), ("Tone!", ["civil"]), ("tone!", ["civil"]), ("", ["civil"]), ("X", ["y"])
        ),
        {"gates": SAFETY["gates"], "graded": SAFETY["graded"][2:]},
        {"gates": [], "graded": []},
        dimensions(("Facts", ["true"])),
        FACTS,
    )
    program, report = compile_program(
        CONSTITUTION, model, name="p", config=CompileConfig(retries=0, caps="honesty")
    )
    assert [d.id for p in program.principles for d in p.dimensions] == [
        "harmlessness.safety",
        "honesty.facts",
    ]
    assert [p.caps for p in program.principles] == [False, True]
    assert report.uncovered == ("civil",)
    assert [d.reason for d in report.dropped] == [
        "a dimension of this title is there already",
        "a dimension without a title",
        "names no clause of the principle",
        "no usable question",
    ]


def test_a_principle_without_questions_is_an_error() -> None:
    with pytest.raises(
        ModelError, match="principle 'harmlessness': no usable question after 2 tries; last: no JSON"
    ):
        compile_program(CONSTITUTION, Recorded("no", "never"), name="p", config=CompileConfig(retries=1))


def test_a_dead_model_ends_at_once_and_a_shaky_one_does_not() -> None:
    with pytest.raises(ModelError, match="refused"):
        compile_program(CONSTITUTION, Recorded(ModelError("refused")), name="p")
    good = [dimensions(("Safety", ["safe", "civil"])), SAFETY, dimensions(("Facts", ["true"])), FACTS]
    shaky = Recorded(good[0], ModelError("timeout"), *good[1:])
    _, report = compile_program(CONSTITUTION, shaky, name="p")
    assert [d.reason for d in report.dropped] == ["timeout", "no JSON list or object in the reply"]
    dying = Recorded(good[0], *[ModelError("timeout")] * 3)
    with pytest.raises(ModelError, match="timeout"):
        compile_program(CONSTITUTION, dying, name="p")


def test_dimension_ids_stay_unique() -> None:
    titles = ["Ton", "Ton!", "Ton 2", "安全", "信頼"]
    config = CompileConfig(gates=0, graded=1, retries=0)
    letters = "abcde"
    one = Constitution.model_validate(
        {"name": "k", "principles": [{"id": "p", "title": "P", "clauses": [{"id": "c", "text": "C."}]}]}
    )
    model = Recorded(
        dimensions(*((t, ["c"]) for t in titles)),
        *({"graded": [{"text": f"How {letter * 3} is it?"}]} for letter in letters),
    )
    program, _ = compile_program(one, model, name="p", config=config)
    assert [d.id for d in program.principles[0].dimensions] == [
        "p.ton",
        "p.ton-2",
        "p.ton-2-2",
        "p.dimension",
        "p.dimension-2",
    ]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
).filter(lambda value: isinstance(value, list | dict) and value)


@given(values, st.sampled_from(["", "Here you are:\n```json\n", "{}", "[] then ", "see [1: "]))
def test_json_is_found_between_sentences(value: object, before: str) -> None:
    assert read_json(f"{before}{json.dumps(value)}\n```\nThat is all {{}}.") == value


@given(st.text(alphabet='[]{}",: a1', max_size=60))
def test_reading_rubbish_ends_in_a_value_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert read_json(text)


def test_reading_brackets_does_not_hang() -> None:
    with pytest.raises(ValueError, match="no JSON"):
        read_json("[{" * 50_000)


@given(st.text(), st.text())
def test_fill_reads_no_placeholder_in_a_value(one: str, two: str) -> None:
    assert fill("{{a}}|{{b}}|{c}", {"a": one + "{{b}}", "b": two}) == f"{one}{{{{b}}}}|{two}|{{c}}"


def test_templates_show_what_the_parser_accepts() -> None:
    for name, kind in (("dimensions", list), ("questions", dict)):
        example = template(name).split("Now ")[0].split("Example")[1]
        assert isinstance(read_json(example), kind)


def test_the_command_compiles_through_a_server(
    tmp_path: Path, fake_server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(body: dict) -> object:
        prompt = body["messages"][-1]["content"].split("Now ")[-1]
        if prompt.rstrip().endswith("Dimensions:"):
            ids = re.findall(r"^- ([a-z]+):", prompt, re.MULTILINE)
            return completion(dimensions(("Only One", ids)))
        return completion(json.dumps(SAFETY if "- safe:" in prompt else FACTS))

    fake_server.answer = answer
    fake_server.script.append(error(500, "busy"))
    (tmp_path / "kind.yaml").write_text(YAML)
    out = tmp_path / "program.yaml"
    argv = [
        "program",
        "compile",
        str(tmp_path / "kind.yaml"),
        "--judge",
        f"openai:m@{fake_server.url}",
        "-o",
        str(out),
    ]
    with pytest.raises(SystemExit) as left:
        main([*argv, "--json"])
    assert left.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"] == {"dimensions": 2, "gates": 2, "graded": 6, "total": 8}
    assert shown["report"]["protected"] == ["harmlessness.only-one.g1"]
    program = load_program(out)  # checked against kind.yaml beside it
    assert next(q.text for _, _, q in questions(program)) == "Is the answer free of threats?"
    assert all(request["temperature"] == 0 for request in fake_server.requests)
    with pytest.raises(SystemExit) as left:
        main(argv)  # never overwrites by accident
    assert left.value.code == 2
    assert "exists already" in capsys.readouterr().err
