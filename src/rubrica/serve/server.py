"""Runs the application until a signal ends it, and loses nothing then."""

import signal
import socket
from collections.abc import Callable
from typing import Literal

import uvicorn
from fastapi import FastAPI

from rubrica.core.errors import UsageError
from rubrica.serve.app import Limits, Rewarder, Settings, create_app
from rubrica.serve.batcher import HAND_BACK, Batcher


class _Announcing(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


class _Server(_Announcing):
    """Tells the batcher at once that the end is near, so that no request has to be cut off."""

    def __init__(
        self, config: uvicorn.Config, batcher: Batcher, grace: float, on_ready: Callable[[], None]
    ) -> None:
        super().__init__(config, on_ready)
        self._batcher, self._grace = batcher, grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._batcher.close(self._grace)
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. ``UsageError`` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        said = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{host}:{port}: cannot listen there ({said}); choose another --host or --port"
        ) from None
    return listener


def run_server(
    scorer: Rewarder,
    settings: Settings,
    listener: socket.socket,
    *,
    grace: float = 30.0,
    on_ready: Callable[[], None] = lambda: None,
) -> bool:
    """Serve until SIGTERM or SIGINT; True if the judge's thread ended, so that the store may be closed.

    On a signal the server accepts nothing new, answers 503 to what still waits, gives the batch that is being
    judged ``grace`` seconds, then stops it between two verdicts. A second SIGINT ends it at once.
    """
    limits: Limits = settings.limits
    batcher = Batcher(scorer, max_batch=limits.max_batch, max_queue=limits.max_queue, probe=limits.probe)
    config = _config(create_app(scorer, batcher, settings), grace + 2 * HAND_BACK, lifespan="off")
    try:
        _run(_Server(config, batcher, grace, on_ready), listener)
    finally:
        batcher.close(0.0)
    return batcher.join(HAND_BACK)


def run_app(
    app: FastAPI, listener: socket.socket, *, grace: float = 30.0, on_ready: Callable[[], None] = lambda: None
) -> None:
    """Serve until SIGTERM or SIGINT; what is being answered then gets ``grace`` seconds."""
    _run(_Announcing(_config(app, grace, lifespan="on"), on_ready), listener)


def _config(app: FastAPI, grace: float, lifespan: Literal["on", "off"]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan=lifespan,
        timeout_graceful_shutdown=int(grace),
    )


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    # uvicorn sends itself the signal again once it has shut down; the work is done by then.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
