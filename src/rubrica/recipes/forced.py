"""A local model that is interrupted while it writes; ``interrupt:FILE.yaml`` names it with its prompts' controls."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rubrica.core.fence import Stripper
from rubrica.core.pieces import Pieces, estimated
from rubrica.core.prompts import Prompt
from rubrica.core.records import Response, Sampling
from rubrica.methods.interruptions import Cursor, Interrupter, Plan, Schedule, choose, plan_for, step
from rubrica.models.decoding import Completion, Decoder, Pick
from rubrica.models.forced import Grown, decode_forced, slides
from rubrica.models.hf import HFGenerator, pick_for
from rubrica.models.pieces import Unfolding, token_pieces
from rubrica.recipes.context import Surroundings
from rubrica.recipes.interruptions import ContextGenerator, Fences, InterruptedModel, load_plan, model_of
from rubrica.recipes.models import load_chat_format, model_folder
from rubrica.recipes.options import ModelSource

_END_OF_SENTENCE = re.compile(r"(?:[.!?:;][\"')\]]*|\s)\Z")
_CODE = re.compile(r"^ {0,3}```", re.MULTILINE)


class Written(NamedTuple):
    """A control that was forced into an answer."""

    after: int
    """Tokens that the model had written by then."""
    region: str
    """``reasoning`` or ``output``."""
    control: str
    tokens: int


class ForcedGenerator(HFGenerator):
    """A local model that gets controls while it reasons and answers; they are no part of the text that it returns."""

    def __init__(
        self,
        model: Decoder | Path,
        tokenizer: PreTrainedTokenizerBase,
        plan: Plan,
        fences: Fences,
        *,
        dtype: str = "auto",
        batch_size: int = 32,
        name: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer, dtype=dtype, batch_size=batch_size, name=name)
        if slides(self._model.config):
            self._batch_size = 1
        self._plan, self._fences = plan, fences
        self._special = frozenset(tokenizer.all_special_ids)
        self._tags: dict[str, dict[str, str]] = {}
        self.log: dict[tuple[str, int], list[Written]] = {}
        """What was forced, by the prompt's id and how often one call had asked it before; the latest call counts."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, prefixes: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Response]]:
        """Yield ``(index, response)`` as the plain generator does."""
        self._tags = {prompt.id: prompt.tags for prompt in prompts}
        return super().generate(prompts, sampling, prefixes)

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[str | Written]:
        """Yield the visible text as it grows, and every control where it is forced."""
        self._tags = {prompt.id: prompt.tags}
        row, key = self._encode(self.render(prompt)), (prompt.id, 0)
        self._check_lengths([prompt], [row], [[]], sampling.max_tokens)
        unfolding = Unfolding(self._tokenizer, skip_special_tokens=True)
        stripper = Stripper(self._fences.of(prompt.id))
        told = 0
        for [grown] in self._steps([row], [key], pick_for([key], sampling), sampling.max_tokens):
            if text := stripper.feed(unfolding.push(grown.token)):
                yield text
            yield from self.log[key][told:]
            told = len(self.log[key])
        if rest := stripper.feed(unfolding.end()) + stripper.end():
            yield rest

    def _complete(
        self, rows: list[list[int]], keys: Sequence[tuple[str, int]], pick: Pick, max_tokens: int
    ) -> list[Completion]:
        ids: list[list[int]] = [[] for _ in rows]
        ended = [False] * len(rows)
        for grown in self._steps(rows, keys, pick, max_tokens):
            for one in grown:
                ids[one.row].append(one.token)
                ended[one.row] = one.ended
        return [Completion(own, end) for own, end in zip(ids, ended, strict=True)]

    def _steps(
        self, rows: list[list[int]], keys: Sequence[tuple[str, int]], pick: Pick, max_tokens: int
    ) -> Iterator[list[Grown]]:
        writers = []
        for row, key in zip(rows, keys, strict=True):
            self.log[key] = []
            writers.append(_Writer(self, self._plan, self._controls(key[0]), self._begun(row), self.log[key]))
        return decode_forced(
            self._model,
            rows,
            max_tokens=max_tokens,
            stop=self._stop,
            pick=pick,
            force=lambda row, token: writers[row].push(token),
        )

    def unfolding(self) -> Unfolding:
        """Return what shows a text with all of its tags."""
        return Unfolding(self._tokenizer, skip_special_tokens=False)

    def _controls(self, key: str) -> list[tuple[str, list[int]]]:
        plan = plan_for(self._plan, self._tags.get(key, {}))
        controls = Interrupter(plan, estimated, self._fences.of(key)).controls
        return [(text, self._encode(f"\n{self._control.disarm(text)}\n")) for text in controls]

    def _begun(self, row: list[int]) -> str:
        """What stands before the answer in its own turn: a tag of the template's, a prefix."""
        start = max((n for n, token in enumerate(row) if token in self._special), default=-1)
        return self._tokenizer.decode(
            row[start:] if start >= 0 else row, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def _check_lengths(
        self,
        prompts: Sequence[Prompt],
        heads: list[list[int]],
        tails: list[list[int]],
        max_tokens: int,
        controls: int = 0,
    ) -> None:
        periods = [s.every - s.jitter for s in (self._plan.reasoning, self._plan.output) if s is not None]
        if periods and prompts:
            longest = max(len(ids) for _, ids in self._controls(prompts[0].id))
            controls += max_tokens // min(periods) * (longest + 2)  # nonces differ by a token or two
        super()._check_lengths(prompts, heads, tails, max_tokens, controls)


class _Writer:
    """One answer as it grows: in which region it is, and what is forced next."""

    def __init__(
        self,
        model: ForcedGenerator,
        plan: Plan,
        controls: Sequence[tuple[str, list[int]]],
        begun: str,
        log: list[Written],
    ) -> None:
        self._tags, self._controls, self._log = plan.tags, controls, log
        self._schedules: dict[str, Schedule | None] = {"reasoning": plan.reasoning, "output": plan.output}
        self._region = "reasoning" if begun.rfind(plan.tags.open) > begun.rfind(plan.tags.close) else "output"
        self._unfolding = model.unfolding()
        self._text, self._from, self._count = "", 0, 0
        self._cursor = Cursor()

    def push(self, token: int) -> list[int]:
        """Take a sampled token; return the ids that follow it, mostly none."""
        self._text += self._unfolding.push(token)
        self._count += 1
        self._turn()
        schedule = self._schedules[self._region]
        if schedule is None:
            return []
        self._cursor, reached = step(schedule, self._cursor, self._free())
        if not reached:
            return []
        number = choose(schedule, self._cursor.number - 1, len(self._controls))
        text, ids = self._controls[number]
        self._log.append(Written(self._count, self._region, text, len(ids)))
        return ids

    def _turn(self) -> None:
        """Follow the tags from one region to the other."""
        while True:
            tag = self._tags.close if self._region == "reasoning" else self._tags.open
            found = self._text.find(tag, self._from)
            if found < 0:
                return
            self._from = found + len(tag)
            self._region = "output" if self._region == "reasoning" else "reasoning"

    def _free(self) -> bool:
        """Whether nothing is split here; what comes next is not known yet, so only an end of a sentence is certain."""
        return bool(_END_OF_SENTENCE.search(self._text[-8:])) and len(_CODE.findall(self._text)) % 2 == 0


class InterruptedGenerator(ContextGenerator):
    """A local model whose prompts and answers are interrupted."""

    def __init__(self, inner: ForcedGenerator, plan: Plan, pieces: Pieces, fences: Fences) -> None:
        super().__init__(inner, plan, pieces, fences)
        self.writer = inner
        """The model, as it is asked with augmented prompts."""

    def stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[str | Written]:
        """Yield the visible text as it grows, and every control where it is forced."""
        return self.writer.stream(self.augment(prompt), sampling)


def open_interrupted(
    path: str | Path, surroundings: Surroundings, *, batch_size: int = 32
) -> InterruptedGenerator:
    """Load the model that a file of interruptions names; ``UsageError`` where it names none."""
    source = model_of(path)
    folder = model_folder(source, surroundings)
    return interrupted_folder(folder, load_plan(path), source, batch_size=batch_size)


def interrupted_folder(
    folder: Path, plan: InterruptedModel, source: ModelSource, *, batch_size: int = 32
) -> InterruptedGenerator:
    """Load a model from ``folder`` with interruptions."""
    tokenizer = load_chat_format(folder, source.chat_template).tokenizer
    fitted, fences = fitting(plan, tokenizer), Fences(plan)
    inner = ForcedGenerator(folder, tokenizer, fitted, fences, dtype=source.dtype, batch_size=batch_size)
    return InterruptedGenerator(inner, fitted, token_pieces(tokenizer), fences)


def fitting(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> Plan:
    """Return the plan as the chat template can show it: inline where it has no turns of the system in the middle."""
    turns, note_in = plan.turns, plan.note_in
    if turns != "inline" and not _shows(tokenizer, ("user", "assistant", turns, "user")):
        turns = "system" if turns == "developer" and _shows(tokenizer, _MIDDLE) else "inline"
    if note_in == "system" and not _shows(tokenizer, ("system", "user")):
        note_in = "user"
    return plan.model_copy(update={"turns": turns, "note_in": note_in})


_MIDDLE = ("user", "assistant", "system", "user")


def _shows(tokenizer: PreTrainedTokenizerBase, roles: Sequence[str]) -> bool:
    """Whether the chat template takes turns of these roles and shows them all."""
    turns = [{"role": role, "content": f"turn{number}of"} for number, role in enumerate(roles)]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError):
        return False
    places = [text.find(turn["content"]) for turn in turns]
    return places[0] >= 0 and places == sorted(set(places))
