"""What a method asks of the world: a judge, a generator, a reward model. Arguments, never imports."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import JsonValue

from rubrica.core.errors import ModelError, UsageError
from rubrica.core.prompts import Prompt
from rubrica.core.records import Query, Response, Sampling, Verdict, Wording


@runtime_checkable
class Closable(Protocol):
    """Work under way that can be stopped."""

    def close(self) -> None:
        """Stop."""


class Judge(Protocol):
    """Answers questions about texts."""

    @property
    def fingerprint(self) -> str:
        """Identity of model, template, mode and calibration; part of every verdict's key."""

    def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Verdict]]:
        """Yield ``(index into queries, verdict)`` as answers arrive, each index exactly once.

        A call that fails yields a verdict with outcome ``failed``; only a judge that cannot work
        at all (no such model, refused connection at start) raises :class:`JudgeError`. A :class:`Closable`
        iterator, once closed, asks no more, yields what had arrived, and ends.
        """


@runtime_checkable
class Rewordable(Protocol):
    """A judge that can put a question in other words than its usual ones."""

    @property
    def wordings(self) -> frozenset[Wording]:
        """The wordings of a query that change what the judge is asked; all others it leaves unread."""


@runtime_checkable
class Fitted(Protocol):
    """A judge whose vetoes were fitted on labelled texts."""

    @property
    def veto_thresholds(self) -> Mapping[str, float]:
        """Probability of FALSE from which a protected gate vetoes, by question id."""


def thresholds_of(judge: Judge) -> dict[str, float]:
    """Return the veto thresholds that ``judge`` brings along; none if it was not fitted."""
    return dict(judge.veto_thresholds) if isinstance(judge, Fitted) else {}


def wordings_of(judge: Judge) -> frozenset[Wording]:
    """Return the wordings that ``judge`` can put a question in, beside its usual one."""
    return judge.wordings if isinstance(judge, Rewordable) else frozenset()


class Generator(Protocol):
    """Samples completions."""

    @property
    def name(self) -> str:
        """Identity that is recorded with every response."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, prefixes: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Response]]:
        """Yield ``(index into prompts, response)``; ``prefixes[i]`` is text that the answer continues.

        ``Response.text`` holds the new text only. Prompts longer than the context raise ``UsageError``.
        """


@runtime_checkable
class Enduring(Protocol):
    """A generator for which a call that fails costs one prompt, and not what else is under way: a server."""

    def each(
        self, prompts: Sequence[Prompt], sampling: Sampling
    ) -> Iterator[tuple[int, Response | UsageError | ModelError]]:
        """Yield ``(index into prompts, response)``, or why there is none, each index exactly once.

        :class:`ModelUnusable` where no call can ever succeed.
        """


@runtime_checkable
class Independent(Protocol):
    """A generator whose answers to the last bit do not depend on what else a call asks: a server."""

    independent: ClassVar[Literal[True]]


class RewardModel(Protocol):
    """Gives a text in answer to a prompt one number, on a scale of its own; more is better."""

    @property
    def fingerprint(self) -> str:
        """Identity of weights, head, template and precision; part of every score's key."""

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, float | ModelError]]:
        """Yield ``(index into items, finite score)`` as scores arrive, each index exactly once.

        A text that cannot be scored (longer than the context, a call that failed) yields its error, never a number;
        only a model that cannot work at all raises :class:`ModelError`.
        """


class Ask(NamedTuple):
    """A plain prompt, the longest answer in tokens, and the JSON schema that the answer should fit."""

    prompt: str
    max_tokens: int
    schema: dict[str, JsonValue] | None = None


class Drafter(Protocol):
    """Answers many plain prompts; all that writing a program asks of a model."""

    @property
    def name(self) -> str:
        """Identity of the model; part of the key under which an answer is kept."""

    def draft(self, asks: Sequence[Ask]) -> Iterator[tuple[int, str | ModelError]]:
        """Yield ``(index into asks, answer)`` as answers arrive, each index exactly once.

        A call that fails yields its error; only a model that cannot work at all raises :class:`ModelError`. The
        schema is a wish: a model that knows none answers in free text.
        """


class Completer(Protocol):
    """Continues a plain prompt."""

    def complete(self, prompt: str, max_tokens: int) -> str:
        """Return the new text only; ``ModelError`` or ``JudgeError`` if there can be none."""
