"""What a judge is examined on: texts, labels that people or an oracle gave, texts of the judge's own model."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rubrica.core.config import Json, content_hash
from rubrica.core.data import Rating, Text, load_labels, load_texts
from rubrica.core.errors import DataError, UsageError, nearest
from rubrica.core.ports import Judge
from rubrica.core.programs import Program, Question
from rubrica.core.records import Label, Query
from rubrica.judges.keys import text_hash
from rubrica.judges.reliability import majority
from rubrica.program.labels import allowed_labels
from rubrica.program.program import questions
from rubrica.program.safety import GATES, WORDS
from rubrica.recipes.context import Surroundings

LAB = "lab"
"""``--labels lab``: the lab's oracle labels, and without ``--input`` its generator writes the texts."""
LAB_TEXTS = 200
MOST_LAB_TEXTS = 1_000
Key = tuple[str, str]
"""(text id, question id)."""


class Labels(NamedTuple):
    """Right answers: of raters, or of a reference judge that can label any text, changed ones too."""

    ratings: dict[Key, list[Label]]
    """What each rater answered."""
    reference: Judge | None
    source: str

    def of(self, texts: Sequence[tuple[Text, Question]]) -> list[Label | None]:
        """The right label of each question about each text, of several raters the majority's; None: nobody knows."""
        if self.reference is not None:
            return self.of_changed([(text, question, text.text) for text, question in texts])
        return [majority(self.ratings.get((text.id, question.id), [])) for text, question in texts]

    def of_changed(self, shown: Sequence[tuple[Text, Question, str]]) -> list[Label | None]:
        """The same for texts that were changed, which no rater has seen."""
        if self.reference is None:
            return [None] * len(shown)
        asked = [Query(prompt=text.prompt, text=now, question=question) for text, question, now in shown]
        found = {index: verdict.label for index, verdict in self.reference.answer(asked)}
        return [found.get(index) for index in range(len(asked))]


class Given(NamedTuple):
    """Everything that a judge is examined on; ids of texts are their content's hashes."""

    texts: list[Text]
    labels: Labels
    own: list[Text]
    """Texts by the judge's own model."""
    own_labels: Labels

    @property
    def texts_hash(self) -> str:
        """Identity of the texts."""
        return _texts_hash(self.texts)

    @property
    def labels_hash(self) -> str:
        """Identity of the labels; empty without."""
        return _hash(self.labels)

    @property
    def own_hash(self) -> str:
        """Identity of the judge's own texts and their labels; empty without."""
        return content_hash([_texts_hash(self.own), _hash(self.own_labels)]) if self.own else ""


def read_given(
    program: Program,
    around: Surroundings,
    *,
    texts: Path | None,
    labels: str | None,
    own: Path | None,
    limit: int | None,
) -> Given:
    """Read what the flags name; ``UsageError`` where there is no text, or a label fits no question of ``program``."""
    reference = _oracle(around) if labels == LAB else None
    found, ratings = list[Text](), dict[Key, list[Label]]()
    if labels is not None and reference is None:
        found, ratings = _rated(Path(labels), program)
    if texts is not None:
        found += _named(load_texts(texts))
    elif reference is not None:
        assert around.lab_texts is not None
        if limit is not None and limit > MOST_LAB_TEXTS:
            raise UsageError(
                f"--limit {limit}: the lab writes at most {MOST_LAB_TEXTS:,} texts; choose fewer"
            )
        found += _named(around.lab_texts(limit or LAB_TEXTS))
    if not found:
        raise UsageError(
            "nothing to examine the judge on: give --input FILE of texts, --labels FILE, or both"
        )
    mine, mine_ratings = list[Text](), dict[Key, list[Label]]()
    if own is not None and reference is not None:
        mine = _named(load_texts(own))
    elif own is not None:
        mine, mine_ratings = _rated(own, program)
    if mine and {text.id for text in mine} <= {text.id for text in found}:
        raise UsageError(
            f"--own {own}: all its texts are among those of --input or --labels, so self-preference would compare "
            "texts with themselves; give texts that others wrote with --input or --labels"
        )
    given = Given(
        list({text.id: text for text in found}.values())[:limit],
        Labels(ratings, reference, labels or ""),
        list({text.id: text for text in mine}.values())[:limit],
        Labels(mine_ratings, reference, str(own or "")),
    )
    if reference is not None:
        # an oracle refuses a text or a question that it does not know before the judge costs anything
        asked = [question for _, _, question in questions(program)]
        given.labels.of([(text, question) for text in (*given.texts, *given.own) for question in asked])
    return given


def _oracle(around: Surroundings) -> Judge:
    if around.lab_texts is None or "lab-oracle" not in around.judges:
        raise UsageError("--labels lab needs the lab, which is not there; name a file instead")
    return around.judges["lab-oracle"]()


def _rated(path: Path, program: Program) -> tuple[list[Text], dict[Key, list[Label]]]:
    """Texts and ratings of a file of labels."""
    asked = {question.id: question for _, _, question in questions(program)}
    texts, ratings = list[Text](), dict[Key, list[Label]]()
    alone = next(iter(asked)) if len(asked) == 1 else ""
    for rating in load_labels(path, question=alone, words=_words(alone)):
        text = _named([rating.text])[0]
        _check(rating, asked, program.name)
        texts.append(text)
        ratings.setdefault((text.id, rating.question), []).append(rating.label)
    return texts, ratings


def _words(question: str) -> dict[str, Label]:
    """What labels of the one question of ``harm`` or ``refusal`` are called in files of labelled answers."""
    if question not in GATES:
        return {}
    bad, good = WORDS[GATES[question]]
    return dict.fromkeys(sorted(bad), Label.FALSE) | dict.fromkeys(sorted(good), Label.TRUE)


def _check(rating: Rating, asked: dict[str, Question], program: str) -> None:
    path, _, line = rating.where.rpartition(":")
    question = asked.get(rating.question)
    if question is None:
        hint = nearest(rating.question, asked)
        raise DataError(path, f"program {program} has no question {rating.question!r}{hint}", int(line))
    if rating.label not in (offered := allowed_labels(question)):
        problem = f"label {rating.label} for question {question.id!r}; it offers {', '.join(offered)}"
        raise DataError(path, problem, int(line))


def _named(texts: Sequence[Text]) -> list[Text]:
    """The texts under the hash of prompt and text, so that one text has one id whatever file it is in."""
    whole = [text._replace(text=text.text.encode("utf-8", "replace").decode()) for text in texts]
    return [text._replace(id=text_hash(text.prompt, text.text)) for text in whole]


def _hash(labels: Labels) -> str:
    if labels.reference is not None:
        return content_hash(labels.reference.fingerprint)
    rows = sorted([*key, *sorted(given)] for key, given in labels.ratings.items())
    return content_hash([list[Json](row) for row in rows]) if rows else ""


def _texts_hash(texts: Sequence[Text]) -> str:
    return content_hash(list[Json](sorted(text.id for text in texts)))
