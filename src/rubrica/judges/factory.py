"""From what a recipe or a flag says about a judge to a judge."""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from rubrica.core.base import NonEmpty
from rubrica.core.config import Config, Json, load_config
from rubrica.core.errors import UsageError, nearest
from rubrica.core.ports import Judge
from rubrica.core.programs import Program
from rubrica.core.records import Price
from rubrica.judges.budget import LABEL_TOKENS, Purse
from rubrica.judges.guard_forms import REPLY_TOKENS, guard_of
from rubrica.judges.listing import LIST_TOKENS
from rubrica.judges.passport import Floor, vouch
from rubrica.judges.template import Mode
from rubrica.program.program import questions
from rubrica.program.safety import safety_of

if TYPE_CHECKING:
    from rubrica.chat import ChatOptions

EXAMPLES = "lab, lab-oracle, local:PATH, openai:MODEL@http://localhost:8000/v1, guard:NAME@PATH"
CASCADE = "cascade"
"""Spec of a judge that has the key ``cascade``."""
_SERVER = re.compile(r"openai:(?P<model>\S+?)@(?P<url>https?://\S+)")


def _calls_at_a_time(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("expected a whole number from 1 on, or auto")


class JudgeConfig(Config):
    """A judge and how it is asked. In a recipe a plain string stands for ``spec`` alone."""

    spec: NonEmpty
    """``lab``, ``lab-oracle``, ``local:PATH`` (or a hub id), ``openai:MODEL@URL`` or ``guard:NAME@PATH``."""
    mode: Mode = "label"
    """``label`` reads the probabilities of the answers, ``reason`` has the judge write a sentence first."""
    concurrency: Annotated[int | Literal["auto"], BeforeValidator(_calls_at_a_time)] = 16
    """Servers: most calls under way at a time; ``auto``: as many as the server profits from, up to 256."""
    rpm: int | None = Field(default=None, ge=1)
    """Servers: most calls in any minute; None: no limit."""
    tpm: int | None = Field(default=None, ge=1)
    """Servers: most tokens in any minute, estimated as a quarter of the letters; None: no limit."""
    timeout: float = Field(default=60.0, gt=0, le=86400)
    """Servers: seconds for one question, retries and pauses included; one attempt gets half of them."""
    retries: int = Field(default=4, ge=0)
    """Servers: further attempts after a fault that may pass."""
    max_tokens: int = Field(default=512, ge=16)
    """Servers: room for a reply in mode ``reason``."""
    questions_per_call: int = Field(default=1, ge=1, le=100)
    """Servers: most questions about one text that go into one call; above 1 there are no probabilities."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Local judges: tokens in one forward pass; None chooses by device."""
    reason_tokens: int = Field(default=64, ge=1)
    """Local judges: most tokens of a reason in mode ``reason``."""
    api_key_env: NonEmpty = "OPENAI_API_KEY"
    """Servers: environment variable that holds the key; a server without keys needs none."""
    passport: str | None = None
    """Path of the judge's ``passport.json`` (``rubrica judge check``); one that is missing or stale warns."""
    floor: Floor | None = None
    """What the passport must show, else nothing is asked; needs ``passport``."""
    version: str = ""
    """Servers: a name for the weights, where the same model name has served others; new verdicts for a new one."""
    price: Price | None = None
    """US dollars for a million tokens, ``{prompt: ..., completion: ...}``, for forecast, budget and report."""

    cascade: "CascadeConfig | None" = None
    """Two judges as one, in place of ``spec``."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Json) -> Json:
        if (
            isinstance(data, dict)
            and data.get("cascade") is not None
            and data.get("spec", CASCADE) == CASCADE
        ):
            return {**data, "spec": CASCADE}
        return data

    @model_validator(mode="after")
    def _floor_needs_a_passport(self) -> Self:
        if self.floor is not None and self.passport is None:
            raise ValueError("floor needs passport: the path of the judge's passport.json")
        return self

    @model_validator(mode="after")
    def _a_cascade_is_asked_as_its_judges_say(self) -> Self:
        if self.cascade is not None:
            idle = [name for name in self.changed() if name not in {"cascade", "passport", "floor"}]
            if idle:
                raise ValueError(f"{idle[0]} says nothing of a cascade; write it under cheap or expensive")
        return self

    def changed(self) -> list[str]:
        """Names of the options that differ from their defaults."""
        usual = {"spec": CASCADE}
        fields = type(self).model_fields.items()
        return [name for name, field in fields if getattr(self, name) != usual.get(name, field.get_default())]


class CascadeConfig(Config):
    """A cheap judge that answers, and an expensive one that is asked where it is unsure."""

    cheap: str | JudgeConfig
    """Spec or mapping of the judge that is asked first; one that gives probabilities."""
    expensive: str | JudgeConfig
    """Spec or mapping of the judge that is asked where the first is unsure."""
    thresholds: NonEmpty
    """Path of the file that ``rubrica judge fit-cascade`` wrote."""


JudgeConfig.model_rebuild()
_OPERATIONAL = {
    "concurrency",
    "rpm",
    "tpm",
    "timeout",
    "retries",
    "max_tokens",
    "batch_tokens",
    "api_key_env",
    "price",
    "passport",
    "floor",
}
"""How a judge is reached, paid and vouched for, not who it is."""


class Server(NamedTuple):
    """What ``openai:MODEL@URL`` names."""

    model: str
    url: str


def read_judge(judge: str) -> JudgeConfig:
    """Return the judge that a flag names: a spec, or a YAML file with options (``DataError`` as in any file)."""
    if not judge:
        raise UsageError(f"--judge is empty; expected one of {EXAMPLES}, or a YAML file")
    return load_config(JudgeConfig, judge) if judge.endswith((".yaml", ".yml")) else JudgeConfig(spec=judge)


def server_of(spec: str) -> Server | None:
    """Return the server that ``spec`` names, or None for a spec of another kind."""
    found = _SERVER.fullmatch(spec.strip())
    return Server(found["model"], found["url"]) if found else None


def judge_identity(judge: Json) -> Json:
    """Return what of a judge, as a spec or a mapping, must stay the same for its verdicts to be its own.

    Left out are the URL of a server and the options that say how a judge is reached; of a cascade, those of its parts.
    """
    try:
        config = JudgeConfig.model_validate({"spec": judge} if isinstance(judge, str) else judge)
    except ValidationError:  # none, or one of another version of Rubrica: it has to be the very same
        return judge
    server = endpoint_of(config.spec)
    kept = {name: value for name, value in config.model_dump(mode="json").items() if name not in _OPERATIONAL}
    if config.cascade is not None:
        both = config.cascade.model_dump(mode="json")
        kept["cascade"] = both | {name: judge_identity(both[name]) for name in ("cheap", "expensive")}
    spec = config.spec.strip()
    return kept | {"spec": spec.removesuffix(f"@{server.url}") if server else spec}


def parts(config: str | JudgeConfig) -> list[JudgeConfig]:
    """Return the judges that are asked: the two of a cascade, else the one."""
    if isinstance(config, str):
        return [JudgeConfig(spec=config)]
    if config.cascade is None:
        return [config]
    return [part for judge in (config.cascade.cheap, config.cascade.expensive) for part in parts(judge)]


def is_remote(config: str | JudgeConfig) -> bool:
    """Tell whether a judge computes elsewhere, so that asking it costs this process next to nothing."""
    return all(endpoint_of(part.spec) is not None for part in parts(config))


def endpoint_of(spec: str) -> Server | None:
    """Return the server that a judge asks, be it a chat model or a guard; None for one in this process."""
    guard = guard_of(spec.strip())
    return server_of(spec if guard is None else guard.at)


def checkpoint_of(spec: str) -> str:
    """Return path or hub id of the model that a judge loads into this process; empty for one that loads none."""
    guard = guard_of(spec.strip())
    if guard is None:
        return local_of(spec)
    return "" if server_of(guard.at) else guard.at


def local_of(spec: str) -> str:
    """Return path or hub id of ``local:PATH``; empty for a spec of another kind."""
    kind, _, path = spec.strip().partition(":")
    return path if kind == "local" else ""


def make_judge(
    config: str | JudgeConfig,
    *,
    secret: str,
    builtin: Mapping[str, Callable[[], Judge]],
    purse: Purse | None = None,
) -> Judge:
    """Build the judge that ``config`` names; ``builtin`` makes those that ship with Rubrica.

    ``secret`` is the store's: it keys the fence around the text under judgment. All that is asked goes
    through ``purse``. Raises ``UsageError`` when the spec names no kind of judge, and what loading the judge
    raises.
    """
    check_spec(config, builtin)
    if isinstance(config, str):
        config = JudgeConfig(spec=config)
    if config.cascade is not None:
        return _cascade(config.cascade, secret, builtin, purse)
    judge = _open(config, secret, builtin)
    return judge if purse is None else metered(judge, config, purse)


def _cascade(
    config: CascadeConfig, secret: str, builtin: Mapping[str, Callable[[], Judge]], purse: Purse | None
) -> Judge:
    """Each part is asked through the purse, and what it answers is kept under its own name."""
    from rubrica.judges.escalation import Cascade, Remembering, read_thresholds

    thresholds = read_thresholds(config.thresholds)

    def part(judge: str | JudgeConfig) -> Judge:
        made = make_judge(judge, secret=secret, builtin=builtin, purse=purse)
        return made if purse is None else Remembering(made, purse.store)

    return Cascade(part(config.cheap), part(config.expensive), thresholds)


def metered(judge: Judge, config: JudgeConfig, purse: Purse) -> Judge:
    """Return ``judge``, all of whose questions go through ``purse``."""
    return purse.meter(judge, config.price, answer_tokens(config))


def answer_tokens(config: JudgeConfig) -> int:
    """Return how many tokens ``config`` writes on one question at most: in a list, then by itself."""
    if guard_of(config.spec.strip()):
        return REPLY_TOKENS
    reason = config.max_tokens if server_of(config.spec) else config.reason_tokens
    alone = reason if config.mode == "reason" else LABEL_TOKENS
    listed = reason if config.mode == "reason" else LIST_TOKENS
    return alone + (listed if config.questions_per_call > 1 else 0)


def _open(config: JudgeConfig, secret: str, builtin: Mapping[str, Callable[[], Judge]]) -> Judge:
    spec = config.spec.strip()
    if spec in builtin:
        return builtin[spec]()
    if server := server_of(spec):
        return _server(server, config, secret)
    if guard := guard_of(spec):
        if served := server_of(guard.at):
            from rubrica.judges.guard_server import ServedGuard

            return ServedGuard(guard, *served, version=config.version, **_limits(config))
        from rubrica.judges.guard import GuardJudge  # torch, only where it is used

        return GuardJudge.load(guard, batch_tokens=config.batch_tokens)
    from rubrica.judges.local import LocalJudge  # torch, only where it is used

    return LocalJudge.load(
        local_of(spec),
        batch_tokens=config.batch_tokens,
        secret=secret,
        mode=config.mode,
        reason_tokens=config.reason_tokens,
    )


def check_spec(config: str | JudgeConfig, builtin: Collection[str], program: Program | None = None) -> None:
    """Raise ``UsageError`` when the spec names no kind of judge, or one without the mode; loads nothing.

    With ``program``, also for a judge that was made for other questions than the program's.
    """
    if not isinstance(config, str) and config.cascade is not None:
        if not Path(config.cascade.thresholds).expanduser().is_file():
            raise UsageError(
                f"cascade: {config.cascade.thresholds}: no such file; rubrica judge fit-cascade writes it"
            )
        for part in parts(config):
            check_spec(part, builtin, program)
        return
    spec = (config if isinstance(config, str) else config.spec).strip()
    if spec == CASCADE:
        raise UsageError(
            "judge 'cascade': expected a mapping, cascade: {cheap: ..., expensive: ..., thresholds: ...}"
        )
    kind, _, rest = spec.partition(":")
    guard = guard_of(spec)
    fixed = spec in builtin or guard is not None
    if fixed and not isinstance(config, str) and config.mode == "reason":
        raise UsageError(
            f"judge {spec!r}: mode 'reason', but it writes no reasons; expected mode 'label', or local:PATH with a "
            "chat model, or openai:MODEL@URL"
        )
    if guard is not None and guard.at.startswith("openai:") and not server_of(guard.at):
        raise UsageError(
            f"judge {spec!r}: expected guard:{guard.name}@openai:MODEL@URL with a full URL, for example "
            "http://localhost:8000/v1"
        )
    if guard is not None and program is not None:
        for _, _, question in questions(program):
            safety_of(question, spec, list(guard.form.answers))
    if fixed or (kind == "local" and rest):
        _check_server_keys(config, spec)
        return
    if kind == "local":
        raise UsageError(f"judge {spec!r}: expected local:PATH, a folder or hub id")
    if kind != "openai":
        known = [*builtin, "local:", "openai:", "guard:"]
        others = ", ".join(sorted(set(builtin) - {"lab", "lab-oracle"}))
        expected = f"{EXAMPLES}, {others}" if others else EXAMPLES
        raise UsageError(f"judge {spec!r}: no such judge{nearest(spec, known)}; expected one of {expected}")
    if not server_of(spec):
        raise UsageError(
            f"judge {spec!r}: expected openai:MODEL@URL with a full URL, "
            "for example openai:my-model@http://localhost:8000/v1"
        )
    if not isinstance(config, str) and "reason_tokens" in config.changed():
        raise UsageError(
            f"judge {spec!r}: reason_tokens is for local:PATH alone; behind a server it is max_tokens"
        )


def _check_server_keys(config: str | JudgeConfig, spec: str) -> None:
    """Options that say who judges are not to be passed over in silence."""
    if isinstance(config, str):
        return
    for name, idle in (
        ("questions_per_call", config.questions_per_call > 1),
        ("version", config.version and not endpoint_of(spec)),
    ):
        if idle:
            raise UsageError(f"judge {spec!r}: {name} is for openai:MODEL@URL alone; leave it out")


def check_vouched(
    config: str | JudgeConfig | None, *, program: Program, judge: str | None, where: str
) -> list[str]:
    """Hold a judge against the passport and floor that its mapping names: warnings, or ``UsageError`` (:func:`vouch`).

    ``judge`` is its fingerprint, None while it is not loaded. A judge without passport gives no warning.
    """
    if config is None or isinstance(config, str) or config.passport is None:
        return []
    return vouch(config.passport, config.floor, program=program, judge=judge, where=where)


def check_priced(config: str | JudgeConfig, cap: str) -> None:
    """Raise ``UsageError`` when ``cap`` on money meets a judge behind a server without a price."""
    for part in parts(config):
        if not endpoint_of(part.spec) or part.price is not None:
            continue
        raise UsageError(
            f"{cap}: judge {part.spec!r} has no price; write it as a mapping with price: {{prompt: ..., "
            "completion: ...}, US dollars for a million tokens"
        )


def _limits(config: JudgeConfig) -> "ChatOptions":
    """How a server is reached."""
    return {
        "api_key_env": config.api_key_env,
        "concurrency": config.concurrency,
        "timeout": config.timeout,
        "retries": config.retries,
        "rpm": config.rpm,
        "tpm": config.tpm,
    }


def _server(server: Server, config: JudgeConfig, secret: str) -> Judge:
    from rubrica.judges.server import ServerJudge  # the HTTP client takes half a second to import

    return ServerJudge(
        *server,
        secret=secret,
        mode=config.mode,
        max_tokens=config.max_tokens,
        version=config.version,
        questions_per_call=config.questions_per_call,
        **_limits(config),
    )
