"""A reward server on loopback over a scripted judge, whose right answers are known."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import uvicorn

from fake_server import FakeServer, Reply, completion, error
from rubrica.core.config import dump_yaml
from rubrica.core.programs import Dimension, Principle, Program, Question
from rubrica.judges.budget import Budget
from rubrica.program.reward import RewardConfig
from rubrica.recipes.scorer import ItemScorer, open_scorer
from rubrica.serve.app import Limits, Settings, create_app
from rubrica.serve.batcher import Batcher

GATE = Question(id="g", kind="gate", text="Is it polite?", clause="c")
CLEAR = Question(id="s", kind="graded", text="How clear is it?", clause="c")
BRIEF = Question(id="t", kind="graded", text="How brief is it?", clause="c")
PROGRAM = Program(
    name="small",
    constitution="c",
    principles=(
        Principle(
            id="p",
            title="Manners",
            dimensions=(
                Dimension(id="d1", title="Tone", questions=(GATE, CLEAR)),
                Dimension(id="d2", title="Length", questions=(BRIEF,)),
            ),
        ),
    ),
)
# What the judge says of a text that begins with the word: gate, clarity, brevity. The totals follow by hand:
# mean(min of grades, or -1 behind a failed gate; brevity), with A=1, B=0.5, F=-1.
ANSWERS = {"good": ("TRUE", "A", "B"), "rude": ("FALSE", "A", "B"), "dull": ("TRUE", "B", "F")}
TOTALS = {"good": 0.75, "rude": -0.25, "dull": -0.25}
# R1 + R2 + 0.5 (R2 - R1) for a rude draft and a good revision; the minimum R(-1, -1) = -2 less the margin 0.5.
IMPROVED, FLOOR = -0.25 + 0.75 + 0.5 * 1.0, -2.5
ATTEMPT = "rude <think> Hmm, my initial response was rude. </think> good"


def rule(body: dict) -> Reply:
    asked = body["messages"][1]["content"]
    word = next((word for word in ANSWERS if f"> {word}" in asked), None)
    if "> Yes, I am here." in asked:
        return completion("TRUE", {"TRUE": 1.0})
    if word is None:
        return error(400, "no such text")
    question = next(n for n, q in enumerate((GATE, CLEAR, BRIEF)) if q.text in asked)
    label = ANSWERS[word][question]
    return completion(label, {label: 0.9, "?": 0.1})


def write_judge(place: Path, judge: FakeServer, **options: object) -> tuple[str, str]:
    """Write program and judge; return their paths, as ``--program`` and ``--judge`` take them."""
    (place / "program.yaml").write_text(dump_yaml(PROGRAM))
    given = {"spec": f"openai:m@{judge.url}", "retries": 0, "timeout": 60, **options}
    (place / "judge.yaml").write_text("".join(f"{name}: {value}\n" for name, value in given.items()))
    return str(place / "program.yaml"), str(place / "judge.yaml")


class Serving(NamedTuple):
    url: str
    batcher: Batcher
    scorer: ItemScorer


@contextmanager
def serving(
    place: Path,
    judge: FakeServer,
    *,
    keys: tuple[str, ...] = (),
    ends: tuple[str, ...] = (),
    hosts: tuple[str, ...] = ("*",),
    reward: RewardConfig | None = None,
    options: dict | None = None,
    budget: Budget | None = None,
    **limits: object,
) -> Iterator[Serving]:
    """Run the real application on a free port."""
    program, named = write_judge(place, judge, **(options or {}))
    settings = Settings(keys=keys, ends=ends, hosts=hosts, limits=Limits(**limits))
    with open_scorer(program, named, place / "out", reward=reward, budget=budget) as scorer:
        at = settings.limits
        batcher = Batcher(scorer, max_batch=at.max_batch, max_queue=at.max_queue, probe=at.probe)
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            create_app(scorer, batcher, settings),
            log_config=None,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield Serving(f"http://127.0.0.1:{listener.getsockname()[1]}", batcher, scorer)
        finally:
            batcher.close(0.0)
            server.should_exit = True
            thread.join(10)
            batcher.join(10)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> dict:
        return json.loads(self.text)


def call(url: str, body: object = None, *, raw: bytes | None = None, **headers: str) -> Answer:
    """GET, or POST ``body`` as JSON (or ``raw`` as it is)."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    sent = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    request = urllib.request.Request(url, data=data, headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=120) as found:
            return Answer(found.status, dict(found.headers), found.read().decode())
    except urllib.error.HTTPError as refused:
        with refused:
            return Answer(refused.code, dict(refused.headers), refused.read().decode())


def item(text: str, prompt: object = "Hi", mode: str = "text", **more: object) -> dict:
    return {"prompt": prompt, "completion": text, "mode": mode, **more}
