"""What a file of interruptions says, and its controls in the prompts of any generator. Works without torch.

A prompt's nonce is derived from a secret and the prompt, so that a run that is repeated repeats itself.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from rubrica.core.base import NonEmpty
from rubrica.core.config import content_hash, load_config
from rubrica.core.errors import UsageError
from rubrica.core.fence import Fence, derived_nonce
from rubrica.core.pieces import Pieces
from rubrica.core.ports import Generator
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Response, Sampling
from rubrica.methods.interruptions import Interrupter, Plan, State, Turn, plan_for
from rubrica.recipes.options import ModelSource


class InterruptedModel(Plan):
    """A file that says what is inserted, and for ``interrupt:FILE.yaml`` into which model's contexts."""

    model: ModelSource | None = None
    """The model; commands that ask a server, or none, do without."""
    secret_env: NonEmpty | None = None
    """Environment variable with the secret of the nonces. None: the proxy draws one when it starts; elsewhere it is derived
    from this file, so that evaluation repeats itself (own)."""


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> InterruptedModel:
    """Read a file of interruptions; errors name file, line and key."""
    return load_config(InterruptedModel, path, overrides)


def model_of(path: str | Path) -> ModelSource:
    """Return the model that a file of interruptions names; ``UsageError`` where it names none."""
    model = load_plan(path).model
    if model is None:
        raise UsageError(f"{path}: names no model to interrupt; add model: {{model: DIRECTORY-OR-HUB-ID}}")
    return model


def check_reading(plan: Plan) -> None:
    """Refuse a plan that puts nothing into what is read (``UsageError``)."""
    if plan.input is None and plan.conversation is None:
        raise UsageError("interruptions: nothing to do; give the plan a schedule for conversation or input")


class Fences:
    """The fence of each prompt, by its id."""

    def __init__(self, plan: InterruptedModel, *, fresh: bool = False) -> None:
        """``fresh``: without a secret of its own draw one now, instead of deriving it from the plan.

        ``UsageError`` where the variable of the secret is empty.
        """
        derived = secrets.token_hex(16) if fresh else content_hash(plan)
        self._secret = os.environ.get(plan.secret_env, "") if plan.secret_env else derived
        if not self._secret:
            raise UsageError(
                f"secret_env: the variable {plan.secret_env} is empty or not set; put a secret into it"
            )

    def of(self, key: str) -> Fence:
        """Return the fence of the prompt or conversation that ``key`` identifies."""
        return Fence(derived_nonce(self._secret, key))


class ContextGenerator:
    """Implements :class:`rubrica.core.ports.Generator`: prompts get their controls, answers lose what repeats them."""

    def __init__(
        self, inner: Generator, plan: Plan, pieces: Pieces, fences: Fences, name: str | None = None
    ) -> None:
        self._inner, self._plan, self._pieces, self._fences = inner, plan, pieces, fences
        self._name = name or f"{inner.name} interrupted {content_hash(plan)}"

    @property
    def name(self) -> str:
        """The model's name and the plan."""
        return self._name

    def augment(self, prompt: Prompt) -> Prompt:
        """Return the prompt as the model is shown it."""
        return self.interrupted(prompt)[0]

    def interrupted(self, prompt: Prompt) -> tuple[Prompt, State]:
        """Return the prompt as the model is shown it, and what was counted in it."""
        turns = [Turn(message.role, (message.content,)) for message in prompt.messages]
        plan = plan_for(self._plan, prompt.tags)
        found, state = Interrupter(plan, self._pieces, self._fences.of(prompt.id)).apply(turns)
        messages = [
            {"role": _ROLES.get(turn.role, turn.role), "content": "".join(turn.texts)} for turn in found
        ]
        shown = prompt.model_copy(update={"messages": tuple(map(Message.model_validate, messages))})
        return shown, state

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, prefixes: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Response]]:
        """Yield ``(index, response)`` as the model answers the augmented prompts."""
        for index, response in self._inner.generate([self.augment(p) for p in prompts], sampling, prefixes):
            text = (
                self._fences.of(prompts[index].id).strip(response.text) if self._plan.fence else response.text
            )
            yield index, response.model_copy(update={"text": text, "model": self._name})


_ROLES = {"developer": "system", "tool": "user"}
