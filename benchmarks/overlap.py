"""How long GRPO waits for verdicts after generation, with judging meanwhile and without.

    python benchmarks/overlap.py [--steps N] [--policy DIR] [--json]

The lab's policy after a short think-SFT (or the model in DIR) trains a few steps under a judge behind real HTTP, in another process:
once bound by latency (slow calls, many at a time), once by throughput (quick calls, few at a time). Rewards are
the same with and without; the first step is left out.
"""

import argparse
import asyncio
import json
import math
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from statistics import mean

from rubrica.core.config import dump_yaml, read_yaml
from rubrica.core.run import Run

CASES = {"latency-bound": (0.4, 1000, 64), "throughput-bound": (0.05, 8, 64)}
"""Seconds a call, calls that the server works on at a time, calls that the client has under way."""


async def serve(seconds: float, capacity: int) -> None:
    """Answer chat completions until killed; print the port first."""
    slots = asyncio.Semaphore(capacity)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                int(x[15:]) for x in head.decode().lower().split("\r\n") if x.startswith("content-length:")
            )
            content = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
            content = re.sub(r"[0-9a-f]{16}", "", content)  # the fence's marker differs between runs
            async with slots:
                await asyncio.sleep(seconds)
            gate, draw = "TRUE" in content[-400:], zlib.crc32(content.encode()) % 100
            label = ("TRUE" if draw < 85 else "FALSE") if gate else "ABCDF"[draw // 20]
            top = [{"token": label, "logprob": math.log(0.9), "bytes": None}]
            choice = {
                "index": 0, "message": {"role": "assistant", "content": label}, "finish_reason": "stop",
                "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
            }  # fmt: skip
            usage = {"prompt_tokens": 200, "completion_tokens": 1, "total_tokens": 201}
            body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            data = json.dumps({**body, "usage": usage}).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
            )
            writer.write(data)
            await writer.drain()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await connection(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def judge(seconds: float, capacity: int) -> Iterator[str]:
    """The judge's URL."""
    command = [sys.executable, __file__, "--serve", str(seconds), str(capacity)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.terminate()


def align(recipe: dict[str, object], out: Path) -> list[dict[str, float]]:
    """Run a recipe; return what its last stage logged, without the first step."""
    path = out.with_suffix(".yaml")
    path.write_text(dump_yaml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "rubrica", "align", str(path), "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with Run.open(out) as run:
        return [row.metrics for row in run.stages()[-1].metrics()[1:]]


def measure(steps: int, model: str | None) -> list[dict[str, float | str]]:
    """Return one row a case: seconds a step, without and with overlap."""
    demo = read_yaml(Path(str(resources.files("rubrica.lab") / "demo.yaml")))
    assert isinstance(demo, dict) and isinstance(demo["stages"], list) and isinstance(demo["stages"][0], dict)
    sft = demo["stages"][0] | {"examples": 300, "replay_examples": 300}
    grpo: dict[str, object] = {
        "type": "grpo", "steps": steps, "prompts_per_step": 8, "group_size": 5, "max_completion_tokens": 112,
        "diagnostics_every": 0, "save_steps": 1000, "trainer": {"learning_rate": 1e-5},
    }  # fmt: skip
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        if model is None:
            align({**demo, "stages": [sft], "evaluate": {}}, base / "sft")
            model = str(base / "sft/stages/01-think-sft/model")
        policy = {"model": model, "dtype": "float32"}
        for case, (seconds, capacity, concurrency) in CASES.items():
            row: dict[str, float | str] = {"case": case}
            rewards = []
            for overlap in (False, True):
                with judge(seconds, capacity) as url:
                    recipe = {
                        **demo, "policy": policy, "evaluate": {}, "stages": [{**grpo, "overlap": overlap}],
                        "judge": {"spec": f"openai:m@{url}", "concurrency": concurrency},
                    }  # fmt: skip
                    logged = align(recipe, base / f"{case}-{overlap}")
                name = "with" if overlap else "without"
                row[f"wait_{name}_s"] = mean(x["judge/wait_seconds"] for x in logged)
                row[f"busy_{name}_s"] = mean(x["judge/busy_seconds"] for x in logged)
                row[f"step_{name}_s"] = mean(x["step_time"] for x in logged)
                row["calls"] = mean(x["calls/asked"] for x in logged)
                rewards.append([x["reward"] for x in logged])
            assert rewards[0] == rewards[1], "overlap changed a reward"
            rows.append(row)
    return rows


def main() -> None:
    """Print a table, or with ``--json`` its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--policy", metavar="DIR")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve(args.serve[0], int(args.serve[1])))
        return
    rows = measure(args.steps, args.policy)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print("| judge | calls a step | wait without, s | with | ratio | step without, s | with | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        wait = [float(row["wait_without_s"]), float(row["wait_with_s"])]
        step = [float(row["step_without_s"]), float(row["step_with_s"])]
        print(
            f"| {row['case']} | {float(row['calls']):.0f} | {wait[0]:.2f} | {wait[1]:.2f} | {wait[1] / wait[0]:.2f} "
            f"| {step[0]:.2f} | {step[1]:.2f} | {step[1] / step[0]:.2f} |"
        )


if __name__ == "__main__":
    main()
