"""The top-k attack on gradient maps against its floor: one forward pass and one double backward pass a step.

The floor is what no attack through the second derivative can avoid: the gradient of a logit with its graph, the sum of
its absolute values over the clean top k, and the gradient of that, on a model whose weights ask for no gradient; it
takes no step, scores nothing and checks no prediction. Ours does all that, and looks at the clean sample, at the last
point and once more at the result. With a surrogate the ReLU network itself is scored at every step beside it, a
forward and a backward pass that the floor of the smooth network does not have; that row has no target, nor
has the last, a network of a few milliseconds a step that shows what a step costs whatever the network. One process,
in turn, one thread, processor time; the ratio is the median over the rounds of the ratio within a round.

    python -m benchmarks.explanation
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from benchmarks._timing import interleaved, one_thread, row, show
from torch import nn

from faultlines.attacks.explanation import ExplanationPGD, TopK
from faultlines.estimators.attribution import attribute
from faultlines.models import ViT

EPS, STEPS, BATCH, ROUNDS, K, BETA, TARGET = 8 / 255, 40, 32, 5, 100, 30.0, 1.15
EXPLAIN = partial(attribute, method="gradient", create_graph=True)


def small_cnn(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        activation,
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        activation,
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    ).eval()


def cnn(activation: nn.Module) -> nn.Module:
    """Return the network that Chen et al. (2019) attack on Fashion-MNIST."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        activation,
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        activation,
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 49, 1024),
        activation,
        nn.Linear(1024, 10),
    ).eval()


def floor(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Take all derivatives of an attack, and nothing else."""
    top = None
    for _ in range(STEPS):
        z = x.detach().requires_grad_()
        logits = model(z).gather(1, y[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), z, create_graph=True)
        saliency = gradient.abs().sum(dim=1).flatten(1)
        if top is None:
            top = saliency.topk(K, dim=1).indices
        torch.autograd.grad(-saliency.gather(1, top).sum(), z)


def rivals(model: nn.Module, smooth: nn.Module, beta: float | None) -> dict[str, Callable[[], object]]:
    """Return attack and floor on the same weights; the floor's network is smooth."""
    x = torch.rand(BATCH, 1, 28, 28)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    smooth.load_state_dict(model.state_dict())
    smooth.requires_grad_(False)
    attack = ExplanationPGD(EXPLAIN, TopK(K), eps=EPS, steps=STEPS, surrogate_beta=beta)
    return {"ours": lambda: attack(model, x, y).score, "floor": lambda: floor(smooth, x, y)}


def run() -> list[dict]:
    """Return one row a network: name, ours_s, peer_s, ratio (ours / floor), target, ok and note."""
    torch.manual_seed(0)
    vit = partial(ViT, image_size=28, patch_size=4, channels=1, classes=10, dim=64, depth=4, heads=4)
    cases = {
        "ViT": (vit().eval(), vit(fused="never").eval(), None, True),
        "CNN, GELU": (cnn(nn.GELU()), cnn(nn.GELU()), None, True),
        "CNN, ReLU by softplus": (cnn(nn.ReLU()), cnn(nn.Softplus(BETA)), BETA, False),
        "small CNN, GELU": (small_cnn(nn.GELU()), small_cnn(nn.GELU()), None, False),
    }
    rows = []
    with one_thread():
        for name, (*case, judged) in cases.items():
            times = interleaved(rivals(*case), ROUNDS)
            rows.append(
                row(
                    f"top-k attack / derivatives alone, {name}",
                    times["ours"],
                    times["floor"],
                    target=TARGET if judged else None,
                    words=f"<= {TARGET:g}" if judged else "none",
                    note=f"{STEPS} steps, batch {BATCH}, float32, random weights",
                )
            )
    return rows


if __name__ == "__main__":
    show(run())
