"""Who puts a weakness into words: the model behind a judge's spec."""

from typing import TYPE_CHECKING

from rubrica.core.errors import ModelError, UsageError
from rubrica.core.ports import Generator
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Sampling
from rubrica.judges.factory import JudgeConfig, Server, local_of, server_of

if TYPE_CHECKING:
    from rubrica.models.server import ServerGenerator


class JudgeWriter:
    """The judge's model as a writer; implements :class:`rubrica.core.ports.Completer`."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    @property
    def name(self) -> str:
        """The model's."""
        return self._generator.name

    def complete(self, prompt: str, max_tokens: int) -> str:
        """Return the likeliest answer to ``prompt``, at most ``max_tokens`` of it; what the generator raises."""
        asked = Prompt(id="reflection", messages=(Message(role="user", content=prompt),))
        sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
        for _, response in self._generator.generate([asked], sampling):
            return response.text
        raise ModelError(
            f"{self._generator.name}: gave no answer; use another judge, or reflection: template"
        )


def can_write(judge: str | JudgeConfig) -> bool:
    """Tell whether behind a judge's spec stands a chat model, which can put reflections into words."""
    spec = judge if isinstance(judge, str) else judge.spec
    return server_of(spec) is not None or local_of(spec) != ""


def open_writer(judge: str | JudgeConfig) -> JudgeWriter:
    """Return the writer behind a judge's spec; ``UsageError`` for a judge that is no chat model."""
    config = judge if isinstance(judge, JudgeConfig) else JudgeConfig(spec=judge)
    if server := server_of(config.spec):
        return JudgeWriter(server_writer(server, config))
    if not (path := local_of(config.spec)):
        raise UsageError(f"reflection: judge {config.spec!r} cannot write; use reflection: template")
    from rubrica.checkpoint import checkpoint_folder  # torch, only where it is used
    from rubrica.recipes.models import open_generator

    return JudgeWriter(open_generator(checkpoint_folder(path), "auto"))


def server_writer(server: Server, config: JudgeConfig) -> "ServerGenerator":
    """Return the model behind a server, asked with the judge's own key and limits."""
    from rubrica.models.server import ServerGenerator  # the HTTP client takes half a second to import

    # ``timeout`` is for one label; a longer text takes longer, so the generator's own applies
    return ServerGenerator(
        *server,
        api_key_env=config.api_key_env,
        concurrency=config.concurrency,
        retries=config.retries,
        rpm=config.rpm,
        tpm=config.tpm,
    )
