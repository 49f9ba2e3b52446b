"""Which completions a report shows in full: chosen by rule, so that nobody picks the flattering ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from rubrica.core.instance import program_for
from rubrica.core.prompts import Prompt
from rubrica.core.records import Rollout, Scorecard
from rubrica.reports.run_data import RunData
from rubrica.reports.waterfall import PrincipleRow, Step, ladder, reward_ladder, tree

_BENIGN = ("benign", "lookalike", "harmless", "safe")


@dataclass(frozen=True)
class Example:
    """One completion, why it is shown, and where its reward comes from."""

    title: str
    rule: str
    """How it was chosen."""
    rollout: Rollout
    prompt: Prompt | None
    draft: Scorecard | None
    revision: Scorecard | None
    draft_ladder: Sequence[Step]
    revision_ladder: Sequence[Step]
    reward_ladder: Sequence[Step]
    tree: Sequence[PrincipleRow]

    @property
    def decisive(self) -> PrincipleRow | None:
        """The principle whose decisive dimension explains most: what a reader sees open."""
        return max(self.tree, key=lambda row: row.decisive.weight, default=None)


def kind_of(prompt: Prompt | None) -> str:
    """The prompt's ``kind`` tag, or an empty string."""
    return prompt.tags.get("kind", "") if prompt else ""


def last_quarter(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Rollouts of the last quarter of the steps (at least one step) of the last stage that has any."""
    if not rollouts:
        return []
    stage = max(r.stage for r in rollouts)
    here = [r for r in rollouts if r.stage == stage]
    steps = sorted({r.step for r in here})
    start = steps[-max(1, len(steps) // 4)]
    return [r for r in here if r.step >= start]


def choose(data: RunData) -> list[Example]:
    """Return up to three examples: a harmful prompt cured, a benign one, one that went wrong.

    Cured: among harmful prompts, and those of no stated kind, of the last quarter of the steps (else of all), the
    largest R2 - R1; later steps, then smaller ids break ties. Benign: the median reward of benign prompts of the last quarter (the lower
    one of an even number). Wrong: the lowest reward of the last quarter whose revision was vetoed, else the lowest
    of all well-formed ones, else a malformed one. No completion is shown twice.
    """
    late = last_quarter(data.rollouts)
    cured = _cured(data, late)
    harmful = "A harmful prompt, cured"
    if cured and not kind_of(data.prompt(cured.prompt_id)):
        harmful = "A prompt of no stated kind, cured"
    taken: set[str] = set()
    found: list[Example] = []
    for title, rule, rollout in (
        (harmful, "largest gain from draft to revision", cured),
        ("A benign prompt", "median reward among benign prompts", _benign(data, late)),
    ):
        if rollout and rollout.id not in taken:
            taken.add(rollout.id)
            found.append(_example(data, title, rule, rollout))
    wrong = _wrong(data, [r for r in late if r.id not in taken])
    if wrong:
        rollout, rule = wrong
        found.append(_example(data, "One that went wrong", rule, rollout))
    return found


def _cured(data: RunData, late: Sequence[Rollout]) -> Rollout | None:
    def harmful(rollout: Rollout) -> bool:
        return kind_of(data.prompt(rollout.prompt_id)) not in ("capability", "unknowable", *_BENIGN)

    for pool in (late, data.rollouts):
        gains = [
            (r.r2 - r.r1, r)
            for r in pool
            if r.r1 is not None and r.r2 is not None and r.r2 > r.r1 and harmful(r)
        ]
        if gains:
            return min(gains, key=lambda pair: (-pair[0], -pair[1].step, pair[1].id))[1]
    return None


def _by_reward(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Well-formed rollouts with a reward, lowest first."""
    known = [(r.reward, r) for r in rollouts if r.reward is not None and r.attempt.malformed is None]
    return [r for _, r in sorted(known, key=lambda pair: (pair[0], pair[1].step, pair[1].id))]


def _benign(data: RunData, late: Sequence[Rollout]) -> Rollout | None:
    for pool in (late, data.rollouts):
        known = _by_reward([r for r in pool if kind_of(data.prompt(r.prompt_id)) in _BENIGN])
        if known:
            return known[(len(known) - 1) // 2]
    return None


def _wrong(data: RunData, late: Sequence[Rollout]) -> tuple[Rollout, str] | None:
    known = _by_reward(late)
    for rollout in known:
        # A vetoed revision is worth -1, so no scorecard of a better one needs to be read.
        card = data.card(rollout.revision_card) if rollout.r2 is not None and rollout.r2 <= -1 else None
        if card and card.vetoed_by:
            return rollout, "lowest reward of the last quarter whose revision was vetoed"
    if known:
        return known[0], "lowest reward among the well-formed of the last quarter"
    broken = [r for r in late if r.attempt.malformed is not None]
    return (broken[0], "first malformed completion of the last quarter") if broken else None


def _example(data: RunData, title: str, rule: str, rollout: Rollout) -> Example:
    draft, revision = data.card(rollout.draft_card), data.card(rollout.revision_card)
    prompt = data.prompt(rollout.prompt_id)
    program = data.program if prompt is None else program_for(data.program, prompt)
    return Example(
        title=title,
        rule=rule,
        rollout=rollout,
        prompt=prompt,
        draft=draft,
        revision=revision,
        draft_ladder=ladder(draft, data.program) if draft else (),
        revision_ladder=ladder(revision, data.program) if revision else (),
        reward_ladder=reward_ladder(rollout),
        tree=tree(program, (draft, revision)) if draft or revision else (),
    )
