"""What a JSON schema does for compiling a program: replies of a real vLLM server with and without guided decoding.

    python benchmarks/guided_compile.py VLLM_PYTHON [--constitution hhh] [--principles N]

VLLM_PYTHON is the interpreter of an environment with vLLM. The model is a tiny Llama with random weights: it writes
noise, so every valid reply is the grammar's doing. Prints, with and without the schema, how many of the prompts of
stage 1 got a reply in which JSON was found and one that fits the reply's own schema, and what compiling then kept.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rubrica.bench.judge import vllm_server
from rubrica.core.errors import ModelError
from rubrica.core.ports import Ask
from rubrica.core.programs import Constitution
from rubrica.lab.checkpoints import checkpoint
from rubrica.models.server import ServerGenerator
from rubrica.program.compile import CompileConfig, compile_program
from rubrica.program.constitution import load_constitution
from rubrica.program.replies import DimensionsReply, QuestionsReply, read_json

COMPACT = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
"""Without it the grammar lets blanks between tokens run on for ever, and noise does not stop by itself."""


class Watched:
    """A drafter that counts what it is answered; ``schema=False`` takes the schema out of every call."""

    def __init__(self, inner: ServerGenerator, schema: bool) -> None:
        self._inner, self._schema = inner, schema
        self.name = inner.name
        self.calls = self.json = self.fit = 0

    def draft(self, asks: Sequence[Ask]) -> Iterator[tuple[int, str | ModelError]]:
        sent = asks if self._schema else [ask._replace(schema=None) for ask in asks]
        for index, answer in self._inner.draft(sent):
            self.calls += 1
            kind = DimensionsReply if asks[index].prompt.rstrip().endswith("Dimensions:") else QuestionsReply
            self.json += isinstance(answer, str) and found_json(answer)
            self.fit += isinstance(answer, str) and fits(answer, kind)
            yield index, answer


def found_json(answer: str) -> bool:
    """Tell whether the tolerant reader finds JSON in a reply."""
    try:
        read_json(answer)
    except ValueError:
        return False
    return True


def fits(answer: str, kind: type[BaseModel]) -> bool:
    """Tell whether the whole reply is one JSON document of this form."""
    try:
        kind.model_validate_json(answer)
    except ValidationError:
        return False
    return True


def compiled(constitution: Constitution, drafter: Watched) -> str:
    """Compile, and say in a few words what came of it."""
    try:
        program, report = compile_program(
            constitution, drafter, name="noise", config=CompileConfig(dimensions=3, retries=1, max_tokens=900)
        )
    except ModelError as error:
        return f"refused: {error}"
    kept = sum(len(d.questions) for p in program.principles for d in p.dimensions)
    return f"{kept} questions kept, {len(report.dropped)} dropped"


def main() -> None:
    """Print one row with and one without the schema."""
    parser = argparse.ArgumentParser()
    parser.add_argument("python", type=Path)
    parser.add_argument("--constitution", default="hhh")
    parser.add_argument("--principles", type=int, default=3)
    given = parser.parse_args()
    whole = load_constitution(given.constitution)
    constitution = whole.model_copy(update={"principles": whole.principles[: given.principles]})
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("starter"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        with vllm_server(given.python, Path(folder), "bfloat16", *COMPACT, context=4096) as url:
            print("| schema | replies | with JSON | fit the schema | compiling | seconds |")
            print("|---|---|---|---|---|---|")
            for schema in (True, False):
                drafter = Watched(ServerGenerator("m", f"{url}/v1", concurrency=8), schema)
                start = time.perf_counter()
                outcome = compiled(constitution, drafter)
                took = time.perf_counter() - start
                row = f"| {schema} | {drafter.calls} | {drafter.json} | {drafter.fit} | {outcome} | {took:.0f} |"
                print(row, flush=True)


if __name__ == "__main__":
    main()
