"""What all decoders share: models with their chat formats, prompts as token ids, rewards of texts, finished answers."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

from rubrica.checkpoint import load_checkpoint
from rubrica.core.config import Json, content_hash
from rubrica.core.decoded import Decision, Decoded, Spent
from rubrica.core.errors import UsageError
from rubrica.core.ports import RewardModel
from rubrica.core.prompts import Prompt
from rubrica.core.records import Response, Sampling
from rubrica.methods.transfer_q import Rollout
from rubrica.models.decoding import uniforms
from rubrica.models.rollouts import Floats
from rubrica.packed import CausalLM
from rubrica.recipes.models import ChatFormat, load_chat_format


class Policy(NamedTuple):
    """A model that writes, and its chat format."""

    model: CausalLM
    chat: ChatFormat
    name: str

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that an answer begins with; it can spell no control token."""
        text = self.chat.control.disarm(text)
        return list(self.chat.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """Text of an answer's tokens, without control tokens."""
        found = self.chat.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(found)


def load_policy(
    folder: Path, dtype: str, chat_template: str | None = None, name: str | None = None
) -> Policy:
    """Load a model and its chat format; raises what :func:`rubrica.recipes.models.load_chat_format` raises."""
    chat = load_chat_format(folder, chat_template)
    model, _ = load_checkpoint(folder, dtype=dtype)
    return Policy(cast(CausalLM, model), chat, name or str(folder))


def check_vocabularies(base: Policy, baseline: Policy) -> None:
    """Raise ``UsageError`` unless a token means the same to both models; their templates may differ."""
    if base.chat.tokenizer.get_vocab() != baseline.chat.tokenizer.get_vocab():
        raise UsageError(
            f"base {base.name} and baseline {baseline.name} have two vocabularies; expected a baseline that was trained "
            "from the base, or from a model with its tokenizer (the reward may have any)"
        )


class Worth(NamedTuple):
    """Rewards of one text; None where there is none."""

    reward: float | None
    baseline_reward: float | None


@dataclass(eq=False)
class Job:
    """One answer under way."""

    index: int
    prompt: Prompt
    turn: int
    """How many equal prompts came before it."""
    prefix: str
    """Text that the answer continues."""
    heads: list[list[int]]
    """The prompt, with the prefix, as each model reads it."""
    tail: list[int]
    """Token ids of the prefix."""
    written: list[int] = field(default_factory=list)
    slot: int = -1
    kl: float = 0.0
    blind: int = 0
    decisions: int = 0
    computed: int = 0
    """Tokens that went through models, the prompt's included."""
    least: int = 0
    """Distinct prefixes among them."""
    trace: list[Decision] = field(default_factory=list)
    worths: dict[str, Worth] = field(default_factory=dict)
    """Of texts that were scored."""

    def points(self, seed: int, what: str, count: int) -> Floats:
        """Random numbers that depend on prompt, turn, seed and ``what`` alone."""
        return uniforms(seed, (self.prompt.id, self.turn, what), count)


class Decoder(ABC):
    """Implements :class:`rubrica.core.ports.Generator` with a reward that has a say in what is written.

    An answer depends on the seed, the prompt's id and how often this id came before, not on the rest of the call.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        reward: RewardModel,
        baseline_reward: RewardModel | None,
        name: str,
    ) -> None:
        """``policies`` are the models that read the prompt, the base first; they share a vocabulary."""
        for other in policies[1:]:
            check_vocabularies(policies[0], other)
        self.policies, self.base = list(policies), policies[0]
        self._reward, self._baseline_reward, self._name = reward, baseline_reward, name
        self.stop = frozenset[int]().union(*(policy.chat.end_ids for policy in policies))

    @property
    def name(self) -> str:
        """Mode and hash of all that the answers depend on, or the name that was given."""
        return self._name

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, prefixes: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Response]]:
        """Yield ``(index, response)`` as answers are finished."""
        for index, decoded in self.decode(prompts, sampling, prefixes):
            yield index, decoded.response

    def decode(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        prefixes: Sequence[str] | None = None,
        *,
        trace: bool = False,
    ) -> Iterator[tuple[int, Decoded]]:
        """Yield ``(index, decoded)`` as answers are finished.

        Raises ``UsageError``, before anything is generated, for a prompt that leaves less than ``max_tokens`` of the
        context, and what the reward raises when it cannot work at all.
        """
        jobs = self._jobs(prompts, prefixes, sampling.max_tokens)
        for done in self._run(jobs, sampling, trace=trace):
            self.score([(job, self.text(job, job.written)) for job in done])
            for job in done:
                yield job.index, self._decoded(job, sampling)

    @abstractmethod
    def _run(self, jobs: Sequence[Job], sampling: Sampling, *, trace: bool) -> Iterator[list[Job]]:
        """Write the answers; yield those that are finished."""

    def score(self, asked: Sequence[tuple[Job, str]]) -> None:
        """Fill in ``worths`` for these texts: each distinct one is put to the rewards once, all in one batch."""
        fresh = list(
            {(job.index, text): (job, text) for job, text in asked if text not in job.worths}.values()
        )
        if not fresh:
            return
        items = [(job.prompt, job.prefix + text) for job, text in fresh]
        rewards = _scores(self._reward, items)
        others: Sequence[float | None] = [None] * len(items)
        if self._baseline_reward is not None:
            others = _scores(self._baseline_reward, items)
        for (job, text), *pair in zip(fresh, rewards, others, strict=True):
            job.worths[text] = Worth(*pair)

    def rollout(self, job: Job, ids: Sequence[int]) -> Rollout:
        """What an answer of these tokens, which was scored, is worth."""
        return Rollout(*job.worths[self.text(job, ids)])

    def text(self, job: Job, ids: Sequence[int]) -> str:
        """Text of an answer as it reads after its prefix: some tokenizers drop a leading blank."""
        kept = ids[:-1] if ids and ids[-1] in self.stop else ids
        both, before = self.base.text([*job.tail, *kept]), self.base.text(job.tail)
        return both[len(before) :] if both.startswith(before) else self.base.text(kept)

    def _jobs(self, prompts: Sequence[Prompt], prefixes: Sequence[str] | None, max_tokens: int) -> list[Job]:
        starts = list(prefixes) if prefixes is not None else [""] * len(prompts)
        if len(starts) != len(prompts):
            raise UsageError(
                f"generator {self._name}: {len(starts)} prefixes for {len(prompts)} prompts; expected one each"
            )
        seen: Counter[str] = Counter()
        jobs = []
        for index, (prompt, start) in enumerate(zip(prompts, starts, strict=True)):
            tail = self.base.encode(start)
            heads = [[*p.chat.prompt_ids(p.chat.render(prompt)), *tail] for p in self.policies]
            self._check_length(prompt, heads, max_tokens)
            jobs.append(Job(index, prompt, seen[prompt.id], start, heads, tail))
            seen[prompt.id] += 1
        return jobs

    def _check_length(self, prompt: Prompt, heads: Sequence[Sequence[int]], max_tokens: int) -> None:
        for policy, head in zip(self.policies, heads, strict=True):
            if not head:
                raise UsageError(f"prompt {prompt.id!r}: renders to no token; expected some text")
            limit = policy.chat.context
            if limit is not None and len(head) + max_tokens > limit:
                raise UsageError(
                    f"prompt {prompt.id!r}: {len(head)} tokens and max_tokens {max_tokens} exceed the context of "
                    f"{policy.name} ({limit}); shorten the prompt or lower max_tokens"
                )

    def _decoded(self, job: Job, sampling: Sampling) -> Decoded:
        text = self.text(job, job.written)
        said: list[Json] = [
            self._name,
            job.prompt.id,
            job.turn,
            job.prefix,
            sampling.model_dump(mode="json"),
            text,
        ]
        response = Response(
            id=content_hash(said),
            prompt_id=job.prompt.id,
            text=text,
            model=self._name,
            sampling=sampling,
            tokens=len(job.written),
            finished=job.written[-1] in self.stop,
        )
        read = sum(map(len, job.heads))
        spent = Spent(
            new_tokens=len(job.written),
            prompt_tokens=read,
            computed=job.computed,
            least=job.least,
            texts=len(job.worths),
            missing=sum(worth.reward is None for worth in job.worths.values()),
        )
        return Decoded(
            prompt=job.prompt,
            response=response,
            reward=job.worths[text].reward,
            kl=job.kl,
            decisions=job.decisions,
            blind=job.blind,
            trace=tuple(job.trace),
            spent=spent,
        )


def _scores(reward: RewardModel, items: Sequence[tuple[Prompt, str]]) -> list[float | None]:
    found: list[float | None] = [None] * len(items)
    for index, score in reward.score(items):
        found[index] = score if isinstance(score, float) else None
    return found
