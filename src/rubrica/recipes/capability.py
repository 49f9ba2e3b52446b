"""Right answers to questions that have one: what a model writes is matched, or its choice among texts is read off.

Questions with choices are answered by the likelihood of each choice, others in writing. What was computed is in the
store; a run that is started again computes the rest.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from pydantic import Field, FiniteFloat

from rubrica.core.attempt import Tags, parse
from rubrica.core.base import Record
from rubrica.core.config import Config, Json, content_hash
from rubrica.core.errors import ModelError, UsageError
from rubrica.core.evaluation import Item, ItemResult, Metric, Standing
from rubrica.core.ports import Generator
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Response, Sampling
from rubrica.core.store import Store
from rubrica.evals.choices import accuracies, right_share
from rubrica.evals.forms import (
    Count,
    Form,
    chat_messages,
    form_of,
    plain_context,
    scored_choices,
    worked_examples,
)
from rubrica.evals.numerals import cut, flexible_number, matches, normal, strict_number
from rubrica.recipes.answering import Answer, Answering, answer_of, chunks
from rubrica.recipes.continuations import ContinuationScorer, Continued

CHOICE_COUNTS = ("acc", "acc_norm", "acc_bytes", "mc2")
WRITTEN_COUNTS = ("strict_match", "flexible_extract", "exact_match")
_STAGE = "capability"
_Score = Callable[[Sequence[Item]], Iterator[ItemResult]]


class Asking(Config):
    """How capability questions are asked."""

    shots: int | None = Field(default=None, ge=0, le=64)
    """Worked examples before each question; None: as many as the suite's form has."""
    seed: int = 0
    """Draws the examples."""
    chat: bool = False
    """Ask through the model's chat template, instead of having it continue plain text."""
    multiturn: bool = False
    """Under the chat template: each example as a turn of its own."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest written answer; None: the form's."""
    value: Count | None = None
    """Which count is an item's value; None: the form's."""
    tags: Tags | None = None
    """Tags of a model that drafts, reflects and revises: its revision is matched, and its draft beside it."""


class Likelihoods(Record):
    """What the store keeps of a question with choices."""

    logprobs: tuple[FiniteFloat, ...]
    """Of each choice, summed over its tokens, in nats."""
    tokens: tuple[int, ...]


class Questions(NamedTuple):
    """Items of one suite and how they are put."""

    form: Form
    asking: Asking
    examples: Sequence[Item]
    choices: bool
    """Whether the likelihood of choices decides, or a written answer."""

    @property
    def line(self) -> str:
        """How the questions are put, in a line."""
        chat, turns = self.asking.chat, self.asking.multiturn
        how = ("turns of a chat" if turns else "one turn of a chat") if chat else "text to continue"
        drawn = f", drawn with seed {self.asking.seed}" if self.examples else ""
        return f"{len(self.examples)} worked examples{drawn}; put as {how}; value {self.form.value}"

    def messages(self, item: Item) -> tuple[Message, ...]:
        """Turns of a chat."""
        return chat_messages(self.form, self.examples, item, multiturn=self.asking.multiturn)

    def plain(self, item: Item) -> str:
        """The text that is continued."""
        return plain_context(self.form, self.examples, item)


def score_items(
    items: Sequence[Item],
    questions: Questions,
    model: ContinuationScorer | Generator,
    store: Store,
    *,
    seed: int = 0,
    report: Callable[[int], None] = lambda new: None,
) -> Iterator[ItemResult]:
    """Yield a result for each item of one suite, in order; ``report`` gets how many more are done.

    ``seed`` is the model's own, for the results. What does not fit the context has no value. ``UsageError`` for choices
    asked of a model that only writes; ``ModelError`` for a model that cannot work.
    """
    score = _chooser(questions, model, store) if questions.choices else _writer(questions, model, store)
    for chunk in chunks(items):
        for result in score(chunk):
            yield result.model_copy(update={"seed": seed})
        report(len(chunk))


def questions_of(
    items: Sequence[Item], asking: Asking, examples: Callable[[], Sequence[Item]] = tuple
) -> Questions:
    """Return how the items of one suite are put, with the worked examples drawn.

    ``examples`` reads items to draw them from, where any are asked for. ``UsageError`` for no item, items of two suites,
    a count that their answers do not have, and too few examples.
    """
    if len({item.suite for item in items}) != 1:
        raise UsageError(
            f"capability: items of {len({item.suite for item in items})} suites; expected those of one"
        )
    given = {"max_tokens": asking.max_tokens, "value": asking.value}
    form = form_of(items[0])
    form = form.model_copy(update={key: value for key, value in given.items() if value is not None})
    known = CHOICE_COUNTS if items[0].choices else WRITTEN_COUNTS
    if form.value not in known:
        raise UsageError(
            f"{items[0].suite}: no count {form.value!r} here; expected one of {', '.join(known)}"
        )
    shots = form.shots if asking.shots is None else asking.shots
    drawn = worked_examples(examples(), items, shots, asking.seed) if shots else []
    return Questions(form, asking, drawn, bool(items[0].choices))


# --- choices ------------------------------------------------------------------------------------


def _chooser(questions: Questions, model: ContinuationScorer | Generator, store: Store) -> _Score:
    if not isinstance(model, ContinuationScorer):
        raise UsageError(
            f"{model.name}: a question with choices needs the likelihood of each, which a server does not tell; name "
            "a local model"
        )
    scorer = model

    def score(items: Sequence[Item]) -> Iterator[ItemResult]:
        asked = [continued(questions, item, scorer) for item in items]
        for item, found in zip(items, stored_likelihoods(asked, scorer, store), strict=True):
            yield choice_result(questions.form, item, found)

    return score


def continued(questions: Questions, item: Item, model: ContinuationScorer) -> Continued:
    """Return the rendered question and its choices; as in the harness no blank stands before them in a chat."""
    choices = scored_choices(questions.form, item)
    if questions.asking.chat:
        return Continued(model.rendered(questions.messages(item)), choices, chat=True)
    return Continued(
        model.plain(questions.plain(item)), tuple(f" {choice}" for choice in choices), chat=False
    )


def stored_likelihoods(
    asked: Sequence[Continued], model: ContinuationScorer, store: Store
) -> list[Likelihoods | ModelError]:
    """Return what the store holds and compute the rest; an error for what does not fit the model's context."""
    keys = [
        content_hash([model.fingerprint, *each[:1], list(each.continuations), *each[2:]]) for each in asked
    ]
    found: dict[str, Likelihoods | ModelError] = {
        key: known for key in keys if (known := store.get("likelihoods", key, Likelihoods, stage=_STAGE))
    }
    missing = {key: each for key, each in zip(keys, asked, strict=True) if key not in found}
    order = list(missing)
    with store.batch():
        for index, scores in model.score(list(missing.values())):
            if isinstance(scores, ModelError):
                found[order[index]] = scores
                continue
            record = found[order[index]] = Likelihoods(logprobs=scores.logprobs, tokens=scores.tokens)
            store.put("likelihoods", order[index], record, stage=_STAGE)
    return [found[key] for key in keys]


def choice_result(form: Form, item: Item, found: Likelihoods | ModelError) -> ItemResult:
    """Return what the likelihoods of an item's choices count."""
    if isinstance(found, ModelError):
        return _result(item, Standing.UNANSWERED, reason=str(found))
    counts = accuracies(found.logprobs, scored_choices(form, item), item.correct)
    if form.value == "mc2" or len(item.correct) > 1:
        counts["mc2"] = right_share(found.logprobs, item.correct)
    return _result(item, Standing.JUDGED, value=counts[form.value], counts=counts)


# --- written answers ----------------------------------------------------------------------------


def _writer(questions: Questions, model: ContinuationScorer | Generator, store: Store) -> _Score:
    chat = questions.asking.chat or not isinstance(model, ContinuationScorer)
    identity = model.fingerprint if isinstance(model, ContinuationScorer) else model.name
    sampling = Sampling(temperature=0, max_tokens=questions.form.max_tokens)

    @cache
    def generator() -> Generator:
        return model.generator(chat=chat) if isinstance(model, ContinuationScorer) else model

    def asked(item: Item) -> Item:
        text = questions.plain(item)
        messages = questions.messages(item) if chat else (Message(role="user", content=text),)
        told: list[Json] = [f"{message.role}: {message.content}" for message in messages]
        prompt = Prompt(id=content_hash([identity, chat, sampling.max_tokens, told]), messages=messages)
        return item.model_copy(update={"id": prompt.id, "prompt": prompt})

    def score(items: Sequence[Item]) -> Iterator[ItemResult]:
        put = [asked(item) for item in items]
        Answering(generator, store, _STAGE, sampling).ask(put)
        for item, each in zip(items, put, strict=True):
            yield written_result(questions, item, answer_of(store, _STAGE, each))

    return score


def written_result(questions: Questions, item: Item, response: Answer | None) -> ItemResult:
    """Return what an answer counts; of a model that revises, the revision, and the draft beside it."""
    if not isinstance(response, Response):
        return _result(item, Standing.UNANSWERED, reason=response.reason if response else "")
    form, tags = questions.form, questions.asking.tags
    if tags is None:
        counts = written_counts(form, item, response.text)
        return _result(item, Standing.JUDGED, value=counts[form.value], counts=counts, tokens=response.tokens)
    attempt = parse(response.text, tags, finished=response.finished)
    draft = written_counts(form, item, attempt.draft)[form.value] if attempt.draft else None
    if attempt.malformed is not None:
        return _result(
            item, Standing.NO_REVISION, reason=str(attempt.malformed), draft=draft, tokens=response.tokens
        )
    counts = written_counts(form, item, attempt.revision)
    return _result(
        item,
        Standing.JUDGED,
        value=counts[form.value],
        counts=counts,
        draft=draft,
        tokens=response.tokens,
    )


def written_counts(form: Form, item: Item, text: str) -> dict[str, float]:
    """Return 1 or 0 for each way to match an answer."""
    answer = cut(text, form.stops)
    return {
        "strict_match": float(matches(strict_number(answer), item.answer)),
        "flexible_extract": float(matches(flexible_number(answer), item.answer)),
        "exact_match": float(normal(answer.strip()) == normal(item.answer.strip())),
    }


def _result(
    item: Item,
    standing: Standing,
    *,
    reason: str = "",
    value: float | None = None,
    counts: dict[str, float] | None = None,
    draft: float | None = None,
    tokens: int = 0,
) -> ItemResult:
    return ItemResult(
        suite=item.suite,
        item=item.id,
        cluster=item.cluster,
        category=item.category,
        attack=item.attack,
        metric=Metric.ACCURACY,
        standing=standing,
        value=value,
        reason=reason,
        draft=draft,
        tokens=tokens,
        counts=counts or {},
    )
