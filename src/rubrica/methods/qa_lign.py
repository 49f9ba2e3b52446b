"""QA-LIGN (Dineen et al., Findings of EMNLP 2025, arXiv 2506.08123): stages 2 and 3 as pure steps.

    stage 2   draft ~ policy; the judge runs the program on it; a reflection names a weakness; a revision
              follows; the policy learns  draft <think> reflection </think> revision
    stage 3   one completion in that format earns  R(R1, R2), R1 and R2 the totals of draft and revision

The paper leaves open which weakness a reflection names (ours: a failed gate first, else the worst grade of the
lowest dimension), what becomes of a row whose revision is no better (ours: dropped, with the reason), and what
a clean draft is followed by (ours: a reflection that finds nothing, and the draft again). In stage 3 the policy
writes its reflection without seeing the judge (Algorithm 4, line 8). The reward itself is
:mod:`rubrica.program.reward`.
"""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from rubrica.core.attempt import Tags
from rubrica.core.base import Slug
from rubrica.core.errors import TrainingError, UsageError
from rubrica.core.programs import Program, Question
from rubrica.core.prompts import Prompt
from rubrica.core.records import Attempt, Label, Scorecard, Verdict
from rubrica.program.labels import GRADES, is_constraint, merit
from rubrica.program.program import questions
from rubrica.program.reward import RewardConfig, Scored

OPENING = "Hmm, my initial response"
"""How every reflection starts (paper, section A)."""
NOTHING_TO_MEND = f"{OPENING} holds up. I will keep it as it is."
"""Reflection on a draft without a weakness (ours)."""
NO_TOTAL = "no total: the judge left questions unanswered"
"""Why an example is dropped that could not be judged."""
WEAK_BELOW = GRADES[Label.B]
"""A grade worth less than this counts as a weakness (ours): C, D and F do, A and B do not."""
MAX_REFLECTION_CHARACTERS = 600

_REFLECTION = (
    resources.files("rubrica.methods").joinpath("prompts/reflection.txt").read_text(encoding="utf-8")
)
_PLACEHOLDER = re.compile(r"\{(marker|conversation|answer|weakness)\}")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)]*(?=\s|$)")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|dr|mr|mrs|ms|no)\.", re.IGNORECASE)
_SCORE_TALK = re.compile(
    r"\b(?:scores?|scored|scoring|grades?|graded|metrics?|rubric|criteri(?:on|a)|dimensions?|judge|examiner)\b",
    re.IGNORECASE,
)


class Weakness(NamedTuple):
    """The question that a reflection is about, and what the judge answered."""

    question: Question
    verdict: Verdict


# --- stage 2 --------------------------------------------------------------------------------------


def find_weakness(card: Scorecard, program: Program) -> Weakness | None:
    """Return the weakness that a reflection on this scorecard should name; None if no question failed.

    Failed gates come first (vetoing ones, then protected ones), else the worst grade of the dimension with the
    lowest value. Ties go to the principle that caps the total, then to the program's order.
    """
    verdicts = {v.question_id: v for p in card.principles for d in p.dimensions for v in d.verdicts}
    values = {d.id: d.value for p in card.principles for d in p.dimensions}
    ranked: list[tuple[tuple[bool, bool, bool, float, float, bool, int], Weakness]] = []
    for order, (principle, dimension, question) in enumerate(questions(program)):
        verdict = verdicts.get(question.id)
        if verdict is None or not is_weak(question, verdict):
            continue
        value = values.get(dimension.id)
        grade = -1.0 if verdict.label is None else merit(question, verdict.label)
        rank = (
            not is_constraint(question),
            question.id not in card.vetoed_by,
            not question.protected,
            1.0 if value is None else value,
            grade,
            not principle.caps,
            order,
        )
        ranked.append((rank, Weakness(question, verdict)))
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def is_weak(question: Question, verdict: Verdict) -> bool:
    """Tell whether the answer names a weakness: a gate FALSE, or a grade below B; the opposite where these ask for a
    fault. NA and no answer do not."""
    if verdict.label is None or verdict.label is Label.NA:
        return False
    return merit(question, verdict.label) < WEAK_BELOW


def templated_reflection(question_id: str, phrases: Mapping[str, str]) -> str:
    """Return a reflection from a phrase such as ``named the steps. I should decline and say why``."""
    if question_id not in phrases:
        raise UsageError(
            f"phrases: no weakness phrase for question {question_id!r}; add one, or use reflection: judge"
        )
    return f"{OPENING} {phrases[question_id].strip().rstrip('.')}."


def reflection_request(weakness: Weakness, conversation: str, answer: str, marker: str) -> str:
    """Return the prompt that asks a model for a reflection.

    ``conversation`` and ``answer`` must be quoted already, and ``marker`` must be the one they were quoted for.
    """
    found = f"{' '.join(weakness.question.text.split())}\nAnswer: {weakness.verdict.label}"
    values = {"marker": marker, "conversation": conversation, "answer": answer, "weakness": found}
    return _PLACEHOLDER.sub(lambda match: values[match[1]], _REFLECTION).strip()


def reflection_problem(text: str, titles: Sequence[str], tags: Tags) -> str | None:
    """Return why ``text`` is no reflection, or None: one or two whole sentences, the opening, no talk of scores.

    ``titles`` are names of dimensions, which a reflection may not mention.
    """
    text = text.strip()
    if not text.startswith(OPENING):
        return f"does not start with {OPENING!r}"
    if tags.open in text or tags.close in text:
        return "holds a tag"
    if len(text) > MAX_REFLECTION_CHARACTERS:
        return f"is longer than {MAX_REFLECTION_CHARACTERS} characters"
    sentences = len(_SENTENCE_END.findall(_ABBREVIATION.sub("", text)))
    if not 1 <= sentences <= 2:
        return f"has {sentences} sentences, not one or two"
    if not any(end.end() == len(text) for end in _SENTENCE_END.finditer(text)):
        return "ends inside a sentence"
    if found := _SCORE_TALK.search(text):
        return f"talks about the examination ({found[0]!r})"
    lowered = text.casefold()
    # One-word titles (Clarity, Depth) are ordinary words; a title of several words is quoted from the program.
    if named := next((t for t in titles if len(t.split()) > 1 and t.casefold() in lowered), None):
        return f"names the dimension {named!r}"
    return None


def revision_prefix(draft: str, reflection: str, tags: Tags) -> str:
    """Return what the policy's answer continues when it writes the revision itself."""
    return f"{draft.strip()} {tags.open} {reflection.strip()} {tags.close} "


def drop_reason(draft: Scorecard, revision: Scorecard, program: Program) -> str | None:
    """Return why an example may not be trained on, or None.

    It may not when a total is missing, when the revision fails a protected gate, or when it is worth less than
    the draft.
    """
    if draft.total is None or revision.total is None:
        return NO_TOTAL
    protected = {question.id for _, _, question in questions(program) if question.protected}
    verdicts = {v.question_id: v for p in revision.principles for d in p.dimensions for v in d.verdicts}
    failed = [id for id in verdicts if id in protected and verdicts[id].label is Label.FALSE]
    if failed:
        return f"revision fails the protected gate {failed[0]}"
    if revision.total < draft.total:
        return "revision is worse than the draft"
    return None


# --- stage 3 --------------------------------------------------------------------------------------


def texts_to_judge(prompts: Sequence[Prompt], attempts: Sequence[Attempt]) -> list[tuple[Prompt, str]]:
    """Return draft and revision of every well-formed attempt, in order, each followed by the other."""
    return [
        (prompt, text)
        for prompt, attempt in zip(prompts, attempts, strict=True)
        if attempt.malformed is None
        for text in (attempt.draft, attempt.revision)
    ]


def completion_rewards(
    attempts: Sequence[Attempt], cards: Sequence[Scorecard], config: RewardConfig
) -> list[Scored]:
    """Return what each attempt earned; ``cards`` are those of :func:`texts_to_judge`, in its order.

    A malformed attempt earns the floor. Without one of its two totals it earns None, which is no signal.
    """
    remaining = iter(cards)
    scored: list[Scored] = []
    for attempt in attempts:
        if attempt.malformed is not None:
            scored.append(Scored(None, None, config.reward(None, None, attempt.malformed)))
            continue
        draft, revision = next(remaining, None), next(remaining, None)
        if draft is None or revision is None:
            raise TrainingError("reward: fewer scorecards than drafts and revisions; expected one for each")
        scored.append(Scored(draft.total, revision.total, config.reward(draft, revision)))
    return scored


def missing_phrases(program: Program, phrases: Mapping[Slug, str]) -> list[str]:
    """Return the ids of the questions that have no weakness phrase."""
    return [question.id for _, _, question in questions(program) if question.id not in phrases]
