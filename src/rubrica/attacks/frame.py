"""A prompt with a free slot, located in token ids, and the answer that an attack is after.

What counts is what the model reads when somebody types the text: the chat template renders it, control tokens are
disarmed, the tokenizer cuts it. A slot is admitted only if that whole way gives the very ids that were searched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rubrica.attacks.victim import Victim
from rubrica.core.errors import UsageError
from rubrica.core.prompts import Message, Prompt

Place = Literal["suffix", "prefix"]
REQUEST = "{request}"
"""Where an attack that writes the whole prompt puts the request."""


@dataclass(frozen=True)
class Frame:
    """One prompt with a slot in its last turn, and the target behind it."""

    victim: Victim
    prompt: Prompt
    target: str
    place: Place
    before: tuple[int, ...]
    """Token ids up to the slot."""
    after: tuple[int, ...]
    """Token ids between the slot and the target: the rest of the prompt, and what the answer begins with."""
    answer: tuple[int, ...]
    """The end of ``after`` that belongs to the answer."""
    target_ids: tuple[int, ...]

    @property
    def request(self) -> str:
        """Text of the last turn."""
        return self.prompt.messages[-1].content

    def content(self, slot: str) -> str:
        """Text of the last turn with the slot filled in; a text that names the request stands for the whole turn."""
        if REQUEST in slot:
            return slot.replace(REQUEST, self.request)
        return self.request + slot if self.place == "suffix" else f"{slot} {self.request}"

    def filled(self, slot: str) -> Prompt:
        """The prompt with the slot filled in."""
        last = Message(role="user", content=self.content(slot))
        return self.prompt.model_copy(update={"messages": (*self.prompt.messages[:-1], last)})

    def contexts(self, slots: Sequence[str]) -> list[list[int]]:
        """What the model reads up to the target, for slots given as texts."""
        earlier = self.prompt.messages[:-1]
        rendered = [self.victim.render(earlier, self.content(slot)) for slot in slots]
        return [[*ids, *self.answer] for ids in self.victim.encode(rendered)]

    def admits(self, slots: Sequence[Sequence[int]]) -> list[bool]:
        """Whether the model, given the text of these ids, reads these ids."""
        found = self.contexts([self.victim.decode(slot) for slot in slots])
        return [ids == [*self.before, *slot, *self.after] for ids, slot in zip(found, slots, strict=True)]

    def answered(self, answer: str) -> "Frame":
        """The same with an answer that has begun with ``answer``: the target is what follows it."""
        begun, target = _target(self.victim, self.target, answer)
        rest = self.after[: len(self.after) - len(self.answer)]
        return replace(self, after=(*rest, *begun), answer=begun, target_ids=target)


def frame(victim: Victim, prompt: Prompt, target: str, slot: str, place: Place = "suffix") -> Frame:
    """Locate ``slot``, the text that the search starts with, in the rendered prompt.

    ``UsageError`` where a token reaches over its border, the target is empty, or all of it exceeds the context.
    """
    begun, target_ids = _target(victim, target, "")
    empty = Frame(victim, prompt, target, place, (), (), begun, target_ids)
    rendered = victim.render(prompt.messages[:-1], empty.content(slot))
    tokens = victim.tokenizer([rendered], add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = tokens["input_ids"][0], tokens["offset_mapping"][0]
    start = rendered.rfind(slot) if place == "suffix" else rendered.find(slot)
    stop = start + len(slot)
    inside = [n for n, (low, high) in enumerate(offsets) if high > start and low < stop and high > low]
    crossing = [n for n in inside if offsets[n][0] < start or offsets[n][1] > stop]
    if start < 0:
        raise UsageError(
            f"prompt {prompt.id!r}: the chat template leaves out the start {slot!r} of the attack, or changes it; give "
            "another template, or start with other characters"
        )
    if not inside or crossing:
        raise UsageError(
            f"prompt {prompt.id!r}: the start {slot!r} of the attack melts into the prompt around it; start with "
            "other characters (a space in front of a suffix)"
        )
    found = replace(empty, before=tuple(ids[: inside[0]]), after=tuple(ids[inside[-1] + 1 :]))
    victim.check_length(len(ids) + len(target_ids), f"prompt {prompt.id!r}")
    return found


def _target(victim: Victim, target: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids of what the answer has begun with, and of the target behind it."""
    if not target.strip():
        raise UsageError("target: is empty; expected how an answer that complies would begin")
    whole = f"{answer} {target}" if answer else target
    tokens = victim.tokenizer([whole], add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = tokens["input_ids"][0], tokens["offset_mapping"][0]
    cut = sum(span[1] <= len(answer) for span in offsets) if answer else 0
    return tuple(ids[:cut]), tuple(ids[cut:])
