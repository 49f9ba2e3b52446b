"""Train the heads of the embedded judge and print how well they agree with labels on sets that they have not seen.

    python benchmarks/train_harm_judge.py DATA_DIR [--head minilm|words] [--write] [--cache FILE.npz]

Every set is tested with parts and joint that were fitted without it and without its requests; sets that are for
testing alone, with what ships. Near-duplicates of a request (cosine of their embeddings >= 0.8) count as one: they are
one cluster, and never on both sides. ``--write`` puts the head into src/rubrica/evals/heads.
"""

import argparse
import hashlib
import json
import random
from functools import cache
from pathlib import Path
from typing import NamedTuple

import harm_judge_data as data
import numpy as np
from harm_judge_table import evaluate, unsure
from scipy import sparse
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from rubrica.evals.harm_features import vector_features, word_features
from rubrica.evals.harm_head import CLIP, PARTS, HeadRecord, folded, joined
from rubrica.evals.refusals import refuses
from rubrica.evals.surface import BUCKETS, hashed
from rubrica.models.sentences import SentenceEncoder, packaged

FOLDS = (
    ("gptfuzz",),
    ("harmbench",),
    ("rm_bench",),
    ("adaptive",),
    ("coconot",),
    ("llmbar", "off-topic"),
    ("hh_helpful", "star1"),
)
LABELLED = ("gptfuzz", "harmbench", "rm_bench", "adaptive")
BENIGN = ("coconot", "llmbar", "hh_helpful")
WEIGHTS = {
    "adaptive": 0.3,
    "coconot": 0.6,
    "hh_helpful": 0.6,
    "llmbar": 0.4,
    "star1": 0.3,
    "off-topic": 0.3,
}
"""Of a set in the joint; 1 for the others. Most of adaptive's labels are successes, the others' failures."""
MOST = 1200
"""Rows of a set and label that count in full."""
SAME = 0.8
CONSTANT = 0.3
"""Of the kernel of the requests: how much their linear part counts beside the quadratic one."""
HEADS = Path(__file__).parents[1] / "src" / "rubrica" / "evals" / "heads"
SEED = 0


class Cached:
    """Embeddings by hash of the text, kept in a file."""

    def __init__(self, path):
        self.inner, self.path, self.known = SentenceEncoder(packaged()), path, {}
        self.fingerprint = self.inner.fingerprint
        if path and path.exists():
            with np.load(path, allow_pickle=False) as kept:
                keys, counts, vectors = kept["keys"], kept["counts"], kept["vectors"]
            parts = np.split(vectors, np.cumsum(counts)[:-1])
            self.known = {str(key): part for key, part in zip(keys, parts, strict=True)}

    def encode(self, texts, *, opening=False):
        keys = [hashlib.sha1(f"{opening}{t.strip()}".encode("utf-8", "replace")).hexdigest() for t in texts]
        wanted = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.known}
        todo = sorted(wanted, key=lambda key: len(wanted[key]))
        for at in range(0, len(todo), 1000):
            batch = todo[at : at + 1000]
            found = self.inner.encode([wanted[key] for key in batch], opening=opening)
            self.known |= dict(zip(batch, (v.astype(np.float16) for v in found), strict=True))
            print(f"embedded {at + len(batch)} of {len(todo)}", flush=True)
        if todo and self.path:
            counts = [len(v) for v in self.known.values()]
            np.savez(
                self.path, keys=[*self.known], counts=counts, vectors=np.concatenate([*self.known.values()])
            )
        return [self.known[key].astype(np.float32) for key in keys]


class Table(NamedTuple):
    """All rows with their features; row i of every array belongs to rows[i]."""

    rows: list
    sets: np.ndarray
    harmful: np.ndarray
    groups: np.ndarray
    refused: np.ndarray
    words: sparse.csr_matrix
    surface: np.ndarray
    help: np.ndarray
    topic: np.ndarray
    opening: np.ndarray
    requests: list
    """Of each row the windows of its request: dense [W, D] and words [W, BUCKETS]."""


class Fitted(NamedTuple):
    """A part: weights of hashed words and dense features, bias, and a quadratic form of the dense ones."""

    words: np.ndarray
    dense: np.ndarray
    bias: float
    square: np.ndarray | None = None


class Requests(NamedTuple):
    """Requests alone: one window each."""

    dense: np.ndarray
    words: sparse.csr_matrix
    harmful: np.ndarray
    sets: np.ndarray
    groups: np.ndarray


def bags(items):
    """Hashed words as a sparse matrix [N, BUCKETS]."""
    ends = np.cumsum([0, *(len(keys) for keys, _ in items)])
    if not len(items):
        return sparse.csr_matrix((0, BUCKETS))
    keys, values = (np.concatenate([item[part] for item in items]) for part in (0, 1))
    return sparse.csr_matrix((values, keys, ends), shape=(len(items), BUCKETS))


def grouped(vectors):
    """Number of the group of each row: near-duplicates, and theirs, are one."""
    distinct, which = np.unique(vectors, axis=0, return_inverse=True)
    found = [np.nonzero(distinct[at : at + 500] @ distinct.T >= SAME) for at in range(0, len(distinct), 500)]
    first = np.concatenate([rows + at * 500 for at, (rows, _) in enumerate(found)])
    second = np.concatenate([columns for _, columns in found])
    near = sparse.coo_matrix((np.ones(len(first), bool), (first, second)), shape=(len(distinct),) * 2)
    return sparse.csgraph.connected_components(near.tocsr(), directed=False)[1][which.ravel()]


def variants(files):
    """All rows; those whose prompt wraps its goal come twice, with the goal alone and as they were put."""
    rows = [*data.training_rows(files), *data.test_rows(files)]
    chance = random.Random(SEED)
    harmful = [row for row in rows if row.set in LABELLED and row.harmful]
    answers = [row for row in rows if row.set in BENIGN]
    for _ in range(600):
        asked, said = chance.choice(harmful), chance.choice(answers)
        rows.append(data.Row("off-topic", asked.goal, asked.goal, said.answer, False, part=said.set))
    found = [(row, row.goal, row.set) for row in rows]
    found += [(row, row.prompt, f"{row.set}, wrapped") for row in rows if row.prompt != row.goal]
    return found


def build(files, head, encoder):
    found = variants(files)
    rows, asked, sets = (list(column) for column in zip(*found, strict=True))
    alone, labels, names = (list(column) for column in zip(*data.requests(files), strict=True))
    guarded = data.protected_requests(files)
    goals = [windows[0] for windows in encoder.encode([row.goal for row in rows])]
    plain = [windows[0] for windows in encoder.encode(alone)]
    kept = [windows[0] for windows in encoder.encode(guarded)]
    groups = grouped(np.stack([*goals, *plain, *kept]))
    found_in = groups[len(rows) : len(rows) + len(alone)]
    banned = {*groups[len(rows) + len(alone) :]}
    wraps = wrapped_requests(files, alone, labels, [group in banned for group in found_in])
    if head == "minilm":
        texts = [row.answer for row in rows]
        pairs = zip(encoder.encode(asked), encoder.encode(texts, opening=True), texts, strict=True)
        features = [vector_features(*pair) for pair in pairs]
        wrapped = [windows[0] for windows in encoder.encode([text for text, *_ in wraps])]
    else:
        features = [word_features(text, row.answer) for text, row in zip(asked, rows, strict=True)]
        wrapped = [np.zeros(0)] * len(wraps)
    empty = head == "words"
    table = Table(
        rows,
        np.array(sets),
        np.array([row.harmful for row in rows]),
        groups[: len(rows)],
        np.array([float(refuses(row.answer)) for row in rows]),
        bags([f.words for f in features]),
        np.stack([f.surface for f in features]),
        *(np.stack([getattr(f, name) for f in features]) for name in ("help", "topic", "opening")),
        [(f.request, bags(f.request_words or [hashed("")] * len(f.request))) for f in features],
    )
    one = Requests(
        np.zeros((len(alone) + len(wraps), 0)) if empty else np.stack([*plain, *wrapped]),
        bags([hashed(text) for text in [*alone, *(text for text, *_ in wraps)]]),
        np.array([*labels, *(label for _, label, _ in wraps)]),
        np.array([*names, *("" if inner is None else names[inner] for *_, inner in wraps)]),
        np.array([*found_in, *(-1 if inner is None else found_in[inner] for *_, inner in wraps)]),
    )
    return table, one, banned


def wrapped_requests(files, texts, labels, banned):
    """(text, harmful, index of the request in it): pieces of jailbreaks, harmful only with a harmful request."""
    chance, found = random.Random(SEED), []
    usable = {
        harmful: [i for i, label in enumerate(labels) if label is harmful and not banned[i]]
        for harmful in (True, False)
    }
    for before, after in data.templates(files):
        for harmful in (True, False, True, False):
            inner = chance.choice(usable[harmful])
            found.append((f"{before[-150:]}{texts[inner]}{after[:100]}", harmful, inner))
        pieces = [piece for piece in (before[:450], after[:450]) if len(piece) > 100]
        found += [(piece, False, None) for piece in pieces if chance.random() < 0.5]
    return found


def balanced(sets, labels):
    """Weights: a set counts up to MOST rows of each label, both labels the same in all."""
    weights = np.ones(len(labels))
    for name in set(sets):
        for label in (True, False):
            chosen = (sets == name) & (labels == label)
            weights[chosen] = min(chosen.sum(), MOST) / max(1, chosen.sum())
    for label in (True, False):
        weights[labels == label] /= max(1e-9, weights[labels == label].sum())
    return weights * len(labels)


def fitted(words, dense, labels, weights, strength):
    """A logistic regression on both blocks."""
    joint = sparse.hstack([words, sparse.csr_matrix(dense)]).tocsr()
    model = LogisticRegression(C=strength, max_iter=300, solver="liblinear", random_state=SEED)
    model.fit(joint, labels, sample_weight=weights)
    coefficients = model.coef_[0]
    size = words.shape[1]
    return Fitted(coefficients[:size], coefficients[size:], float(model.intercept_[0]))


def bent(dense, labels, weights):
    """A support vector machine with the kernel (x.z + CONSTANT)^2 / (1 + CONSTANT)^2, written out as x'Qx + w.x + b."""
    scale = 1 + CONSTANT
    model = SVC(C=1.0, kernel="poly", degree=2, gamma=1 / scale, coef0=CONSTANT / scale, cache_size=400)
    model.fit(dense, labels, sample_weight=weights)
    dual, chosen = model.dual_coef_[0] / scale**2, model.support_vectors_
    square = (chosen * dual[:, None]).T @ chosen
    bias = float(model.intercept_[0] + CONSTANT**2 * dual.sum())
    return Fitted(np.zeros(0), 2 * CONSTANT * dual @ chosen, bias, square)


def of_set(names):
    return np.array([name.removesuffix(", wrapped") for name in names])


class Trainer:
    def __init__(self, table, one, banned, head):
        self.table, self.one, self.banned, self.head = table, one, banned, head
        self.base = of_set(table.sets)
        self.trained = np.isin(self.base, [name for fold in FOLDS for name in fold])
        self.banned |= {*table.groups[~self.trained]}  # of test sets
        self.mean, self.spread = table.surface.mean(0), table.surface.std(0) + 1e-6
        self.parts = cache(self._parts)

    def _usable(self, held):
        table = self.table
        bad = [*self.banned, *table.groups[np.isin(self.base, held)]]
        borrowed = np.isin([row.part for row in table.rows], held)  # an answer to something else
        return self.trained & ~np.isin(self.base, held) & ~borrowed & ~np.isin(table.groups, bad)

    def _parts(self, held):
        """Weights of all parts, fitted without the sets ``held``; their log-odds of every row."""
        t, ok = self.table, self._usable(held)
        surface = 0.2 * (t.surface - self.mean) / self.spread
        helping, opening = np.hstack([surface, t.help]), np.hstack([surface, t.opening])
        half = np.where([name.endswith(", wrapped") for name in t.sets], 0.5, 1.0)
        found = {}
        rows = np.nonzero(ok & np.isin(self.base, [*LABELLED, "star1", "off-topic"]))[0]
        weights = balanced(self.base[rows], t.harmful[rows]) * half[rows]
        found["help"] = fitted(t.words[rows], helping[rows], t.harmful[rows], weights, 0.5)
        harm = np.nonzero(ok & np.isin(t.sets, LABELLED) & t.harmful)[0]
        rows = np.concatenate([harm, np.nonzero(ok & np.isin(self.base, BENIGN))[0]])
        words = t.words if self.head == "words" else sparse.csr_matrix((len(t.rows), 0))
        weights = balanced(self.base[rows], t.harmful[rows])
        found["topic"] = fitted(words[rows], t.topic[rows], t.harmful[rows], weights, 0.3)
        found["request"] = self._request(ok, held)
        known = np.array(
            [
                (row.refused if row.refused is not None else True if not row.harmful and flag else None)
                if not row.harmful or row.refused is not None
                else False
                for row, flag in zip(t.rows, t.refused, strict=True)
            ],
            dtype=object,
        )
        rows = np.nonzero(ok & (known != None) & (self.base != "off-topic"))[0]  # noqa: E711
        label = known[rows].astype(bool)
        found["refusal"] = fitted(t.words[rows], opening[rows], label, balanced(self.base[rows], label), 0.5)
        return found, self._odds(found, helping, opening, words)

    def _request(self, ok, held):
        t, one = self.table, self.one
        chosen = np.nonzero(ok & np.isin(t.sets, [*LABELLED, *BENIGN, "star1"]))[0]
        _, first = np.unique(t.groups[chosen], return_index=True)
        chosen = chosen[first]
        bad = [*self.banned, *t.groups[np.isin(self.base, held)]]
        rest = ~np.isin(one.sets, held) & ~np.isin(one.groups, bad)
        dense = np.vstack([np.stack([t.requests[i][0][0] for i in chosen]), one.dense[rest]])
        words = sparse.vstack([sparse.vstack([t.requests[i][1][0] for i in chosen]), one.words[rest]]).tocsr()
        label = np.concatenate([~np.isin(self.base[chosen], BENIGN), one.harmful[rest]])
        weights = balanced(np.array(["all"] * len(label)), label)
        return (
            fitted(words, dense, label, weights, 3.0) if dense.shape[1] == 0 else bent(dense, label, weights)
        )

    def _odds(self, found, helping, opening, words):
        t = self.table

        def odds(part, bag, dense):
            kept, weights, bias, square = found[part]
            curved = 0 if square is None else np.einsum("nd,nd->n", dense @ square, dense)
            return (bag @ kept if bag.shape[1] else 0) + dense @ weights + bias + curved

        windows = [len(dense) for dense, _ in t.requests]
        bag = sparse.vstack([b for _, b in t.requests]).tocsr() if self.head == "words" else words[:0]
        dense = np.vstack([d for d, _ in t.requests])
        each = odds("request", bag if self.head == "words" else sparse.csr_matrix((len(dense), 0)), dense)
        ends = np.cumsum([0, *windows])
        request = np.maximum.reduceat(each, ends[:-1])
        return np.stack(
            [
                odds("help", t.words, helping),
                request,
                odds("topic", words, t.topic),
                odds("refusal", t.words, opening),
            ],
            axis=1,
        )

    def join(self, held):
        """The joint, fitted on the log-odds that parts give to sets that they have not seen, without ``held``."""
        odds, flags, labels, weights = [], [], [], []
        for fold in FOLDS:
            if set(fold) & set(held):
                continue
            found = self.parts(tuple(sorted({*fold, *held})))[1]
            for name in fold:
                both = [n for n in (name, f"{name}, wrapped") if (self.table.sets == n).any()]
                for each in both:
                    rows = np.nonzero(self.table.sets == each)[0]
                    label = self.table.harmful[rows]
                    weight = np.zeros(len(rows))
                    for value in {*label}:
                        weight[label == value] = WEIGHTS.get(name, 1.0) / len(both) / (label == value).sum()
                    if name == "adaptive":
                        weight[~label] *= 0.1
                    odds.append(found[rows, :3])
                    flags.append(self.table.refused[rows])
                    labels.append(label)
                    weights.append(weight)
        odds, flags, labels, weights = map(np.concatenate, (odds, flags, labels, weights))
        weights /= weights.sum()

        def loss(join):
            p = np.clip(joined(join, odds, flags), 1e-6, 1 - 1e-6)
            return -(weights * np.where(labels, np.log(p), np.log(1 - p))).sum() + 1e-4 * (join**2).sum()

        bounds = [(None, None), (0, None), (None, 0), (None, None), (0, None), (0, None)]
        return minimize(loss, np.array([1.0, 0.5, -1.0, 1.0, 0.5, 0.3]), method="L-BFGS-B", bounds=bounds).x

    def probabilities(self, held):
        """p(harm) and log-odds of refusal of all rows, from what was fitted without ``held``."""
        odds = self.parts(tuple(sorted(held)))[1]
        return joined(self.join(held), odds[:, :3], self.table.refused), odds[:, 3]


def write(trainer, files, head, encoder, band):
    trained = sorted(name for name in files.read if not name.startswith(data.TESTS))
    found, _ = trainer.parts(())
    record = HeadRecord(
        name=head,
        version="2",
        encoder=encoder.fingerprint.split()[1] if head == "minilm" else "",
        join=tuple(round(float(x), 6) for x in trainer.join(())),
        unsure=tuple(round(x, 4) for x in band),
        seed=SEED,
        inputs={name: hashlib.sha256((files.root / name).read_bytes()).hexdigest() for name in trained},
        rows={
            name: int((trainer._usable(()) & (trainer.table.sets == name)).sum())
            for name in dict.fromkeys(trainer.table.sets[trainer.trained])
        },
    )
    arrays = {}
    for part in PARTS:
        words, dense, bias, square = found[part]
        triangle = np.zeros(0) if square is None else folded(square)
        for name, value in (("words", words), ("dense", dense), ("bias", bias), ("square", triangle)):
            dtype = np.float16 if name in ("words", "square") else np.float32
            arrays[f"{part}_{name}"] = np.asarray(value, dtype=dtype)
    HEADS.mkdir(exist_ok=True)
    np.savez_compressed(
        HEADS / f"{head}.npz",
        mean=trainer.mean.astype(np.float32),
        spread=trainer.spread.astype(np.float32),
        **arrays,
    )
    (HEADS / f"{head}.json").write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--head", choices=("minilm", "words"), default="minilm")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    files, encoder = data.Files(options.data), Cached(options.cache)
    trainer = Trainer(*build(files, options.head, encoder), options.head)
    print(json.dumps({"join": [round(float(x), 3) for x in trainer.join(())], "clip": CLIP}), flush=True)
    if options.write:
        write(trainer, files, options.head, encoder, (0.3, 0.7))
    band = unsure(trainer, evaluate(trainer, FOLDS))
    if options.write:
        write(trainer, files, options.head, encoder, band)


if __name__ == "__main__":
    main()
