"""A second judge that checks the first; each of its verdicts is in the store as soon as it arrives."""

from collections.abc import Sequence

from rubrica.core.ports import Judge
from rubrica.core.records import Query, Verdict
from rubrica.core.store import Store
from rubrica.judges.asking import Asker
from rubrica.program.labels import label_of


def ask_reference(reference: Judge, store: Store, queries: Sequence[Query]) -> list[Verdict | None]:
    """Return one verdict for each query, None without a label that the question offers.

    What the store knows is not asked again.
    """
    verdicts = Asker(reference, store).ask(queries)
    return [
        verdict if label_of(query.question, verdict) is not None else None
        for query, verdict in zip(queries, verdicts, strict=True)
    ]
