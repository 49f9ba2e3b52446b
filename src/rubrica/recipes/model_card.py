"""What a model card says of how and when an evaluation was made, read from its folders."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rubrica.core.config import Json, read_yaml
from rubrica.recipes.boards import Method
from rubrica.recipes.evaluation import RESULTS, SETTINGS

_SAID = {
    "protocol": "protocol",
    "trials": "answers to a prompt",
    "system": "system prompt",
    "attacks": "attacks",
    "limit": "only the first items of each set",
}
"""Settings by what they are called in a card."""


def facts(method: Method) -> list[tuple[str, str]]:
    """Model, date, version and settings; where folders differ, all that they say."""
    folders = list(method.loaded.results)
    models = {result.model for found in method.loaded.results.values() for result in found.values()}
    known = [("model", ", ".join(sorted(models))), ("evaluated (UTC)", ", ".join(_dates(folders)))]
    lines = [line for folder in folders for line in (*_versions(folder), *_settings(folder))]
    said: dict[str, list[str]] = {}
    for name, value in lines:
        if value not in said.setdefault(name, []):
            said[name].append(value)
    return [*known, *((name, " | ".join(values)) for name, values in said.items())]


def _dates(folders: list[Path]) -> list[str]:
    """Days on which results were written."""
    moments = [datetime.fromtimestamp((folder / RESULTS).stat().st_mtime, UTC) for folder in folders]
    return sorted({moment.date().isoformat() for moment in moments})


def _versions(folder: Path) -> Iterator[tuple[str, str]]:
    path = folder / "environment.json"
    data: Json = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    versions = data.get("versions") if isinstance(data, dict) else None
    if isinstance(versions, dict) and "rubrica" in versions:
        yield "Rubrica", str(versions["rubrica"])


def _settings(folder: Path) -> Iterator[tuple[str, str]]:
    path = folder / SETTINGS
    data = read_yaml(path) if path.is_file() else {}
    if not isinstance(data, dict):
        return
    sampling, given = data.get("sampling"), bool(data.get("given"))
    if isinstance(sampling, dict) and not given:
        yield "sampling", ", ".join(f"{name} {value}" for name, value in sampling.items())
    for key, name in _SAID.items():
        value = data.get(key)
        if value and not (given and key == "trials"):
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
