"""What stored verdicts would have earned under another preset, pooling or program; no judge is asked, or even built.

Rewards of a run's rollouts, or totals of the texts of ``rubrica score``, are pooled again from the verdicts of their
scorecards and of the store. A text of which the other rule needs an answer that the first one spared has no value:
what is missing is counted, never guessed. How the order changes is :mod:`rubrica.recipes.ranking`'s.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from rubrica.core.base import Record
from rubrica.core.config import Config, apply_overrides, read_yaml, validate
from rubrica.core.errors import DataError, UsageError
from rubrica.core.instance import program_for
from rubrica.core.programs import Pooling, Program, Question
from rubrica.core.prompts import Prompt
from rubrica.core.records import Outcome, Rollout, Scorecard, Verdict, VetoThresholds
from rubrica.core.store import Store
from rubrica.judges.keys import VETO, text_hash, verdict_key
from rubrica.program.labels import verdicts_of
from rubrica.program.pooling import pool
from rubrica.program.program import program_hash, question_hash, questions
from rubrica.program.relevance import relevance_questions
from rubrica.program.reward import RewardConfig
from rubrica.program.valuation import Veto
from rubrica.recipes.ranking import Change, Item, Preferred, Ranking, change, prefer, rank
from rubrica.recipes.score import CARDS, PROGRAM, read_cards, read_scoring

if TYPE_CHECKING:
    from rubrica.reports.run_data import RunData


class Rule(Config):
    """All that stands between verdicts and a reward, but for the tree."""

    reward: RewardConfig = RewardConfig()
    """Preset and constants, as in a recipe."""
    pooling: Pooling = Pooling()
    """How answers become values, as in a program."""


class Missing(Record):
    """Values that do not exist."""

    before: int
    """Under the rule that was used."""
    after: int
    """Under the other rule."""
    unasked: int
    """Of those after, the ones for which only answers that were never asked for are missing: ``--full`` has them."""


@dataclass(frozen=True)
class Judged:
    """One text with its verdicts: what a scorecard of it can be pooled from."""

    prompt: Prompt
    text: str
    card: Scorecard


@dataclass(frozen=True)
class Row:
    """One thing that earns a value: a rollout with draft and revision, or a text alone."""

    id: str
    group: str
    """Rows of one group compete: same stage, step and prompt; of given texts, same prompt."""
    prompt: str
    value: float | None
    """Reward or total under the rule that was used."""
    texts: tuple[Judged, ...]
    """Draft and revision, or the text; none for a malformed rollout."""
    malformed: bool = False


@dataclass
class Source:
    """Stored verdicts, and the rule under which they were pooled."""

    path: Path
    program: Program
    rule: Rule
    rows: list[Row]
    pairs: bool
    """Rows alternate between the chosen and the rejected answer of a pair."""
    thresholds: Mapping[str, Mapping[str, float]]
    """Fitted veto thresholds by judge and question id, as they were used."""
    known: dict[str, Verdict] = field(default_factory=dict)
    """Verdicts of the store by key, for questions that no scorecard answers."""


def open_source(path: Path) -> Source:
    """Read a run (``rubrica align``) or a directory of ``rubrica score``; ``UsageError`` where there is neither."""
    if (path / "recipe.yaml").exists():
        return _run(path)
    if (path / CARDS).exists():
        return _scored(path)
    raise UsageError(
        f"{path}: neither a run (recipe.yaml) nor scorecards ({CARDS}); expected the --out of rubrica align or score"
    )


def other_rule(
    rule: Rule, preset: str | None, settings: Sequence[str], pooling: Pooling | None = None
) -> Rule:
    """Return ``rule`` with another preset, with ``pooling``, and with settings ``reward.KEY=V`` and ``pooling.KEY=V``.

    A preset other than the rule's brings its own constants. ``UsageError`` names a wrong setting.
    """
    data = rule.model_dump(mode="json")
    if preset is not None and preset != rule.reward.preset:
        data["reward"] = {"preset": preset}
    if pooling is not None:
        data["pooling"] = pooling.model_dump(mode="json")
    try:
        return validate(Rule, apply_overrides(data, settings), "rule")
    except DataError as error:
        raise UsageError(f"--reward, --set: {error.problem}") from None


class WhatIf(Record):
    """What another rule changes."""

    what: str
    """``rollouts`` (values are rewards) or ``texts`` (values are totals)."""
    before: str
    after: str
    rows: int
    missing: Missing
    comparable: int
    """Rows with a stored value."""
    reproduced: int
    """Of those, the ones whose value the first rule gives again from the stored verdicts."""
    change: Change | None
    ranking: Ranking
    preferred: Preferred | None
    """Only for preference pairs."""
    items: tuple[Item, ...] = Field(default=(), exclude=True)
    """Every row with both of its values; left out of the printed result."""


def compare(
    source: Source,
    program: Program | None,
    preset: str | None,
    settings: Sequence[str],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> WhatIf:
    """Value the rows of ``source`` under another program, preset and settings; ``UsageError`` for wrong ones.

    ``progress`` gets (rows done, rows): each row is valued twice, the first time under its own rule as a check.
    """
    other = program or source.program
    rule = other_rule(source.rule, preset, settings, None if program is None else program.pooling)
    look_up(source, other)
    count = len(source.rows)
    again, _ = revalue(source, source.program, source.rule, lambda done: progress(done, 2 * count))
    items, missing = revalue(source, other, rule, lambda done: progress(count + done, 2 * count))
    stored = [item for item in again if item.before is not None]
    return WhatIf(
        what="texts" if all(len(row.texts) == 1 for row in source.rows) else "rollouts",
        before=_said(source.program, source.rule),
        after=_said(other, rule),
        rows=len(items),
        missing=missing,
        comparable=len(stored),
        reproduced=sum(item.before == item.after for item in stored),
        change=change(items),
        ranking=rank(items),
        preferred=prefer(items) if source.pairs else None,
        items=tuple(items),
    )


def _said(program: Program, rule: Rule) -> str:
    """A rule in one line: the preset with its constants, and what differs from the default pooling."""
    alpha, beta = rule.reward.weights
    pooling = {k: v for k, v in rule.pooling.model_dump().items() if v != getattr(Pooling(), k)}
    pooled = ", ".join(f"{key} {value}" for key, value in pooling.items()) or "default"
    tree = f"{program.name} {program_hash(program)}"
    return f"{rule.reward.preset} (alpha {alpha:g}, beta {beta:g}), pooling {pooled}, program {tree}"


def revalue(
    source: Source, program: Program, rule: Rule, progress: Callable[[int], None] = lambda _: None
) -> tuple[list[Item], Missing]:
    """Pool every row again under ``rule`` and the tree of ``program``; rewards for rollouts, totals for texts."""
    again = _Pooling(source, program.model_copy(update={"pooling": rule.pooling}), rule)
    items: list[Item] = []
    unasked = 0
    for number, row in enumerate(source.rows, 1):
        progress(number)
        cards = [again.card(judged) for judged in row.texts]
        if row.malformed:
            after: float | None = rule.reward.floor
        elif len(cards) == 2:
            after = rule.reward.reward(cards[0], cards[1])
        else:
            after = cards[0].total if cards else None
        if after is None and cards:
            unasked += all(_only_unasked(card) for card in cards if card.total is None)
        items.append(Item(row.id, row.group, row.prompt, row.value, after))
    before = sum(item.before is None for item in items)
    return items, Missing(before=before, after=sum(item.after is None for item in items), unasked=unasked)


class _Pooling:
    """Pools texts under one program and rule, each scorecard once."""

    def __init__(self, source: Source, program: Program, rule: Rule) -> None:
        self._source, self._program, self._reward = source, program, rule.reward
        old = {question_hash(q): q.id for _, _, q in questions(source.program)}
        self._hashes = {q.id: question_hash(q) for _, _, q in questions(program)}
        self._names = {id: old.get(digest) for id, digest in self._hashes.items()}
        self._vetoes: dict[str, Veto | None] = {}
        self._cards: dict[int, Scorecard] = {}

    def card(self, judged: Judged) -> Scorecard:
        key = id(judged.card)  # one object for all rollouts of one text
        if key not in self._cards:
            judge = judged.card.judge
            self._cards[key] = pool(
                self._program,
                self._verdicts(judged),
                veto=self._veto(judge),
                judge=judge,
                prompt=judged.prompt,
            )
        return self._cards[key]

    def _veto(self, judge: str) -> Veto | None:
        if judge not in self._vetoes:
            fitted = self._source.thresholds.get(judge, {})
            mine = {id: fitted[was] for id, was in self._names.items() if was is not None and was in fitted}
            self._vetoes[judge] = self._reward.veto(mine)
        return self._vetoes[judge]

    def _verdicts(self, judged: Judged) -> dict[str, Verdict]:
        """The answers about one text by this program's ids: the scorecard's, else the store's."""
        mine = verdicts_of(judged.card)
        found: dict[str, Verdict] = {}
        for question, digest in _asked(self._program, judged):
            was = self._names.get(question.id, question.id)
            verdict = mine.get(was) if was is not None else None
            if verdict is None or verdict.outcome is Outcome.SKIPPED:
                asked = self._hashes.get(question.id) or question_hash(question)
                verdict = self._source.known.get(verdict_key(judged.card.judge, asked, digest), verdict)
            if verdict is not None:
                found[question.id] = verdict.model_copy(update={"question_id": question.id})
        return found


def _asked(program: Program, judged: Judged) -> Iterator[tuple[Question, str]]:
    """Every question of ``program`` about this prompt and text, with the hash of the text that it is about."""
    about_prompt, about_text = text_hash(judged.prompt, ""), text_hash(judged.prompt, judged.text)
    yield from ((question, about_prompt) for question in relevance_questions(program))
    yield from ((question, about_text) for _, _, question in questions(program_for(program, judged.prompt)))


def _only_unasked(card: Scorecard) -> bool:
    missing = [
        verdict
        for principle in card.principles
        for dimension in principle.dimensions
        if principle.relevant is not False and dimension.relevant is not False
        for verdict in dimension.verdicts
        if verdict.label is None
    ]
    return bool(missing) and all(verdict.outcome is Outcome.SKIPPED for verdict in missing)


def look_up(source: Source, program: Program) -> None:
    """Fetch from the store what it knows about the source's texts and the questions of ``program``."""
    hash_of = lru_cache(maxsize=None)(question_hash)
    keys = {
        verdict_key(judged.card.judge, hash_of(question), digest)
        for row in source.rows
        for judged in row.texts
        for question, digest in _asked(program, judged)
    }
    with Store(source.path / "store.sqlite", read_only=True) as store:
        source.known.update(store.verdicts(sorted(keys)))


def _run(path: Path) -> Source:
    from rubrica.reports.run_data import RunData

    with RunData(path) as data:
        reward = validate(RewardConfig, data.recipe.get("reward") or {}, path / "recipe.yaml")
        rows = [_rollout(rollout, data) for rollout in data.rollouts if rollout.reward_model is None]
        if data.rollouts and not rows:
            raise UsageError(
                f"{path}: its rewards are scores of a reward model; there are no verdicts to value again"
            )
        if not rows:
            raise UsageError(
                f"{path}: no rollouts; expected a run with a grpo stage, or a directory of rubrica score"
            )
        rule = Rule(reward=reward, pooling=data.program.pooling)
        return Source(path, data.program, rule, rows, False, _thresholds(path))


def _rollout(rollout: Rollout, data: "RunData") -> Row:
    texts: list[Judged] = []
    prompt = data.prompt(rollout.prompt_id)
    for id, text in (
        (rollout.draft_card, rollout.attempt.draft),
        (rollout.revision_card, rollout.attempt.revision),
    ):
        card = data.card(id)
        if prompt is not None and card is not None:
            texts.append(Judged(prompt, text.encode("utf-8", "replace").decode(), card))
    group = f"{rollout.stage}/{rollout.step}/{rollout.prompt_id}"
    whole = tuple(texts) if len(texts) == 2 else ()
    malformed = rollout.attempt.malformed is not None
    return Row(rollout.id, group, rollout.prompt_id, rollout.reward, whole, malformed)


def _scored(path: Path) -> Source:
    scoring = read_scoring(path)
    program = validate(Program, read_yaml(path / PROGRAM), path / PROGRAM)
    rows = []
    for found in read_cards(path):
        judged = Judged(found.prompt, found.text.encode("utf-8", "replace").decode(), found.card)
        group = text_hash(found.prompt, "")
        rows.append(Row(found.id, group, group, found.card.total, (judged,)))
    rule = Rule(reward=scoring.reward, pooling=program.pooling)
    return Source(path, program, rule, rows, scoring.pairs, _thresholds(path))


def _thresholds(path: Path) -> dict[str, dict[str, float]]:
    with Store(path / "store.sqlite", read_only=True) as store:
        return {found.judge: found.thresholds for found in store.all(VETO, VetoThresholds)}
