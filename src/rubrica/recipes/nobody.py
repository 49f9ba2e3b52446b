"""A recipe without a judge: for stages that ask none."""

from collections.abc import Iterator, Sequence

from rubrica.core.errors import JudgeError
from rubrica.core.records import Query, Verdict
from rubrica.judges.factory import JudgeConfig

NOBODY = "none"
"""What ``judge`` says where there is none."""


class Nobody:
    """Stands in a judge's place; whoever asks it made a mistake that a check should have found."""

    fingerprint = NOBODY

    def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Verdict]]:
        """Raise ``JudgeError``."""
        raise JudgeError("judge none: the recipe names no judge, but a question is asked; name one in judge")


def is_nobody(judge: str | JudgeConfig) -> bool:
    """Tell whether a recipe has no judge."""
    return judge == NOBODY
