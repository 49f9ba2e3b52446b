"""A chat-completions server on loopback whose every reply can be scripted, faults included."""

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before anything is sent."""
    reset: bool = False
    """Abort the connection instead of answering."""
    trickle: float = 0.0
    """Seconds between the body's single bytes."""


def completion(text: str | None, top: Mapping[str, float] | None = None, **kwargs: object) -> Reply:
    """A well-formed completion; ``top`` maps candidates for the first token to probabilities."""
    logprobs = None
    if top is not None:
        candidates = [
            {"token": token, "logprob": math.log(p) if p > 0 else -9999.0, "bytes": None}
            for token, p in top.items()
        ]
        logprobs = {"content": [{**candidates[0], "top_logprobs": candidates}]}
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
                "logprobs": logprobs,
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 1, "total_tokens": 12},
    }
    return Reply(json.dumps(body).encode(), **kwargs)


def error(status: int, message: str, **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "type": "error", "code": None}})
    return Reply(body.encode(), status, {k.replace("_", "-"): v for k, v in headers.items()})


class FakeServer:
    """``with FakeServer() as server``: scripted replies first, then ``answer`` of the request's body."""

    def __init__(
        self,
        answer: Callable[[dict], Reply] = lambda body: completion("TRUE", {"TRUE": 1.0}),
        slots: int | None = None,
    ):
        """``slots`` requests are served at a time; the others wait their turn."""
        self.answer = answer
        self.slots = slots
        self.script: deque[Reply] = deque()
        self.requests: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.busy = self.peak = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen: on a free port the first time, on the same one after a stop."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        app = FastAPI()
        for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/classify", "/pooling"):
            app.post(path)(self._handle)
        app.get("/v1/models")(self._handle)
        config = uvicorn.Config(app, log_config=None, log_level="critical", lifespan="off", http="h11")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def _serve(self, listener: socket.socket) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._turn = asyncio.Semaphore(self.slots) if self.slots else contextlib.nullcontext()
            runner.run(self._server.serve([listener]))

    def stop(self) -> None:
        """Die: abort what is under way and free the port. Does nothing when dead."""
        if self._loop.is_closed():
            return
        self._server.should_exit = self._server.force_exit = True
        self._loop.call_soon_threadsafe(self._abort)
        self._thread.join(5)

    def _abort(self, peer: object = None) -> None:
        for connection in list(self._server.server_state.connections):
            if peer is None or connection.client == peer:
                connection.transport.abort()

    async def _handle(self, request: Request) -> Response:
        body = json.loads(await request.body() or b"{}")
        self.times.append(time.monotonic())
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.busy += 1
        self.peak = max(self.peak, self.busy)
        try:
            reply = self.script.popleft() if self.script else self.answer(body)
            async with self._turn:
                await asyncio.sleep(reply.delay)
        finally:
            self.busy -= 1
        if reply.reset:
            self._abort(peer=tuple(request.client))
        headers = {"content-type": "application/json", **reply.headers}
        if reply.trickle:

            async def drip():
                for byte in reply.body:
                    yield bytes([byte])
                    await asyncio.sleep(reply.trickle)

            return StreamingResponse(drip(), reply.status, headers)
        return Response(reply.body, reply.status, headers)
