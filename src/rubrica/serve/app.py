"""The application: routes, and errors that say what to do.

``POST /v1/score`` is the server's own protocol (:mod:`rubrica.core.scoring`), ``POST /openrlhf`` OpenRLHF's.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from rubrica import __version__
from rubrica.core.errors import BudgetError, JudgeError, RubricaError, StorageError, UsageError
from rubrica.core.scoring import ScoreItem, ScoreReply, ScoreRequest
from rubrica.serve.batcher import Batcher, Closing, Interruptible, Judged, QueueFull
from rubrica.serve.guard import Guard, Keys, refusal
from rubrica.serve.invalid import explain
from rubrica.serve.metrics import CONTENT_TYPE, Counted, Metrics
from rubrica.serve.openrlhf import OpenRlhfOptions, OpenRlhfReply, OpenRlhfRequest, read_items, reply_of

PATHS = frozenset({"/health", "/ready", "/metrics", "/v1/score", "/openrlhf", "/docs", "/openapi.json"})
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
AGAIN = "send the same request again: what is answered by then costs nothing"


class Rewarder(Interruptible, Protocol):
    """What the application needs of a scorer."""

    @property
    def judge(self) -> str:
        """Fingerprint of the judge."""

    @property
    def program(self) -> str:
        """Content hash of the program."""


@dataclass(frozen=True)
class Limits:
    """How much at once."""

    max_body: int = 32 * 2**20
    """Bytes of one request."""
    max_items: int = 1024
    """Items of one request."""
    max_text: int = 200_000
    """Characters of one completion or one prompt."""
    max_queue: int = 8192
    """Items that wait."""
    max_batch: int = 256
    """Items judged together."""
    timeout: float = 600.0
    """Seconds until a request is told to come again."""
    probe: float = 5.0
    """Seconds between attempts to reach a judge that failed."""


@dataclass(frozen=True)
class Settings:
    """How the server is run."""

    keys: Sequence[str] = ()
    """API keys; none: everybody may ask."""
    hosts: Sequence[str] = ("*",)
    """Names under which it answers; a server for this machine alone answers to loopback's only."""
    ends: Sequence[str] = ()
    """Texts that close a completion from OpenRLHF: the end token as it is decoded."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not all(map(str.strip, self.ends)):
            raise UsageError(
                "--end: a blank text ends no completion; expected the end token as it is decoded"
            )


class Health(BaseModel):
    """The server lives."""

    status: str = "alive"
    version: str = __version__
    judge: str
    """Fingerprint of the judge."""
    program: str
    """Content hash of the program."""


def create_app(scorer: Rewarder, batcher: Batcher, settings: Settings) -> FastAPI:
    """Return the application; ``batcher`` must be the one that uses ``scorer``."""
    metrics, limits = Metrics(), settings.limits
    app = FastAPI(
        title="Rubrica reward server",
        version=__version__,
        summary="Completions in, rewards out.",
        redoc_url=None,
    )
    app.add_middleware(Guard, keys=Keys(settings.keys), hosts=settings.hosts, max_body=limits.max_body)
    app.add_middleware(Counted, metrics=metrics, paths=PATHS)
    _explain_errors(app)

    async def judged(items: Sequence[ScoreItem], *, detail: bool = False) -> Judged:
        _check_size(items, limits)
        future = asyncio.wrap_future(batcher.submit(items, detail=detail))
        async with asyncio.timeout(limits.timeout):
            found = await asyncio.shield(future)
        metrics.add_results(found.results)
        return found

    @app.get("/health")
    async def health() -> Health:
        """The process lives; says which judge and program it serves."""
        return Health(judge=scorer.judge, program=scorer.program)

    @app.get("/ready", responses={503: {"description": "Stopping, or the judge cannot be used."}})
    async def ready() -> Response:
        """Work is accepted."""
        why = "the server is stopping" if batcher.closing else batcher.trouble
        return JSONResponse({"ready": not why, "reason": why}, 503 if why else 200)

    @app.get("/metrics")
    async def prometheus() -> PlainTextResponse:
        """Counters in Prometheus' text format."""
        return PlainTextResponse(metrics.render(batcher, scorer.usage), media_type=CONTENT_TYPE)

    @app.post("/v1/score")
    async def score(request: ScoreRequest) -> ScoreReply:
        """Reward a batch of completions; a reward of null is no signal."""
        found = await judged(request.items, detail=request.detail)
        return ScoreReply(
            results=tuple(found.results), usage=found.usage, judge=scorer.judge, program=scorer.program
        )

    @app.post("/openrlhf", response_model=OpenRlhfReply)
    async def openrlhf(
        request: OpenRlhfRequest,
        options: Annotated[OpenRlhfOptions, Query()],
    ) -> OpenRlhfReply | Response:
        """Reward completions as OpenRLHF's remote reward model does."""
        found = await judged(read_items(request, options.mode, settings.ends))
        reply = reply_of(found.results, options.missing)
        if reply is None:
            reasons = [result.reason for result in found.results if result.reward is None]
            return refusal(
                424, "no_reward", f"{len(reasons)} of {len(found.results)} have none: {reasons[0]}; {AGAIN}"
            )
        return reply

    return app


def _check_size(items: Sequence[ScoreItem], limits: Limits) -> None:
    if len(items) > limits.max_items:
        raise UsageError(
            f"items: got {len(items)}; expected at most {limits.max_items}; send several requests"
        )
    for number, item in enumerate(items):
        prompt = item.prompt if isinstance(item.prompt, str) else "".join(m.content for m in item.prompt)
        for name, text in (("completion", item.completion), ("prompt", prompt)):
            if len(text) > limits.max_text:
                raise UsageError(
                    f"items.{number}.{name}: got {len(text)} characters; expected at most {limits.max_text}"
                )


def _explain_errors(app: FastAPI) -> None:
    """Answer every error as JSON with a code and a remedy; never repeat a text that was sent."""

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        form = OpenRlhfRequest if request.url.path == "/openrlhf" else ScoreRequest
        return refusal(422, "invalid_request", f"{explain(error, form)}; see /docs for the form of a request")

    async def known(request: Request, error: Exception) -> Response:
        match error:
            case UsageError():
                return refusal(422, "invalid_request", str(error))
            case QueueFull():
                return refusal(429, "busy", f"{error}; try again later", retry_after="2")
            case Closing():
                said = f"{error}; when it is up again, {AGAIN}"
                return refusal(503, "stopping", said, retry_after="5", connection="close")
            case JudgeError():
                return refusal(503, "judge_unavailable", f"{error}; {AGAIN}", retry_after="10")
            case BudgetError():
                return refusal(503, "budget_spent", str(error), retry_after="60")
            case StorageError():
                return refusal(503, "store_unavailable", str(error), retry_after="30")
        return refusal(500, "failed", f"{type(error).__name__}; the server's log has more")

    async def late(request: Request, error: Exception) -> Response:
        return refusal(504, "still_judging", f"not judged within the time limit; {AGAIN}", retry_after="5")

    async def plain(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = {name.replace("-", "_"): value for name, value in (error.headers or {}).items()}
        code = {400: "invalid_request", 404: "no_such_path", 405: "wrong_method"}.get(
            error.status_code, "refused"
        )
        return refusal(error.status_code, code, f"{error.detail}; see /docs", **headers)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(RubricaError, known)
    app.add_exception_handler(TimeoutError, late)
    app.add_exception_handler(HTTPException, plain)
