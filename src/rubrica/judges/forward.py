"""One causal language model under the attention of a forest: its hidden states, and what its head says of them."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from rubrica.judges.forest import Branch, Floats, Ints
from rubrica.packed import PackedModel


class Forward(PackedModel):
    """A model that reads allowed answers behind the states of a pass."""

    def scores(self, hidden: Tensor, starts: Sequence[int], branches: Sequence[Branch]) -> list[Floats]:
        """Log-probabilities of every branch's labels; branch n begins at ``hidden[starts[n]]``."""
        reads: list[Ints] = []
        for number, (start, branch) in enumerate(zip(starts, branches, strict=True)):
            read = branch.packed.reads + np.array([start, 0, 0])
            reads.append(np.column_stack([read, np.full(len(read), number)]))
        read = np.concatenate(reads)
        places, which = np.unique(read[:, 0], return_inverse=True)
        values = self._logprobs(hidden[torch.from_numpy(places).to(hidden.device)], which, read[:, 1])
        scores = [np.zeros(len(branch.labels)) for branch in branches]
        for value, label, number in zip(values, read[:, 2], read[:, 3], strict=True):
            scores[number][label] += value
        return scores

    @torch.inference_mode()
    def _logprobs(self, hidden: Tensor, which: Ints, tokens: Ints) -> Floats:
        """Log-probability of ``tokens[n]`` after the state ``hidden[which[n]]``.

        The logit of the token itself is computed in float32: rounded to half precision, logits of different
        answers are often equal.
        """
        head = self.head
        out = np.empty(len(which))
        for start in range(0, len(hidden), self.chunk):
            states = hidden[start : start + self.chunk]
            logits = self.logits(states)
            here = np.flatnonzero((which >= start) & (which < start + self.chunk))
            row = torch.from_numpy(which[here] - start).to(logits.device)
            token = torch.from_numpy(tokens[here]).to(logits.device)
            own = logits[row, token]
            if type(head) is torch.nn.Linear:
                own = (states[row].float() * head.weight[token].float()).sum(-1)
                bias = cast("Tensor | None", head.bias)
                own = self.capped(own if bias is None else own + bias[token].float())
            out[here] = (own - torch.logsumexp(logits, dim=-1)[row]).double().cpu().numpy()
        return out
