"""What a search minimises: the mean loss of the targets of one prompt, or of several that share the slot.

Shapes: B candidates, S slot, V vocabulary, D embedding, A tokens that an attack may write.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from rubrica.attacks.frame import Frame, Place
from rubrica.attacks.victim import Scores, Victim
from rubrica.control import chat_control


def allowed_tokens(victim: Victim, *, ascii_only: bool = True) -> Tensor:
    """Ids [A] that an attack may write: printable text, by default ASCII, no added and no control token."""
    tokenizer, control = victim.tokenizer, chat_control(victim.tokenizer)
    size = min(victim.table.shape[0], len(tokenizer))
    found = []
    for token in range(size):
        if token in tokenizer.added_tokens_decoder:
            continue
        text = victim.decode([token])
        plain = text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text
        if text and plain and (text.isascii() or not ascii_only) and control.disarm(text) == text:
            found.append(token)
    return torch.tensor(found, device=victim.device)


def start_text(victim: Victim, tokens: int, place: Place = "suffix", word: str = "!") -> str:
    """Text that a search starts with: ``word`` repeated until it has so many tokens (GCG starts with twenty ``!``)."""
    text = f" {word}" if place == "suffix" else word
    while len(victim.encode([text])[0]) < tokens:
        text += f" {word}"
    return text


class Objective:
    """One or more frames of the same model."""

    def __init__(self, frames: Sequence[Frame], *, allowed: Tensor, start: str) -> None:
        """``allowed`` are the tokens of :func:`allowed_tokens`, ``start`` the text that the search starts with."""
        self.frames, self.allowed, self.start = list(frames), allowed, start
        self.victim = frames[0].victim

    def only(self, count: int) -> "Objective":
        """The same with the first ``count`` frames."""
        return Objective(self.frames[:count], allowed=self.allowed, start=self.start)

    def answered(self, answers: Sequence[str]) -> "Objective":
        """The same with answers that have begun, one a frame; see :meth:`Frame.answered`."""
        frames = [frame.answered(answer) for frame, answer in zip(self.frames, answers, strict=True)]
        return Objective(frames, allowed=self.allowed, start=self.start)

    @cached_property
    def start_ids(self) -> list[int]:
        """Token ids of the start, as they stand in the first prompt."""
        first = self.frames[0]
        whole = first.contexts([self.start])[0]
        return whole[len(first.before) : len(whole) - len(first.after)]

    def admits(self, slots: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each slot comes back from its text in every prompt; see :meth:`Frame.admits`."""
        found = [frame.admits(slots) for frame in self.frames]
        return [all(each) for each in zip(*found, strict=True)]

    def losses(self, slots: Sequence[Sequence[int]]) -> Scores:
        """Score slots given as token ids."""
        return _mean(
            [
                self.victim.losses(
                    [[*f.before, *slot, *f.after] for slot in slots], f.target_ids, len(f.before)
                )
                for f in self.frames
            ]
        )

    def text_losses(self, slots: Sequence[str]) -> Scores:
        """Score slots given as texts, as the tokenizer cuts them; one that exceeds the context has an infinite loss.

        ``UsageError`` where all exceed it.
        """
        contexts = [frame.contexts(slots) for frame in self.frames]
        lengths = [
            max(
                len(rows[at]) + len(frame.target_ids)
                for frame, rows in zip(self.frames, contexts, strict=True)
            )
            for at in range(len(slots))
        ]
        self.victim.check_length(min(lengths), "attack")
        fitting = [at for at, length in enumerate(lengths) if self.victim.fits(length)]
        found = []
        for frame, rows in zip(self.frames, contexts, strict=True):
            chosen = [rows[at] for at in fitting]
            shared = common_prefix(chosen) if len(chosen) > 1 else 0
            found.append(self.victim.losses(chosen, frame.target_ids, shared))
        losses, reached = torch.full((len(slots),), torch.inf), torch.zeros(len(slots), dtype=torch.bool)
        losses[fitting], reached[fitting] = _mean(found)
        return Scores(losses, reached)

    def soft_losses(self, slots: Tensor) -> Tensor:
        """Mean loss [B] of slots given as embeddings [B, S, D]; gradients flow into them."""
        each = [self.victim.soft_losses(f.before, slots, f.after, f.target_ids) for f in self.frames]
        return torch.stack(each).mean(0)

    def gradient(self, slot: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and its gradient [S, D] in the embeddings [S, D] of a slot; averaged over prompts.

        Of several prompts, each position's gradient is scaled to length 1 first, so that no prompt drowns the
        others (GCG, section 2.3: gradients are clipped to unit norm before they are added).
        """
        total, loss = torch.zeros_like(slot), torch.zeros((), device=slot.device)
        for frame in self.frames:
            point = slot.detach().clone().requires_grad_()
            with torch.enable_grad():
                found = self.victim.soft_losses(frame.before, point[None], frame.after, frame.target_ids)[0]
                (grad,) = torch.autograd.grad(found, point)
            self.victim.spent.backward += 1
            if len(self.frames) > 1:
                grad = grad / grad.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(grad.dtype).tiny)
            total, loss = total + grad / len(self.frames), loss + found.detach() / len(self.frames)
        return loss, total

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embeddings [S, D] of a slot."""
        return self.victim.table[torch.tensor(list(ids), device=self.victim.device)]

    def text(self, ids: Sequence[int]) -> str:
        """Text of a slot."""
        return self.victim.decode(ids)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many first tokens are the same in all rows; at least one of each is left."""
    most = min(map(len, rows)) - 1
    columns = zip(*rows, strict=False)
    return next((at for at, column in enumerate(columns) if at >= most or len(set(column)) > 1), most)


def _mean(found: Sequence[Scores]) -> Scores:
    return Scores(
        torch.stack([scores.losses for scores in found]).mean(0),
        torch.stack([scores.reached for scores in found]).all(0),
    )
