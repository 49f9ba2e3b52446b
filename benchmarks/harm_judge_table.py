"""How well a judge agrees with labels on sets that it has not seen: the table of ``train_harm_judge.py``."""

import numpy as np
from scipy.stats import rankdata

from rubrica.core.agreement import cohen_kappa
from rubrica.core.clustered import rate_by_cluster
from rubrica.evals.harm_head import sigmoid


def area(labels, values):
    """Area under the curve, by ranks."""
    ranks, positive = rankdata(values), labels.sum()
    if positive in (0, len(labels)):
        return None
    return (ranks[labels].sum() - positive * (positive + 1) / 2) / positive / (len(labels) - positive)


def measured(labels, predicted, clusters, values=None):
    """One line of the table."""

    def share(hits, chosen):
        by = {}
        for hit, cluster in zip(hits[chosen], clusters[chosen], strict=True):
            by.setdefault(int(cluster), []).append(bool(hit))
        return rate_by_cluster(by) if by else None

    right, every = predicted == labels, np.ones(len(labels), bool)
    agree, sens, spec = share(right, every), share(right, labels), share(right, ~labels)
    kappa = None
    if sens and spec:
        kappa = cohen_kappa([*map(bool, labels)], [*map(bool, predicted)], clusters=[*map(int, clusters)])
    balanced_ = (sens.value + spec.value) / 2 if sens and spec else None
    found = {"n": len(labels), "harmful": int(labels.sum()), "balanced": balanced_}
    found |= {"agreement": agree, "sensitivity": sens, "specificity": spec, "kappa": kappa}
    if values is not None:
        found |= {"auc": area(labels, values), "brier": float(np.mean((values - labels) ** 2))}
    return found


def line(name, found):
    def shown(estimate):
        if estimate is None or estimate.value is None:
            return "–"
        if isinstance(estimate, float):
            return f"{estimate:.3f}"
        return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"

    def number(key):
        return "–" if found.get(key) is None else f"{found[key]:.3f}"

    cells = [name, str(found["n"]), str(found["harmful"])]
    cells += [shown(found[key]) for key in ("agreement", "kappa", "sensitivity", "specificity")]
    return "| " + " | ".join([*cells, number("balanced"), number("auc"), number("brier")]) + " |"


def evaluate(trainer, folds):
    """Print the table; return p of rows of the labelled sets, each from what was fitted without its set."""
    t, unseen, shown = trainer.table, np.full(len(trainer.table.rows), np.nan), []
    print("| set | n | harmful | agreement | kappa | sensitivity | specificity | balanced | AUC | Brier |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    ships = trainer.probabilities(())
    for name in dict.fromkeys(t.sets):
        own = name.removesuffix(", wrapped")
        fold = next((fold for fold in folds if own in fold), ())
        p, _ = trainer.probabilities(fold) if fold else ships
        rows = t.sets == name
        unseen[rows] = p[rows]
        labels, clusters = t.harmful[rows], t.groups[rows]
        print(line(f"{name}: embedded", measured(labels, p[rows] > 0.5, clusters, p[rows])), flush=True)
        if name == own:
            print(line(f"{name}: prefix", measured(labels, t.refused[rows] == 0, clusters)))
        for part in sorted({row.part for row, here in zip(t.rows, rows, strict=True) if here} - {""}):
            those = rows & np.array([row.part == part for row in t.rows])
            shown.append(f"{name}, {part}: {np.mean(p[those] > 0.5):.3f} called harmful (n={those.sum()})")
    print(*shown, sep="\n")
    for name in ("rm_bench", "xstest", "dna"):
        fold = (name,) if name == "rm_bench" else ()
        rows = (t.sets == name) & np.array([row.refused is not None for row in t.rows])
        labels = np.array([bool(row.refused) for row in t.rows])[rows]
        p = sigmoid(trainer.probabilities(fold)[1][rows])
        print(line(f"{name}, refusals: embedded", measured(labels, p > 0.5, t.groups[rows], p)))
        print(line(f"{name}, refusals: prefix", measured(labels, t.refused[rows] == 1, t.groups[rows])))
    return unseen


def unsure(trainer, unseen, share=1 / 3):
    """The band around 1/2 that holds ``share`` of the answers of the labelled sets, each set counting the same."""
    t = trainer.table
    sets = ("gptfuzz", "harmbench", "rm_bench")
    rows = np.nonzero(np.isin(t.sets, sets))[0]
    weights = np.array([1 / (t.sets == t.sets[i]).sum() for i in rows])
    distance = np.abs(unseen[rows] - 0.5)
    order = np.argsort(distance)
    width = float(distance[order][np.searchsorted(np.cumsum(weights[order]) / weights.sum(), share)])
    for name in (*dict.fromkeys(t.sets),):
        here = t.sets == name
        kept = here & (np.abs(unseen - 0.5) >= width)
        right = (unseen > 0.5) == t.harmful
        print(
            f"{name}: {kept.sum() / here.sum():.3f} kept, agreement {right[kept].mean():.3f} of {right[here].mean():.3f}"
        )
    return 0.5 - width, 0.5 + width
