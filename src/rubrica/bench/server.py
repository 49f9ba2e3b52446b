"""How fast the server judge asks: questions a second against a straightforward client on the same server.

The straightforward client sends one chat request a question through ``openai.AsyncOpenAI`` behind a semaphore and
reads the label as text. It sends the very same messages; it differs in what it asks for (a few tokens of text
instead of one token with log-probabilities) and in how many calls are under way. On request it is also tried with the
question above the text, as many judges' prompts have it, where questions about one text share no prefix but the
instruction. All contenders are asked the same questions about texts of the same length, but each about texts of its own, so that none finds another's prefixes
in the server's cache; they take turns, and a short warm-up of each is not counted.
"""

import asyncio
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import openai

from rubrica.core.config import Json
from rubrica.core.errors import JudgeError
from rubrica.core.programs import Question
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Query, Wording
from rubrica.judges.server import TEXT_TOKENS, ServerJudge
from rubrica.judges.template import chat_messages, fence_marker
from rubrica.program.program import load_program, questions

Progress = Callable[[str], None]
SEMAPHORES = (16, 8, 32, 64)
"""Calls under way of the straightforward client; the first is the one that people write."""
_WORDS = [
    "the",
    "answer",
    "should",
    "boil",
    "water",
    "slowly",
    "with",
    "bitter",
    "root",
    "and",
    "then",
    "rest",
    "until",
    "it",
    "is",
    "cold",
    "because",
    "a",
    "strong",
    "tea",
    "can",
    "harm",
    "people",
    "who",
    "take",
    "other",
    "remedies",
    "so",
    "ask",
    "someone",
    "who",
    "knows",
    "before",
    "you",
    "drink",
    "more",
    "than",
    "one",
    "small",
    "cup",
    "a",
    "day",
]
_SECRET = "bench"


class Load(NamedTuple):
    """What each contender is asked in one round."""

    questions: int = 167
    texts: int = 2
    words: int = 120
    """Words of a text."""

    def queries(self, seed: str) -> list[Query]:
        """Questions of the program ``hhh``, repeated if there are too few, about random texts."""
        rng = random.Random(seed)
        asked = _questions(self.questions)
        prompt = Prompt(id=seed, messages=(Message(role="user", content=_text(rng, 20)),))
        texts = [_text(rng, self.words) for _ in range(self.texts)]
        return [Query(prompt=prompt, text=text, question=question) for text in texts for question in asked]


class Round(NamedTuple):
    """What one round of one contender took."""

    seconds: float
    requests: int
    prompt_tokens: int
    answered: int


def bench_server(
    url: str,
    model: str,
    load: Load,
    *,
    concurrency: int | Literal["auto"] = "auto",
    questions_per_call: int = 1,
    rounds: int = 2,
    semaphores: Sequence[int] = SEMAPHORES,
    question_first: bool = False,
    key_env: str = "OPENAI_API_KEY",
    progress: Progress = lambda _: None,
) -> dict[str, Json]:
    """Measure ours and the straightforward client, with ``question_first`` also in that order; rates are over all rounds. ``JudgeError`` if nothing answers."""
    judge = ServerJudge(
        model,
        url,
        secret=_SECRET,
        concurrency=concurrency,
        questions_per_call=questions_per_call,
        api_key_env=key_env,
        timeout=600.0,
    )
    key = os.environ.get(key_env, "") or "none"
    contenders: dict[str, Callable[[Sequence[Query]], Round]] = {"ours": partial(_ours, judge)}
    for limit in semaphores:
        contenders[f"naive {limit}"] = partial(_naive, url, key, model, limit)
    if question_first:
        contenders["question first"] = lambda queries: _naive(
            url,
            key,
            model,
            semaphores[0],
            [query.model_copy(update={"wording": Wording.QUESTION_FIRST}) for query in queries],
        )
    found: dict[str, list[Round]] = {name: [] for name in contenders}
    hits: dict[str, list[int | None]] = {name: [] for name in contenders}
    small = load._replace(questions=min(8, load.questions), texts=1)
    for name, ask in contenders.items():
        ask(small.queries(f"warm-up {name}"))
    for number in range(rounds):
        turn = list(contenders.items())
        for name, ask in turn if number % 2 == 0 else turn[::-1]:
            progress(f"round {number + 1}: {name}")
            before = cached_tokens(url)
            found[name].append(ask(load.queries(f"{number} {name}")))
            after = cached_tokens(url)
            hits[name].append(None if before is None or after is None else after - before)
    rows = {name: _row(found[name], hits[name], load) for name in contenders}
    return _summary(rows) | {
        "questions": load.questions * load.texts,
        "rounds": rounds,
        "questions_per_call": questions_per_call,
        "level": judge.level,
        "most_at_a_time": judge.peak,
        "contenders": {name: row._asdict() for name, row in rows.items()},
    }


class Row(NamedTuple):
    """One contender, all rounds together."""

    qps: float
    """Questions a second."""
    seconds: list[Json]
    requests: int
    prompt_tokens: int
    cached_tokens: int | None
    """Prompt tokens found in the server's prefix cache; None where it does not say."""
    answered: int


def _summary(rows: Mapping[str, Row]) -> dict[str, Json]:
    rates = {name: row.qps for name, row in rows.items()}
    ours = rates.pop("ours")
    first, best = next(iter(rates)), max(rates, key=rates.__getitem__)
    return {
        "ours_qps": ours,
        "naive_qps": rates[first],
        "ratio": ours / rates[first],
        "best_naive": best,
        "best_naive_qps": rates[best],
        "ratio_to_best": ours / rates[best],
    }


def _row(rounds: Sequence[Round], hits: Sequence[int | None], load: Load) -> Row:
    known = [count for count in hits if count is not None]
    return Row(
        qps=len(rounds) * load.questions * load.texts / sum(found.seconds for found in rounds),
        seconds=[round(found.seconds, 3) for found in rounds],
        requests=sum(found.requests for found in rounds),
        prompt_tokens=sum(found.prompt_tokens for found in rounds),
        cached_tokens=sum(known) if len(known) == len(hits) else None,
        answered=sum(found.answered for found in rounds),
    )


def _ours(judge: ServerJudge, queries: Sequence[Query]) -> Round:
    before, start = judge.calls, time.perf_counter()
    verdicts = [verdict for _, verdict in judge.answer(queries)]
    seconds = time.perf_counter() - start
    tokens = sum(verdict.prompt_tokens for verdict in verdicts)
    return Round(seconds, judge.calls - before, tokens, sum(v.label is not None for v in verdicts))


def _naive(url: str, key: str, model: str, limit: int, queries: Sequence[Query]) -> Round:
    start = time.perf_counter()
    try:
        replies = asyncio.run(_straightforward(url, key, model, limit, queries))
    except openai.OpenAIError as error:
        raise JudgeError(f"{url}: the straightforward client failed: {str(error)[:200]}") from None
    seconds = time.perf_counter() - start
    return Round(seconds, len(replies), sum(n for n, _ in replies), sum(bool(said) for _, said in replies))


async def _straightforward(
    url: str, key: str, model: str, limit: int, queries: Sequence[Query]
) -> list[tuple[int, str]]:
    """Ask as a script of twenty lines does; (prompt tokens, text) of each reply."""
    semaphore, marker = asyncio.Semaphore(limit), fence_marker(_SECRET)
    async with openai.AsyncOpenAI(base_url=url, api_key=key, timeout=600.0) as client:

        async def ask(query: Query) -> tuple[int, str]:
            system, user = chat_messages(query, marker)
            async with semaphore:
                reply = await client.chat.completions.create(
                    model=model,
                    messages=[
                        {"role": "system", "content": system.content},
                        {"role": "user", "content": user.content},
                    ],
                    max_tokens=TEXT_TOKENS,
                    temperature=0,
                )
            return (reply.usage.prompt_tokens if reply.usage else 0), reply.choices[0].message.content or ""

        return await asyncio.gather(*(ask(query) for query in queries))


def cached_tokens(url: str) -> int | None:
    """Return the prompt tokens that vLLM has found in its prefix cache so far; None where it does not say."""
    try:
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/metrics", timeout=10) as reply:
            text = reply.read(5_000_000).decode(errors="replace")
    except (urllib.error.URLError, OSError, ValueError):
        return None
    found = re.findall(r"^vllm:prefix_cache_hits_total\{[^}]*\} ([0-9.e+]+)$", text, re.MULTILINE)
    return round(sum(map(float, found))) if found else None


def _questions(count: int) -> list[Question]:
    known = [question for _, _, question in questions(load_program("hhh"))]
    return [known[n % len(known)].model_copy(update={"id": f"q{n}"}) for n in range(count)]


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(words))
