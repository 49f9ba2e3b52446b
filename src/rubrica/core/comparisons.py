"""Pairs of answers to compare, and what an oracle (a person, a judge, a rule) said about them."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal

from rubrica.core.base import NonEmpty, Record
from rubrica.core.config import Json, content_hash
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Preference


class Candidate(Record):
    """Two answers to one prompt, not yet compared. Which one comes first tells nothing about where they are from."""

    id: NonEmpty
    prompt: Prompt
    first: NonEmpty
    second: NonEmpty


class PairLabel(Record):
    """What an oracle said about a pair; a tie and a refusal to choose prefer neither."""

    pair: NonEmpty
    """Id of the candidate."""
    preferred: Literal["first", "second"] | None
    gap: float | None = None
    """Score of the preferred answer minus that of the other, where the oracle scores."""
    by: str = ""
    """Who said so."""
    reason: str = ""
    """Why neither is preferred."""


class LabelledPair(Record):
    """A preference as a line of JSONL, in TRL's conversational format; readers there ignore the other columns."""

    id: NonEmpty
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    gap: float | None
    source: str


def labelled_pair(pair: Preference) -> LabelledPair:
    """Return a preference in the form of a file."""
    chosen, rejected = (Message(role="assistant", content=text) for text in (pair.chosen, pair.rejected))
    return LabelledPair(
        id=pair.id,
        prompt=pair.prompt.messages,
        chosen=(chosen,),
        rejected=(rejected,),
        gap=pair.gap,
        source=pair.source,
    )


def candidate(prompt: Prompt, one: str, two: str) -> Candidate | None:
    """Return the pair, or None where the answers are equal or one is empty: a label would teach nothing."""
    if not one.strip() or not two.strip() or one == two:
        return None
    said: list[Json] = [[message.role, message.content] for message in prompt.messages]
    first, second = sorted((one, two), key=lambda text: content_hash([said, text]))
    return Candidate(id=f"p{content_hash([said, first, second])}", prompt=prompt, first=first, second=second)


def all_pairs(prompt: Prompt, texts: Sequence[str]) -> list[Candidate]:
    """Return every pair of different answers to one prompt, each once."""
    distinct = list(dict.fromkeys(texts))
    found = (candidate(prompt, one, two) for one, two in combinations(distinct, 2))
    return [pair for pair in found if pair is not None]


def without_repeats(pairs: Iterable[Candidate], taken: Iterable[str] = ()) -> list[Candidate]:
    """Return each pair once, without those whose ids are in ``taken``."""
    gone = set(taken)
    return list({pair.id: pair for pair in pairs if pair.id not in gone}.values())


def preference(pair: Candidate, label: PairLabel) -> Preference | None:
    """Return the labelled pair to train on; None where neither answer is preferred."""
    if label.preferred is None:
        return None
    chosen, rejected = (pair.first, pair.second) if label.preferred == "first" else (pair.second, pair.first)
    return Preference(
        id=pair.id, prompt=pair.prompt, chosen=chosen, rejected=rejected, gap=label.gap, source=label.by
    )


def label_of(
    pair: Candidate, first: float, second: float, *, by: str, temperature: float = 0.0, seed: int = 0
) -> PairLabel:
    """Label a pair by two scores: by the sign of their difference, or at ``temperature`` above 0 by Bradley-Terry.

    Bradley-Terry prefers the first with probability sigmoid((first - second) / temperature); what is drawn depends
    on ``seed`` and the pair alone. A tie at temperature 0 prefers neither.
    """
    gap = first - second
    if temperature > 0:
        drawn = int.from_bytes(hashlib.sha256(f"{seed}/{pair.id}".encode()).digest()[:8], "big") / 2**64
        wins = drawn < 0.5 * (1 + math.tanh(gap / temperature / 2))
    elif gap == 0:
        return PairLabel(pair=pair.id, preferred=None, gap=0.0, by=by, reason="tie")
    else:
        wins = gap > 0
    return PairLabel(pair=pair.id, preferred="first" if wins else "second", gap=gap if wins else -gap, by=by)
