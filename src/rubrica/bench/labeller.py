"""A random Llama that answers every question with a label, for measuring servers without a real judge.

Two coordinates of the residual stream are set aside: the first is the same for every token, the second is set by
the label alone, and no layer writes to either. The output layer reads them: the label after any token, the end
after the label. All other weights are random, so a call costs what it costs with any model of this shape.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from rubrica.bench.judge import DType, Shape, random_model, vllm_server
from rubrica.lab.checkpoints import checkpoint

LABEL = "F"
"""FALSE to a gate, the worst grade to a graded question; a token of every byte-level tokenizer."""
_PUSH = 200.0


@torch.no_grad()
def labeller(shape: Shape, dtype: DType, label: int, end: int) -> LlamaForCausalLM:
    """Return the model; ``label`` and ``end`` are token ids."""
    model = random_model(shape, "float32")
    table = model.model.embed_tokens.weight
    table[:, 0], table[:, 1], table[label, 1] = 1.0, 0.0, 1.0
    for layer in model.model.layers:
        for output in (layer.self_attn.o_proj, layer.mlp.down_proj):
            output.weight[:2] = 0.0
    out = table.clone()
    out[:, :2] = 0.0
    out[label, 0], out[end, 1] = _PUSH, 2 * _PUSH
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(out)
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    return model.to(getattr(torch, dtype))


@contextmanager
def served_labeller(python: Path, shape: Shape, dtype: DType) -> Iterator[str]:
    """Serve the model by vLLM as ``m``; give the base URL of its API. ``JudgeError`` if it does not come up."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("starter"))
    with TemporaryDirectory() as folder:
        label = int(tokenizer.convert_tokens_to_ids(LABEL))
        labeller(shape, dtype, label, int(tokenizer.eos_token_id)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with vllm_server(python, Path(folder), dtype, "--enable-prompt-tokens-details") as url:
            yield f"{url}/v1"
