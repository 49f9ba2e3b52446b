"""Stage 2's examples: draft, scorecard, reflection, revision, each kept in the store as soon as it exists.

Every item is looked up before it is made, so a killed stage redoes nothing. The steps themselves are
:mod:`rubrica.methods.qa_lign`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rubrica.core.attempt import Tags, parse, render
from rubrica.core.errors import JudgeError, ModelError
from rubrica.core.ports import Completer, Generator, Judge
from rubrica.core.records import (
    Program,
    Prompt,
    Query,
    Question,
    Record,
    Response,
    Sampling,
    Scorecard,
    ThinkExample,
)
from rubrica.core.store import Store
from rubrica.judges.executor import Executor, card_id, text_hash, verdict_key
from rubrica.judges.template import fence_marker, quote
from rubrica.methods.qa_lign import (
    NOTHING_TO_MEND,
    Weakness,
    drop_reason,
    find_weakness,
    is_weak,
    reflection_problem,
    reflection_request,
    revision_prefix,
)
from rubrica.program.program import question_hash
from rubrica.recipes.config import ThinkSft

CHUNK = 64
"""Prompts generated between two commits."""
REFLECTION_TOKENS = 120
TRIES = 3
"""Times that a model is asked for one reflection."""
LOST_CALLS = 5
"""Calls of the writer that may not fail in a row."""
Reflect = Callable[[Prompt, str, Weakness | None], str]
"""(prompt, draft, weakness or None) -> reflection; an empty one with a reason is a :class:`NoReflection`."""
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
        judged = [(p, drafts[p.id].text) for p in prompts]
        draft_cards = dict(zip((p.id for p in prompts), self.executor.score(judged, full=True), strict=True))
        weak = {p.id: find_weakness(draft_cards[p.id], self.program) for p in prompts}
        reflections = self._reflections(prompts, drafts, weak)
        revised = [p for p in prompts if weak[p.id] is not None and reflections[p.id].text]
        revisions = self._revisions(revised, drafts, reflections)
        scored = self.executor.score([(p, revisions[p.id].text) for p in revised], full=True)
        revision_cards = dict(zip((p.id for p in revised), scored, strict=True))
        checks = self._checks(
            [
                (p, w.question, text)
                for p in revised
                if (w := weak[p.id]) is not None
                for text in (drafts[p.id].text, revisions[p.id].text)
            ]
        )
        examples: list[ThinkExample] = []
        for prompt in prompts:
            draft, card = drafts[prompt.id], draft_cards[prompt.id]
            weakness, reflection = weak[prompt.id], reflections[prompt.id]
            if prompt.id in revisions and weakness is not None:
                revision, revision_card = revisions[prompt.id], revision_cards[prompt.id]
                example = self._example(
                    prompt, draft, card, weakness, reflection.text, revision, revision_card
                )
                confirmed = checks.get(self._check_key(prompt, weakness, draft.text))
                still = checks.get(self._check_key(prompt, weakness, revision.text))
                cured = None if still is None else not still
                example = example.model_copy(update={"confirmed": confirmed, "cured": cured})
            else:
                example = self._without_revision(prompt, draft, card, reflection)
            examples.append(example)
        with self.store.batch():
            for example in examples:
                self.store.put("think-example", example.id, example, stage=self.stage)
        return examples

    # --- texts ---

    def _texts(
        self,
        kind: str,
        generator: Generator,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        prefixes: Sequence[str] | None = None,
    ) -> dict[str, Response]:
        """Return one response for each prompt id, generating those that the store does not hold."""
        found: dict[str, Response] = {}
        for prompt in prompts:
            if (known := self.store.get(kind, prompt.id, Response, stage=self.stage)) is not None:
                found[prompt.id] = known
        missing = [i for i, prompt in enumerate(prompts) if prompt.id not in found]
        label = f"think-sft: {kind}s"
        self.report(label, len(found), len(prompts))
        for start in range(0, len(missing), CHUNK):
            part = missing[start : start + CHUNK]
            asked = [prompts[i] for i in part]
            continued = None if prefixes is None else [prefixes[i] for i in part]
            with self.store.batch():
                for index, response in generator.generate(asked, sampling, continued):
                    found[asked[index].id] = response
                    self.store.put(kind, asked[index].id, response, stage=self.stage)
            self.report(label, len(found), len(prompts))
        return found

    def _revisions(
        self, prompts: Sequence[Prompt], drafts: dict[str, Response], reflections: dict[str, Written]
    ) -> dict[str, Response]:
        """The teacher answers the prompt afresh; without one the policy continues draft and reflection."""
        if self.teacher is not None:
            return self._texts("revision", self.teacher, prompts, self.config.revision)
        prefixes = [revision_prefix(drafts[p.id].text, reflections[p.id].text, self.tags) for p in prompts]
        return self._texts("revision", self.policy, prompts, self.config.revision, prefixes)

    def _reflections(
        self, prompts: Sequence[Prompt], drafts: dict[str, Response], weak: dict[str, Weakness | None]
    ) -> dict[str, Written]:
        found: dict[str, Written] = {}
        lost = 0
        for done, prompt in enumerate(prompts, 1):
            written = self.store.get("reflection", prompt.id, Written, stage=self.stage)
            if written is None:
                try:
                    written = Written(text=self.reflect(prompt, drafts[prompt.id].text, weak[prompt.id]))
                    lost = 0
                except CallLost as error:
                    lost += 1
                    if lost == LOST_CALLS:
                        raise JudgeError(
                            f"reflections: {lost} calls in a row failed, the last: {error}; mend the judge, then "
                            "--resume"
                        ) from None
                    found[prompt.id] = Written(text="", problem=str(error))
                    continue
                except NoReflection as error:
                    written = Written(text="", problem=str(error))
                self.store.put("reflection", prompt.id, written, stage=self.stage)
            found[prompt.id] = written
            self.report("think-sft: reflections", done, len(prompts))
        return found

    # --- checks ---

    def _check_key(self, prompt: Prompt, weakness: Weakness, text: str) -> str:
        judge = self.reference.fingerprint if self.reference is not None else ""
        return verdict_key(judge, question_hash(weakness.question), text_hash(prompt, text))

    def _checks(self, items: Sequence[tuple[Prompt, Question, str]]) -> dict[str, bool | None]:
        """Ask the reference judge, where there is one: verdict key -> whether the text has the weakness."""
        if self.reference is None:
            return {}
        queries: dict[str, Query] = {}
        for prompt, question, text in items:
            key = verdict_key(self.reference.fingerprint, question_hash(question), text_hash(prompt, text))
            queries[key] = Query(prompt=prompt, text=text, question=question)
        known = self.store.verdicts(list(queries))
        missing = [key for key in queries if key not in known]
        with self.store.batch():
            for index, verdict in self.reference.answer([queries[key] for key in missing]):
                self.store.put_verdict(missing[index], verdict)
                known[missing[index]] = verdict
        return {
            key: None if verdict.label is None else is_weak(queries[key].question, verdict)
            for key, verdict in known.items()
        }

    # --- rows ---

    def _example(
        self,
        prompt: Prompt,
        draft: Response,
        card: Scorecard,
        weakness: Weakness,
        reflection: str,
        revision: Response,
        revision_card: Scorecard,
    ) -> ThinkExample:
        dropped = drop_reason(card, revision_card, self.program)
        if dropped is None and not revision.finished:
            dropped = "revision was cut off"
        return ThinkExample(
            id=prompt.id,
            prompt_id=prompt.id,
            draft=draft,
            draft_card=self._card_id(prompt, draft.text),
            weakness=weakness.question.id,
            reflection=reflection,
            revision=revision.text,
            revision_card=self._card_id(prompt, revision.text),
            dropped=dropped or self._unparseable(draft.text, reflection, revision.text),
        )

    def _without_revision(
        self, prompt: Prompt, draft: Response, card: Scorecard, reflection: Written
    ) -> ThinkExample:
        """A clean draft is its own revision; a weak one without a reflection is dropped."""
        dropped: str | None = None
        if card.total is None:
            dropped = "no total: the judge left questions unanswered"
        elif not reflection.text:
            dropped = f"no reflection: {reflection.problem}"
        elif not self.config.keep_clean:
            dropped = "draft has no weakness"
        elif not draft.finished:
            dropped = "draft was cut off"
        return ThinkExample(
            id=prompt.id,
            prompt_id=prompt.id,
            draft=draft,
            draft_card=self._card_id(prompt, draft.text),
            weakness=None,
            reflection=reflection.text,
            revision=draft.text if reflection.text else "",
            dropped=dropped or self._unparseable(draft.text, reflection.text, draft.text),
        )

    def _unparseable(self, draft: str, reflection: str, revision: str) -> str | None:
        attempt = parse(render(draft, reflection, revision, self.tags), self.tags, finished=True)
        return None if attempt.malformed is None else f"does not parse: {attempt.malformed}"

    def _card_id(self, prompt: Prompt, text: str) -> str:
        return card_id(prompt, text, self.program, self.judge.fingerprint)


def written_by(completer: Completer, secret: str, titles: Sequence[str], tags: Tags) -> Reflect:
    """Return a writer of reflections that asks a model, and asks again, saying why, when it breaks the rules."""
    marker = fence_marker(secret)

    def reflect(prompt: Prompt, draft: str, weakness: Weakness | None) -> str:
        if weakness is None:
            return NOTHING_TO_MEND
        conversation = "\n".join(f"{m.role}: {m.content}" for m in prompt.messages)
        request = reflection_request(weakness, quote(conversation, marker), quote(draft, marker), marker)
        problem = ""
        for _ in range(TRIES):
            asked = f"{request}\n\nYour last try {problem}. Write it anew." if problem else request
            try:
                text = completer.complete(asked, REFLECTION_TOKENS).strip()
            except (JudgeError, ModelError) as error:
                raise CallLost(str(error)) from None
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
