"""Closeness of texts: the geometry by hand, and a tiny language model as embedder."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from rubrica.cli import main
from rubrica.core.config import dump_yaml
from rubrica.models.embed import close_pairs, closeness
from rubrica.program.program import load_program
from tiny import tiny_checkpoint


def test_close_pairs_by_hand():
    # mean (10, 0); what is left: (0, 1), (0, 1.1), (1, -1.05), (-1, -1.05)
    vectors = np.array([[10, 1], [10, 1.1], [11, -1.05], [9, -1.05]], dtype=float)
    assert close_pairs(vectors, 0.9) == {(0, 1): pytest.approx(1.0)}
    cosine = (-1 + 1.05**2) / (1 + 1.05**2)
    assert close_pairs(vectors, 0.04) == {(0, 1): pytest.approx(1.0), (2, 3): pytest.approx(cosine)}
    assert close_pairs(np.ones((4, 3)), 0.5) == {}  # all the same: no direction is left
    assert close_pairs(vectors[:2], -1.0) == {}


def test_a_local_language_model_finds_the_same_words(tmp_path: Path):
    close = closeness(str(tiny_checkpoint(tmp_path / "m")), 0.95)
    texts = ["How calm is the tone?", "Boil the root.", "How calm is the tone??", "TRUE or FALSE", "NA"]
    found = close(texts)
    assert list(found) == [(0, 2)]


def test_lint_takes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = str(tiny_checkpoint(tmp_path / "m"))
    path = tmp_path / "p.yaml"
    path.write_text(dump_yaml(load_program("lab")))
    with pytest.raises(SystemExit) as left:
        main(["program", "lint", str(path), "--embed", model, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert not left.value.code
    assert {f["rule"] for f in found["findings"]} >= {"near-duplicate", "no-grade"}


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is not None, reason="the extra is installed"
)
@pytest.mark.parametrize(
    ("name", "said"),
    [("owner/model", "pip install 'rubrica[embed]'"), ("./nothing", "no such folder; check the path")],
)
def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], name: str, said: str):
    with pytest.raises(SystemExit) as left:
        main(["program", "lint", "lab", "--embed", name])
    err = " ".join(capsys.readouterr().err.split())
    assert left.value.code == 2 and err.startswith("error: embedding model") and said in err
