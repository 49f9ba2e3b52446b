"""Ask a judge a list of queries, each once; every verdict is in the store as soon as it arrives.

Unlike :mod:`rubrica.judges.executor` this knows no program and spares no question.
"""

from collections.abc import Callable, Sequence

from rubrica.core.config import content_hash
from rubrica.core.errors import JudgeError
from rubrica.core.ports import Closable, Judge
from rubrica.core.records import Outcome, Query, Usage, Verdict, Wording
from rubrica.core.store import Store
from rubrica.judges.decision import offered
from rubrica.judges.keys import text_hash, verdict_key
from rubrica.judges.template import WORDINGS_HASH
from rubrica.program.program import question_hash

PATIENCE = 50
"""Calls in a row that may fail before the judge counts as dead."""


def query_key(judge: str, query: Query, repeat: int = 0) -> str:
    """Return the key of a verdict; the first asking in the standard wording has the key that every scorecard uses.

    ``repeat`` tells apart what is asked again on purpose, so that a resumed measurement neither asks a repeat twice
    nor takes the first answer for it.
    """
    key = verdict_key(judge, question_hash(query.question), text_hash(query.prompt, query.text))
    if query.wording is Wording.STANDARD and repeat == 0:
        return key
    changed = "" if query.wording is Wording.STANDARD else WORDINGS_HASH
    return content_hash([key, query.wording.value, changed, repeat], length=32)


class Asker:
    """Asks one judge and counts what it cost. Not for use from several threads at a time."""

    def __init__(self, judge: Judge, store: Store, *, progress: Callable[[], None] | None = None) -> None:
        """``progress`` is called for every query that has its verdict."""
        self._judge, self._store = judge, store
        self._progress = progress or (lambda: None)
        self.usage = Usage()

    def ask(self, queries: Sequence[Query], *, repeat: int = 0, patience: int | None = None) -> list[Verdict]:
        """Return one verdict for each query; what the store knows is not asked, equal queries are asked once.

        Raises ``JudgeError`` when the judge cannot work at all, or ``patience`` calls failed and none did not.
        """
        keys = [query_key(self._judge.fingerprint, query, repeat) for query in queries]
        known = self._store.verdicts(keys)
        missing = {key: query for key, query in zip(keys, queries, strict=True) if key not in known}
        order, failed = list(missing), 0
        for _ in range(len(queries) - len(missing)):
            self._progress()

        def keep(index: int, given: Verdict) -> Verdict:
            key = order[index]
            known[key] = offered(given, missing[key].question)
            self._store.put_verdict(key, known[key])
            self._count(known[key])
            return known[key]

        answers = self._judge.answer(list(missing.values()))
        try:
            for index, given in answers:
                verdict = keep(index, given)
                self._progress()
                failed += verdict.outcome is Outcome.FAILED
                if patience is not None and failed == len(known) >= patience:
                    raise JudgeError(
                        f"judge {self._judge.fingerprint}: the first {failed} calls all failed; last reason: "
                        f"{verdict.reason or verdict.outcome}; mend the judge and run the same command again"
                    )
        finally:
            if isinstance(answers, Closable):
                answers.close()
                for index, given in answers:  # what had arrived was paid for
                    keep(index, given)
        self.usage = self.usage.model_copy(update={"cached": self.usage.cached + len(queries) - len(missing)})
        silent = Verdict(question_id="none", outcome=Outcome.FAILED, reason="the judge gave no answer")
        return [
            known.get(key, silent).model_copy(update={"question_id": query.question.id})
            for key, query in zip(keys, queries, strict=True)
        ]

    def _count(self, verdict: Verdict) -> None:
        broken = verdict.outcome in (Outcome.FAILED, Outcome.UNPARSEABLE)
        used = self.usage
        self.usage = used.model_copy(
            update={
                "asked": used.asked + 1,
                "failed": used.failed + broken,
                "prompt_tokens": used.prompt_tokens + verdict.prompt_tokens,
                "completion_tokens": used.completion_tokens + verdict.completion_tokens,
                "seconds": used.seconds + verdict.seconds,
            }
        )
