"""What an experiment is: a name, the claims that it tests, and a function that tests them with one seed.

Design it so that each claim can fail: no threshold is tuned, sizes and margins are set before the seeds are run.
Import what is heavy inside the function: the table is printed without torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rubrica.claims.finding import Claim, Effect
from rubrica.claims.workshop import Bench
from rubrica.core.errors import UsageError, nearest

Test = Callable[[Bench], Mapping[str, Effect]]
"""Gets the bench of one seed, returns one effect for each claim, by its id."""


@dataclass(frozen=True)
class Experiment:
    """One experiment of the claims table."""

    name: str
    claims: tuple[Claim, ...]
    test: Test


def choose(names: Sequence[str], known: Sequence[Experiment]) -> list[Experiment]:
    """Return the experiments that ``names`` name, in the table's order; all of them where there is no name.

    A name is an experiment's, or the part in front of a dot that several share: ``qa-lign`` chooses
    ``qa-lign.presets``, ``qa-lign.dpo-1x`` ... Raises ``UsageError`` for a name that chooses nothing.
    """
    groups = [e.name.partition(".")[0] for e in known]
    for name in names:
        if name not in {*groups, *(e.name for e in known)}:
            every = list(dict.fromkeys([*(e.name for e in known), *groups]))
            raise UsageError(
                f"experiment {name!r}: there is none{nearest(name, every)}; expected one of {', '.join(every)}"
            )
    wanted = set(names)
    return [
        e for e, group in zip(known, groups, strict=True) if not wanted or e.name in wanted or group in wanted
    ]
