"""``rubrica bench``: how fast the parts are, as ratios within one run."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rubrica.cli.output import JsonFlag, note, print_json
from rubrica.core.errors import UsageError, nearest

app = typer.Typer(help="Benchmarks: ratios within one run.", no_args_is_help=True, rich_markup_mode=None)


class Kind(StrEnum):
    """Types of its weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@app.callback()
def _bench() -> None:
    """Benchmarks: ratios within one run."""


@app.command()
def judge(
    questions: Annotated[int, typer.Option(help="Questions about the text.", min=8)] = 167,
    params: Annotated[str, typer.Option(help="Size of the random Llama: 110M, 20M, small.")] = "110M",
    dtype: Annotated[Kind, typer.Option(help="Type of its weights.")] = Kind.FLOAT32,
    prefix_tokens: Annotated[int, typer.Option(help="Tokens of prompt and text.", min=1)] = 400,
    texts: Annotated[int, typer.Option(help="Texts behind one prompt.", min=1)] = 1,
    plain: Annotated[bool, typer.Option(help="Measure plain batches as well.")] = True,
    growth: Annotated[bool, typer.Option(help="Measure how time and memory grow.")] = False,
    vllm: Annotated[
        Path | None,
        typer.Option(help="Python of an environment with vLLM: serve the same weights and ask over HTTP."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Judge one text with random weights: plain batches, ours, the arithmetic limit, vLLM."""
    from rubrica.bench.judge import SHAPES, Load, bench_judge

    sizes = {name.casefold(): shape for name, shape in SHAPES.items()}
    if params.casefold() not in sizes:
        raise UsageError(f"--params {params!r}{nearest(params, SHAPES)}; expected one of {', '.join(SHAPES)}")
    load = Load(questions=questions, prefix_tokens=prefix_tokens, texts=texts)
    found = bench_judge(
        sizes[params.casefold()],
        load,
        dtype.value,
        plain=plain,
        growth=growth,
        vllm=vllm,
        progress=lambda what: note(f"{what} ..."),
    )
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if key != "growth":
            print(f"{key:16} {value:.4g}" if isinstance(value, float) else f"{key:16} {value}")
    ours, limit = found["ours_s"], found["limit_s"]
    assert isinstance(ours, float) and isinstance(limit, float)
    print(f"ours / limit     {ours / limit:.2f}")
    for other in ("plain_s", "vllm_s"):
        if isinstance(seconds := found[other], float):
            print(f"{other[:-2]} / ours     {seconds / ours:.2f}")
    rows = found.get("growth")
    for row in rows if isinstance(rows, list) else []:
        assert isinstance(row, dict)
        print(
            f"{row['varied']:>14} {row['value']:>6}: {row['distinct_tokens']:>7} tokens, "
            f"{row['seconds']:8.3f} s, peak {row['peak_mb']} MB"
        )
