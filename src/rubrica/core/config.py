"""Configuration: YAML checked by pydantic, with errors that name file, line, key and nearest choice."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from rubrica.core.base import SLUG
from rubrica.core.errors import DataError, UsageError, nearest

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Config(BaseModel):
    """Base of all configuration: frozen; an unknown key, an infinite number and NaN are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


ModelT = TypeVar("ModelT", bound=BaseModel)


def content_hash(value: BaseModel | Json, length: int = 16) -> str:
    """Return the first ``length`` hex digits of the SHA-256 of the canonical JSON of ``value``."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


class _Constructor(SafeConstructor):
    """Plain values only: a date stays the text that was written."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def _parse_yaml(text: str) -> Json:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    data: Json = yaml.load(text)
    return data


def read_yaml(path: str | Path) -> Json:
    """Parse a YAML file (1.2, no tags executed, duplicate keys refused); ``DataError`` names the line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise DataError(
            path, f"not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); check the path and its rights"
        ) from None
    try:
        data = _parse_yaml(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at column {mark.column + 1}" if mark else ""
        said = f"not valid YAML: {error.problem}{where}; {_yaml_remedy(error)}"
        raise DataError(path, said, mark.line + 1 if mark else None) from None
    except YAMLError as error:
        raise DataError(path, f"not valid YAML: {error}; remove what is no text") from None
    except RecursionError:
        raise DataError(path, "nested too deeply; expected a few levels") from None
    if problem := _problem(data):
        raise DataError(path, problem)
    return data


def _yaml_remedy(error: MarkedYAMLError) -> str:
    if isinstance(error, DuplicateKeyError):
        return "write each key once"
    if "\\t" in str(error.problem):
        return "indent with spaces"
    return "check indentation, quotes and brackets there and in the line before"


_MAX_NODES = 1_000_000


def _problem(data: object) -> str | None:
    """Why ``data`` is no plain finite tree: other types or keys, a cycle, or a bomb of nested aliases."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: object) -> int:
        if node is None or isinstance(node, bool | int | float | str):
            return 1
        if not isinstance(node, dict | list):
            raise TypeError(
                f"a value is a {type(node).__name__}; expected text, a number, a list or a mapping"
            )
        if isinstance(node, dict) and (odd := [key for key in node if not isinstance(key, str)]):
            raise TypeError(f"key {odd[0]!r} is no text; write it in quotes")
        if id(node) in open_:
            raise RecursionError
        if id(node) not in sizes:
            open_.add(id(node))
            sizes[id(node)] = 1 + sum(map(size, node.values() if isinstance(node, dict) else node))
            open_.discard(id(node))
        return sizes[id(node)]

    try:
        if size(data) <= _MAX_NODES:
            return None
    except RecursionError:
        return "an alias points back at what contains it (a cycle); write the part out instead"
    except TypeError as error:
        return str(error)
    return f"aliases expand to more than {_MAX_NODES:,} values; write fewer of them"


class _Representer(SafeRepresenter):
    """Writes text so that it reads back: U+0085 survives only where it is escaped."""

    def text(self, value: str) -> ScalarNode:
        style = '"' if "\x85" in value else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Representer.add_representer(str, _Representer.text)


def dump_yaml(value: BaseModel | Json, *, defaults: bool = True) -> str:
    """Render ``value`` as YAML that :func:`read_yaml` reads back; a record without its defaults if asked."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.representer.sort_base_mapping_type_on_output = False  # keep the order of the fields
    yaml.width = 110
    out = StringIO()
    plain = (
        value.model_dump(mode="json", exclude_defaults=not defaults)
        if isinstance(value, BaseModel)
        else value
    )
    yaml.dump(plain, out)
    return out.getvalue()


def apply_overrides(data: Json, overrides: Sequence[str]) -> Json:
    """Apply ``a.b=c`` assignments (the value is YAML; integers index lists); ``UsageError`` if malformed."""
    root: Json = json.loads(json.dumps(data)) if data is not None else {}
    for override in overrides:
        key, sep, raw = override.partition("=")
        if not sep or not key.strip():
            raise UsageError(f"--set {override!r}: expected KEY=VALUE, for example --set reward.alpha=0.5")
        try:
            value = _parse_yaml(raw)
        except (YAMLError, RecursionError):
            raise UsageError(f"--set {override!r}: the value is not valid YAML; put it in quotes") from None
        if problem := _problem(value):
            raise UsageError(f"--set {override!r}: {problem}")
        _assign(root, key.strip().split("."), value, override)
    return root


def _assign(node: Json, path: Sequence[str], value: Json, override: str) -> None:
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not head.isdecimal() or int(head) >= len(node):
            raise UsageError(
                f"--set {override!r}: {head!r} is no index of a list of {len(node)}; the first is 0"
            )
        if rest:
            _assign(node[int(head)], rest, value, override)
        else:
            node[int(head)] = value
    elif isinstance(node, dict):
        if rest:
            child = node.get(head)
            if not isinstance(child, dict | list):
                # ``judge: lab`` may be written in full as a mapping by ``--set judge.spec=...``
                child = node[head] = {}
            _assign(child, rest, value, override)
        else:
            node[head] = value
    else:
        raise UsageError(f"--set {override!r}: {head!r} lies below a plain value; set what stands above it")


def load_config(model: type[ModelT], path: str | Path, overrides: Sequence[str] = ()) -> ModelT:
    """Read, override and validate a YAML file; ``DataError`` names file, line, key and nearest choice.

    What the file alone would not have got wrong is put down to ``--set``.
    """
    written = apply_overrides(read_yaml(path), ())
    if not overrides:
        return validate(model, written, path)
    try:
        return validate(model, apply_overrides(written, overrides), path)
    except DataError as error:
        try:
            validate(model, written, path)
        except DataError as own:
            if own.problem == error.problem:
                raise
        raise UsageError(f"--set on {path}: {error.problem}") from None


_KINDS = {type(None): "an empty file", list: "a list", str: "a text", bool: "a truth value"}
_KINDS |= {int: "a number", float: "a number"}


def validate(model: type[ModelT], data: Json, path: str | Path) -> ModelT:
    """Validate parsed YAML or JSON against ``model``; the first problem becomes a ``DataError``."""
    if not isinstance(data, dict):
        raise DataError(
            path, f"expected a mapping with keys {', '.join(model.model_fields)}, got {_KINDS[type(data)]}"
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(model, data, error, path) from None


_TRUTH = "expected true or false"
_SAID = {
    "missing": "is missing; write it",
    "string_type": "expected a text",
    "string_too_short": "expected a text that is not empty",
    "too_short": "expected at least {min_length} of them, got {actual_length}",
    "union_tag_invalid": "expected one of {expected_tags}",
    "union_tag_not_found": "expected the key {discriminator}",
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "expected a whole number"
    ),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), _TRUTH),
    **dict.fromkeys(("list_type", "tuple_type"), "expected a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "expected a mapping"),
}
"""What is said of a problem where the validator's own words are jargon."""
_PATTERNS = {
    SLUG: "expected small letters, digits, '.', '_' and '-' (a letter or digit first)",
    r"\S": "expected a text that is not blank",
}


def _explain(model: type[BaseModel], data: Json, error: ValidationError, path: str | Path) -> DataError:
    problems = error.errors(include_url=False)
    # An unknown key explains more than the missing key that it was meant to be.
    # Of ``text | mapping``, that a mapping is no text explains nothing.
    # Of a union of mappings, that a key belongs to the other member explains nothing.
    telling = [
        p
        for p in problems
        if not (p["type"] == "string_type" and isinstance(p["input"], dict))
        and not (p["type"] == "extra_forbidden" and p["loc"][-1] in fields_at(model, p["loc"][:-1]))
    ] or problems
    first = next((p for p in telling if p["type"] == "extra_forbidden"), telling[0])
    place = place_of(data, first["loc"], missing=first["type"] == "missing")
    where = ".".join(map(str, place)) or "(top level)"
    line = key_line(path, place)
    if first["type"] == "extra_forbidden":
        fields = fields_at(model, first["loc"][:-1])
        known = f"; known keys: {', '.join(sorted(fields))}" if fields else ""
        return DataError(path, f"unknown key {where!r}{nearest(str(first['loc'][-1]), fields)}{known}", line)
    got, context = first["input"], first.get("ctx", {})
    shown = "nothing" if got is None else repr(str(got)[:60])
    shown = "" if isinstance(got, dict | list) or first["type"] == "missing" else f", got {shown}"
    message = in_our_words(first)
    words = [p["ctx"]["expected"] for p in problems if p["type"] == "literal_error" and _beside(p, first)]
    if message == _TRUTH and words:
        message = f"expected true, false or {words[0]}"
    if first["type"] in ("list_type", "tuple_type") and isinstance(got, str):
        shown += f"; write [{got[:60]}]"
    expected = context.get("expected") or context.get("expected_tags")
    written, hint = context.get("tag", got), ""
    if isinstance(expected, str) and isinstance(written, str):
        hint = nearest(written, [word.strip(" '") for word in expected.replace(" or ", ",").split(",")])
        shown = f", got {written[:60]!r}"
    return DataError(path, f"{where}: {message}{shown}{hint}", line)


def in_our_words(problem: ErrorDetails) -> str:
    """Return what was expected, without the validator's jargon."""
    said, context = _SAID.get(problem["type"]), problem.get("ctx", {})
    message = problem["msg"] if said is None else said.format_map(context)
    message = _PATTERNS.get(str(context.get("pattern")), message).removeprefix("Value error, ")
    return message.replace("Input should be", "expected")


def _beside(one: ErrorDetails, other: ErrorDetails) -> bool:
    """Whether both are about members of one union."""
    return one["loc"][:-1] == other["loc"][:-1]


def place_of(data: object, loc: Sequence[int | str], *, missing: bool) -> list[int | str]:
    """Return ``loc`` as it stands in the file: without the names of a union's members in between."""
    kept: list[int | str] = []
    node = data
    for part in loc:
        below = dict(enumerate(node)) if isinstance(node, list) else node if isinstance(node, dict) else {}
        if part in below:
            node = below[part]
            kept.append(part)
    return [*kept, *loc[-1:]] if missing else kept


def fields_at(model: type[BaseModel], loc: Sequence[int | str]) -> set[str]:
    """Names of the fields of the model(s) that ``loc`` leads to, through lists and unions."""
    current: list[type[BaseModel]] = [model]
    for part in loc:
        if not isinstance(part, str):
            continue
        found = [
            c for m in current if part in m.model_fields for c in _models_in(m.model_fields[part].annotation)
        ]
        if found:
            current = found
        else:  # the tag of a discriminated union
            tagged = [
                m for m in current if "type" in m.model_fields and m.model_fields["type"].default == part
            ]
            current = tagged or current
    return {name for m in current for name in m.model_fields}


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _models_in(arg)]


def key_line(path: str | Path, loc: Sequence[int | str]) -> int | None:
    """1-based line of the key at ``loc`` in a YAML file, or of its deepest ancestor that exists."""
    return key_lines(path, [loc])[0]


def key_lines(path: str | Path, locs: Sequence[Sequence[int | str]]) -> list[int | None]:
    """:func:`key_line` of each of ``locs``; the file is read once."""
    try:
        root = YAML(typ="rt").load(Path(path).read_text(encoding="utf-8")) if locs else None
    except (OSError, YAMLError, UnicodeDecodeError):
        root = None
    return [_line_at(root, loc) for loc in locs]


def _line_at(node: object, loc: Sequence[int | str]) -> int | None:
    line: int | None = None
    for part in loc:
        marks = getattr(node, "lc", None)
        if isinstance(node, Mapping) and part in node and marks is not None:
            line = marks.key(part)[0] + 1
            node = node[part]
        elif (
            isinstance(node, Sequence)
            and not isinstance(node, str)
            and isinstance(part, int)
            and part < len(node)
        ):
            line = (marks.item(part)[0] + 1) if marks is not None else line
            node = node[part]
    return line
