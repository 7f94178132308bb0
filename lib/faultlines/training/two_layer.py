r"""Training the two-layer network of kernel theory: to the minimum, by the paper's recipe, and under attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.pgd import PGD
from faultlines.attacks.training_data import perturb_training_data
from faultlines.estimators.ntk.two_layer import finite_relu_ntk
from faultlines.models.linearized import Representation
from faultlines.models.two_layer import LinearisedTwoLayer, TwoLayerReLU


@dataclass(frozen=True)
class Descent:
    """How a descent ended.

    Attributes:
        steps: Gradient steps taken.
        gradient: Norm of the gradient at the end, over that at the start.
        converged: Whether that is within the tolerance.
    """

    steps: int
    gradient: float
    converged: bool


def descend(
    network: TwoLayerReLU | LinearisedTwoLayer,
    rows: Float[Tensor, "n d"],
    targets: Float[Tensor, " n"],
    *,
    ridge: float,
    tolerance: float = 1e-4,
    max_steps: int = 20_000,
) -> Descent:
    r"""Minimise $\frac12 \lVert f(X) - y \rVert^2 + \frac\lambda2 \lVert W - W_0 \rVert_F^2$ by full-batch descent.

    Gradient descent with Nesterov's acceleration, restarted where momentum points uphill (O'Donoghue & Candès
    2015). The step is the inverse of the largest curvature of the linearised loss; where the loss jumps all the
    same, it is halved. For a linearised network that starts at $f_0 = 0$ the minimum is ridge regression with the
    kernel at $W_0$. The loss of the network itself has kinks, across which its gradient jumps: it comes to rest
    at a small gradient, not at a vanishing one.

    Args:
        network: Changed in place; one output.
        rows: Training rows.
        targets: Training targets.
        ridge: $\lambda$, above 0.
        tolerance: The gradient has to fall to this share of its norm at the start.
        max_steps: Give up after this many.

    Returns:
        How it ended.

    Raises:
        ValueError: If the ridge is not above 0.
    """
    if not ridge > 0:
        raise ValueError(f"ridge={ridge!r} must be above 0; without it the minimum is not unique")
    start = network.initial
    step = 1 / (float(torch.linalg.eigvalsh(finite_relu_ntk(rows, weight=start))[-1]) + ridge)
    fixed = (rows @ start.T > 0).to(rows.dtype) if isinstance(network, LinearisedTwoLayer) else None
    weight, momentum, first, last, share = network.weight.detach(), 1.0, 0.0, float("inf"), float("nan")
    point = weight.clone()
    for count in range(max_steps + 1):
        loss, slope = _slope(weight, rows, targets, network.signs[0], start, ridge, fixed)
        first = first or float(slope.norm())
        share = float(slope.norm()) / first
        if share <= tolerance or count == max_steps:
            break
        new = weight - step * slope
        if loss > 1.5 * last:  # a kink was jumped: slow down
            step, momentum = step / 2, 1.0
        elif float((slope * (new - point)).sum()) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        weight = new + (momentum - 1) / following * (new - point)
        point, momentum, last = new, following, loss
    with torch.no_grad():
        network.weight.copy_(weight)
    return Descent(count, share, share <= tolerance)


def _slope(
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    signs: Tensor,
    start: Tensor,
    ridge: float,
    gates: Tensor | None,
) -> tuple[float, Tensor]:
    """Return loss and gradient: two products, where autograd would keep and copy more."""
    hidden = rows @ weight.T
    gates = (hidden > 0).to(rows.dtype) if gates is None else gates
    readout = signs / len(signs) ** 0.5
    residual = (gates * hidden) @ readout - targets
    moved = weight - start
    loss = float(residual.square().sum() + ridge * moved.square().sum()) / 2
    return loss, (gates * residual[:, None]).T.mul(readout[:, None]) @ rows + ridge * moved


def fit_adam(
    network: TwoLayerReLU,
    rows: Float[Tensor, "n d"],
    targets: Float[Tensor, " n"],
    *,
    epochs: int,
    lr: float = 1e-3,
    batch_size: int = 128,
    decay: float = 1e-3,
    generator: torch.Generator,
) -> None:
    r"""Train by the paper's recipe as far as it is known: Adam on the mean squared error plus an $L_2$ penalty.

    Args:
        network: Changed in place.
        rows: Training rows.
        targets: Training targets.
        epochs: Passes over the rows.
        lr: Learning rate.
        batch_size: Rows a step.
        decay: Coefficient of $\lVert W \rVert^2$ in the loss (towards zero, not towards $W_0$).
        generator: Order of the rows.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows), generator=generator).split(batch_size):
            _adam_step(optimiser, network, rows[batch], targets[batch], decay)


def fit_adversarial(
    network: TwoLayerReLU,
    representation: Representation,
    x: Float[Tensor, "n *shape"],
    y: Int64[Tensor, " n"],
    *,
    eps: float,
    epochs: int,
    ramp: float = 0.5,
    steps: int = 5,
    lr: float = 1e-3,
    batch_size: int = 128,
    decay: float = 1e-3,
    generator: torch.Generator,
) -> None:
    r"""Train a binary network on batches that PGD has perturbed first, through the whole transductive map.

    Args:
        network: Changed in place; one output.
        representation: From pixels to rows.
        x: Training images in [0, 1].
        y: Classes 0 and 1.
        eps: Radius in pixels, reached linearly after the share `ramp` of the epochs: a network that starts at
            the full radius may never learn.
        epochs: Passes over the images.
        ramp: See `eps`.
        steps: Steps of PGD.
        lr: Learning rate.
        batch_size: Images a step.
        decay: Coefficient of the $L_2$ penalty.
        generator: Order of the images and random starts.

    Raises:
        ValueError: If there are other classes than 0 and 1, or `ramp` is not in (0, 1].
    """
    if set(y.unique().tolist()) != {0, 1}:
        raise ValueError(f"y has the classes {y.unique().tolist()[:12]}; a binary task must have 0 and 1")
    if not 0 < ramp <= 1:
        raise ValueError(f"ramp={ramp!r} must lie in (0, 1]")

    def scores(z: Tensor, reference: Tensor) -> Tensor:
        f = network(representation(z, reference))
        return torch.stack([-f, f], dim=1)

    optimiser = torch.optim.Adam(network.parameters(), lr=lr)
    targets = 2.0 * y.to(x.dtype) - 1
    for epoch in range(epochs):
        attack = PGD(eps=eps * min(1.0, (epoch + 1) / (ramp * epochs)), steps=steps)
        for batch in torch.randperm(len(x), generator=generator).split(batch_size):
            moved = perturb_training_data(attack, scores, x, y, batch, generator=generator)
            _adam_step(optimiser, network, representation(moved[batch], moved), targets[batch], decay)


@dataclass(frozen=True)
class Laziness:
    r"""How far training left the kernel regime.

    Attributes:
        movement: $\lVert W - W_0 \rVert_F$.
        flips: Share of (row, unit) pairs whose ReLU switched.
        spread: Share of units on which two training rows differ, mean over pairs: what the switches compare with.
        kernel_change: $\lVert K_W - K_{W_0} \rVert_F / \lVert K_{W_0} \rVert_F$.
    """

    movement: float
    flips: float
    spread: float
    kernel_change: float


def laziness(network: TwoLayerReLU, rows: Float[Tensor, "n d"]) -> Laziness:
    """Measure how far a trained network is from its start, on its training rows."""
    with torch.no_grad():
        before, after = ((rows @ w.T > 0).double() for w in (network.initial, network.weight))
        n = len(before)
        apart = before.mean(dim=0) * (1 - before.mean(dim=0)) * 2 * n / (n - 1)
        kernels = [finite_relu_ntk(rows, weight=w) for w in (network.initial, network.weight.detach())]
        return Laziness(
            movement=float((network.weight - network.initial).norm()),
            flips=float((before != after).double().mean()),
            spread=float(apart.mean()),
            kernel_change=float((kernels[1] - kernels[0]).norm() / kernels[0].norm()),
        )


def _adam_step(
    optimiser: torch.optim.Optimizer, network: TwoLayerReLU, rows: Tensor, targets: Tensor, decay: float
) -> None:
    loss = (network(rows) - targets).square().mean() + decay * network.weight.square().sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
