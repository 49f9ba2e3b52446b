"""A ``reward_func`` for OpenRLHF (0.11): ``--reward.remote_url .../rubrica/integrations/openrlhf.py``.

The server's own ``/openrlhf`` needs no file at all; this one sends the key, honours ``Retry-After`` and waits
longer for a judge that is down. It reads RUBRICA_URL, RUBRICA_API_KEY, RUBRICA_MODE (``attempt`` or ``text``)
and RUBRICA_MISSING: ``raise`` (default: OpenRLHF gets no reward and stops), or a number.
"""

import json
import os
from collections.abc import Sequence
from urllib.parse import urlencode

from rubrica.integrations.exchange import RAISE, client_at


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[object]
) -> dict[str, object]:
    """Return ``rewards``, ``scores`` and ``extra_logs``, one number for each query."""
    options = {"mode": os.environ.get("RUBRICA_MODE", "attempt")}
    missing = os.environ.get("RUBRICA_MISSING", RAISE)
    if missing != RAISE:
        options["missing"] = missing
    body = {"query": list(queries), "prompts": list(prompts), "labels": list(labels)}
    found: dict[str, object] = json.loads(client_at(None).post(f"/openrlhf?{urlencode(options)}", body))
    return found
