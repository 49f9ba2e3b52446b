"""IRFT's identities: at the reference, the literal link, SPIN, the paper's toy, the closed-form optimum."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import tiny_checkpoint
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rubrica.core.records import Response
from rubrica.core.run import Run
from rubrica.losses.pairs import Link, linked, ratio_margin
from rubrica.models.likelihood import answer_rows
from rubrica.recipes.align import align
from rubrica.recipes.config import Recipe
from rubrica.recipes.context import Surroundings
from rubrica.recipes.demonstrations import gather_demonstrations
from rubrica.recipes.surroundings import default_surroundings

BETA = 0.3
Y, A = 0, 3
"""Places of a demonstration and of an answer in the tables below."""


def table(*logits: float) -> Tensor:
    return torch.tensor(logits, dtype=torch.float64, requires_grad=True)


def loss(
    theta: Tensor, reference: Tensor, chosen: Tensor, rejected: Tensor, link: Link = "sigmoid"
) -> Tensor:
    """IRFT's loss of each pair under a policy that is a table of log-probabilities."""
    policy, ref = theta.log_softmax(-1), reference.log_softmax(-1)
    return linked(ratio_margin(policy[chosen], policy[rejected], ref[chosen], ref[rejected], BETA), link)


def gradient(of: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(of, at, retain_graph=True)[0]


def test_at_the_reference_the_loss_is_log_two_and_the_gradient_half_of_betas_difference() -> None:
    theta = table(0.3, -1.0, 0.7, 0.1)
    found = loss(theta, theta.detach(), torch.tensor(Y), torch.tensor(A))
    assert found.item() == pytest.approx(math.log(2))
    log_probs = theta.log_softmax(-1)
    expected = -(BETA / 2) * (gradient(log_probs[Y], theta) - gradient(log_probs[A], theta))
    assert torch.allclose(gradient(found, theta), expected)


def test_the_literal_link_has_the_gradient_of_inverse_reinforcement_learning() -> None:
    # over all demonstrations and all answers, each as often as D and the policy give it
    theta, reference = table(0.3, -1.0, 0.7, 0.1), table(0.0, 0.5, -0.5, 1.0).detach()
    shown = torch.tensor([0.5, 0.1, 0.0, 0.4], dtype=torch.float64)
    policy = theta.detach().softmax(-1)
    y, a = (grid.flatten() for grid in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
    found = gradient((shown[y] * policy[a] * loss(theta, reference, y, a, "literal")).sum(), theta)
    reward = BETA * (theta.log_softmax(-1) - reference.log_softmax(-1))
    expected = -gradient((shown * reward).sum(), theta) + gradient((policy * reward).sum(), theta)
    assert torch.allclose(found, expected)
    # and with answers of the policy itself, that is beta times the gradient of maximum likelihood
    assert torch.allclose(found, -BETA * gradient((shown * theta.log_softmax(-1)).sum(), theta))


@pytest.mark.parametrize("link", ["sigmoid", "hinge", "literal"])
def test_the_slope_is_the_gradient(link: Link) -> None:
    reference = table(0.0, 0.5, -0.5, 1.0).detach()

    def of(theta: Tensor) -> Tensor:
        return loss(theta, reference, torch.tensor([0, 2]), torch.tensor([3, 1]), link)

    assert torch.autograd.gradcheck(of, (table(0.3, -1.0, 0.7, 0.1),))


@pytest.mark.parametrize("link", ["sigmoid", "hinge", "literal"])
def test_stages_and_steps_reach_the_closed_form_optimum(link: Link) -> None:
    """With a reward that may be anything the optimum is D itself: stages of IRFT, exact in every expectation, get
    there with each link. Within a stage the answers come from the policy before it, as in Algorithm 2."""
    shown = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
    y, a = (grid.flatten() for grid in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
    theta = table(0.0, 0.0, 0.0, 2.0)
    for _ in range(300):
        before = theta.detach().clone()
        policy = before.softmax(-1)
        for _ in range(3):
            value = (shown[y] * policy[a] * loss(theta, before, y, a, link)).sum()
            theta = (theta - 0.5 * gradient(value, theta)).detach().requires_grad_()
    assert theta.softmax(-1).tolist() == pytest.approx(shown.tolist(), abs=1e-3)


def test_the_papers_toy() -> None:
    """One state, three actions, all demonstrations show the first. Supervised fine-tuning would put all mass there;
    a reward bounded by 0 and 1, beta 1 and a uniform reference spread it: (e, 1, 1) / (e + 2)."""
    reward = table(0.5, 0.5, 0.5)
    shown = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for _ in range(
        60
    ):  # alternate: the policy is exact under the reward, the reward takes one projected step
        policy = reward.detach().softmax(-1)  # reference uniform, beta 1
        margins = reward[:, None] - reward[None, :]
        value = (shown[:, None] * policy[None, :] * linked(margins, "literal")).sum()
        reward = (reward - 0.2 * gradient(value, reward)).detach().clamp(0, 1).requires_grad_()
    assert reward.tolist() == pytest.approx([1, 0, 0])
    found = reward.softmax(-1).tolist()
    assert found == pytest.approx([math.e / (math.e + 2), 1 / (math.e + 2), 1 / (math.e + 2)])
    assert found == pytest.approx([0.576, 0.212, 0.212], abs=5e-4)


# --- SPIN ---

SHOWN = "".join(
    f'{{"prompt": "How clear is the text {n}?", "response": "{said}"}}\n'
    for n, said in enumerate(("The willow bark", "Boil the root", "Never sells", "Let it cool"))
)


def recipe(folder: Path, **changes: object) -> Recipe:
    tiny_checkpoint(folder / "policy")
    (folder / "shown.jsonl").write_text(SHOWN)
    stage = {
        "type": "irft",
        "demonstrations": [str(folder / "shown.jsonl")],
        "beta": BETA,
        "answers": {"temperature": 1.0, "max_tokens": 12},
        "trainer": {
            "per_device_train_batch_size": 4,
            "optim": "sgd",
            "learning_rate": 0.5,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "max_grad_norm": 1e9,
        },
        **changes,
    }
    return Recipe.model_validate(
        {
            "name": "spin",
            "policy": {"model": str(folder / "policy"), "dtype": "float32"},
            "judge": "lab-oracle",
            "program": "lab",
            "stages": [stage],
        }
    )


def spin(folder: Path, answers: list[Response], steps: int) -> dict[str, Tensor]:
    """SPIN by itself: plain gradient descent on its logistic loss with fixed opponents."""
    model = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
    opponent = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    shown = gather_demonstrations([str(folder / "shown.jsonl")], Surroundings())
    prompts = [text.prompt for text in shown]
    by_prompt = {answer.prompt_id: answer for answer in answers}
    real = answer_rows(tokenizer, prompts, [text.text for text in shown])
    synthetic = answer_rows(
        tokenizer,
        prompts,
        [by_prompt[p.id].text for p in prompts],
        [by_prompt[p.id].finished for p in prompts],
    )

    def log_prob(of: torch.nn.Module, prompt: list[int], answer: list[int]) -> Tensor:
        logits = of(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        places = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
        return logits[places, torch.tensor(answer)].sum()

    for _ in range(steps):
        losses = []
        for y, a in zip(real, synthetic, strict=True):
            with torch.no_grad():
                fixed = [log_prob(opponent, *row) for row in (y, a)]
            t = BETA * (log_prob(model, *y) - fixed[0] - (log_prob(model, *a) - fixed[1]))
            losses.append(torch.log1p(torch.exp(-t)))
        torch.stack(losses).mean().backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.5 * weight.grad
                weight.grad = None
    return model.state_dict()


def test_one_stage_is_spin_step_for_step(tmp_path: Path) -> None:
    align(recipe(tmp_path, preset="spin", steps=3), tmp_path / "run", surroundings=default_surroundings())
    run = Run.open(tmp_path / "run")
    with run.store:
        answers = run.store.all("answer", Response, stage="01-irft/01")
    assert len(answers) == 4
    expected = spin(tmp_path, answers, 3)
    found = load_file(tmp_path / "run/stages/01-irft/model/model.safetensors")
    start = load_file(tmp_path / "policy/model.safetensors")
    assert all(torch.allclose(found[name], expected[name], atol=2e-5) for name in found)
    assert any(not torch.allclose(found[name], start[name], atol=1e-3) for name in found)
