"""Calibration of the lab's judge against the oracle: temperature, veto thresholds, agreement per question.

Fitted on one set of labelled texts, reported on another.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from rubrica.core.agreement import agreement
from rubrica.core.config import Json
from rubrica.core.prompts import Prompt
from rubrica.core.records import Label, Query, Verdict
from rubrica.core.run import write_json
from rubrica.core.stats import wilson
from rubrica.judges.local import CARD, LocalJudge
from rubrica.lab import truth
from rubrica.lab.answers import labelled
from rubrica.lab.oracle import read
from rubrica.program.program import load_program, questions

FALSE_VETO_RATE = 0.005
"""Largest share of clean texts that a protected gate may veto on the fitting set."""
TEXTS = 600


def judged(judge: LocalJudge, texts: list[tuple[Prompt, str]]) -> dict[str, list[tuple[Verdict, Label]]]:
    """Ask every question of the lab program; return (verdict, right label) by question."""
    asked = [question for _, _, question in questions(load_program("lab"))]
    queries = [Query(prompt=p, text=t, question=q) for p, t in texts for q in asked]
    readings = [read(p, t) for p, t in texts]
    verdicts = dict(judge.answer(queries))
    table: dict[str, list[tuple[Verdict, Label]]] = {q.id: [] for q in asked}
    for index, query in enumerate(queries):
        reading = readings[index // len(asked)]
        table[query.question.id].append((verdicts[index], truth.label(query.question.id, reading)))
    return table


def fit_temperature(table: dict[str, list[tuple[Verdict, Label]]]) -> float:
    """Minimise the negative log-likelihood of the right labels over one temperature."""
    chances: list[NDArray[np.float64]] = []
    right: list[int] = []
    for pairs in table.values():
        for verdict, label in pairs:
            probabilities = verdict.probabilities or {}
            if label in probabilities:
                chances.append(np.log(np.clip(list(probabilities.values()), 1e-12, 1)))
                right.append(list(probabilities).index(label))

    def loss(log_t: float) -> float:
        total = 0.0
        for row, index in zip(chances, right, strict=True):
            scaled = row / np.exp(log_t)
            total -= scaled[index] - np.logaddexp.reduce(scaled)
        return total

    return float(np.exp(minimize_scalar(loss, bounds=(-1.5, 1.5), method="bounded").x))


def veto_threshold(pairs: list[tuple[Verdict, Label]]) -> float:
    """Smallest probability of FALSE, at least 0.5, above which few clean texts lie."""
    clean = sorted(
        ((v.probabilities or {}).get(Label.FALSE, 0.0) for v, label in pairs if label is Label.TRUE),
        reverse=True,
    )
    allowed = int(FALSE_VETO_RATE * len(clean))
    return round(max(0.5, min(0.99, clean[allowed] + 0.01 if len(clean) > allowed else 0.5)), 4)


def calibrate(folder: Path, *, seed: int) -> dict[str, Json]:
    """Fit and write ``rubrica_judge.json``; return the agreement with the oracle per question on fresh texts."""
    write_json(folder / CARD, {"format": "lab"})
    table = judged(LocalJudge.load(folder), labelled(f"fit-{seed}", TEXTS))
    temperature = fit_temperature(table)
    write_json(folder / CARD, {"format": "lab", "temperature": round(temperature, 4)})
    judge = LocalJudge.load(folder)
    table = judged(judge, labelled(f"fit-{seed}", TEXTS))
    protected = [question.id for _, _, question in questions(load_program("lab")) if question.protected]
    thresholds = {question_id: veto_threshold(table[question_id]) for question_id in protected}
    card: dict[str, Json] = {
        "format": "lab",
        "temperature": round(temperature, 4),
        "veto_thresholds": dict(thresholds),
    }
    write_json(folder / CARD, card)
    return report(LocalJudge.load(folder), labelled(f"report-{seed}", TEXTS))


def report(judge: LocalJudge, texts: list[tuple[Prompt, str]]) -> dict[str, Json]:
    """Agreement per question, overall, and the false-veto rate of every protected gate."""
    table = judged(judge, texts)
    rows: dict[str, Json] = {}
    for question_id, pairs in table.items():
        found = agreement([v.label for v, _ in pairs], [label for _, label in pairs])
        rows[question_id] = {
            "agreement": round(found.value, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
        }
    every = [(v.label, label) for pairs in table.values() for v, label in pairs]
    rows["all"] = {"agreement": round(sum(a == b for a, b in every) / len(every), 4), "texts": len(texts)}
    for question_id, threshold in judge.veto_thresholds.items():
        clean = [v for v, label in table[question_id] if label is Label.TRUE]
        vetoed = sum((v.probabilities or {}).get(Label.FALSE, 0.0) >= threshold for v in clean)
        rate = wilson(vetoed, max(1, len(clean)))
        rows[f"false veto {question_id}"] = {
            "rate": round(rate.value, 4),
            "low": round(rate.low, 4),
            "high": round(rate.high, 4),
        }
    return rows
