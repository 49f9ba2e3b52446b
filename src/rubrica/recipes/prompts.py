"""From a recipe's prompt sources to the order in which each stage uses them.

The order is a function of the recipe's seed alone. Think-SFT and RL never share a prompt.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from rubrica.core.errors import DataError, UsageError
from rubrica.core.prompts import Prompt
from rubrica.recipes.config import Recipe
from rubrica.recipes.options import LabPrompts, PromptSource
from rubrica.recipes.stages import demonstrations_of
from rubrica.recipes.stages.think_sft import ThinkSft
from rubrica.recipes.tables import on_hub

LoadPrompts = Callable[[str], Sequence[Prompt]]
"""Gets a file or hub id, or a kind of the lab's prompts."""
KIND = "kind"
"""Tag that ``prompts.mix`` speaks of."""


class StagePrompts(NamedTuple):
    """What the stages train on."""

    sft: list[Prompt]
    """Prompts of think-SFT, each once."""
    replay: list[Prompt]
    """Plain prompts of think-SFT."""
    rl: list[Prompt]
    """Prompts of GRPO in order of use; a short list is passed over several times."""


def names_hub(recipe: Recipe) -> bool:
    """Tell whether some of the prompts or demonstrations lie on the hub."""
    stages = [stage for stage in recipe.stages if isinstance(stage, ThinkSft)]
    given = [*recipe.prompts.train, *recipe.prompts.sft, *(s for stage in stages for s in stage.replay)]
    shown = [source for stage in recipe.stages for source in demonstrations_of(stage)]
    return any(isinstance(source, str) and on_hub(source) for source in [*given, *shown])


def gather(sources: Sequence[PromptSource], files: LoadPrompts, lab: LoadPrompts) -> list[Prompt]:
    """Load all sources in order, each prompt once; ``DataError`` when one id stands for two prompts."""
    found: dict[str, Prompt] = {}
    seen: set[str] = set()
    for source in sources:
        for prompt in lab(source.lab) if isinstance(source, LabPrompts) else files(source):
            text = identity(prompt)
            if text in seen:
                continue
            if prompt.id in found:
                name = source.lab if isinstance(source, LabPrompts) else source
                raise DataError(name, f"prompt id {prompt.id!r} stands for two prompts; make ids unique")
            seen.add(text)
            found[prompt.id] = prompt
    return list(found.values())


def identity(prompt: Prompt) -> str:
    """Return what makes two prompts the same: roles and words, whatever their case and spacing."""
    return "\n".join(f"{m.role}: {' '.join(m.content.casefold().split())}" for m in prompt.messages)


def in_order(prompts: Sequence[Prompt], mix: Mapping[str, float], seed: int) -> Iterator[Prompt]:
    """Yield prompts without end: passes over each kind, each pass shuffled, kinds in the shares of ``mix``.

    After any number n of prompts, kind k was yielded between n share(k) - 1 and n share(k) + 1 times for two
    kinds, and close to it for more. An empty ``mix`` takes all prompts as one kind.
    """
    groups = _by_kind(prompts, mix)
    shares = mix or {"": 1.0}
    streams = {kind: _passes(group, f"{seed}/{kind}") for kind, group in groups.items()}
    given = dict.fromkeys(groups, 0)
    count = 0
    while True:
        count += 1
        kind = max(groups, key=lambda k: shares[k] * count - given[k])
        given[kind] += 1
        yield next(streams[kind])


def arrange(recipe: Recipe, files: LoadPrompts, lab: LoadPrompts) -> StagePrompts:
    """Return the prompts of every stage of ``recipe``.

    Raises ``UsageError`` when there are too few for think-SFT, ``DataError`` when a prompt is given for both.
    """
    think_sft = next((stage for stage in recipe.stages if isinstance(stage, ThinkSft)), None)
    train = gather(recipe.prompts.train, files, lab)
    sft: list[Prompt] = []
    replay: list[Prompt] = []
    if think_sft is not None:
        pool = gather(recipe.prompts.sft, files, lab) if recipe.prompts.sft else train
        sft = _once(pool, recipe.prompts.mix, recipe.seed, think_sft.examples)
        replay = _replay(think_sft, files, lab, recipe.seed)
    taken = {identity(prompt) for prompt in sft}
    if recipe.prompts.sft:
        if shared := next((prompt for prompt in train if identity(prompt) in taken), None):
            raise DataError(
                str(recipe.prompts.train[0]),
                f"prompt {shared.id!r} is given for SFT and for RL; remove it from one of the two",
            )
    else:
        train = [prompt for prompt in train if identity(prompt) not in taken]
    count = sum(stage.prompts_needed for stage in recipe.stages)
    if not count:
        return StagePrompts(sft, replay, [])
    if not recipe.prompts.train:
        raise UsageError(f"prompts.train: names no prompts, and the stages ask for {count}; name a file")
    if not train:
        raise UsageError(f"prompts.train: think-SFT takes all of its {len(taken)} prompts; add some for RL")
    stream = in_order(train, recipe.prompts.mix, recipe.seed)
    return StagePrompts(sft, replay, [next(stream) for _ in range(count)])


def _replay(stage: ThinkSft, files: LoadPrompts, lab: LoadPrompts, seed: int) -> list[Prompt]:
    if not stage.replay_examples:
        return []
    pool = gather(stage.replay, files, lab)
    if len(pool) < stage.replay_examples:
        raise UsageError(
            f"replay: {len(pool)} prompts for replay_examples: {stage.replay_examples}; add prompts"
        )
    return _once(pool, {}, seed, stage.replay_examples)


def _once(pool: Sequence[Prompt], mix: Mapping[str, float], seed: int, count: int) -> list[Prompt]:
    """Take ``count`` prompts in the order of :func:`in_order`, none twice."""
    chosen: dict[str, Prompt] = {}
    if len(pool) >= count:
        stream = in_order(pool, mix, seed)
        for prompt in (next(stream) for _ in range(count)):
            chosen[prompt.id] = prompt
    if len(chosen) < count:
        of_kinds = f" in the shares {dict(mix)}" if mix else ""
        raise UsageError(
            f"think-sft: examples: {count}{of_kinds} needs more prompts than the {len(pool)} given; add prompts, "
            "or lower examples"
        )
    return list(chosen.values())


def _by_kind(prompts: Sequence[Prompt], mix: Mapping[str, float]) -> dict[str, list[Prompt]]:
    if not mix:
        return {"": list(prompts)}
    groups: dict[str, list[Prompt]] = {kind: [] for kind in mix}
    for prompt in prompts:
        if (kind := prompt.tags.get(KIND, "")) in groups:
            groups[kind].append(prompt)
    for kind, group in groups.items():
        if not group:
            kinds = sorted({prompt.tags.get(KIND, "") for prompt in prompts} - {""})
            raise UsageError(
                f"prompts.mix: no prompt has kind {kind!r}; kinds found: {', '.join(kinds) or 'none'}"
            )
    return groups


def _passes(prompts: Sequence[Prompt], seed: str) -> Iterator[Prompt]:
    generator = random.Random(f"prompts/{seed}")
    while True:
        yield from generator.sample(list(prompts), len(prompts))
