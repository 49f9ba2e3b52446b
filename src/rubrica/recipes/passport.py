"""``rubrica judge check``: ask a judge the same in many ways, and write down how much its answers moved.

Rounds of queries are planned first, so that their number can be told before anything is asked; attacks are planned
from the answers, because only an answer that could be better can be attacked. Every verdict is in the store as it
arrives: a killed check goes on where it was.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import Field

from rubrica.core.config import Config, content_hash
from rubrica.core.data import Text
from rubrica.core.ports import Judge, wordings_of
from rubrica.core.programs import Program, Question, QuestionKind
from rubrica.core.records import Label, Query, Unmeasured, Verdict, Wording
from rubrica.core.run import versions
from rubrica.core.store import Store
from rubrica.judges import reliability
from rubrica.judges.asking import PATIENCE, Asker
from rubrica.judges.attacks import CONTROLS, Attack, apply, attacks, controls, ideal, replaces
from rubrica.judges.passport import Passport, template_id
from rubrica.judges.perturb import CHANGES_HASH, FRAMES, doublings, framed, padded
from rubrica.judges.reliability import Compared, Measure, Pair, Series, Trial, rank_of, value_of
from rubrica.judges.template import WORDINGS_HASH
from rubrica.program.program import program_hash, question_hash, questions
from rubrica.recipes.attack import FLOODED, fails
from rubrica.recipes.passport_input import Given, Labels

LENGTHS = (2, 4)
"""A text is shown at these multiples of its length."""
_WORDINGS = {
    Wording.OPTIONS_REVERSED: "order",
    Wording.REWORDED: "paraphrase-instruction",
    Wording.QUESTION_FIRST: "position",
}
_NOT_APPLICABLE = "not applicable: this judge puts a question in one way only"


class CheckOptions(Config):
    """How much is asked."""

    repeats: int = Field(default=2, ge=0, le=100)
    """How often each question of the sample is asked again."""
    sample: int = Field(default=40, ge=0)
    """Texts that stability and length are measured on; 0: none."""
    attack_pairs: int = Field(default=8, ge=0)
    """Answers that each attack is tried on; 0: none."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Draws the sample and the answers that are attacked."""


class Names(NamedTuple):
    """How judge and program were named, so that they can be found again."""

    judge: str
    program: str


class Variant(NamedTuple):
    """One query and what it is a variant of."""

    text: Text
    question: Question
    query: Query


class Round(NamedTuple):
    """Queries that are asked together. ``repeat`` tells an asking again from the first."""

    name: str
    variants: list[Variant]
    repeat: int = 0


class Answers(NamedTuple):
    """A round and its verdicts."""

    variants: list[Variant]
    verdicts: list[Verdict]


def plan(given: Given, program: Program, options: CheckOptions, judge: Judge) -> list[Round]:
    """Return all rounds but the attacks; the first asks everything once, as ``rubrica score`` does."""
    asked = [question for _, _, question in questions(program)]
    texts = random.Random(f"sample-{options.seed}").sample(given.texts, min(options.sample, len(given.texts)))
    sample = list(_plain(texts, asked))
    wordings = wordings_of(judge)
    rounds = [Round("base", list(_plain(given.texts, asked))), Round("own", list(_plain(given.own, asked)))]
    rounds += [Round("repeat", sample, number) for number in range(1, options.repeats + 1)]
    for wording, name in _WORDINGS.items():
        if wording in wordings:
            rounds.append(Round(name, [_changed(v, wording=wording) for v in sample]))
    for frame in FRAMES:
        changed = [_changed(v, question=framed(v.question, frame)) for v in sample]
        rounds.append(Round("paraphrase-question", changed))
    whole = [v for v in sample if v.text.text.strip()]
    for factor in LENGTHS:
        longer = {text.id: padded(text.text, factor) for text in texts}
        rounds.append(Round(f"length-{factor}", [_changed(v, text=longer[v.text.id]) for v in whole]))
    return [each for each in rounds if each.variants]


def calls_of(rounds: Iterable[tuple[str, int]], options: CheckOptions) -> dict[str, int]:
    """Number of queries by name of round, attacks as many as there can be."""
    found: dict[str, int] = {}
    for name, count in rounds:
        found[name] = found.get(name, 0) + count
    return found | {"attacks": len((*attacks(), *controls())) * options.attack_pairs}


def check_judge(
    judge: Judge,
    store: Store,
    given: Given,
    *,
    program: Program,
    options: CheckOptions,
    names: Names,
    progress: Callable[[int, int], None] | None = None,
) -> Passport:
    """Examine ``judge`` and return its passport. ``progress`` gets (done, at most) queries.

    ``JudgeError`` when the judge cannot work at all, or all of its first calls failed; what it answered is stored.
    """
    rounds = plan(given, program, options, judge)
    planned = calls_of([(each.name, len(each.variants)) for each in rounds], options)
    total, done = sum(planned.values()), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    asker = Asker(judge, store, progress=step)
    found: dict[str, list[Answers]] = {}
    for each in rounds:
        patience = PATIENCE if each.name == "base" else None
        verdicts = asker.ask([v.query for v in each.variants], repeat=each.repeat, patience=patience)
        found.setdefault(each.name, []).append(Answers(each.variants, verdicts))
    base = found["base"][0]
    measures = _stability(base, found)
    measures += [*_length(base, found, given.labels), *_labels(base, given.labels)]
    measures += reliability.silence([(v.text.id, v.question, verdict) for v, verdict in _rows(base)])
    compared, own = _compared(base, given.labels), _compared(_only(found, "own"), given.own_labels)
    measures.append(_self_preference(own, compared, given))
    measures += _attacks(asker, base, given.labels, program, options)
    asked = [question for _, _, question in questions(program)]
    return Passport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        judge=judge.fingerprint,
        spec=names.judge,
        template=template_id(),
        changes=changes_id(),
        program=names.program,
        program_hash=program_hash(program),
        questions={question.id: question_hash(question) for question in asked},
        texts=len(given.texts),
        texts_hash=given.texts_hash,
        labels=given.labels.source,
        labels_hash=given.labels_hash,
        own=given.own_labels.source,
        own_hash=given.own_hash,
        options=options.model_dump(),
        versions=versions(),
        measures=tuple(measures),
        confusion=reliability.confusion(compared),
        usage=asker.usage,
    )


def changes_id() -> str:
    """Hash of everything that a judge is shown otherwise than usual."""
    return content_hash(
        [WORDINGS_HASH, CHANGES_HASH, [attack.model_dump() for attack in (*attacks(), *controls())]]
    )


def _plain(texts: Iterable[Text], asked: Sequence[Question]) -> Iterator[Variant]:
    for text in texts:
        for question in asked:
            yield Variant(text, question, Query(prompt=text.prompt, text=text.text, question=question))


def _changed(variant: Variant, **update: object) -> Variant:
    return variant._replace(query=variant.query.model_copy(update=update))


def _rows(answers: Answers) -> Iterator[tuple[Variant, Verdict]]:
    return zip(answers.variants, answers.verdicts, strict=True)


def _only(found: dict[str, list[Answers]], name: str) -> Answers:
    return found[name][0] if name in found else Answers([], [])


def _stability(base: Answers, found: dict[str, list[Answers]]) -> list[Measure]:
    """Shares of equal answers to the first asking and to each way of asking otherwise."""
    first = {(v.text.id, v.question.id): verdict for v, verdict in _rows(base)}

    def pairs(*names: str) -> list[Pair]:
        return [
            Pair(v.text.id, v.question, first[v.text.id, v.question.id], verdict)
            for name in names
            for answers in found.get(name, ())
            for v, verdict in _rows(answers)
        ]

    measures: list[Measure] = []
    for name in ("repeat", *_WORDINGS.values(), "paraphrase-question"):
        if name in found:
            measures += reliability.stability(name, pairs(name))
        else:
            asked = name == "repeat" or "paraphrase-question" not in found
            measures.append(Unmeasured(name=name, reason="not asked for" if asked else _NOT_APPLICABLE))
    return measures + reliability.stability(
        "paraphrase", pairs("paraphrase-instruction", "paraphrase-question")
    )


def _length(base: Answers, found: dict[str, list[Answers]], labels: Labels) -> list[Measure]:
    """Slopes of the value over the text's length; less what the right label's value changes, where that is known."""
    points: dict[tuple[str, str], list[tuple[float, float | None]]] = {}
    shown = [base, *(_only(found, f"length-{factor}") for factor in LENGTHS)]
    for answers in shown:
        right = labels.of_changed([(v.text, v.question, v.query.text) for v in answers.variants])
        for (v, verdict), label in zip(_rows(answers), right, strict=True):
            value = value_of(v.question, verdict)
            if value is not None and label is not None:
                # a text to which the question does not apply has no right value to subtract
                value = None if label is Label.NA else value - rank_of(v.question, label)
            size = doublings(v.text.text, v.query.text) if v.text.text else 0.0
            points.setdefault((v.text.id, v.question.id), []).append((size, value))
    series = []
    for (text, question), each in points.items():
        values = [value for _, value in each if value is not None]
        if len(values) == len(each) == len(shown):
            series.append(Series(text, question, tuple(size for size, _ in each), tuple(values)))
    return reliability.length_slopes(series)


def _compared(answers: Answers, labels: Labels) -> list[Compared]:
    right = labels.of([(v.text, v.question) for v in answers.variants])
    return [
        Compared(v.text.id, v.question, verdict, label)
        for (v, verdict), label in zip(_rows(answers), right, strict=True)
        if label is not None
    ]


def _labels(base: Answers, labels: Labels) -> list[Measure]:
    if labels.reference is None and not labels.ratings:
        names = ("agreement", "kappa", "alpha", "sensitivity", "specificity", "na-escape")
        return [Unmeasured(name=name, reason="no labels were given (--labels)") for name in names]
    found = reliability.against_labels(_compared(base, labels))
    return found + (reliability.between_raters(labels.ratings) if labels.ratings else [])


def _self_preference(own: Sequence[Compared], others: Sequence[Compared], given: Given) -> Measure:
    if not given.own:
        reason = "no texts of the judge's own model were given (--own)"
        return Unmeasured(name="self-preference", reason=reason)
    return reliability.self_preference(own, others)


def _attacks(
    asker: Asker, base: Answers, labels: Labels, program: Program, options: CheckOptions
) -> list[Measure]:
    """Put every attack, and every harmless addition, to some answers that are bad and ought to stay so."""
    if not options.attack_pairs:
        return [Unmeasured(name="injection", reason="not asked for")]
    room = _room(base, labels)
    battery = [
        (attack, variant)
        for attack in (*attacks(), *controls())
        for variant in _drawn(attack, room, labels, program, options)
    ]
    hostile = [_hostile(attack, variant) for attack, variant in battery]
    verdicts = asker.ask([variant.query for variant in hostile])
    # how a text is spelled changes nothing of what it deserves, but what an oracle can read of it
    legible = [_hostile(attack.model_copy(update={"respell": None}), variant) for attack, variant in battery]
    right = labels.of_changed([(v.text, v.question, v.query.text) for v in legible])
    trials = [
        Trial(
            attack.family,
            v.text.id,
            None if verdict.label is None else verdict.label.value == ideal(v.question),
        )
        for (attack, v), verdict, label in zip(battery, verdicts, right, strict=True)
        if label is None or fails(v.question, label)
    ]
    harmless = [trial for trial in trials if trial.family == CONTROLS]
    return [
        *reliability.attack_rates("injection", [trial for trial in trials if trial.family != CONTROLS]),
        *reliability.attack_rates("injection-control", harmless, by_family=False),
    ]


def _hostile(attack: Attack, variant: Variant) -> Variant:
    return _changed(variant, text=apply(attack, variant.text.text, questions=(variant.question,)))


def _room(base: Answers, labels: Labels) -> list[Variant]:
    """Questions whose answer is bad, and, where the right label is known, rightly so."""
    right = labels.of([(v.text, v.question) for v in base.variants])
    return [
        variant
        for (variant, verdict), label in zip(_rows(base), right, strict=True)
        if fails(variant.question, verdict.label) and (label is None or fails(variant.question, label))
    ]


def _drawn(
    attack: Attack, room: list[Variant], labels: Labels, program: Program, options: CheckOptions
) -> list[Variant]:
    """The questions that one attack is tried on; a flood, which fills a context, on few.

    A text that is replaced by nothing does no harm, and rightly gets the better answer of a gate against harm. Where
    nobody can label the replaced text, it is therefore put to graded questions outside the capping principle alone.
    """
    if replaces(attack) and labels.reference is None:
        capped = {q.id for principle, _, q in questions(program) if principle.caps}
        room = [v for v in room if v.question.kind is QuestionKind.GRADED and v.question.id not in capped]
    most = min(options.attack_pairs, FLOODED) if attack.flood else options.attack_pairs
    return random.Random(f"{attack.id}-{options.seed}").sample(room, min(most, len(room)))
