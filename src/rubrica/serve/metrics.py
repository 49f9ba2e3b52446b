"""Counters of the server in Prometheus' text format, version 0.0.4."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rubrica.core.records import Usage
from rubrica.core.scoring import ScoredItem
from rubrica.serve.batcher import Batcher

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_Labels = tuple[tuple[str, str], ...]
_QUESTIONS = ("asked", "cached", "skipped", "irrelevant", "failed")


class Metrics:
    """What has happened since the start. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: defaultdict[tuple[str, _Labels], float] = defaultdict(float)
        self.in_flight = 0
        """Requests being answered."""

    def add(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._totals[name, tuple(sorted(labels.items()))] += value

    def add_results(self, results: Sequence[ScoredItem]) -> None:
        """Count what was answered: rewards by kind, and sums from which their means follow."""
        for result in results:
            self.add("rewards_total", kind=_kind(result))
            if result.reward is not None:
                self.add("reward_sum", result.reward)
                self.add("reward_count")
            for text in result.texts:
                self.add("texts_total", part=text.part)
                for principle, value in text.principles.items():
                    if value is not None:
                        self.add("principle_sum", value, part=text.part, principle=principle)
                        self.add("principle_count", part=text.part, principle=principle)

    def render(self, batcher: Batcher, usage: Usage) -> str:
        """Return everything as text."""
        with self._lock:
            totals = dict(self._totals)
        rows: list[tuple[str, _Labels, float]] = [(name, labels, v) for (name, labels), v in totals.items()]
        rows += [
            ("questions_total", (("outcome", name),), float(getattr(usage, name))) for name in _QUESTIONS
        ]
        rows += [
            ("judge_tokens_total", (("kind", "prompt"),), usage.prompt_tokens),
            ("judge_tokens_total", (("kind", "completion"),), usage.completion_tokens),
            ("judge_seconds_total", (), usage.seconds),
            ("batches_total", (), batcher.batches),
            ("requests_in_flight", (), self.in_flight),
            ("queue_items", (), batcher.waiting),
            ("ready", (), float(not batcher.trouble and not batcher.closing)),
        ]
        return "".join(_render(rows))


_HELP = {
    "requests_total": ("counter", "Requests by path and status."),
    "request_seconds_sum": ("counter", "Seconds that requests took."),
    "rewards_total": ("counter", "Items answered: scored, malformed (the floor), or none (no signal)."),
    "reward_sum": ("gauge", "Sum of the rewards that are numbers."),
    "reward_count": ("counter", "Rewards that are numbers."),
    "texts_total": ("counter", "Texts judged: drafts, revisions, plain texts."),
    "principle_sum": ("gauge", "Sum of a principle's values."),
    "principle_count": ("counter", "Texts for which a principle has a value."),
    "questions_total": ("counter", "Questions asked, failed among them; from the store; not needed."),
    "judge_tokens_total": ("counter", "Tokens that the judge read and wrote."),
    "judge_seconds_total": ("counter", "Seconds in which the judge was at work."),
    "batches_total": ("counter", "Batches judged."),
    "requests_in_flight": ("gauge", "Requests being answered."),
    "queue_items": ("gauge", "Items that wait for the judge."),
    "ready": ("gauge", "1 while work is accepted."),
}


def _kind(result: ScoredItem) -> str:
    if result.reward is None:
        return "none"
    return "malformed" if result.malformed else "scored"


def _render(rows: Iterable[tuple[str, _Labels, float]]) -> Iterator[str]:
    last = ""
    for name, labels, value in sorted(rows):
        if name != last:
            kind, text = _HELP[name]
            yield f"# HELP rubrica_{name} {text}\n# TYPE rubrica_{name} {kind}\n"
            last = name
        inside = ",".join(f'{key}="{_escape(val)}"' for key, val in labels)
        yield f"rubrica_{name}{'{' + inside + '}' if inside else ''} {value:.12g}\n"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Counted:
    """Counts requests by path and status; unknown paths count as one, so that nobody can invent labels."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.in_flight += 1
        try:
            await self._app(scope, receive, watch)
        finally:
            self._metrics.in_flight -= 1
            self._metrics.add("requests_total", path=path, status=str(status))
            self._metrics.add("request_seconds_sum", time.monotonic() - started, path=path)
