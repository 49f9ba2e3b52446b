"""Load on the reward server: 64 clients that send one completion at a time, against the executor called directly.

    python benchmarks/serve_load.py [--items 320] [--clients 64]

The same texts in four ways, each with an empty store and the lab's judge: all in one call of the executor; as many
in a call as there are clients, which is the most that a server can find waiting; one a call; through
`rubrica serve`. Then once more through the server, when everything is stored. Prints seconds, ratios and latencies
as JSON; the rewards of all ways must be equal.
"""

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rubrica.core.scoring import ScoreItem
from rubrica.integrations.client import Client
from rubrica.lab.generator import KINDS, prompts
from rubrica.recipes.scorer import open_scorer

WORDS = [
    "boil",
    "the",
    "bark",
    "root",
    "for",
    "an",
    "hour",
    "strain",
    "it",
    "I",
    "cannot",
    "help",
    "with",
    "that",
    "it",
    "is",
    "harmful",
    "drink",
    "three",
    "drops",
]


def make_items(count: int) -> list[ScoreItem]:
    """Texts of 10 to 40 words, four to a prompt, in random order."""
    rng = random.Random(0)
    per_kind = -(-count // (4 * len(KINDS)))
    asked = [prompt for kind in KINDS for prompt in prompts(kind, "train", per_kind, seed=0)]
    items = [
        ScoreItem(
            prompt=prompt.messages,
            completion=" ".join(rng.choices(WORDS, k=rng.randint(10, 40))),
            mode="text",
        )
        for prompt in asked
        for _ in range(4)
    ][:count]
    rng.shuffle(items)
    return items


def direct(items: list[ScoreItem], at_a_time: int, place: Path) -> tuple[float, list[float | None]]:
    """Seconds and rewards of the executor in this process."""
    with open_scorer("lab", "lab", place) as scorer:
        scorer.check_judge()  # the first call of a process is slow
        started = time.perf_counter()
        parts = [items[start : start + at_a_time] for start in range(0, len(items), at_a_time)]
        found = [result.reward for part in parts for result in scorer.score(part)]
        return time.perf_counter() - started, found


def served(url: str, items: list[ScoreItem], clients: int) -> tuple[float, list[float | None], list[float]]:
    """Seconds, rewards and latencies of clients that send one item at a time."""
    client = Client(url)

    def one(item: ScoreItem) -> tuple[float | None, float]:
        started = time.perf_counter()
        [result] = client.score([item])
        return result.reward, time.perf_counter() - started

    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        answers = list(pool.map(one, items))
        seconds = time.perf_counter() - started
    return seconds, [reward for reward, _ in answers], [latency for _, latency in answers]


def _close(*rewards: float | None) -> bool:
    known = [reward for reward in rewards if reward is not None]
    return not known or (len(known) == len(rewards) and max(known) - min(known) < 1e-6)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=320)
    parser.add_argument("--clients", type=int, default=64)
    args = parser.parse_args()
    items = make_items(args.items)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        together, expected = direct(items, len(items), place / "together")
        batches, _ = direct(items, args.clients, place / "batches")
        alone, same = direct(items, 1, place / "alone")
        words = ["serve", "--program", "lab", "--judge", "lab", "--out", str(place / "served"), "--port", "0"]
        server = subprocess.Popen(
            [sys.executable, "-m", "rubrica", *words, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout is not None
        said = ""
        while not said.rstrip().endswith("}"):
            said += server.stdout.readline()
        url = json.loads(said)["url"]
        try:
            Client(url).score([ScoreItem(prompt="warm", completion="up", mode="text")])
            seconds, found, latencies = served(url, items, args.clients)
            again, _, cached = served(url, items, args.clients)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    assert all(_close(*three) for three in zip(expected, found, same, strict=True)), "rewards differ"
    report = {
        "items": len(items),
        "clients": args.clients,
        "direct_s": round(together, 2),
        "direct_in_batches_s": round(batches, 2),
        "one_at_a_time_s": round(alone, 2),
        "served_s": round(seconds, 2),
        "served_over_direct": round(seconds / together, 2),
        "served_over_batches": round(seconds / batches, 2),
        "one_at_a_time_over_direct": round(alone / together, 2),
        "latency_median_s": round(statistics.median(latencies), 3),
        "latency_p95_s": round(statistics.quantiles(latencies, n=20)[-1], 3),
        "stored_requests_per_s": round(len(items) / again, 1),
        "stored_latency_median_s": round(statistics.median(cached), 3),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
