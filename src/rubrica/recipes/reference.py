"""A second judge that checks the first; each of its verdicts is in the store as soon as it arrives."""

from collections.abc import Sequence

from rubrica.core.ports import Judge
from rubrica.core.records import Query, Verdict
from rubrica.core.store import Store
from rubrica.judges.executor import text_hash, verdict_key
from rubrica.program.labels import label_of
from rubrica.program.program import question_hash


def ask_reference(reference: Judge, store: Store, queries: Sequence[Query]) -> list[Verdict | None]:
    """Return one verdict for each query, None without a label that the question offers.

    What the store knows is not asked again.
    """
    fingerprint = reference.fingerprint
    keys = [verdict_key(fingerprint, question_hash(q.question), text_hash(q.prompt, q.text)) for q in queries]
    known = store.verdicts(keys)
    missing = {key: query for key, query in zip(keys, queries, strict=True) if key not in known}
    order = list(missing)
    for index, verdict in reference.answer(list(missing.values())):
        store.put_verdict(order[index], verdict)
        known[order[index]] = verdict
    return [
        known[key] if label_of(query.question, known.get(key)) is not None else None
        for key, query in zip(keys, queries, strict=True)
    ]
