"""Texts as directions: which are close in meaning, by a sentence-transformers model or a local language model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rubrica.core.errors import UsageError

Vectors = NDArray[np.float64]
Embed = Callable[[Sequence[str]], Vectors]
"""N texts to [N, D]."""
CLOSE = 0.8
"""Cosine, after the mean of all vectors was taken out, from which two texts count as close (ours)."""


def closeness(name: str, threshold: float = CLOSE) -> Callable[[list[str]], Mapping[tuple[int, int], float]]:
    """Return a function from texts to the cosines of the pairs (i, j), i < j, that are close in meaning.

    ``name`` as in :func:`embedder`.
    """
    embed = embedder(name)
    return lambda texts: close_pairs(embed(texts), threshold)


def embedder(name: str) -> Embed:
    """Load what turns texts into vectors.

    ``name`` is a hub id or folder of a sentence-transformers model (extra ``embed``), or the folder of a causal
    language model, whose last hidden states are averaged over the tokens (extra ``train``). ``UsageError`` where
    the extra that is needed is not installed.
    """
    return _sentence_transformers(name) if _is_sentence_model(name) else _mean_states(name)


def close_pairs(vectors: Vectors, threshold: float) -> dict[tuple[int, int], float]:
    """Return the pairs of rows whose cosine reaches ``threshold``, their common mean taken out first.

    Language models put all texts into one narrow cone; without its axis the angles say something. ``vectors``: (N, D).
    """
    if len(vectors) < 3:  # the difference of two is all that is left of them: always opposite
        return {}
    centred = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    units = centred / np.where(lengths > 0, lengths, 1.0)
    cosines = units @ units.T
    found = zip(*np.nonzero(np.triu(cosines >= threshold, k=1)), strict=True)
    return {(int(i), int(j)): min(1.0, float(cosines[i, j])) for i, j in found}


def embedder_identity(name: str) -> str:
    """Return ``name``, of a folder with a hash of its weights."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    from rubrica.checkpoint import weights_hash

    return f"{name} {weights_hash(folder)[:16]}"


def _is_sentence_model(name: str) -> bool:
    folder = Path(name).expanduser()
    return not folder.is_dir() or (folder / "modules.json").exists()


def _sentence_transformers(name: str) -> Embed:
    if not Path(name).expanduser().is_dir() and name.startswith(("/", ".", "~")):
        raise UsageError(f"embedding model {name}: no such folder; check the path")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise UsageError(
            f"embedding model {name}: needs sentence-transformers (pip install 'rubrica[embed]'); or name the folder of a "
            "language model, which needs none"
        ) from None
    try:
        model = SentenceTransformer(name, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(f"embedding model {name}: cannot be loaded ({said}); check the name") from None
    return lambda texts: np.asarray(model.encode(list(texts), show_progress_bar=False), dtype=np.float64)


def _mean_states(name: str) -> Embed:
    try:
        import torch

        from rubrica.checkpoint import checkpoint_folder, context_length, load_checkpoint
    except ImportError:
        raise UsageError(
            f"embedding model {name}: needs torch and transformers (pip install 'rubrica[train]')"
        ) from None
    model, tokenizer = load_checkpoint(checkpoint_folder(name))
    longest = context_length(model.config)

    def embed(texts: Sequence[str]) -> Vectors:
        rows: list[Vectors] = []
        with torch.inference_mode():
            for text in texts:  # one by one: padding would only disturb
                ids = torch.tensor([tokenizer(text).input_ids[:longest]], device=model.device)
                states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
                rows.append(states[0].float().mean(dim=0).cpu().numpy().astype(np.float64))
        return np.stack(rows)

    return embed
