"""Evaluations as logs of Inspect (inspect.aisi.org.uk), version 2 of its JSON format, which ``inspect view`` shows.

One log for each suite and model, with trials as epochs. A log is written sample by sample; Inspect reads a JSON log as a
whole, and ``inspect log convert --to eval`` makes one that it pages through. What has no value has no score.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rubrica.core.config import Json, content_hash
from rubrica.core.errors import RubricaError, UsageError
from rubrica.core.evaluation import Item, ItemResult
from rubrica.core.prompts import Message
from rubrica.core.records import Estimate, EvalResult, Response
from rubrica.core.run import write_pieces
from rubrica.core.store import Store
from rubrica.evals.tally import Tally
from rubrica.recipes.answering import RESPONSE
from rubrica.recipes.evaluate import read_results
from rubrica.recipes.evaluation import RESULT, RESULTS, Evaluation, read_evaluation, stage_of
from rubrica.recipes.sources import suite_sources
from rubrica.reports.eval_report import metric_of

Object = dict[str, Json]
NO_PROMPT = "(prompt not known: the suite's files are not there)"
Items = Callable[[], Iterator[Item]]


class Log(NamedTuple):
    """What was written."""

    path: Path
    samples: int
    without_prompt: str
    """Why its samples have no prompts; empty where they have."""


class _Counts(NamedTuple):
    """Rows of one log."""

    rows: int
    known: int
    """With a value."""
    estimates: tuple[Estimate, ...]
    """Rates of this model."""


class _Part(NamedTuple):
    """One suite that one model answered."""

    given: Evaluation
    result: EvalResult
    store: Store
    seed: int
    created: str
    """UTC, ISO 8601."""

    @property
    def model(self) -> str:
        return self.given.models[self.seed].model


def write_logs(folder: Path, out: Path) -> Iterator[Log]:
    """Write the logs of an evaluation into ``out``; ``UsageError`` where ``folder`` holds no whole evaluation."""
    if not (folder / "store.sqlite").is_file():
        raise UsageError(f"{folder}: no answers here (no store.sqlite); expected the --out of rubrica eval")
    results = read_results(folder)
    given = read_evaluation(folder)
    moment = datetime.fromtimestamp((folder / RESULTS).stat().st_mtime, UTC)
    created = moment.isoformat(timespec="seconds")
    with Store(folder / "store.sqlite", read_only=True) as store:
        for result in results:
            items, why = _items(given, result.suite)
            for seed in range(len(given.models)):
                part = _Part(given, result, store, seed, created)
                counts = _count(part)
                path = out / _name(part)
                write_pieces(path, _pieces(_header(part, counts), _samples(part, items)))
                yield Log(path, counts.rows, why)


def _items(given: Evaluation, suite: str) -> tuple[Items, str]:
    """What reads the items of a suite once more; none, and why, where its files are not there any longer."""
    try:
        [source] = suite_sources(
            [suite], given.data, attacks=given.attacks, seed=given.sampling.seed, limit=given.limit
        )
    except RubricaError as error:
        return (lambda: iter(())), str(error)
    return source.items, ""


def _count(part: _Part) -> _Counts:
    tally, known = Tally(), 0
    for stage in _stages(part):
        for row in part.store.each(RESULT, ItemResult, stage=stage):
            tally.add(row)
            known += row.value is not None
    alone = len(part.given.models) == 1
    return _Counts(tally.rows, known, part.result.estimates if alone else tuple(tally.estimates()))


def _stages(part: _Part) -> list[str]:
    return [stage_of(part.result.suite, part.seed, trial) for trial in range(part.result.trials)]


def _name(part: _Part) -> str:
    """A name that Inspect finds when it lists a folder: time, task, id."""
    task, label = (
        re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.") for text in (part.result.suite, part.given.label)
    )
    moment = part.created.replace(":", "-")
    return f"{moment}_{task}_{label[:60] or 'model'}-{part.seed}-{_id(part)[:8]}.json"


def _id(part: _Part) -> str:
    known: Json = part.given.identity
    return content_hash([known, part.result.suite, part.seed])


def _pieces(header: Object, samples: Iterator[Object]) -> Iterator[str]:
    yield json.dumps(header, allow_nan=False, indent=1).removesuffix("\n}") + ',\n "samples": ['
    for number, sample in enumerate(samples):
        yield ("," if number else "") + "\n  " + json.dumps(sample, allow_nan=False)
    yield "\n ]\n}\n"


def _header(part: _Part, counts: _Counts) -> Object:
    given, result = part.given, part.result
    metric = metric_of(result)
    estimates: dict[str, Json] = {
        estimate.name: {
            "name": estimate.name,
            "value": estimate.value,
            "metadata": {
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "interval": estimate.method,
            },
        }
        for estimate in counts.estimates
        if not estimate.group
    }
    about: Object = {
        "suite": result.suite,
        "judge": result.judge,
        "protocol": result.protocol,
        "label": given.label,
        "seed": part.seed,
        "seeds": len(given.models),
        "written_by": "rubrica eval export",
    }
    sampling = given.sampling
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": _id(part)[:22],
            "run_id": content_hash(given.identity)[:22],
            "created": part.created,
            "task": result.suite,
            "task_id": _id(part)[:22],
            "dataset": {"name": result.suite, "samples": counts.rows // max(1, result.trials)},
            "model": part.model,
            "model_generate_config": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "seed": sampling.seed,
                "system_message": given.system or None,
            },
            "config": {"epochs": result.trials},
            "metadata": about,
        },
        "plan": {"name": "plan", "steps": []},
        "results": {
            "total_samples": counts.rows,
            "completed_samples": counts.rows,
            "scores": [
                {
                    "name": metric.value if metric else "none",
                    "scorer": result.judge or "none",
                    "scored_samples": counts.known,
                    "unscored_samples": counts.rows - counts.known,
                    "metrics": estimates,
                }
            ],
        },
        "stats": {"started_at": part.created, "completed_at": part.created},
    }


def _samples(part: _Part, items: Items) -> Iterator[Object]:
    """Items in their order, then rows of items that are not in the suite's files any longer."""
    for stage in _stages(part):
        seen: set[str] = set()
        for item in items():
            row = part.store.get(RESULT, item.id, ItemResult, stage=stage)
            if row is not None:
                seen.add(item.id)
                yield _sample(part, row, item, stage)
        for row in part.store.each(RESULT, ItemResult, stage=stage):
            if row.item not in seen:
                yield _sample(part, row, None, stage)


def _sample(part: _Part, row: ItemResult, item: Item | None, stage: str) -> Object:
    system = (Message(role="system", content=part.given.system),) if part.given.system else ()
    messages = (*system, *item.prompt.messages) if item else ()
    asked: list[Json] = [{"role": message.role, "content": message.content} for message in messages]
    answer = part.store.get(RESPONSE, row.item, Response, stage=stage)
    said: list[Json] = [{"role": "assistant", "content": answer.text}] if answer else []
    return {
        "id": row.item,
        "epoch": row.trial + 1,
        "input": asked or NO_PROMPT,
        "choices": list(item.choices) if item and item.choices else None,
        "target": (item.answer or item.target) if item else "",
        "messages": [*asked, *said],
        "output": _output(part, answer),
        "scores": _scores(row),
        "metadata": {
            "suite": row.suite,
            "goal": item.goal if item else "",
            "cluster": row.cluster,
            "category": row.category,
            "attack": row.attack,
            "standing": row.standing.value,
            "judge": part.result.judge,
            "model_seed": row.seed,
        },
    }


def _output(part: _Part, answer: Response | None) -> Object:
    """What the model wrote; no choice where it wrote nothing, or likelihoods were read."""
    if answer is None:
        return {"model": part.model, "choices": []}
    return {
        "model": part.model,
        "choices": [
            {
                "message": {"role": "assistant", "content": answer.text, "source": "generate"},
                "stop_reason": "stop" if answer.finished else "max_tokens",
            }
        ],
        "usage": {"output_tokens": answer.tokens, "total_tokens": answer.tokens},
    }


def _scores(row: ItemResult) -> Object:
    """The value under the metric's name; nothing where there is no value, since a failure is never a number."""
    if row.value is None:
        return {}
    return {
        row.metric.value: {
            "value": row.value,
            "explanation": row.standing.value,
            "metadata": {"probability": row.probability, "draft": row.draft, "counts": dict(row.counts)},
        }
    }
