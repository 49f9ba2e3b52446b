"""Ask a model for many drafts and keep every answer as it arrives, so that what was paid for is asked once."""

from collections.abc import Callable, Sequence

from rubrica.core.base import Record
from rubrica.core.config import content_hash
from rubrica.core.errors import ModelError
from rubrica.core.ports import Ask, Drafter
from rubrica.core.store import Store

_KIND = "draft"


class Draft(Record):
    """One answer of a model, as the store keeps it."""

    model: str
    prompt: str
    attempt: int
    """0 for the first answer to this prompt, 1 for the next ..."""
    text: str


class Drafts:
    """A model and the answers that it gave so far. A failed call is not kept, so it is made again."""

    def __init__(
        self, drafter: Drafter, store: Store | None, progress: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        """``progress`` gets (answers so far, answers wanted so far)."""
        self._drafter, self._store, self._progress = drafter, store, progress
        self.calls = 0
        """Calls made, failed ones too."""
        self.kept = 0
        """Answers that were in the store already."""
        self._wanted = 0

    def answers(self, asks: Sequence[Ask], attempt: int) -> list[str | ModelError]:
        """Return an answer, or the error of its call, for each prompt.

        Raises the last error when every call failed: such a model or server cannot work.
        """
        keys = [self._key(ask, attempt) for ask in asks]
        found: dict[int, str | ModelError] = {}
        for index, key in enumerate(keys):
            if self._store and (draft := self._store.get(_KIND, key, Draft)):
                found[index] = draft.text
        self.kept += len(found)
        self._wanted += len(asks)
        self._progress(self.calls + self.kept, self._wanted)
        open_ = [index for index in range(len(asks)) if index not in found]
        failed: list[ModelError] = []
        for number, answer in self._drafter.draft([asks[index] for index in open_]):
            index = open_[number]
            found[index] = answer
            if isinstance(answer, ModelError):
                failed.append(answer)
            elif self._store:
                draft = Draft(
                    model=self._drafter.name, prompt=asks[index].prompt, attempt=attempt, text=answer
                )
                self._store.put(_KIND, keys[index], draft)
            self.calls += 1
            self._progress(self.calls + self.kept, self._wanted)
        if failed and len(failed) == len(asks):
            raise failed[-1]
        return [found[index] for index in range(len(asks))]

    def _key(self, ask: Ask, attempt: int) -> str:
        return content_hash([self._drafter.name, ask.prompt, ask.max_tokens, ask.schema, attempt], length=32)
