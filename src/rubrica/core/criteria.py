"""Questions that a row of a data set brings for its prompt: our own form, and the rubrics of common data sets.

A rubric is a list of criteria, each a text with points that are negative for faults: ``rubrics`` of
``{criterion, points}`` as in HealthBench (arXiv 2505.08775), ``rubric`` of ``{description, weight}`` as in Rubrics as
Rewards (arXiv 2507.17746), ``criteria`` of texts alone. Their texts are statements, so the question is whether the
answer meets them.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from rubrica.core.errors import DataError, nearest
from rubrica.core.prompts import PromptQuestion, distinct_questions
from rubrica.core.tables import Row

OWN = "questions"
RUBRICS = ("rubrics", "rubric", "criteria")
"""Names of a rubric, in the order in which they are looked for."""
_TEXTS = ("criterion", "text", "description", "question")
_POINTS = ("points", "weight")
_LIST = re.compile(r'\s*\[\s*[{"]')
"""Beginning of a JSON list of mappings or texts; prose may begin with a bracket too."""
MAX_QUESTIONS = 200
"""Most questions that one prompt may bring."""


def questions_of(path: Path, row: Row) -> tuple[PromptQuestion, ...]:
    """Return the questions of a row: of ``questions``, else of the first column that holds a rubric; else none.

    Ids are those given in ``questions``, else hashes of what is asked, so that equal criteria of two prompts have one
    id. A question that is there twice, or a criterion without points, is left out. A column of one of these names that
    holds a text, or a list of other things than mappings under ``questions``, is taken for something else.
    ``DataError`` names the line of anything else that cannot be read.
    """
    columns = {name.casefold(): name for name in row.values}
    own = _list(path, row, columns[OWN]) if OWN in columns else None
    lists = (_list(path, row, columns[name]) for name in RUBRICS if name in columns)
    try:
        if own and all(isinstance(item, Mapping) for item in own):
            return _checked([_own(item) for item in own if isinstance(item, Mapping)])
        return questions_of_rubric(next((items for items in lists if items), []))
    except ValueError as error:
        raise DataError(path, str(error), row.line) from None


def questions_of_rubric(rubric: Sequence[object]) -> tuple[PromptQuestion, ...]:
    """Return the questions of a rubric's criteria; ``ValueError`` names a criterion, from 1, and repeats no text."""
    found = (_criterion(number, item) for number, item in enumerate(rubric, 1))
    return _checked([question for question in found if question is not None])


def _checked(found: Sequence[PromptQuestion]) -> tuple[PromptQuestion, ...]:
    if len(found) > MAX_QUESTIONS:
        raise ValueError(f"{len(found)} questions for one prompt; expected at most {MAX_QUESTIONS}")
    return distinct_questions(found)


def _list(path: Path, row: Row, column: str) -> list[object] | None:
    """A list as it is, or one that a cell of a CSV file holds as JSON; None for anything else."""
    value = row.values[column]
    if isinstance(value, str) and _LIST.match(value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(
                path, f"{column}: begins as a JSON list and is none: {error}; mend or rename it", row.line
            ) from None
    return value if isinstance(value, list) else None


def _own(item: Mapping[object, object]) -> PromptQuestion:
    data = {str(name): value for name, value in item.items() if value is not None}
    try:
        return PromptQuestion.model_validate(data)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]
        name = ".".join(map(str, said["loc"])) or "questions"
        hint = nearest(name, PromptQuestion.model_fields) if said["type"] == "extra_forbidden" else ""
        raise ValueError(f"questions: {name}: {said['msg'].removeprefix('Value error, ')}{hint}") from None


def _criterion(number: int, item: object) -> PromptQuestion | None:
    """One criterion of a rubric, a counted yes/no question; None where it has no points."""
    fields = {str(k).casefold(): v for k, v in item.items()} if isinstance(item, Mapping) else {"text": item}
    text = next((fields[name] for name in _TEXTS if isinstance(fields.get(name), str)), None)
    points = next((fields[name] for name in _POINTS if fields.get(name) is not None), 1.0)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"rubric: no text in criterion {number}; expected {', '.join(_TEXTS[:3])} with points or weight"
        )
    if isinstance(points, bool) or not isinstance(points, int | float) or not math.isfinite(points):
        raise ValueError(f"rubric: points of criterion {number} are no number; expected a number")
    words = " ".join(text.split())
    asked = words if words.endswith("?") else f"Does the answer meet this criterion: {words}"
    if len(asked) > 2000:
        raise ValueError(f"rubric: criterion {number} has {len(asked)} letters; expected at most 2000")
    return PromptQuestion(text=asked, weight=float(points)) if points else None
