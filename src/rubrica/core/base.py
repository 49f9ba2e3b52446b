"""The base of all records and the types of their fields."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

NonEmpty = Annotated[str, StringConstraints(min_length=1, strip_whitespace=False, pattern=r"\S")]
SLUG = r"^[a-z0-9][a-z0-9_.-]*$"
Slug = Annotated[str, StringConstraints(pattern=SLUG)]
Number = Annotated[FiniteFloat, Field(strict=True)]
"""Neither a truth value nor a number in quotes passes for one."""


class Record(BaseModel):
    """A record is frozen, and a field that it does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
