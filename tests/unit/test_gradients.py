"""Gradients of single answers by finite differences and one at a time, and their projection."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rubrica.train.gradients import GradientModel, adapter_layers, completion_log_probs, padded
from rubrica.train.policy import Lora, Start
from rubrica.train.projection import Projector
from rubrica.train.sft import TokenRow
from tiny import tiny_checkpoint

LORA = Lora(r=3, alpha=6)
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft, about GPT-2's transposed layers
ROWS = [
    TokenRow([2, 40, 41, 42, 3], [50, 51, 52, 53, 1]),
    TokenRow([2, 45, 3], [60, 1]),
    TokenRow([2, 45, 46, 47, 48, 49, 3], [70, 71, 72, 1]),
]


class Whole:
    """Takes gradients as they are, side by side, and adds nothing up."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def project(self, name: str, gradients: Tensor) -> Tensor:
        self.found[name] = gradients
        return torch.zeros(len(gradients), 1)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3_text"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GradientModel:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("tiny"), request.param)
    found = GradientModel(Start(model=folder, dtype="float32"), LORA)
    torch.manual_seed(1)
    for name, layer in adapter_layers(found.model).items():
        if "lora_B" in name:  # a trained adapter: the second matrix is no longer zero
            torch.nn.init.normal_(layer.weight, std=0.1)
    return found


def log_probs(model: GradientModel, rows: list[TokenRow]) -> Tensor:
    ids, mask, labels = padded(rows)
    return completion_log_probs(model.model(input_ids=ids, attention_mask=mask).logits, labels)


def batched(model: GradientModel, rows: list[TokenRow]) -> dict[str, Tensor]:
    """Gradients of all rows in one batch, in the order of ``rows``."""
    whole = Whole()
    (batch,) = model.measure(rows, batch_size=len(rows), projector=whole)
    back = np.argsort([place for place, _ in batch])
    return {name: found[back] for name, found in whole.found.items()}


def test_gradients_of_a_batch_are_those_of_each_answer_alone(model: GradientModel) -> None:
    layers = adapter_layers(model.model)
    together = batched(model, ROWS)
    assert set(together) == set(layers)
    weights = [layer.weight for layer in layers.values()]
    for number, row in enumerate(ROWS):
        for weight in weights:
            weight.requires_grad_(True)
        alone = torch.autograd.grad(log_probs(model, [row])[0], weights)
        for weight in weights:
            weight.requires_grad_(False)
        for name, gradient in zip(layers, alone, strict=True):
            torch.testing.assert_close(
                together[name][number], gradient.flatten(), rtol=2e-4, atol=2e-5, msg=name
            )


def test_gradients_are_finite_differences(model: GradientModel) -> None:
    together = batched(model, ROWS)
    for name, layer in adapter_layers(model.model).items():
        weight = layer.weight.detach().clone()
        direction = torch.nn.functional.normalize(together[name].sum(0).reshape(weight.shape), dim=(0, 1))
        step, values = 4e-3, []
        with torch.no_grad():
            for sign in (1, -1):
                layer.weight.copy_(weight + sign * step * direction)
                values.append(log_probs(model, ROWS))
            layer.weight.copy_(weight)
        expected = (values[0] - values[1]) / (2 * step)
        found = together[name] @ direction.flatten()
        assert float(expected.abs().max()) > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=5e-3, msg=name)


def test_log_probs_and_states_do_not_depend_on_the_batch(model: GradientModel) -> None:
    together = dict(next(iter(model.measure(ROWS, batch_size=3))))
    for place, row in enumerate(ROWS):
        ((_, alone),) = next(iter(model.measure([row])))
        assert alone.log_prob == pytest.approx(together[place].log_prob, rel=1e-5)
        torch.testing.assert_close(alone.state, together[place].state, rtol=1e-4, atol=1e-5)
        assert alone.gradient.shape == (0,)
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits[0]
        start = len(row.prompt_ids) - 1
        each = logits.log_softmax(-1)[
            torch.arange(start, start + len(row.completion_ids)), row.completion_ids
        ]
        assert alone.log_prob == pytest.approx(float(each.sum()), rel=1e-5)


def test_a_new_adapter_changes_nothing_and_is_drawn_from_the_seed(tmp_path: Path) -> None:
    start = Start(model=tiny_checkpoint(tmp_path), dtype="float32")
    one, again, other = (GradientModel(start, LORA, seed=seed) for seed in (0, 0, 1))
    first, second, third = (batched(m, ROWS) for m in (one, again, other))
    assert all("lora_B" in name for name in first)  # the first matrix has a gradient of zero
    for name in first:
        assert torch.equal(first[name], second[name]) and not torch.equal(first[name], third[name])
    plain = one.model.get_base_model()
    with one.model.disable_adapter():
        ids, mask, labels = padded(ROWS)
        before = completion_log_probs(plain(input_ids=ids, attention_mask=mask).logits, labels)
    torch.testing.assert_close(log_probs(one, ROWS), before)


def test_what_is_projected_is_the_gradient_times_the_signs(model: GradientModel) -> None:
    projector = Projector(64, 5, CPU)
    found = {
        p: m.gradient for batch in model.measure(ROWS, batch_size=2, projector=projector) for p, m in batch
    }
    raw = batched(model, ROWS)
    for place in range(len(ROWS)):
        expected = sum(
            values[place].numpy() @ signs(5, name, values.shape[1], 64) for name, values in raw.items()
        )
        np.testing.assert_allclose(found[place].numpy(), expected / 8, rtol=1e-3, atol=1e-4)


def signs(
    seed: int, name: str, rows: int, dimension: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The whole matrix, by SplitMix64 on Python's integers."""
    mask = (1 << 64) - 1
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")
    words = -(-dimension // 64)
    found = np.zeros((rows, words * 64))
    for place in range(rows * words):
        z = (key + (place + 1) * 0x9E3779B97F4A7C15) & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        z ^= z >> 31
        row, word = divmod(place, words)
        for bit in range(64):
            found[row, word * 64 + bit] = 1 if z >> bit & 1 else -1
    return found[:, :dimension]


@pytest.mark.parametrize("dimension", [8, 64, 100, 130])
def test_signs_are_those_of_the_whole_matrix_whatever_the_block(dimension: int) -> None:
    expected = torch.from_numpy(signs(3, "layer.0", 57, dimension)).float()
    whole = Projector(dimension, 3, CPU)
    assert torch.equal(whole.signs("layer.0", 0, 57), expected)
    assert torch.equal(whole.signs("layer.0", 20, 31), expected[20:31])
    gradients = torch.randn(4, 57, generator=torch.Generator().manual_seed(0))
    expected = gradients @ expected / math.sqrt(dimension)
    for block in (1, 7 * dimension, 56 * dimension, 10_000_000):
        found = Projector(dimension, 3, CPU, block=block).project("layer.0", gradients)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_signs_are_fair_and_differ_between_seeds_and_parameters() -> None:
    one = Projector(256, 0, CPU).signs("a", 0, 400)
    assert set(one.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(one.mean())) < 5 / math.sqrt(one.numel())
    for other in (Projector(256, 1, CPU).signs("a", 0, 400), Projector(256, 0, CPU).signs("b", 0, 400)):
        assert abs(float((one * other).mean())) < 5 / math.sqrt(one.numel())
    correlations = one @ one.T / 256 - torch.eye(400)
    assert float(correlations.abs().max()) < 6 / math.sqrt(256)


def test_inner_products_are_preserved() -> None:
    """Johnson-Lindenstrauss: the error of <Px, Py> has standard deviation sqrt((1 + cos^2) / D) of |x| |y|."""
    random = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 5000, generator=random)
    vectors = torch.nn.functional.normalize(torch.randn(20, 5000, generator=random) + shared)
    for dimension in (256, 4096):
        projected = Projector(dimension, 1, CPU).project("layer", vectors)
        error = projected @ projected.T - vectors @ vectors.T
        spread = math.sqrt(2 / dimension)
        assert float(error.abs().max()) < 4.5 * spread
        assert 0.4 * spread < float(error.std()) < 1.2 * spread
