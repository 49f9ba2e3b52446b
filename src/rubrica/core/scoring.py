"""What somebody else's trainer asks a scorer, and what it is told: the records of the reward server.

They need pydantic alone, so that a client can live in a trainer's own environment. A reward of None is no
signal; it is never 0.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, Self

from pydantic import AliasChoices, ConfigDict, Field, FiniteFloat, field_validator, model_validator

from rubrica.core.base import Record
from rubrica.core.criteria import OWN, RUBRICS, questions_of_rubric
from rubrica.core.prompts import Message, PromptQuestions
from rubrica.core.records import Malformed, Scorecard, Usage

Mode = Literal["attempt", "text"]
"""``attempt``: draft, reflection and revision between tags, rewarded together; ``text``: a plain answer."""
Part = Literal["draft", "revision", "text"]


class ScoreItem(Record):
    """One completion to reward."""

    model_config = ConfigDict(populate_by_name=True)

    prompt: str | tuple[Message, ...]
    """What was asked: a text, or chat messages that end with the user's."""
    completion: str = Field(validation_alias=AliasChoices("completion", "response"))
    """What the model wrote, without the prompt; ``response`` is another name for it."""
    mode: Mode = "attempt"
    """``attempt`` (draft, tags around a reflection, revision) or ``text`` (a plain answer)."""
    finished: bool = True
    """False when the completion ran into its length limit; such an attempt is malformed."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Labels of the prompt, for programs whose parts apply to some prompts only."""
    questions: PromptQuestions = ()
    """Questions that this prompt brings along, for programs that take them; or, as in a file, ``rubrics``, ``rubric`` or
    ``criteria`` of texts with points (:mod:`rubrica.core.criteria`)."""
    id: str | None = None
    """Free; comes back with the result."""

    @model_validator(mode="before")
    @classmethod
    def _reads_rubrics(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        if "completion" in given and "response" in given:
            raise ValueError("completion and response are two names of one text; expected one of them")
        rubrics = {name: given[name] for name in RUBRICS if isinstance(given.get(name), list | tuple)}
        rest = {name: value for name, value in given.items() if name not in rubrics}
        rubric = next((items for items in rubrics.values() if items), None)
        return rest if rubric is None or rest.get(OWN) else {**rest, OWN: questions_of_rubric(rubric)}

    @field_validator("prompt", "completion", "id")
    @classmethod
    def _whole_characters(cls, value: str | tuple[Message, ...] | None) -> str | tuple[Message, ...] | None:
        """Half a surrogate pair, which no file and no judge can hold, becomes a question mark."""
        if isinstance(value, tuple):
            return tuple(turn.model_copy(update={"content": _whole(turn.content)}) for turn in value)
        return None if value is None else _whole(value)

    @field_validator("prompt")
    @classmethod
    def _prompt_asks(cls, value: str | tuple[Message, ...]) -> str | tuple[Message, ...]:
        turns = (Message(role="user", content=value),) if isinstance(value, str) else value
        if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
            raise ValueError("expected a text that is not empty, or messages that end with one of the user's")
        return value


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class ScoreRequest(Record):
    """A batch. All of it is judged together, and with what other clients ask at the same time."""

    items: tuple[ScoreItem, ...]
    detail: bool = False
    """Return the scorecards too, with every verdict."""

    @model_validator(mode="after")
    def _has_items(self) -> Self:
        if not self.items:
            raise ValueError("items: expected at least one")
        return self


class TextScore(Record):
    """What the judge found about one text of an item. None: unknown, or nothing applies."""

    part: Part
    total: FiniteFloat | None
    principles: dict[str, FiniteFloat | None]
    """Value by principle id."""
    dimensions: dict[str, FiniteFloat | None]
    """Value by dimension id; None also where its questions were not needed for the total."""
    vetoed_by: tuple[str, ...] = ()
    card: Scorecard | None = None
    """Only with ``detail``."""


class ScoredItem(Record):
    """What one completion earned."""

    reward: FiniteFloat | None
    """None: no signal, because answers are missing. Leave the completion out; never take it for 0."""
    reason: str = ""
    """Why there is no reward."""
    malformed: Malformed | None = None
    """Why a completion is no attempt; its reward is then the preset's floor."""
    texts: tuple[TextScore, ...] = ()
    """Draft and revision, or the plain text; nothing where the attempt is malformed."""
    id: str | None = None


class BatchUsage(Usage):
    """What judging a batch cost."""

    requests: int = 1
    """Requests that were judged together in this batch, and share this cost."""


class ScoreReply(Record):
    """One result for each item, in their order."""

    results: tuple[ScoredItem, ...]
    usage: BatchUsage
    judge: str
    """Fingerprint of the judge."""
    program: str
    """Content hash of the program."""


class Scorer(Protocol):
    """Rewards completions: in this process, or through a server."""

    def score(self, items: Sequence[ScoreItem], *, detail: bool = False) -> list[ScoredItem]:
        """Return one result for each item. ``JudgeError`` when the judge cannot be used."""
