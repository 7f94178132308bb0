r"""Training the two-layer network of kernel theory: to the minimum, by the paper's recipe, and under attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from faultlines.attacks.pgd import PGD
from faultlines.attacks.training_data import perturb_training_data
from faultlines.estimators.forward import with_gradients
from faultlines.estimators.ntk.two_layer import finite_relu_ntk
from faultlines.models.linearized import Representation
from faultlines.models.two_layer import LinearisedTwoLayer, TwoLayerReLU
from faultlines.training import checkpoint as checkpoints
from faultlines.training.batches import Stream
from faultlines.training.checkpoint import Checkpoint
from faultlines.training.loop import History, State, Terms, Training
from faultlines.training.optimizer import Settings

PAUSE = 60.0  # seconds between two checkpoints: an epoch may be shorter than writing a wide network


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


@with_gradients
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
    start, signs = network.get_buffer("initial"), network.get_buffer("signs")
    step = 1 / (float(torch.linalg.eigvalsh(finite_relu_ntk(rows, weight=start))[-1]) + ridge)
    fixed = (rows @ start.T > 0).to(rows.dtype) if isinstance(network, LinearisedTwoLayer) else None
    weight, momentum, first, last, share = network.weight.detach(), 1.0, 0.0, float("inf"), float("nan")
    point, count = weight.clone(), 0
    for count in range(max_steps + 1):
        loss, slope = _slope(weight, rows, targets, signs[0], start, ridge, fixed)
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


@with_gradients
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
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
) -> History:
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
        progress: A bar over epochs; by default only in a terminal.
        checkpoint: File to go on from where it exists, and to write to every minute and at the end; by default one in
            the folder that `FAULTLINES_CHECKPOINTS` names, if it names one.

    Returns:
        Epoch means of the loss.

    Raises:
        ValueError: If a setting or the checkpoint does not fit.
        FloatingPointError: If the loss is not finite.
    """
    training = AdamTraining(
        network, lambda index, step: (rows[index], targets[index]), len(rows), epochs=epochs, lr=lr,
        batch_size=batch_size, decay=decay, generator=generator,
    )  # fmt: skip
    keep = training.checkpoint(checkpoint, (rows, targets), (rows[:batch_size], targets[:batch_size]))
    training.run(progress=progress, checkpoint=keep)
    return training.state.history


@with_gradients
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
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
) -> History:
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
        progress: A bar over epochs; by default only in a terminal.
        checkpoint: File to go on from where it exists, and to write to every minute and at the end; by default one in
            the folder that `FAULTLINES_CHECKPOINTS` names, if it names one.

    Returns:
        Epoch means of the loss.

    Raises:
        ValueError: If there are other classes than 0 and 1, `ramp` is not in (0, 1], or the checkpoint does not fit.
        FloatingPointError: If the loss is not finite.
    """
    if set(y.unique().tolist()) != {0, 1}:
        raise ValueError(f"y has the classes {y.unique().tolist()[:12]}; a binary task must have 0 and 1")
    if not 0 < ramp <= 1:
        raise ValueError(f"ramp={ramp!r} must lie in (0, 1]")

    def scores(z: Tensor, reference: Tensor) -> Tensor:
        f = network(representation(z, reference))
        return torch.stack([-f, f], dim=1)

    targets = 2.0 * y.to(x.dtype) - 1
    per_epoch = -(-len(x) // batch_size)

    def attacked(index: Tensor, step: int) -> tuple[Tensor, Tensor]:
        attack = PGD(eps=eps * min(1.0, (step // per_epoch + 1) / (ramp * epochs)), steps=steps)
        moved = perturb_training_data(attack, scores, x, y, index, generator=generator)
        return representation(moved[index], moved), targets[index]

    training = AdamTraining(
        network,
        attacked,
        len(x),
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        decay=decay,
        generator=generator,
    )
    first = (representation(x[:batch_size], x), targets[:batch_size])
    keep = training.checkpoint(checkpoint, (x, targets), first, eps=eps, ramp=ramp, steps=steps)
    training.run(progress=progress, checkpoint=keep)
    return training.state.history


class RowBatches(Stream):
    """Batches of indices in an order from the caller's generator, which others may draw from between two."""

    def __init__(self, n: int, batch_size: int, generator: torch.Generator) -> None:
        super().__init__(n, batch_size, generator, generator)

    def draw(self, index: Int[Tensor, " batch"]) -> Tensor:
        """Return the indices."""
        return index


class AdamTraining(Training[History]):
    """Adam on the mean squared error plus an $L_2$ penalty; `rows_of` makes a batch of indices and a step."""

    def __init__(
        self,
        network: TwoLayerReLU,
        rows_of: Callable[[Tensor, int], tuple[Tensor, Tensor]],
        n: int,
        *,
        epochs: int,
        lr: float,
        batch_size: int,
        decay: float,
        generator: torch.Generator,
    ) -> None:
        self.rows_of, self.decay, self.generator = rows_of, decay, generator
        batches = RowBatches(n, batch_size, generator)
        settings = Settings(
            epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=0.0, warmup=0.0, schedule="constant",
            grad_clip=None,
        )  # fmt: skip
        state = State(network, History(), "the mean squared error", 0, epochs * len(batches))
        stepper = torch.optim.Adam(network.parameters(), lr=lr)
        super().__init__(network, batches, settings, stepper, state, seed=0, device=network.weight.device)

    def size(self, batch: Tensor) -> int:
        """Return how many rows a batch holds."""
        return len(batch)

    def loss(self, batch: Tensor, step: int) -> tuple[Tensor, Terms]:
        """Return the mean squared error with its penalty."""
        return self._objective(self.model, *self.rows_of(batch, step))

    def _objective(self, network: nn.Module, rows: Tensor, targets: Tensor) -> tuple[Tensor, Terms]:
        error = (network(rows) - targets).square().mean()
        weight = network.get_parameter("weight")
        return error + self.decay * weight.square().sum(), {"squared_error": error}

    def checkpoint(
        self,
        path: str | Path | None,
        data: tuple[Tensor, Tensor],
        first: tuple[Tensor, Tensor],
        **more: object,
    ) -> Checkpoint | None:
        """Return the file of the run: the one named, or one in the folder that the environment names, or none."""
        if path is None and not checkpoints.wanted():
            return None
        run = checkpoints.identity(self.model, data, self.settings, "Adam", decay=self.decay, **more)
        if path is None:
            step = checkpoints.first_step(self.model, self._objective, *first)
            path = checkpoints.automatic(run, [self.model], [self.generator.get_state()], step)
        return Checkpoint(Path(path), run, pause=PAUSE)


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
    initial = network.get_buffer("initial")
    with torch.no_grad():
        before, after = ((rows @ w.T > 0).double() for w in (initial, network.weight))
        n = len(before)
        apart = before.mean(dim=0) * (1 - before.mean(dim=0)) * 2 * n / (n - 1)
        kernels = [finite_relu_ntk(rows, weight=w) for w in (initial, network.weight.detach())]
        return Laziness(
            movement=float((network.weight - initial).norm()),
            flips=float((before != after).double().mean()),
            spread=float(apart.mean()),
            kernel_change=float((kernels[1] - kernels[0]).norm() / kernels[0].norm()),
        )
