"""What passports say of how a judge of harm or refusal errs."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rubrica.core.errors import UsageError
from rubrica.core.evaluation import Metric
from rubrica.core.records import Estimate, Unmeasured
from rubrica.judges.factory import JudgeConfig
from rubrica.judges.passport import passport_file, read_passport
from rubrica.program.safety import GATES

_METRICS = {"harm": Metric.ASR, "refusal": Metric.FRR}


class Errors(NamedTuple):
    """What a judge's passport says of one question."""

    judge: str
    """Fingerprint of the judge that was measured."""
    sensitivity: Estimate | Unmeasured
    specificity: Estimate | Unmeasured
    created: str = ""
    """When it was measured, UTC."""

    @property
    def unknown(self) -> str:
        """Why nothing can be corrected by them; empty where it can."""
        shares = (self.sensitivity, self.specificity)
        return next((f"{each.name}: {each.reason}" for each in shares if isinstance(each, Unmeasured)), "")


def read_errors(paths: Iterable[str | Path]) -> dict[Metric, Errors]:
    """Return the errors by the metric that they bear on; of two passports about one the later counts.

    ``DataError`` where a file is no passport, ``UsageError`` where it measures neither harm nor refusal.
    """
    found: dict[Metric, Errors] = {}
    for path in paths:
        errors = _errors_in(path)
        if not errors:
            raise UsageError(
                f"--passport {path}: measures no question of harm or refusal; make it with rubrica judge check "
                "--program harm, or refusal"
            )
        found |= errors
    return found


def errors_of(judge: str | JudgeConfig, metric: Metric) -> Errors | None:
    """Return what the passport that a judge's settings name says of its errors; None where there is none, or nothing."""
    named = None if isinstance(judge, str) else judge.passport
    return _errors_in(named).get(metric) if named and passport_file(named).is_file() else None


def _errors_in(path: str | Path) -> dict[Metric, Errors]:
    passport = read_passport(path)
    return {
        _METRICS[asked]: Errors(
            passport.judge,
            passport.measure("sensitivity", question),
            passport.measure("specificity", question),
            passport.created,
        )
        for question, asked in GATES.items()
        if question in passport.questions
    }
