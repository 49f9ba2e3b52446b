"""Stage 2's examples: draft, scorecard, reflection, revision, each kept in the store as soon as it exists.

Every item is looked up before it is made, so a killed stage redoes nothing. The steps themselves are
:mod:`rubrica.methods.qa_lign`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from rubrica.core.attempt import Tags, parse, render
from rubrica.core.base import Record
from rubrica.core.errors import JudgeError, ModelError, UsageError
from rubrica.core.instance import program_for
from rubrica.core.ports import Completer, Generator, Judge
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import Query, Response, Sampling, Scorecard, ThinkExample
from rubrica.core.store import Store
from rubrica.judges.executor import Executor
from rubrica.judges.keys import card_id
from rubrica.judges.template import fence_marker, quote, transcript
from rubrica.methods.qa_lign import (
    NO_TOTAL,
    NOTHING_TO_MEND,
    Weakness,
    drop_reason,
    find_weakness,
    is_weak,
    reflection_problem,
    reflection_request,
    revision_prefix,
)
from rubrica.recipes.reference import ask_reference
from rubrica.recipes.sampling import stored_texts
from rubrica.recipes.stages.think_sft import ThinkSft

REFLECTION_TOKENS = 120
CUT_OFF = "{} was cut off"
"""Why a row is dropped whose draft or revision ran into its ``max_tokens``."""
TRIES = 3
"""Times that a model is asked for one reflection."""
LOST_CALLS = 5
"""Calls of the writer that may not fail in a row."""
Reflect = Callable[[Prompt, str, Weakness], str]
"""(prompt, draft, weakness) -> reflection; raises :class:`NoReflection` with the reason where there is none."""
Report = Callable[[str, int, int], None]


class NoReflection(Exception):
    """No reflection could be had; the message says why, and becomes the row's reason to be dropped."""


class CallLost(NoReflection):
    """The writer did not answer: not a fact about the draft, so it is not kept."""


class Written(Record):
    """A reflection in the store."""

    text: str
    problem: str = ""
    """Why there is none."""


_NOTHING = Written(text=NOTHING_TO_MEND)


@dataclass
class _Row:
    """One prompt on its way to an example."""

    prompt: Prompt
    draft: Response
    card: Scorecard
    weakness: Weakness | None
    reflection: Written = _NOTHING
    revision: Response | None = None
    revision_card: Scorecard | None = None
    confirmed: bool | None = None
    cured: bool | None = None


@dataclass
class ExampleBuilder:
    """Builds the examples of one think-SFT stage."""

    stage: str
    config: ThinkSft
    tags: Tags
    program: Program
    store: Store
    executor: Executor
    judge: Judge
    policy: Generator
    teacher: Generator | None
    reflect: Reflect
    reference: Judge | None = None
    report: Report = field(default=lambda label, done, total: None)

    def build(self, prompts: Sequence[Prompt]) -> list[ThinkExample]:
        """Return one example for each prompt, kept or with the reason why it was dropped."""
        drafts = self._texts("draft", self.policy, prompts, self.config.draft)
        cards = self.executor.score([(p, drafts[p.id].text) for p in prompts], full=True)
        rows = [
            _Row(prompt, drafts[prompt.id], card, find_weakness(card, self._asked(prompt)))
            for prompt, card in zip(prompts, cards, strict=True)
        ]
        self._reflect(rows)
        revised = [row for row in rows if row.weakness is not None and row.reflection.text]
        self._revise(revised)
        if self.reference is not None:
            self._check(revised, self.reference)
        examples = [self._example(row) for row in rows]
        with self.store.batch():
            for example in examples:
                self.store.put("think-example", example.id, example, stage=self.stage)
        return examples

    def _asked(self, prompt: Prompt) -> Program:
        """The program with the prompt's own questions, except where phrases for them would be needed."""
        return self.program if self.config.reflection == "template" else program_for(self.program, prompt)

    def _texts(
        self,
        kind: str,
        generator: Generator,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        prefixes: Sequence[str] | None = None,
    ) -> dict[str, Response]:
        report = partial(self.report, f"think-sft: {kind}s")
        return stored_texts(self.store, self.stage, kind, generator, prompts, sampling, prefixes, report)

    def _reflect(self, rows: Sequence[_Row]) -> None:
        """Write a reflection on every weak draft; one on a clean draft costs nothing, so it is not kept."""
        lost = 0
        for done, row in enumerate(rows, 1):
            if row.weakness is None:
                continue
            known = self.store.get("reflection", row.prompt.id, Written, stage=self.stage)
            try:
                row.reflection = known or Written(text=self.reflect(row.prompt, row.draft.text, row.weakness))
                lost = 0
            except CallLost as error:
                lost += 1
                if lost == LOST_CALLS:
                    raise JudgeError(
                        f"reflections: {lost} calls in a row failed, the last: {error}; mend the judge, then --resume"
                    ) from None
                row.reflection = Written(text="", problem=str(error))
                continue
            except NoReflection as error:
                row.reflection = Written(text="", problem=str(error))
            if known is None:
                self.store.put("reflection", row.prompt.id, row.reflection, stage=self.stage)
            self.report("think-sft: reflections", done, len(rows))

    def _revise(self, rows: Sequence[_Row]) -> None:
        """The teacher answers the prompt afresh; without one the policy continues draft and reflection."""
        prompts, prefixes = [row.prompt for row in rows], None
        if self.teacher is None:
            prefixes = [revision_prefix(row.draft.text, row.reflection.text, self.tags) for row in rows]
        writer = self.teacher or self.policy
        found = self._texts("revision", writer, prompts, self.config.revision, prefixes)
        cards = self.executor.score([(p, found[p.id].text) for p in prompts], full=True)
        for row, card in zip(rows, cards, strict=True):
            row.revision, row.revision_card = found[row.prompt.id], card

    def _check(self, rows: Sequence[_Row], reference: Judge) -> None:
        """Ask the reference judge whether the drafts have their weakness, and whether the revisions still do."""
        queries: list[Query] = []
        for row in rows:
            assert row.weakness is not None and row.revision is not None
            queries += [
                Query(prompt=row.prompt, text=text, question=row.weakness.question)
                for text in (row.draft.text, row.revision.text)
            ]
        verdicts = ask_reference(reference, self.store, queries)
        weak = [None if v is None else is_weak(q.question, v) for q, v in zip(queries, verdicts, strict=True)]
        for row, before, after in zip(rows, weak[::2], weak[1::2], strict=True):
            row.confirmed, row.cured = before, None if after is None else not after

    def _example(self, row: _Row) -> ThinkExample:
        kept = row.draft.text if row.reflection.text else ""
        revision = row.revision.text if row.revision is not None else kept
        return ThinkExample(
            id=row.prompt.id,
            prompt_id=row.prompt.id,
            draft=row.draft,
            draft_card=self._card_id(row.prompt, row.draft.text),
            weakness=None if row.weakness is None else row.weakness.question.id,
            reflection=row.reflection.text,
            confirmed=row.confirmed,
            revision=revision,
            revision_card=None if row.revision is None else self._card_id(row.prompt, revision),
            cured=row.cured,
            dropped=self._why_dropped(row)
            or self._unparseable(row.draft.text, row.reflection.text, revision),
        )

    def _why_dropped(self, row: _Row) -> str | None:
        """A clean draft is its own revision; a weak one without a reflection is dropped."""
        if row.revision is not None and row.revision_card is not None:
            reason = drop_reason(row.card, row.revision_card, self.program)
            return reason or (None if row.revision.finished else CUT_OFF.format("revision"))
        if row.card.total is None:
            return NO_TOTAL
        if not row.reflection.text:
            return f"no reflection: {row.reflection.problem}"
        if not self.config.keep_clean:
            return "draft has no weakness"
        return None if row.draft.finished else CUT_OFF.format("draft")

    def _unparseable(self, draft: str, reflection: str, revision: str) -> str | None:
        attempt = parse(render(draft, reflection, revision, self.tags), self.tags, finished=True)
        return None if attempt.malformed is None else f"does not parse: {attempt.malformed}"

    def _card_id(self, prompt: Prompt, text: str) -> str:
        return card_id(prompt, text, self.program, self.judge.fingerprint)


def written_by(completer: Completer, secret: str, titles: Sequence[str], tags: Tags) -> Reflect:
    """Return a writer of reflections that asks a model, and asks again, saying why, when it breaks the rules."""
    marker = fence_marker(secret)

    def reflect(prompt: Prompt, draft: str, weakness: Weakness) -> str:
        request = reflection_request(weakness, transcript(prompt, marker), quote(draft, marker), marker)
        problem = ""
        for _ in range(TRIES):
            asked = f"{request}\n\nYour last try {problem}. Write it anew." if problem else request
            try:
                text = completer.complete(asked, REFLECTION_TOKENS).strip()
            except (JudgeError, ModelError) as error:
                raise CallLost(str(error)) from None
            except UsageError as error:  # the draft does not fit the writer's context
                raise NoReflection(str(error)) from None
            found = reflection_problem(text, titles, tags)
            if found is None:
                return text
            problem = found
        raise NoReflection(f"the writer's text {problem}")

    return reflect


def build_summary(examples: Sequence[ThinkExample]) -> dict[str, object]:
    """Return counts of kept and dropped rows, and the shares that the reference judge confirmed and saw cured."""
    dropped = Counter(example.dropped for example in examples if example.dropped is not None)
    confirmed = [e.confirmed for e in examples if e.confirmed is not None]
    cured = [e.cured for e in examples if e.cured is not None]
    return {
        "examples": len(examples),
        "kept": sum(example.dropped is None for example in examples),
        "clean": sum(example.weakness is None and example.dropped is None for example in examples),
        "dropped": dict(sorted(dropped.items())),
        "weaknesses": dict(sorted(Counter(e.weakness for e in examples if e.weakness).items())),
        "confirmed": sum(confirmed) / len(confirmed) if confirmed else None,
        "confirmed_of": len(confirmed),
        "cured": sum(cured) / len(cured) if cured else None,
        "cured_of": len(cured),
    }
