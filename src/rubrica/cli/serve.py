"""``rubrica serve``: rewards over HTTP, for anybody's trainer."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rubrica.cli.options import FullFlag, JsonFlag, JudgeFlag, ProgramFlag
from rubrica.cli.output import error_line, print_json

if TYPE_CHECKING:
    from rubrica.recipes.scorer import ItemScorer

KEY_ENV = "RUBRICA_API_KEY"
Calls = Annotated[
    int | None, typer.Option("--max-calls", min=0, help="Ask no question more, in all sessions.")
]
Money = Annotated[float | None, typer.Option("--max-money", min=0, max=1e9, help="Spend no US dollar more.")]
Body = Annotated[int, typer.Option("--max-body", metavar="BYTES", min=1024, help="Bytes of one request.")]
Items = Annotated[int, typer.Option("--max-items", min=1, help="Items of one request.")]
Letters = Annotated[int, typer.Option("--max-text", min=1, help="Characters of one text.")]
Waiting = Annotated[int, typer.Option("--max-queue", min=1, help="Items that may wait.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one request.")]
Grace = Annotated[float, typer.Option("--grace", min=0.0, help="Seconds to finish a batch at the end.")]


def serve(
    program: ProgramFlag,
    judge: JudgeFlag,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Store of verdicts; goes on from there.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8700,
    reward: Annotated[
        str, typer.Option("--reward", metavar="PRESET", help="rubrica or qa-lign.")
    ] = "rubrica",
    tags: Annotated[
        tuple[str, str], typer.Option("--tags", metavar="OPEN CLOSE", help="Tags around the reflection.")
    ] = ("<think>", "</think>"),
    full: FullFlag = False,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env", metavar="NAME", help=f"Variable with the key or keys. Default {KEY_ENV}."
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without a key.")
    ] = False,
    end: Annotated[
        list[str] | None,
        typer.Option("--end", metavar="TEXT", help="End token of OpenRLHF's completions; may be repeated."),
    ] = None,
    max_body: Body = 32 * 2**20,
    max_items: Items = 1024,
    max_text: Letters = 200_000,
    max_queue: Waiting = 8192,
    max_calls: Calls = None,
    max_money: Money = None,
    timeout: Timeout = 600.0,
    grace: Grace = 30.0,
    as_json: JsonFlag = False,
) -> None:
    """Serve rewards over HTTP until SIGTERM or Ctrl-C. The same command goes on with the same verdicts."""
    from rubrica.core.attempt import Tags
    from rubrica.core.config import validate
    from rubrica.core.run import claim
    from rubrica.judges.budget import Budget
    from rubrica.program.reward import RewardConfig
    from rubrica.recipes.score import scoring_folder
    from rubrica.recipes.scorer import open_scorer
    from rubrica.serve.app import LOOPBACK, Limits, Settings
    from rubrica.serve.server import bind, run_server

    keys = client_keys(api_key_env)
    local = host in LOOPBACK
    if not (local or keys or insecure):
        _refuse_open_door(host)
    limits = Limits(
        max_body=max_body, max_items=max_items, max_text=max_text, max_queue=max_queue, timeout=timeout
    )
    hosts = LOOPBACK if local and not keys else ("*",)
    settings = Settings(keys=keys, hosts=hosts, ends=tuple(end or ()), limits=limits)
    preset = validate(RewardConfig, {"preset": reward}, "--reward")
    around = validate(Tags, {"open": tags[0], "close": tags[1]}, "--tags")
    budget = Budget(calls=max_calls, money=max_money)
    listener = bind(host, port)
    with claim(scoring_folder(out)):
        scorer = open_scorer(program, judge, out, reward=preset, tags=around, full=full, budget=budget)
        where = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"

        def say_ready() -> None:
            if as_json:
                print_json({"url": where, "judge": scorer.judge, "program": scorer.program})
                sys.stdout.flush()
            _tell(where, bool(keys), out)

        _leave(scorer, run_server(scorer, settings, listener, grace=grace, on_ready=say_ready))


def _tell(where: str, keyed: bool, out: Path) -> None:
    error_line(f"rewards at {where}/v1/score {'with an API key' if keyed else 'without a key'}")
    error_line(f"documentation at {where}/docs, verdicts in {out}/store.sqlite; Ctrl-C ends it")


def _leave(scorer: "ItemScorer", at_rest: bool) -> None:
    if at_rest:
        scorer.close()
        error_line("stopped; every verdict is stored, and the same command goes on from there")
        return
    error_line("stopped while the judge hung; every verdict it gave is stored")
    os._exit(0)  # its thread would keep the process, and nothing is left to write


def client_keys(variable: str | None) -> list[str]:
    """Keys in the environment, separated by commas; ``UsageError`` where a variable was named that holds none."""
    from rubrica.core.errors import UsageError

    keys = [key for part in os.environ.get(variable or KEY_ENV, "").split(",") if (key := part.strip())]
    if variable is not None and not keys:
        raise UsageError(f"--api-key-env {variable}: the variable is empty or not set; put the key into it")
    return keys


def _refuse_open_door(host: str) -> None:
    from rubrica.core.errors import UsageError

    raise UsageError(
        f"--host {host}: others could use the judge at your cost; put a key into {KEY_ENV} (or name a variable "
        "with --api-key-env), or say --insecure"
    )
