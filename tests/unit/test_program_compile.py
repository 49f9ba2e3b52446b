"""Compiling a constitution: with recorded replies, and with a server on loopback that misbehaves."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_server import FakeServer, Reply, completion, error
from rubrica.cli import main
from rubrica.core.errors import ModelError, StorageError
from rubrica.core.ports import Ask
from rubrica.core.programs import Constitution
from rubrica.core.store import Store
from rubrica.program.compile import CompileConfig, compile_program
from rubrica.program.drafting import Draft
from rubrica.program.program import counts, load_program, questions
from rubrica.program.replies import (
    DimensionsReply,
    QuestionsReply,
    dimensions_schema,
    fill,
    questions_schema,
    read_json,
    template,
)

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
    """A drafter that gives out its replies in turn and keeps the prompts."""

    name = "recorded"

    def __init__(self, *replies: object) -> None:
        self.replies = [r if isinstance(r, str | Exception) else json.dumps(r) for r in replies]
        self.prompts: list[str] = []

    def draft(self, asks: Sequence[Ask]) -> Iterator[tuple[int, str | ModelError]]:
        for index, ask in enumerate(asks):
            self.prompts.append(ask.prompt)
            yield index, self.replies.pop(0)


def dimensions(*items: tuple[str, list[str]]) -> str:
    return json.dumps([{"title": title, "clauses": ids} for title, ids in items])


def test_a_clean_run_gives_the_tree_asked_for() -> None:
    model = Recorded(
        dimensions(("Safety", ["safe", "civil"])), dimensions(("Facts", ["true"])), SAFETY, FACTS
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
        dimensions(("Safety", ["safe", "civil"])), dimensions(("Facts", ["true"])), SAFETY, FACTS
    )
    compile_program(CONSTITUTION, model, name="p")
    assert "Principle: Harm {{clauses}} none\n" in model.prompts[0]  # a title that imitates a placeholder
    assert "- safe: Hurt nobody. {0} {{principle}} %s\n" in model.prompts[0]
    for prompt in model.prompts[1::2]:
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
    model = Recorded(dimensions(("Safety", ["safe", "civil"])), dimensions(("Facts", ["true"])), messy, FACTS)
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
        dimensions(("Facts", ["true"])),
        "Sure! ```json\n[{\"title\": \"Safety\", \"clauses\": [\"safe\", \"civil\",],},]\n``` Anything else?",
        half,
        FACTS,
        SAFETY,  # repeats two that are there already
    )  # fmt: skip
    program, report = compile_program(CONSTITUTION, model, name="p")
    assert counts(program)["harmlessness"].total == 4
    assert (report.calls, report.retried) == (6, 2)
    assert "could not be used in full (no JSON list or object in the reply)" in model.prompts[2]
    assert "could not be used in full (too little)" in model.prompts[5]
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
        dimensions(("Facts", ["true"])),
        {"gates": SAFETY["gates"], "graded": SAFETY["graded"][2:]},
        {"gates": [], "graded": []},
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
    facts = dimensions(("Facts", ["true"]))
    model = Recorded("no", facts, "never")
    with pytest.raises(
        ModelError, match="principle 'harmlessness': no usable dimension after 2 tries; last: no J"
    ):
        compile_program(CONSTITUTION, model, name="p", config=CompileConfig(retries=1))
    model = Recorded(dimensions(("Safety", ["safe"])), facts, "no", FACTS)
    with pytest.raises(ModelError, match="principle 'harmlessness': no usable question after 1 tries"):
        compile_program(CONSTITUTION, model, name="p", config=CompileConfig(retries=0))


def test_a_dead_model_ends_at_once_and_a_shaky_one_does_not() -> None:
    with pytest.raises(ModelError, match="refused"):
        compile_program(CONSTITUTION, Recorded(ModelError("refused"), ModelError("refused")), name="p")
    good = [dimensions(("Safety", ["safe", "civil"])), dimensions(("Facts", ["true"])), SAFETY, FACTS]
    shaky = Recorded(*good[:2], ModelError("timeout"), FACTS, SAFETY)
    program, report = compile_program(CONSTITUTION, shaky, name="p")
    assert counts(program)["all"].total == 8
    assert ([d.reason for d in report.dropped], report.calls, report.retried) == (["timeout"], 5, 1)
    dying = Recorded(*good[:3], ModelError("timeout"), ModelError("gone"))
    with pytest.raises(ModelError, match="gone"):  # a dimension is never left out because a call failed
        compile_program(CONSTITUTION, dying, name="p")


def test_what_was_answered_is_never_asked_again(tmp_path: Path) -> None:
    good = [dimensions(("Safety", ["safe", "civil"])), dimensions(("Facts", ["true"])), SAFETY, FACTS]
    straight, _ = compile_program(CONSTITUTION, Recorded(*good), name="p")
    with Store(tmp_path / "p.sqlite") as store:
        failing = Recorded(*good[:2], SAFETY, ModelError("timeout"), ModelError("gone"))
        with pytest.raises(ModelError, match="gone"):
            compile_program(CONSTITUTION, failing, name="p", store=store)
        rest = Recorded(FACTS)
        program, report = compile_program(CONSTITUTION, rest, name="p", store=store)
        assert program == straight and (report.calls, report.kept) == (1, 3)
        # other options are other questions: more dimensions may be proposed, so all is asked anew
        wider = CompileConfig(dimensions=20)
        _, report = compile_program(CONSTITUTION, Recorded(*good), name="p", store=store, config=wider)
        assert (report.calls, report.kept) == (2, 2)


def test_the_order_of_arrival_cmendedes_nothing() -> None:
    class Shuffled(Recorded):
        def draft(self, asks: Sequence[Ask]) -> Iterator[tuple[int, str | ModelError]]:
            yield from reversed(list(super().draft(asks)))

    same = {
        "gates": FACTS["gates"],
        "graded": [*FACTS["graded"][:2], SAFETY["graded"][0] | {"clause": "true"}],
    }
    good = [dimensions(("Safety", ["safe", "civil"])), dimensions(("Facts", ["true"])), SAFETY, same, FACTS]
    straight, shuffled = (
        compile_program(CONSTITUTION, kind(*good), name="p") for kind in (Recorded, Shuffled)
    )
    assert straight == shuffled
    assert next((d.where, d.reason[:13]) for d in straight[1].dropped) == ("honesty.facts", "asks the same")


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


def test_a_reply_that_was_cut_off_counts_up_to_its_last_whole_part() -> None:
    whole = {
        "gates": [{"text": "Is it {calm]?", "clause": "c"}],
        "graded": [{"text": "How?", "clause": "c"}] * 2,
    }
    said = "Here: " + json.dumps(whole)
    second = said.rindex('{"text"')
    for end in range(second, len(said) - 3):
        assert read_json(said[:end]) == {**whole, "graded": whole["graded"][:1]}
    assert read_json(said[: said.index('"graded"') + 12]) == {"gates": whole["gates"]}
    assert read_json(said + "\n" * 900 + "[") == whole


@given(st.text(alphabet='[]{}",: a1', max_size=60))
def test_reading_rubbish_ends_in_a_value_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert read_json(text)


def test_reading_brackets_does_not_mended() -> None:
    with pytest.raises(ValueError, match="no JSON"):
        read_json("[{" * 50_000)


@given(st.text(), st.text())
def test_fill_reads_no_placeholder_in_a_value(one: str, two: str) -> None:
    assert fill("{{a}}|{{b}}|{c}", {"a": one + "{{b}}", "b": two}) == f"{one}{{{{b}}}}|{two}|{{c}}"


def test_templates_show_what_the_parser_accepts() -> None:
    for name, kind in (("dimensions", DimensionsReply), ("questions", QuestionsReply)):
        example = template(name).split("Now ")[0].split("Example")[1]
        assert kind.model_validate(read_json(example))


def test_a_schema_bounds_every_list_and_text_and_names_the_clauses() -> None:
    first = dimensions_schema(["c.a", "c.b"], 5)
    assert first["properties"]["dimensions"] == {
        "type": "array",
        "items": {"$ref": "#/$defs/ProposedDimension"},
        "minItems": 1,
        "maxItems": 5,
    }
    assert first["$defs"]["ProposedDimension"]["properties"]["clauses"]["items"]["enum"] == ["c.a", "c.b"]
    second = questions_schema(["c.a"], 1, 3)
    assert {k: (v["minItems"], v["maxItems"]) for k, v in second["properties"].items()} == {
        "gates": (1, 1),
        "graded": (3, 3),
    }
    asked = second["$defs"]["ProposedQuestion"]
    assert asked["additionalProperties"] is False and asked["required"] == ["text", "clause"]
    for text, fits in (
        ("How calm is it?", True),
        ("How calm", False),
        ("How " * 70 + "?", False),
        ('"?" is it?', False),
    ):
        assert bool(re.search(asked["properties"]["text"]["pattern"], text)) is fits
    assert "title" in first["$defs"]["ProposedDimension"]["properties"]
    assert "description" not in json.dumps([first, second])


def writes(body: dict) -> Reply:
    """A model that writes one dimension for each principle and fits its questions to the clause."""
    prompt = body["messages"][-1]["content"].split("Now ")[-1]
    if prompt.rstrip().endswith("Dimensions:"):
        ids = re.findall(r"^- ([a-z]+):", prompt, re.MULTILINE)
        return completion(dimensions(("Only One", ids)))
    return completion(json.dumps(SAFETY if "- safe:" in prompt else FACTS))


def argv(tmp_path: Path, server: FakeServer) -> list[str]:
    (tmp_path / "kind.yaml").write_text(YAML)
    judge = tmp_path / "judge.yaml"
    judge.write_text(f"spec: openai:m@{server.url}\nretries: 0\n")
    source, out = str(tmp_path / "kind.yaml"), str(tmp_path / "program.yaml")
    return ["program", "compile", source, "--judge", str(judge), "-o", out]


def test_a_server_with_grammars_gets_the_schema(tmp_path: Path, fake_server: FakeServer) -> None:
    fake_server.answer = writes
    with pytest.raises(SystemExit) as left:
        main(argv(tmp_path, fake_server))
    assert left.value.code == 0
    sent = [request["response_format"] for request in fake_server.requests]
    assert [wanted["type"] for wanted in sent] == ["json_schema"] * 4
    schemas = [wanted["json_schema"]["schema"] for wanted in sent]
    assert dimensions_schema(["safe", "civil"], 14) in schemas and questions_schema(["true"], 1, 3) in schemas


@pytest.mark.parametrize("said", ["unknown field response_format", "cannot compile the grammar"])
def test_a_server_without_grammars_is_told_once(tmp_path: Path, fake_server: FakeServer, said: str) -> None:
    fake_server.answer = lambda body: error(400, said) if "response_format" in body else writes(body)
    with pytest.raises(SystemExit) as left:
        main(argv(tmp_path, fake_server))
    assert left.value.code == 0
    assert ["response_format" in request for request in fake_server.requests] == [True] + [False] * 4
    assert counts(load_program(tmp_path / "program.yaml"))["all"].total == 8


def test_a_killed_compile_goes_on_where_it_was(tmp_path: Path, fake_server: FakeServer) -> None:
    mended = threading.Event()

    def answer(body: dict) -> Reply:
        prompt = body["messages"][-1]["content"].split("Now ")[-1]
        if "- true:" in prompt and prompt.rstrip().endswith("Questions:") and not mended.is_set():
            return completion("late", delay=60)
        return writes(body)

    fake_server.answer = answer
    command = [sys.executable, "-m", "rubrica", *argv(tmp_path, fake_server)]
    process = subprocess.Popen(command)
    store = tmp_path / "program.compile.sqlite"
    try:
        deadline = time.monotonic() + 60
        while not (store.exists() and drafts(store) == 3):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "program.yaml").exists()
    asked = len(fake_server.requests)
    assert asked == 4
    mended.set()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)["report"]
    assert (report["calls"], report["kept"], len(fake_server.requests)) == (1, 3, asked + 1)
    assert counts(load_program(tmp_path / "program.yaml"))["all"].total == 8


def drafts(path: Path) -> int:
    with contextlib.suppress(StorageError), Store(path, read_only=True) as store:
        return len(store.all("draft", Draft))
    return 0


def test_the_command_compiles_through_a_server(
    tmp_path: Path, fake_server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_server.answer = writes
    fake_server.script.append(error(500, "busy"))
    (tmp_path / "kind.yaml").write_text(YAML)
    out = tmp_path / "program.yaml"
    command = ["program", "compile", str(tmp_path / "kind.yaml"), "--judge", f"openai:m@{fake_server.url}"]
    command += ["-o", str(out)]
    with pytest.raises(SystemExit) as left:
        main([*command, "--json"])
    assert left.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["counts"] == {"dimensions": 2, "gates": 2, "graded": 6, "total": 8}
    assert shown["report"]["protected"] == ["harmlessness.only-one.g1"]
    program = load_program(out)  # checked against kind.yaml beside it
    assert next(q.text for _, _, q in questions(program)) == "Is the answer free of threats?"
    assert all(request["temperature"] == 0 for request in fake_server.requests)
    with pytest.raises(SystemExit) as left:
        main(command)  # never overwrites by accident
    assert left.value.code == 2
    assert "exists already" in capsys.readouterr().err
