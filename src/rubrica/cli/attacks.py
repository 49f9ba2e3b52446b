"""``rubrica attack``: rewrite prompts as an attacker would, without a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rubrica.cli.attack_repeat import repeat
from rubrica.cli.attack_search import search
from rubrica.cli.options import JsonFlag
from rubrica.cli.output import Command, check_out, console, note, plain, plural, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rubrica.core.evaluation import Item
    from rubrica.recipes.tried import Curve

AttackFlag = Annotated[
    list[str],
    typer.Option(
        "--attack",
        metavar="SPEC",
        help="persona, many-shot(n=16), persona+base64, family:encoding, all or direct; may be repeated.",
    ),
]
app = typer.Typer(help="Attacks on a model.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _attack() -> None:
    """Attacks on a model: rewritten prompts, repeated tries, and search."""


app.command(cls=Command)(repeat)
app.command(cls=Command)(search)


@app.command("list", cls=Command)
def list_transforms(as_json: JsonFlag = False) -> None:
    """Show the transforms: name, family, parameters, what it does, and who described it."""
    import json
    from itertools import groupby

    from rubrica.attacks.registry import TRANSFORMS, describe

    if as_json:
        print_json([describe(transform)._asdict() for transform in TRANSFORMS.values()])
        return
    out = console()
    by_family = sorted(TRANSFORMS.values(), key=lambda transform: transform.family)
    for family, members in groupby(by_family, key=lambda transform: transform.family):
        out.print(family.value)
        for transform in members:
            row = describe(transform)
            pairs = ", ".join(
                name if value in (None, "") else f"{name}={json.dumps(value)}"
                for name, value in row.parameters.items()
            )
            out.print(plain(f"  {row.name}{f'({pairs})' if pairs else ''}"), soft_wrap=True)
            texts = f" Texts: {', '.join(row.templates)}." if row.templates else ""
            out.print(plain(f"      {row.summary} [{row.reference}]{texts}"), soft_wrap=True)


@app.command(cls=Command)
def apply(
    attack: AttackFlag,
    source: Annotated[
        str, typer.Option("--input", metavar="FILE|SUITE", help="A file of prompts, or a suite.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.jsonl", help="Where the prompts go.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder with copies of the suites' files.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First prompts only.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Rewrite prompts; the file can be read wherever prompts are, and keeps the plain request as goal."""
    from collections import Counter

    from rubrica.attacks.attack import attacked, parse_attacks
    from rubrica.core.errors import UsageError
    from rubrica.evals.prompt_file import write_items

    attacks = parse_attacks(attack)
    if not out.name.endswith(".jsonl"):
        raise UsageError(f"--out {out}: expected a name that ends in .jsonl")
    check_out(out)
    items = read_source(source, data, limit)
    made: Counter[str] = Counter()

    def counted() -> "Iterator[Item]":
        for item in attacked(items, attacks, seed):
            made[item.attack] += 1
            yield item

    written = write_items(out, counted())
    if as_json:
        print_json(
            {"items": len(items), "written": written, "seed": seed, "attacks": dict(made), "path": str(out)}
        )
        return
    for spec, count in made.items():
        console().print(plain(f"{count:8,}  {spec or 'direct'}"), soft_wrap=True)
    console().print(
        plain(f"{plural(len(items), 'item')}, {plural(written, 'prompt')} in {out}"), soft_wrap=True
    )


def read_source(source: str, data: Path | None, limit: int | None) -> "list[Item]":
    """Read a file of prompts, a suite or a group of suites; where there are several, their names stand before the ids."""
    from rubrica.core.tables import SUFFIXES
    from rubrica.evals.prompt_file import read_items
    from rubrica.recipes.sources import suite_sources

    if source.lower().endswith(SUFFIXES) or Path(source).exists():
        return read_items(source, limit=limit)
    suites = suite_sources([source], data, limit=limit)
    if len(suites) == 1:
        return list(suites[0].items())
    return [
        item.model_copy(update={"id": f"{suite.name}/{item.id}"})
        for suite in suites
        for item in suite.items()
    ]


@app.command(cls=Command)
def curve(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What rubrica eval wrote.")],
    n: Annotated[
        str | None, typer.Option("--n", metavar="1,2,4", help="Numbers of tries; default: powers of two.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show attack success by number of tries: of best-of-n variants, of trials, or both."""
    from rubrica.recipes.tried import curves, rows_in, stopped_in

    wanted = _numbers(n)
    found = curves(rows_in(folder), wanted, stopped=stopped_in(folder))
    show_curves(found, as_json=as_json)
    for each in found:
        if missing := [
            str(number) for number in wanted if f"n={number}" not in {rate.group for rate in each.estimates}
        ]:
            note(
                f"{each.suite}, {each.attack or 'direct'}: not every request has {' or '.join(missing)} tries; no rate"
            )


def show_curves(found: "Sequence[Curve]", *, as_json: bool) -> None:
    """Print attack success by number of tries."""
    if as_json:
        print_json([each.row() for each in found])
        return
    out = console()
    for each in found:
        title = f"{each.suite}, {each.attack or 'direct'}: {plural(each.requests, 'request')}"
        out.print(plain(f"{title}, {plural(each.unjudged, 'try', 'tries')} without a value"), soft_wrap=True)
        for rate in each.estimates:
            out.print(f"  {rate.group:>8}  {rate.value:6.1%} [{rate.low:6.1%}, {rate.high:6.1%}]  n={rate.n}")
        if each.law is not None:
            out.print(f"  -log ASR = {each.law.a:.3g} n^-{each.law.b:.3g}")


def _numbers(given: str | None) -> list[int]:
    from rubrica.core.errors import UsageError

    try:
        found = sorted({int(part) for part in given.split(",")}) if given is not None else []
    except ValueError:
        raise UsageError(f"--n {given!r}: expected whole numbers with commas, for example 1,2,4") from None
    if found and found[0] < 1:
        raise UsageError(f"--n {given!r}: expected numbers of at least 1")
    return found
