"""Client of the reward server. Needs the standard library and pydantic, whatever the trainer's environment.

``pip install --no-deps rubrica`` puts it beside a trainer whose own dependencies disagree with Rubrica's.
"""

import asyncio
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from rubrica.core.errors import JudgeError, UsageError
from rubrica.core.scoring import ScoredItem, ScoreItem, ScoreReply, ScoreRequest

URL_ENV, KEY_ENV = "RUBRICA_URL", "RUBRICA_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8700"
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_REWARD = 424
"""The judge was asked as often as the server's retries allow."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Transient(Exception):
    """A fault that may pass; ``wait`` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        return None


class Client:
    """A :class:`rubrica.core.scoring.Scorer` over HTTP. May be shared by threads."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = 600.0,
        retries: int = 6,
        null_retries: int = 1,
        chunk: int = 256,
        concurrency: int = 64,
    ) -> None:
        """``url`` and ``api_key`` default to the variables RUBRICA_URL and RUBRICA_API_KEY.

        ``retries`` are further attempts after a fault that may pass; items that come back without a reward are
        asked again ``null_retries`` times, at the cost of their missing answers alone. ``chunk`` is the largest
        request, ``concurrency`` the most calls at a time. ``UsageError`` where the URL is none.
        """
        self.url = (url or os.environ.get(URL_ENV) or DEFAULT_URL).rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"url {self.url!r}: expected an address such as {DEFAULT_URL}")
        self._key = os.environ.get(KEY_ENV, "") if api_key is None else api_key
        self._timeout, self._retries, self._null_retries = timeout, retries, null_retries
        self._chunk, self._concurrency = chunk, concurrency
        # A proxy of the cluster knows nothing of this machine's own addresses.
        proxies = [urllib.request.ProxyHandler({})] if parts.hostname in _LOOPBACK else []
        self._opener = urllib.request.build_opener(_NoRedirect(), *proxies)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._concurrency, thread_name_prefix="rubrica-client")

    @cached_property
    def _waiters(self) -> ThreadPoolExecutor:
        """Apart from the threads that they wait for, so that many of them cannot lock each other out."""
        return ThreadPoolExecutor(self._concurrency, thread_name_prefix="rubrica-wait")

    def score(self, items: Sequence[ScoreItem], *, detail: bool = False) -> list[ScoredItem]:
        """Return one result for each item, in order; chunks go to the server at the same time.

        ``JudgeError`` when the server cannot be reached or answers with a fault until the retries are spent,
        ``UsageError`` when it refuses what was asked.
        """
        parts = [items[start : start + self._chunk] for start in range(0, len(items), self._chunk)]
        if len(parts) > 1:
            answers = list(self._threads.map(lambda part: self._ask(part, detail), parts))
        else:
            answers = [self._ask(part, detail) for part in parts]
        results = [result for answer in answers for result in answer]
        for attempt in range(self._null_retries):
            missing = [index for index, result in enumerate(results) if result.reward is None]
            if not missing:
                break
            time.sleep(min(2.0**attempt, 30.0) * random.uniform(0.5, 1.0))
            for start in range(0, len(missing), self._chunk):
                part = missing[start : start + self._chunk]
                again = self._ask([items[index] for index in part], detail)
                for index, result in zip(part, again, strict=True):
                    results[index] = result
        return results

    async def ascore(self, items: Sequence[ScoreItem], *, detail: bool = False) -> list[ScoredItem]:
        """Do what :meth:`score` does without holding up the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._waiters, lambda: self.score(items, detail=detail))

    def post(self, path: str, body: BaseModel | dict[str, object]) -> bytes:
        """Post JSON to a path of the server and return the reply's body; errors as in :meth:`score`."""
        data = body.model_dump_json() if isinstance(body, BaseModel) else json.dumps(body)
        reason = ""
        for attempt in range(self._retries + 1):
            try:
                return self._attempt(path, data.encode())
            except _Transient as error:
                reason = str(error)
                if attempt < self._retries:
                    pause = min(0.5 * 2.0**attempt, 30.0) * random.uniform(0.5, 1.0)
                    time.sleep(max(pause, min(error.wait, 60.0)))
        raise JudgeError(
            f"reward server {self.url}: {reason}; tried {self._retries + 1} times. What it has answered is stored "
            "there: mend it and go on from your trainer's last checkpoint"
        )

    def _ask(self, items: Sequence[ScoreItem], detail: bool) -> list[ScoredItem]:
        body = self.post("/v1/score", ScoreRequest(items=tuple(items), detail=detail))
        try:
            results = list(ScoreReply.model_validate_json(body).results)
        except ValidationError as error:
            said = error.errors(include_url=False, include_input=False)[0]
            raise JudgeError(
                f"reward server {self.url}: its reply is none of this version's ({said['loc']}: {said['msg']}); use "
                "the same version of rubrica on both sides"
            ) from None
        if len(results) != len(items):
            raise JudgeError(f"reward server {self.url}: {len(results)} results for {len(items)} items")
        return results

    def _attempt(self, path: str, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            with error:
                said = _message(error)
                if error.code in _AGAIN:
                    raise _Transient(said, _seconds(error.headers.get("Retry-After"))) from None
            refused = JudgeError if error.code == _NO_REWARD else UsageError
            raise refused(f"reward server {self.url}: {said}") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise _Transient(f"cannot be reached ({str(reason) or type(error).__name__})") from None


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says is wrong."""
    try:
        body = error.read(65536)
        said = str(json.loads(body)["message"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError):
        said = error.reason or "no reason given"
    return f"HTTP {error.code}: {said}"


def _seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        return 0.0
