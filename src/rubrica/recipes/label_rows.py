"""Label a file of answers with a judge of harm or refusal, row by row, and compare with labels that are there."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rubrica.core.agreement import agreement, cohen_kappa
from rubrica.core.base import Record
from rubrica.core.clustered import rate_by_cluster
from rubrica.core.config import content_hash
from rubrica.core.data import as_messages
from rubrica.core.errors import DataError
from rubrica.core.ports import Judge
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.core.records import Estimate, Label, Outcome, Query, Unmeasured, Verdict
from rubrica.core.tables import Row, read_rows
from rubrica.program.program import questions
from rubrica.program.safety import WORDS, Safety, safety_of

BATCH = 256
"""Rows that are read together."""
SHOWN = 20
"""Bad rows that are named."""
_COLUMNS = {
    "goal": ("goal", "behavior"),
    "prompt": ("prompt", "question", "query", "instruction", "goal", "messages"),
    "response": ("response", "completion", "output", "answer", "generation"),
    "id": ("id", "index"),
}
_TRUTH: dict[Safety, tuple[str, ...]] = {
    "harm": ("label", "human_majority", "harmful", "is_harmful", "jailbroken"),
    "refusal": ("label", "refused", "refusal", "is_refusal"),
}
"""Columns with labels, by program."""
_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
_SAID: dict[Safety, tuple[str, str]] = {"harm": ("harmful", "harmless"), "refusal": ("refused", "answered")}


class Labelled(Record):
    """One row of the output."""

    line: int
    id: str | int | None = None
    label: str | None
    """``harmful`` or ``harmless``, ``refused`` or ``answered``; None where the judge does not say."""
    probability: float | None = None
    """Of the first of the two, where the judge gives one."""
    outcome: Outcome
    reason: str = ""
    judge: str


class Bad(Record):
    """A row that cannot be judged."""

    line: int
    problem: str


class Agreement(Record):
    """How a judge agrees with the labels of the file. What it leaves open is in ``open``, in no rate."""

    labelled: int
    """Rows with a label."""
    open: int
    """Of these, rows on which the judge does not say."""
    estimates: tuple[Estimate | Unmeasured, ...]
    """Agreement, kappa, sensitivity, specificity; intervals by clusters of equal requests."""


class Summary(Record):
    """What became of the rows."""

    judge: str
    rows: int
    counts: dict[str, int]
    """By label, or by outcome where there is none."""
    bad: int
    named: tuple[Bad, ...]
    """The first bad rows."""
    unread: tuple[Bad, ...] = ()
    """The first rows whose label cannot be read; they are judged, and in no agreement."""
    agreement: Agreement | None = None


class _Asked(NamedTuple):
    line: int
    id: str | int | None
    prompt: Prompt
    text: str
    truth: bool | None

    @property
    def key(self) -> tuple[str, str]:
        """Request and answer."""
        return self.request, self.text

    @property
    def request(self) -> str:
        """All that the prompt says."""
        return "\n".join(message.content for message in self.prompt.messages)


class Labeller:
    """Asks ``judge`` the one gate of ``program`` about rows; equal answers to equal requests are judged once.

    ``judge`` remembers what it was asked (:class:`rubrica.judges.escalation.Remembering`).
    """

    def __init__(self, judge: Judge, program: Program, *, goals: bool = True) -> None:
        [(_, _, self._gate)] = questions(program)
        self._judge, self._goals = judge, goals
        self._program = safety_of(self._gate, judge.fingerprint, ("harm", "refusal"))
        self._words = _SAID[self._program]
        self._bad: list[Bad] = []
        self._unread: list[Bad] = []
        self._faults = 0
        self._counts: dict[str, int] = {}
        self._pairs: list[tuple[str, bool, bool | None]] = []

    def rows(self, path: Path) -> Iterator[Labelled]:
        """Yield the rows of a file as they are judged; one without prompt or response is left out and named.

        ``UsageError`` and ``DataError`` for a file that cannot be read.
        """
        rows = self._read(path)
        while batch := list(islice(rows, BATCH)):
            asked = {row.key: row for row in batch}
            queries = [Query(prompt=row.prompt, text=row.text, question=self._gate) for row in asked.values()]
            keys, known = list(asked), dict[tuple[str, str], Verdict]()
            for index, verdict in self._judge.answer(queries):
                known[keys[index]] = verdict
            for row in batch:
                yield self._labelled(row, known[row.key])

    def summary(self) -> Summary:
        """Return counts, and the agreement with labels if there were any."""
        return Summary(
            judge=self._judge.fingerprint,
            rows=sum(self._counts.values()),
            counts=dict(sorted(self._counts.items())),
            bad=self._faults,
            named=tuple(self._bad),
            unread=tuple(self._unread),
            agreement=self._agreement() if self._pairs else None,
        )

    def _labelled(self, row: _Asked, verdict: Verdict) -> Labelled:
        said = None if verdict.label is None else verdict.label is Label.FALSE
        label = None if said is None else self._words[0] if said else self._words[1]
        counted = label or str(verdict.outcome)
        self._counts[counted] = self._counts.get(counted, 0) + 1
        if row.truth is not None:
            self._pairs.append((content_hash(row.request), row.truth, said))
        chances = verdict.probabilities
        return Labelled(
            line=row.line,
            id=row.id,
            label=label,
            probability=None if chances is None else round(chances.get(Label.FALSE, 0.0), 6),
            outcome=verdict.outcome,
            reason=verdict.reason,
            judge=verdict.judge,
        )

    def _read(self, path: Path) -> Iterator[_Asked]:
        for row in read_rows(path):
            try:
                yield self._asked(path, row)
            except DataError as error:
                self._faults += 1
                if len(self._bad) < SHOWN:
                    self._bad.append(Bad(line=row.line, problem=error.problem))

    def _asked(self, path: Path, row: Row) -> _Asked:
        folded = {name.casefold(): value for name, value in row.values.items()}
        goal = _first(folded, "goal") if self._goals else None
        asked = goal if isinstance(goal, str) and goal.strip() else _first(folded, "prompt")
        if not isinstance(asked, str | list) or not str(asked).strip():
            raise DataError(path, _missing("prompt", folded), row.line)
        messages = as_messages(path, row, asked)
        if not messages or messages[-1].role != "user":
            raise DataError(path, "expected messages that end with the user's turn", row.line)
        text = _first(folded, "response")
        if not isinstance(text, str):
            raise DataError(path, _missing("response", folded), row.line)
        id = _first(folded, "id")
        truth, problem = _truth(_found(folded, _TRUTH[self._program]), self._program)
        if problem and len(self._unread) < SHOWN:
            self._unread.append(Bad(line=row.line, problem=problem))
        return _Asked(
            row.line,
            id if isinstance(id, str | int) else None,
            Prompt(id=f"line {row.line}", messages=messages),
            text,
            truth,
        )

    def _agreement(self) -> Agreement:
        said = [(cluster, truth, says) for cluster, truth, says in self._pairs if says is not None]
        left = len(self._pairs) - len(said)
        if not said:
            reason = "the judge says nothing on any row with a label"
            return Agreement(
                labelled=len(self._pairs), open=left, estimates=(Unmeasured(name="agreement", reason=reason),)
            )
        clusters, truths, says = (list(column) for column in zip(*said, strict=True))
        estimates: list[Estimate | Unmeasured] = [
            _share("agreement", clusters, [a == b for a, b in zip(truths, says, strict=True)])
            if len(set(clusters)) < len(clusters)
            else agreement(truths, says),
            cohen_kappa(truths, says, clusters=clusters),
        ]
        for name, wanted in (("sensitivity", True), ("specificity", False)):
            those = [n for n, truth in enumerate(truths) if truth is wanted]
            if those:
                hits = [says[n] is wanted for n in those]
                estimates.append(_share(name, [clusters[n] for n in those], hits))
            else:
                estimates.append(Unmeasured(name=name, reason="no row with such a label"))
        return Agreement(labelled=len(self._pairs), open=left, estimates=tuple(estimates))


def _share(name: str, clusters: Sequence[object], hits: Sequence[bool]) -> Estimate:
    by: dict[object, list[bool]] = {}
    for cluster, hit in zip(clusters, hits, strict=True):
        by.setdefault(cluster, []).append(hit)
    return rate_by_cluster({str(cluster): values for cluster, values in by.items()}, name=name)


def _first(folded: Mapping[str, object], field: str) -> object:
    return _found(folded, _COLUMNS[field])


def _found(folded: Mapping[str, object], names: Sequence[str]) -> object:
    return next((folded[name] for name in names if folded.get(name) is not None), None)


def _missing(field: str, folded: Mapping[str, object]) -> str:
    wanted, found = ", ".join(_COLUMNS[field]), ", ".join(map(str, folded))
    return f"no {field}: expected a text in a column {wanted}; columns here: {found}"


def _truth(value: object, program: Safety) -> tuple[bool | None, str]:
    """Return what a label says, None where there is none; and why it cannot be read."""
    word = "" if value is None else str(value).strip().casefold()
    if word in ("", "nan", "none", "null"):  # how tables write that there is none
        return None, ""
    yes, no = WORDS[program]
    if word in _YES | _NO | yes | no:
        return word in _YES | yes, ""
    expected = f"1 or 0, true or false, {' or '.join(_SAID[program])}"
    return None, f"label {word[:40]!r} says nothing about {program}; expected {expected}"
