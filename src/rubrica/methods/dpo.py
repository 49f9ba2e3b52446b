"""Direct preference optimisation: which pairs are trained on, and their offsets.

Source of the pairs: QA-LIGN (arXiv 2506.08123), section 5: the answer of an aligned model is chosen, that of the
starter rejected. Offset: Amini, Vieira and Cotterell 2024 (arXiv 2402.10571), Eq. 8, a target margin
``delta = scale f(score(y+) - score(y-))`` with f the identity or the logarithm. The loss is in
:mod:`rubrica.losses.pairs`.
"""

import math
from collections.abc import Sequence
from typing import Literal

from rubrica.core.prompts import Prompt
from rubrica.core.records import Preference, Response

CUT_OFF = "an answer was cut off"
EMPTY = "an answer is empty"
EQUAL = "both answers are equal"
NO_SCORE = "an answer has no total"
TOO_FEW = "fewer than two whole answers"
NOT_BETTER = "the chosen answer does not score higher"


def answered_pairs(
    prompts: Sequence[Prompt], chosen: Sequence[Response], rejected: Sequence[Response]
) -> tuple[list[Preference], list[str]]:
    """Return the pairs that can be trained on, and for each of the others why not."""
    pairs: list[Preference] = []
    dropped: list[str] = []
    for prompt, better, worse in zip(prompts, chosen, rejected, strict=True):
        if not better.text.strip() or not worse.text.strip():
            dropped.append(EMPTY)
        elif not (better.finished and worse.finished):
            dropped.append(CUT_OFF)
        elif better.text.strip() == worse.text.strip():
            dropped.append(EQUAL)
        else:
            pairs.append(
                Preference(
                    id=prompt.id,
                    prompt=prompt,
                    chosen=better.text,
                    rejected=worse.text,
                    source=f"{better.model} over {worse.model}",
                )
            )
    return pairs, dropped


def best_over_worst(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[Response]], totals: Sequence[Sequence[float | None]]
) -> tuple[list[Preference], list[str]]:
    """Return for each prompt its best answer over its worst, and for prompts without such a pair why not.

    ``totals[i][k]`` is what answer k to prompt i scores. Answers that are empty, cut off or without a total are no
    candidates; of equals the earlier one is taken.
    """
    pairs: list[Preference] = []
    dropped: list[str] = []
    for prompt, given, scores in zip(prompts, answers, totals, strict=True):
        whole = [(score, a) for a, score in zip(given, scores, strict=True) if a.finished and a.text.strip()]
        known = [(score, a) for score, a in whole if score is not None]
        if len(known) < 2:
            dropped.append(NO_SCORE if len(whole) > len(known) else TOO_FEW)
            continue
        high, better = max(known, key=lambda pair: pair[0])
        low, worse = min(known, key=lambda pair: pair[0])
        if high == low:
            dropped.append(NOT_BETTER)
            continue
        pairs.append(
            Preference(
                id=prompt.id,
                prompt=prompt,
                chosen=better.text,
                rejected=worse.text,
                gap=high - low,
                source=f"{better.model} over {worse.model}",
            )
        )
    return pairs, dropped


def with_gaps(
    pairs: Sequence[Preference], scores: Sequence[tuple[float | None, float | None]]
) -> tuple[list[Preference], list[str]]:
    """Return the pairs with the difference of their (chosen, rejected) scores; one that is not positive tells nothing."""
    kept: list[Preference] = []
    dropped: list[str] = []
    for pair, (better, worse) in zip(pairs, scores, strict=True):
        if better is None or worse is None:
            dropped.append(NO_SCORE)
        elif better <= worse:
            dropped.append(NOT_BETTER)
        else:
            kept.append(pair.model_copy(update={"gap": better - worse}))
    return kept, dropped


def offset(gap: float, scale: float, form: Literal["linear", "log"]) -> float:
    """Return the target margin of a pair whose scores differ by ``gap`` > 0."""
    return scale * (math.log(gap) if form == "log" else gap)
