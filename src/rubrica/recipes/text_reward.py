"""Anything that can be a reward of whole texts, as one thing: a program and its judge, or a reward model."""

from collections.abc import Iterator, Sequence

from rubrica.core.attempt import Tags
from rubrica.core.base import NonEmpty, Slug
from rubrica.core.config import Config, content_hash
from rubrica.core.errors import ModelError, UsageError, nearest
from rubrica.core.ports import Judge, RewardModel
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.core.scoring import ScoreItem
from rubrica.core.store import Store
from rubrica.judges.budget import Purse
from rubrica.judges.factory import JudgeConfig, check_spec, make_judge, parts, server_of
from rubrica.program.program import load_program, program_hash
from rubrica.program.reward import RewardConfig
from rubrica.recipes.context import Surroundings
from rubrica.recipes.options import RewardModelSource
from rubrica.recipes.reward_source import check_reward_model, open_reward_model
from rubrica.recipes.scorer import ItemScorer


class JudgeReward(Config):
    """The total of a program, or the value of one of its principles, as a judge answers its questions."""

    judge: str | JudgeConfig
    """``lab``, ``lab-oracle``, ``local:PATH``, ``openai:MODEL@URL``, or a mapping with options."""
    program: NonEmpty
    """A library name (hhh, lab, ratings) or a YAML file."""
    principle: Slug | None = None
    """Only this principle; None: the total."""


TextReward = JudgeReward | RewardModelSource


class JudgedTexts:
    """Implements :class:`rubrica.core.ports.RewardModel` with a judge and a program, from -1 to 1.

    A text of which answers are missing has no reward. With a store, every verdict is kept as it arrives; without,
    none is: a judge in this process is cheaper to ask again than millions of verdicts are to keep.
    """

    def __init__(self, judge: Judge, program: Program, store: Store | None = None) -> None:
        self._judge, self._program = judge, program
        self._scorer = None if store is None else self._new_scorer(store)
        self.fingerprint = content_hash(["judged", judge.fingerprint, program_hash(program)])

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, float | ModelError]]:
        """Yield ``(index, total)``; ``JudgeError`` when the judge itself does not answer, ``BudgetError`` at a cap."""
        if self._scorer is not None:
            yield from _totals(self._scorer, items)
        else:
            with self._new_scorer(Store(":memory:")) as scorer:
                yield from _totals(scorer, items)

    def _new_scorer(self, store: Store) -> ItemScorer:
        return ItemScorer(self._judge, store, program=self._program, reward=RewardConfig(), tags=Tags())


def _totals(
    scorer: ItemScorer, items: Sequence[tuple[Prompt, str]]
) -> Iterator[tuple[int, float | ModelError]]:
    asked = [
        ScoreItem(
            prompt=prompt.messages,
            completion=text,
            mode="text",
            tags=prompt.tags,
            questions=prompt.questions,
            id=prompt.id,
        )
        for prompt, text in items
    ]
    for index, found in enumerate(scorer.score(asked)):
        if found.reward is not None:
            yield index, found.reward
        else:
            yield index, ModelError(f"prompt {items[index][0].id!r}: {found.reason}")


def check_text_reward(source: TextReward, where: str, surroundings: Surroundings) -> None:
    """Raise ``UsageError`` for what can be seen to be wrong; loads no weights."""
    if isinstance(source, RewardModelSource):
        check_reward_model(source, where, trained=False)
    else:
        check_spec(source.judge, surroundings.judges)
        _program(source, where)


def open_text_reward(
    source: TextReward, where: str, surroundings: Surroundings, store: Store, purse: Purse | None = None
) -> RewardModel:
    """Open the reward; what a judge behind a server answers is kept in ``store`` and paid from ``purse``."""
    if isinstance(source, RewardModelSource):
        return open_reward_model(source, lambda name: str(surroundings.model(name)))
    paid = any(server_of(part.spec) is not None for part in parts(source.judge))
    builtin = dict(surroundings.judges)
    judge = make_judge(source.judge, secret=store.secret, builtin=builtin, purse=purse if paid else None)
    return JudgedTexts(judge, _program(source, where), store if paid else None)


def _program(source: JudgeReward, where: str) -> Program:
    program = load_program(source.program)
    if source.principle is None:
        return program
    kept = tuple(each for each in program.principles if each.id == source.principle)
    if not kept:
        known = [each.id for each in program.principles]
        raise UsageError(
            f"{where}.principle: program {source.program} has no {source.principle!r}{nearest(source.principle, known)}; "
            f"expected one of {', '.join(known)}"
        )
    return program.model_copy(update={"principles": kept})
