"""Answers of one model to the items of a suite, kept one by one: a kill costs the batch that was under way."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from rubrica.core.base import Record
from rubrica.core.errors import ModelError, ModelUnusable, UsageError
from rubrica.core.evaluation import Item
from rubrica.core.ports import Closable, Enduring, Generator
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Response, Sampling
from rubrica.core.store import Store

RESPONSE, NO_RESPONSE = "response", "no-response"
"""Kinds under which answers, and the reasons why there is none, lie in the store."""
CHUNK = 256
"""Items that a model is given at a time, to batch by length."""
LOST_CALLS = 5
"""Calls that may fail in a row before the model is taken for unreachable."""


class NoResponse(Record):
    """Why a model wrote nothing."""

    reason: str


Answer = Response | NoResponse
T = TypeVar("T")


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items, :data:`CHUNK` at a time."""
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


class Answering:
    """Asks one model, with one sampling, for one answer to each item."""

    def __init__(
        self,
        generator: Callable[[], Generator],
        store: Store,
        stage: str,
        sampling: Sampling,
        *,
        system: str = "",
    ) -> None:
        """``generator`` is opened when an answer is missing. ``stage`` tells models and trials of one store apart;
        ``system`` stands before every prompt."""
        self._generator, self._store, self._stage, self._sampling = generator, store, stage, sampling
        self._system = (Message(role="system", content=system),) if system else ()
        self._lost = 0

    def ask(self, items: Iterable[Item], report: Callable[[int], None] = lambda new: None) -> None:
        """Have every item answered that the store holds no answer to; ``report`` gets how many more are.

        A prompt that does not fit the model, and a call that fails for good, cost that item alone. ``ModelError``
        when calls fail one after the other, at once where the model's server cannot work at all.
        """
        for chunk in chunks(items):
            missing = [item for item in chunk if not self._known(item)]
            report(len(chunk) - len(missing))
            if missing:
                generator = self._generator()  # that it cannot be opened is no missing answer of an item
                if isinstance(generator, Enduring):
                    self._ask_each(generator, missing, report)
                else:
                    self._ask(missing, report)

    def _known(self, item: Item) -> bool:
        return self._store.get(RESPONSE, item.id, Response, stage=self._stage) is not None

    def _ask(self, items: Sequence[Item], report: Callable[[int], None]) -> None:
        """Ask for what is missing; where that fails, for each half by itself, down to the item that is to blame."""
        answered: set[str] = set()
        try:
            self._generate(items, answered, report)
        except ModelUnusable:
            raise
        except (UsageError, ModelError) as error:
            missing = [item for item in items if item.id not in answered]
            if len(missing) > 1:
                middle = len(missing) // 2
                self._ask(missing[:middle], report)
                self._ask(missing[middle:], report)
            elif missing:
                self._without(missing[0], error)
                report(1)

    def _ask_each(self, generator: Enduring, items: Sequence[Item], report: Callable[[int], None]) -> None:
        """Ask for what is missing of a generator that goes on where a call fails."""
        found = generator.each([self._prompt(item) for item in items], self._sampling)
        try:
            for index, answer in found:
                if isinstance(answer, Response):
                    self._keep(items[index], answer)
                else:
                    self._without(items[index], answer)
                report(1)
        finally:
            if isinstance(found, Closable):
                found.close()

    def _keep(self, item: Item, response: Response) -> None:
        self._store.put(RESPONSE, item.id, response, stage=self._stage)
        self._lost = 0

    def _without(self, item: Item, error: UsageError | ModelError) -> None:
        """Note why an item has no answer; ``error`` itself where too many calls failed in a row."""
        self._lost += isinstance(error, ModelError)
        if self._lost >= LOST_CALLS:
            raise error
        self._store.put(NO_RESPONSE, item.id, NoResponse(reason=str(error)), stage=self._stage)

    def _generate(self, items: Sequence[Item], answered: set[str], report: Callable[[int], None]) -> None:
        prompts = [self._prompt(item) for item in items]
        for index, response in self._generator().generate(prompts, self._sampling) if prompts else ():
            self._keep(items[index], response)
            answered.add(items[index].id)
            report(1)

    def _prompt(self, item: Item) -> Prompt:
        """The item's id seeds its sampling: prompts of the same words get answers of their own."""
        return item.prompt.model_copy(
            update={"id": item.id, "messages": (*self._system, *item.prompt.messages)}
        )


def answer_of(store: Store, stage: str, item: Item) -> Answer | None:
    """Return what the model wrote, why it wrote nothing, or None where it was not asked."""
    found = store.get(RESPONSE, item.id, Response, stage=stage)
    return found or store.get(NO_RESPONSE, item.id, NoResponse, stage=stage)
