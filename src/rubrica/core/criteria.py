"""Questions that a row of a data set brings for its prompt: our own form, and the rubrics of common data sets.

A rubric is a list of criteria, each a text with points that are negative for faults: ``rubrics`` of
``{criterion, points}`` as in HealthBench (arXiv 2505.08775), ``rubric`` of ``{description, weight}`` as in Rubrics as
Rewards (arXiv 2507.17746), ``criteria`` of texts alone. Their texts are statements, so the question is whether the
answer meets them.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from rubrica.core.errors import DataError, nearest
from rubrica.core.records import PromptQuestion, distinct_questions
from rubrica.core.tables import Row

OWN = "questions"
_RUBRICS = ("rubrics", "rubric", "criteria")
_TEXTS = ("criterion", "text", "description", "question")
_POINTS = ("points", "weight")
_LIST = re.compile(r'\s*\[\s*[{"]')
"""Beginning of a JSON list of mappings or texts; prose may begin with a bracket too."""
MAX_QUESTIONS = 200
"""Most questions that one prompt may bring."""


def questions_of(path: Path, row: Row) -> tuple[PromptQuestion, ...]:
    """Return the questions of a row: of ``questions``, else of the first column that holds a rubric; else none.

    Ids are those given in ``questions``, else hashes of what is asked, so that equal criteria of two prompts have one
    id. A criterion that is there twice, or has no points, is left out. A column of one of these names that holds a
    text, or a list of other things than mappings under ``questions``, is taken for something else. ``DataError`` names the line of anything else that cannot be read.
    """
    columns = {name.casefold(): name for name in row.values}
    own = _list(path, row, columns[OWN]) if OWN in columns else None
    if own and all(isinstance(item, Mapping) for item in own):
        found = [_own(path, row, item) for item in own if isinstance(item, Mapping)]
    else:
        lists = (_list(path, row, columns[name]) for name in _RUBRICS if name in columns)
        rubric = next((items for items in lists if items), [])
        found = [question for item in rubric if (question := _criterion(path, row, item)) is not None]
    if len(found) > MAX_QUESTIONS:
        raise DataError(
            path, f"{len(found)} questions for one prompt; expected at most {MAX_QUESTIONS}", row.line
        )
    try:
        return distinct_questions(found)
    except ValueError as error:
        raise DataError(path, f"questions: {error}", row.line) from None


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


def _own(path: Path, row: Row, item: Mapping[object, object]) -> PromptQuestion:
    data = {str(name): value for name, value in item.items() if value is not None}
    try:
        return PromptQuestion.model_validate(data)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]
        name = ".".join(map(str, said["loc"])) or "questions"
        hint = nearest(name, PromptQuestion.model_fields) if said["type"] == "extra_forbidden" else ""
        raise DataError(
            path, f"questions: {name}: {said['msg'].removeprefix('Value error, ')}{hint}", row.line
        ) from None


def _criterion(path: Path, row: Row, item: object) -> PromptQuestion | None:
    """One criterion of a rubric, a counted yes/no question; None where it has no points."""
    fields = {str(k).casefold(): v for k, v in item.items()} if isinstance(item, Mapping) else {"text": item}
    text = next((fields[name] for name in _TEXTS if isinstance(fields.get(name), str)), None)
    points = next((fields[name] for name in _POINTS if fields.get(name) is not None), 1.0)
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            path,
            f"rubric: no text in {str(item)[:60]!r}; expected {', '.join(_TEXTS[:3])} with points or weight",
            row.line,
        )
    if isinstance(points, bool) or not isinstance(points, int | float) or not math.isfinite(points):
        raise DataError(
            path, f"rubric: points of {text[:40]!r} are {str(points)[:40]!r}; expected a number", row.line
        )
    words = " ".join(text.split())
    asked = words if words.endswith("?") else f"Does the answer meet this criterion: {words}"
    if len(asked) > 2000:
        raise DataError(path, f"rubric: a criterion of {len(asked)} letters; expected at most 2000", row.line)
    return PromptQuestion(text=asked, weight=float(points)) if points else None
