"""How fast reward-guided decoding is: the same models, prompts and reward for everybody, greedy throughout.

one by one     a full forward pass for the candidates, then ``generate`` of ``transformers`` for each candidate alone
by position    the same with one ``generate`` for the candidates of a position together
ours           :class:`rubrica.recipes.guided.Guided`: candidates of all prompts together, no prefix read twice
least          distinct prefixes that the algorithm needs: tokens that no implementation can spare
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from transformers import GenerationConfig

from rubrica.bench.judge import Shape, random_model
from rubrica.core.config import Json
from rubrica.core.errors import ModelError
from rubrica.core.prompts import Prompt
from rubrica.core.records import Sampling
from rubrica.lab.checkpoints import checkpoint
from rubrica.packed import CausalLM
from rubrica.recipes.decoders import Policy, load_policy
from rubrica.recipes.guided import Guide, Guided
from rubrica.recipes.models import ChatFormat, load_chat_format

Progress = Callable[[str], None]


class Load(NamedTuple):
    """What is decoded."""

    prompts: int = 16
    plain_prompts: int = 2
    """Prompts that the straightforward ways decode: the first ones."""
    k: int = 10
    rollout_tokens: int = 20
    max_tokens: int = 24
    alpha: float = 0.5


class LetterReward:
    """A number for any text that costs nothing, so that decoding alone is timed."""

    fingerprint = "letters"

    def score(self, items: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, float | ModelError]]:
        """Yield a hash of each text, from -1 to 1."""
        for index, (_, text) in enumerate(items):
            digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
            yield index, int.from_bytes(digest[:4], "big") / 2**31 - 1


def random_policy(shape: Shape, seed: int) -> Policy:
    """Return an untrained Llama whose choices are far enough apart that rounding changes none, with the lab's tokenizer."""
    model = random_model(shape._replace(vocabulary=1024), "float32", context=1024)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, (2 / shape.width) ** 0.5)
    chat = load_chat_format(checkpoint("starter"))
    never_ends = ChatFormat(chat.tokenizer, frozenset(), 1024)
    return Policy(cast(CausalLM, model), never_ends, f"random {seed}")


def lab_policy(name: str) -> Policy:
    """Return one of the lab's models."""
    return load_policy(checkpoint(name), "float32")


def bench_decode(
    base: Policy, baseline: Policy, prompts: Sequence[Prompt], load: Load, progress: Progress = lambda _: None
) -> dict[str, Json]:
    """Decode with Transfer Q* in all three ways; tokens a second, work, and whether the texts are the same."""
    guide = Guide("baseline", load.alpha, load.k, load.rollout_tokens, 1, 0.0)
    decoder = Guided(base, baseline, LetterReward(), None, guide, "ours")
    asked = list(prompts[: load.prompts])
    list(decoder.decode(asked[:1], Sampling(temperature=0.0, max_tokens=2)))  # warms up
    progress("ours")
    clock = _Clock()
    found = dict(decoder.decode(asked, Sampling(temperature=0.0, max_tokens=load.max_tokens)))
    seconds, busy = clock.read()
    written = sum(each.response.tokens for each in found.values())
    computed = sum(each.spent.computed for each in found.values())
    least = sum(each.spent.least for each in found.values())
    result: dict[str, Json] = {
        "parameters": sum(p.numel() for p in cast(torch.nn.Module, base.model).parameters()),
        "threads": torch.get_num_threads(),
        "prompts": len(asked),
        "k": load.k,
        "rollout_tokens": load.rollout_tokens,
        "new_tokens": written,
        "ours_tokens_per_s": written / seconds,
        "ours_cpu_ms_per_token": 1000 * busy / written,
        "computed": computed,
        "least": least,
        "computed_over_least": computed / least,
    }
    for name, together in (("one_by_one", False), ("by_position", True)):
        progress(name.replace("_", " "))
        clock = _Clock()
        ways = [
            _Plain(base, baseline, decoder, load, together).decode(p) for p in asked[: load.plain_prompts]
        ]
        seconds, busy = clock.read()
        tokens = sum(len(way.written) for way in ways)
        result[f"{name}_tokens_per_s"] = tokens / seconds
        result[f"{name}_cpu_ms_per_token"] = 1000 * busy / tokens
        result[f"{name}_computed_per_token"] = sum(way.computed for way in ways) / tokens
        same = [decoder.base.text(way.written) == found[n].response.text for n, way in enumerate(ways)]
        result[f"{name}_same_texts"] = f"{sum(same)} of {len(same)}"
    result["ours_computed_per_token"] = computed / written
    return result


class _Clock:
    """Seconds that went by, and those of this process on all cores: the same whatever else the machine does."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Both since the clock was made."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


class _Plain:
    """A straightforward script for one prompt."""

    def __init__(self, base: Policy, baseline: Policy, decoder: Guided, load: Load, together: bool) -> None:
        self._base, self._baseline, self._load, self._together = base, baseline, load, together
        self._stop = decoder.stop
        self.written: list[int] = []
        self.computed = 0
        """Tokens that went through a model."""

    def decode(self, prompt: Prompt) -> "_Plain":
        """Write one answer."""
        heads = [p.chat.prompt_ids(p.chat.render(prompt)) for p in (self._base, self._baseline)]
        while len(self.written) < self._load.max_tokens and not self._stop & set(self.written[-1:]):
            logprobs = self._logprobs([*heads[0], *self.written])
            top = logprobs.topk(self._load.k)
            candidates = cast("list[int]", top.indices.tolist())
            whole = self._rollouts([*heads[1], *self.written], candidates)
            texts = [self._base.text([*self.written, *tokens]) for tokens in whole]
            rewards = [score for _, score in LetterReward().score([(prompt, text) for text in texts])]
            scores = [
                logprob + cast(float, reward) / self._load.alpha
                for logprob, reward in zip(cast("list[float]", top.values.tolist()), rewards, strict=True)
            ]
            self.written.append(candidates[scores.index(max(scores))])
        return self

    @torch.inference_mode()
    def _logprobs(self, ids: Sequence[int]) -> torch.Tensor:
        self.computed += len(ids)
        given = torch.tensor([list(ids)], device=self._base.model.device)
        return (
            self._base.model(input_ids=given, logits_to_keep=1, use_cache=False)
            .logits[0, -1]
            .double()
            .log_softmax(-1)
        )

    def _rollouts(self, ids: Sequence[int], candidates: Sequence[int]) -> list[list[int]]:
        """Each candidate with its greedy rollout; one that ends the answer stays as it is."""
        left = min(self._load.rollout_tokens, self._load.max_tokens - len(self.written) - 1)
        found = [[token] for token in candidates]
        open_ = [n for n, token in enumerate(candidates) if token not in self._stop and left]
        groups = [open_] if self._together and open_ else [[n] for n in open_]
        for group in groups:
            rows = torch.tensor([[*ids, candidates[n]] for n in group], device=self._baseline.model.device)
            out = self._baseline.model.generate(
                rows, attention_mask=torch.ones_like(rows), generation_config=self._settings(left)
            )
            new = cast("list[list[int]]", out[:, rows.shape[1] :].tolist())
            self.computed += len(group) * (rows.shape[1] + len(new[0]) - 1)
            for n, tokens in zip(group, new, strict=True):
                end = next((at for at, token in enumerate(tokens) if token in self._stop), len(tokens))
                found[n] += tokens[: end + 1]
        return found

    def _settings(self, most: int) -> GenerationConfig:
        stop = sorted(self._stop)
        return GenerationConfig(
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=stop or None,
            pad_token_id=stop[0] if stop else 0,
        )
