"""From a recipe's ``reward_model`` to the model that scores."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rubrica.core.config import Json, load_config
from rubrica.core.errors import UsageError, nearest
from rubrica.core.ports import RewardModel
from rubrica.recipes.options import RewardModelSource

STAGE = "stage:reward-model"
"""Stands for the model that the recipe's own stage left."""
_VLLM = re.compile(r"vllm:(?P<model>.+)@(?P<url>https?://\S+)")
_RUBRICA = re.compile(r"rubrica:(?P<url>https?://\S+)")
_IMPLICIT = re.compile(r"implicit:(?P<policy>[^@]+)@(?P<reference>[^@]+)")
_OPERATIONAL = {"batch_tokens", "concurrency", "timeout", "retries", "api_key_env"}
"""How a model is reached, not which one it is."""
_LOCAL_ONLY = ("revision", "chat_template", "head")
_SERVED_ONLY = ("version", "concurrency", "timeout", "retries", "api_key_env", "endpoint")


class Served(NamedTuple):
    """A reward model behind a server; ``model`` is empty for ``rubrica serve``."""

    model: str
    url: str


class Implied(NamedTuple):
    """The reward that a policy implies, and the model that it was trained from."""

    policy: str
    reference: str


def implied(model: str) -> Implied | None:
    """Return the two models that ``implicit:POLICY@REFERENCE`` names, or None for any other reward model."""
    found = _IMPLICIT.fullmatch(model.strip())
    return Implied(found["policy"], found["reference"]) if found else None


def served(model: str) -> Served | None:
    """Return the server that ``model`` names, or None for a directory, a hub id or a stage's model."""
    if found := _VLLM.fullmatch(model.strip()):
        return Served(found["model"], found["url"])
    if found := _RUBRICA.fullmatch(model.strip()):
        return Served("", found["url"])
    return None


def reward_model_identity(source: Json) -> Json:
    """Return what of a source's plain values must stay the same for its scores to be its own."""
    if not isinstance(source, dict):
        return source
    kept = {key: value for key, value in source.items() if key not in _OPERATIONAL}
    server = served(str(source.get("model", "")))
    return kept | ({"model": f"served:{server.model}"} if server else {})


def check_reward_model(source: RewardModelSource, where: str, *, trained: bool) -> None:
    """Raise ``UsageError`` for what can be seen to be wrong; loads nothing.

    ``trained`` says whether a stage before this one leaves a reward model.
    """
    kind = source.model.partition(":")[0]
    server = served(source.model)
    if server is None and kind in ("vllm", "rubrica"):
        raise UsageError(
            f"{where}.model: {source.model!r}; expected vllm:MODEL@URL or rubrica:URL with a full URL, for example "
            "vllm:my-model@http://localhost:8000"
        )
    pair = implied(source.model)
    if pair is None and kind == "implicit":
        raise UsageError(
            f"{where}.model: {source.model!r}; expected implicit:POLICY@REFERENCE, two directories or hub ids"
        )
    if kind == "stage" and source.model != STAGE:
        close = nearest(source.model, [STAGE])
        raise UsageError(f"{where}.model: no such stage {source.model!r}{close}; expected {STAGE}")
    if source.model == STAGE and not trained:
        raise UsageError(f"{where}.model: {STAGE}, but no stage of type reward-model stands before this one")
    changed = {
        name
        for name, field in RewardModelSource.model_fields.items()
        if getattr(source, name) != field.get_default()
    }
    idle = [name for name in (_SERVED_ONLY if server is None else _LOCAL_ONLY) if name in changed]
    if idle:
        place = "a server" if server is None else "a model in this process"
        raise UsageError(f"{where}.{idle[0]}: is for {place} alone; remove it")
    unused = [name for name in (*_LOCAL_ONLY, "label") if name in changed]
    if pair is not None and unused:
        raise UsageError(f"{where}.{unused[0]}: has no use for an implicit reward; remove it")
    if server is not None and isinstance(source.label, str):
        raise UsageError(f"{where}.label: {source.label!r}; a server tells no names, expected an index")
    for name in ("head", "chat_template"):
        path = getattr(source, name)
        if path is not None and not Path(path).expanduser().is_file():
            raise UsageError(f"{where}.{name}: {path}: no such file; check the path")


def read_reward_model(name: str, where: str) -> RewardModelSource:
    """Read a model's name, or the YAML file with its options; ``UsageError`` for what can be seen to be wrong."""
    if name.endswith((".yaml", ".yml")):
        source = load_config(RewardModelSource, name)
    else:
        source = RewardModelSource(model=name)
    check_reward_model(source, where, trained=False)
    return source


def open_reward_model(
    source: RewardModelSource,
    resolve: Callable[[str], str] = str,
    trained: Path | None = None,
) -> RewardModel:
    """Load the model, or return the client of its server.

    ``resolve`` turns names such as ``lab:...`` into directories; ``trained`` is the folder of the recipe's own model.
    Raises what :class:`rubrica.models.reward.HFRewardModel` and :class:`rubrica.models.implicit.ImplicitReward` raise.
    """
    if server := served(source.model):
        return _client(source, server)
    if pair := implied(source.model):
        from rubrica.models.implicit import ImplicitReward

        return ImplicitReward(resolve(pair.policy), resolve(pair.reference), dtype=source.dtype)
    from rubrica.models.reward import HFRewardModel

    path = resolve(source.model)
    if source.model == STAGE:
        assert trained is not None  # checked before the run was started
        path = str(trained)
    return HFRewardModel(
        path,
        revision=source.revision,
        dtype=source.dtype,
        label=source.label,
        head=source.head,
        chat_template=source.chat_template,
        batch_tokens=source.batch_tokens,
    )


def _client(source: RewardModelSource, server: Served) -> RewardModel:
    from rubrica.judges.hostile import broken
    from rubrica.models.reward_server import ServedRewardModel

    own = not server.model
    return ServedRewardModel(
        server.model or "rubrica",
        server.url,
        endpoint="score" if own else source.endpoint,
        label=source.label if isinstance(source.label, int) else None,
        version=source.version,
        disarm=broken,
        api_key_env=source.api_key_env or ("RUBRICA_API_KEY" if own else "OPENAI_API_KEY"),
        concurrency=source.concurrency,
        timeout=source.timeout,
        retries=source.retries,
    )
