"""``draft <think> reflection </think> revision``: render and parse.

Source: QA-LIGN (arXiv 2506.08123), section 3 and Algorithm 4, line 8. The paper writes the tags in two
spellings; here they are configuration.
"""

from typing import Self

from pydantic import Field, model_validator

from rubrica.core.config import Config
from rubrica.core.records import Attempt, Malformed


class Tags(Config):
    """The two tags around the reflection. They must survive the tokenizer as ordinary text."""

    open: str = Field(default="<think>", min_length=1)
    close: str = Field(default="</think>", min_length=1)

    @model_validator(mode="after")
    def _tell_apart(self) -> Self:
        if self.open in self.close or self.close in self.open:
            raise ValueError(
                f"tags {self.open!r} and {self.close!r}: expected two tags, neither inside the other"
            )
        if any(tag != tag.strip() for tag in (self.open, self.close)):
            raise ValueError(f"tags {self.open!r} and {self.close!r}: expected no space around a tag")
        return self


def render(draft: str, reflection: str, revision: str, tags: Tags) -> str:
    """Join the three parts into one completion that :func:`parse` takes apart again."""
    return f"{draft.strip()} {tags.open} {reflection.strip()} {tags.close} {revision.strip()}"


def whole(completion: str, *, finished: bool) -> Attempt:
    """Take a completion without draft and reflection for an attempt: its one text is draft and revision at once.

    So it is judged once and earns R(R1, R1). An empty or unfinished one is malformed.
    """
    text = completion.strip()
    reason = None if text else Malformed.EMPTY_REVISION
    return Attempt(
        draft=text, reflection="", revision=text, malformed=reason if finished else Malformed.TRUNCATED
    )


def parse(completion: str, tags: Tags, *, finished: bool) -> Attempt:
    """Split a completion at its tags.

    A completion is an attempt when each tag stands in it exactly once, in order, with text before, between
    and behind them, and when it ended by itself (``finished``). Otherwise ``malformed`` names the first
    reason found, and whatever parts exist are kept.
    """
    opens, closes = completion.count(tags.open), completion.count(tags.close)
    before, _, rest = completion.partition(tags.open)
    between, _, behind = rest.partition(tags.close)
    draft, reflection, revision = before.strip(), between.strip(), behind.strip()
    reason: Malformed | None = None
    if opens > 1 or closes > 1:
        reason = Malformed.REPEATED_TAG
    elif opens == 0:
        reason = Malformed.NO_OPEN_TAG
    elif tags.close not in rest:
        reason = Malformed.NO_CLOSE_TAG if finished else Malformed.TRUNCATED
    elif not draft:
        reason = Malformed.EMPTY_DRAFT
    elif not reflection:
        reason = Malformed.EMPTY_REFLECTION
    elif not revision:
        reason = Malformed.EMPTY_REVISION
    elif not finished:
        reason = Malformed.TRUNCATED
    return Attempt(draft=draft, reflection=reflection, revision=revision, malformed=reason)
