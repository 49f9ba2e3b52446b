"""Demonstrations of a recipe: requests with an answer each that a model should learn to give."""

from collections.abc import Sequence
from typing import NamedTuple

from rubrica.core.data import Text, load_texts
from rubrica.core.errors import DataError, UsageError
from rubrica.core.store import Store
from rubrica.recipes.context import Surroundings
from rubrica.recipes.models import ChatFormat
from rubrica.recipes.options import DemonstrationSource, LabDemonstrations
from rubrica.recipes.tables import read_source


class TokenDemonstration(NamedTuple):
    """A demonstration and its token ids."""

    shown: Text
    prompt_ids: list[int]
    answer_ids: list[int]
    """With the end token."""


def gather_demonstrations(sources: Sequence[DemonstrationSource], surroundings: Surroundings) -> list[Text]:
    """Load all sources in order, each demonstration once, with its own id as the id of its prompt.

    A request may be answered by several demonstrations. ``DataError`` when one id stands for two, or one is empty.
    """
    found: dict[str, Text] = {}
    for source in sources:
        for text in _read(source, surroundings):
            name = "the lab" if isinstance(source, LabDemonstrations) else source
            if not text.text.strip():
                raise DataError(name, f"demonstration {text.id!r} is empty; fill it in, or remove the row")
            own = text._replace(prompt=text.prompt.model_copy(update={"id": text.id}))
            first = found.setdefault(text.id, own)
            if (first.prompt.messages, first.text) != (own.prompt.messages, own.text):
                raise DataError(name, f"id {text.id!r} stands for two demonstrations; make ids unique")
    return list(found.values())


def _read(source: DemonstrationSource, surroundings: Surroundings) -> Sequence[Text]:
    if not isinstance(source, LabDemonstrations):
        return read_source(source, "demonstrations", load_texts)
    if surroundings.lab_demonstrations is None:
        raise UsageError("demonstrations: {lab: teacher} needs the lab, which is not there; name a file")
    return surroundings.lab_demonstrations(source.examples, source.noise, source.seed)


def tokens_of(
    demonstrations: Sequence[Text], chat: ChatFormat, max_length: object
) -> tuple[list[TokenDemonstration], int]:
    """Return the demonstrations in tokens, and how many were left out because they are too long.

    The longest is ``max_length`` tokens where that is a number, else the model's context. ``UsageError`` when all
    are longer.
    """
    limit = max_length if isinstance(max_length, int) else chat.context
    found = [
        TokenDemonstration(shown, chat.prompt_ids(chat.render(shown.prompt)), chat.completion_ids(shown.text))
        for shown in demonstrations
    ]
    fitting = [d for d in found if limit is None or len(d.prompt_ids) + len(d.answer_ids) <= limit]
    if not fitting:
        raise UsageError(
            f"demonstrations: none of {len(found)} fits into {limit} tokens; raise trainer.max_length, or give others"
        )
    return fitting, len(found) - len(fitting)


def keep_prompts(store: Store, demonstrations: Sequence[Text]) -> None:
    """Keep the prompts in the store, where a report finds them."""
    with store.batch():
        for shown in demonstrations:
            store.put("prompt", shown.id, shown.prompt)
