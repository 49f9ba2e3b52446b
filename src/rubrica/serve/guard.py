"""Who may ask, and how much at once: a wrapper around the application that sees every byte first."""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_SECONDS = 60.0
"""A body that trickles in more slowly is refused."""
OPEN: Final = frozenset({"/health", "/ready"})
"""Paths that need no key: a load balancer has none."""
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:@/\[\]]+)(?::[0-9]*)?")


def refusal(status: int, code: str, message: str, **headers: str) -> JSONResponse:
    """Return an error as all of the server's errors look."""
    return JSONResponse(
        {"error": code, "message": message}, status, {k.replace("_", "-"): v for k, v in headers.items()}
    )


class Keys:
    """API keys, compared in constant time."""

    def __init__(self, keys: Collection[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, authorization: Sequence[str]) -> bool:
        """Tell whether one of the ``Authorization`` headers holds a key: as bearer, or as Basic's password."""
        if not self._digests:
            return True
        found = False
        for given in authorization:
            digest = hashlib.sha256(_secret(given)).digest()
            for known in self._digests:
                found |= hmac.compare_digest(digest, known)
        return found


def _secret(authorization: str) -> bytes:
    scheme, _, value = authorization.strip().partition(" ")
    if scheme.casefold() == "bearer":
        return value.strip().encode()
    if scheme.casefold() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:  # no base64, or no ASCII
            return b""
    return b""


def _host(headers: Headers) -> str:
    """Name in the ``Host`` header without its port; empty where it is none."""
    found = _HOST.fullmatch(headers.get("host", "").casefold())
    return found[1] if found else ""


class Guard:
    """Checks host, key, content type and size of a request; the application gets a whole body or none."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        max_body: int,
        hosts: Collection[str] = ("*",),
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app, self._keys, self._hosts = app, keys, hosts
        self._max_body, self._body_seconds = max_body, body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refuse(scope, headers)
        if refused is None and scope["method"] == "POST":
            body = await self._body(receive)
            if isinstance(body, bytes):
                receive = _replay(body, receive)
            else:
                refused = body
        if refused is not None:
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        if "*" not in self._hosts and _host(headers) not in self._hosts:
            return refusal(
                400, "wrong_host", f"the header Host names another machine; expected {', '.join(self._hosts)}"
            )
        if scope["path"] not in OPEN and not self._keys.accept(headers.getlist("authorization")):
            return refusal(
                401,
                "unauthorized",
                "no or wrong API key; send the header 'Authorization: Bearer KEY'",
                www_authenticate='Basic realm="rubrica", charset="UTF-8"',
            )
        if scope["method"] != "POST":
            return None
        kind = headers.get("content-type", "").partition(";")[0].strip().casefold()
        if kind != "application/json":
            return refusal(
                415,
                "not_json",
                f"got content type {kind[:60]!r}; expected application/json",
                connection="close",
            )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > 2 * self._max_body:
            return self._too_large()
        return None

    async def _body(self, receive: Receive) -> bytes | JSONResponse:
        """Read the body. One that is too large is read on for a while: who is still sending hears no answer."""
        body, size = bytearray(), 0
        try:
            async with asyncio.timeout(self._body_seconds):
                while size <= 2 * self._max_body:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return refusal(400, "disconnected", "the connection was lost within the body")
                    size += len(message.get("body", b""))
                    if size <= self._max_body:
                        body += message.get("body", b"")
                    if not message.get("more_body", False):
                        break
                return bytes(body) if size <= self._max_body else self._too_large()
        except TimeoutError:
            return refusal(
                408,
                "too_slow",
                f"the body did not arrive within {self._body_seconds:g} s",
                connection="close",
            )

    def _too_large(self) -> JSONResponse:
        return refusal(
            413,
            "too_large",
            f"the body is larger than {self._max_body} bytes; send fewer items at a time, or raise --max-body",
            connection="close",
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body at once, then waits for the client to leave."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
