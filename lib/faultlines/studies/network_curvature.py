"""Curvature of networks whose explanations are compared: after training, with scale and margin, and through it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.attacks.explanation.surrogate import count_relu, softplus_surrogate
from faultlines.estimators.curvature.inputs import input_curvature
from faultlines.estimators.curvature.parameters import hessian_top, hessian_trace
from faultlines.models.inference import predictions
from faultlines.training.loop import State


@dataclass(frozen=True)
class NetworkTraits:
    r"""Of one network; medians are over the explained samples.

    Attributes:
        sharpness: Largest eigenvalue of the Hessian of the training loss.
        input_hessian: Median of $\lVert \nabla_x^2 f_y \rVert_2$.
        relative_curvature: Median of $\kappa = \lVert \nabla_x^2 f_y \rVert_2 / \lVert \nabla_x f_y \rVert_2$.
        gradient: Median of $\lVert \nabla_x f_y \rVert_2$.
        margin: Median of the logit of the class less the largest other.
        accuracy: On the test set.
    """

    sharpness: float
    input_hessian: float
    relative_curvature: float
    gradient: float
    margin: float
    accuracy: float


def network_traits(
    model: nn.Module,
    train: tuple[Float[Tensor, "n ..."], Int64[Tensor, " n"]],
    test: tuple[Float[Tensor, "m ..."], Int64[Tensor, " m"]],
    explained: tuple[Float[Tensor, "e ..."], Int64[Tensor, " e"]],
    *,
    beta: float = 30.0,
    steps: int = 30,
) -> NetworkTraits:
    r"""Measure a trained network.

    A ReLU network has no curvature in its input: there the input curvature is that of the same weights with
    $\mathrm{softplus}_\beta$, which is the network that attacks on its explanations climb. Everything else is the
    network's own.

    Args:
        model: The network, in evaluation mode.
        train: Training samples and labels for the sharpness.
        test: Test samples and labels for the accuracy.
        explained: Samples and classes whose explanations are attacked.
        beta: Sharpness of the softplus; numbers with different ones are not comparable.
        steps: At most so many products with an input Hessian.

    Raises:
        ValueError: If samples and labels do not fit the network.

    Example:
        >>> x, y = torch.rand(20, 4), torch.arange(20) % 3
        >>> found = network_traits(nn.Linear(4, 3), (x, y), (x, y), (x, y))
        >>> found.input_hessian, found.gradient > 0
        (0.0, True)
    """
    sharp = hessian_top(model, *train, generator=torch.Generator(train[0].device).manual_seed(0))
    smooth = softplus_surrogate(model, beta) if count_relu(model, explained[0][:1]) else nullcontext(model)
    with smooth as twin:
        curved = input_curvature(twin, *explained, steps=steps)
    with torch.no_grad():
        logits, y = model(explained[0]), explained[1]
        own = logits.gather(1, y[:, None]).squeeze(1)
        other = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
        accuracy = (predictions(model(test[0])) == test[1]).double().mean().item()
    return NetworkTraits(
        sharpness=sharp.values[0].item(),
        input_hessian=curved.norm.median().item(),
        relative_curvature=curved.relative.nanmedian().item(),
        gradient=curved.gradient.median().item(),
        margin=(own - other).median().item(),
        accuracy=accuracy,
    )


class CurvatureTrack:
    r"""A callback of `fit` that measures curvature every so many epochs, on samples fixed in advance.

    The network is measured as callbacks see it, in evaluation mode. Without batch normalisation that is the function
    whose gradient is followed, and under full-batch descent of step size $\eta$ the top eigenvalue of *its training
    set* rises to about $2 / \eta$ and stays (Cohen et al. 2021). With it, the top is that of the fixed affine maps.

    Costs about twelve Hessian-vector products a time for the top, one a probe for the trace; `seconds` says how
    much. A few hundred samples give the top to within its noise over samples.

    Args:
        x: The samples to measure on.
        y: Their targets.
        every: Epochs between two measurements; the first epoch is always measured.
        probes: Products for the trace; 0 leaves it out.
        input_samples: How many of the samples to measure in the input, medians over which are kept; 0 for none. A
            ReLU network has no curvature there, see `faultlines.estimators.curvature`.
        tol: Relative accuracy aimed at.
        loss: Mean loss from outputs and targets.

    Attributes:
        rows: One dictionary a measurement: `epoch`, `loss` (on these samples), `top`, `top_error`, `lowest`, and where
            they were asked for `trace`, `trace_error`, `input_gradient`, `input_hessian`, `input_relative`.
        seconds: Wall time of all measurements.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from faultlines.training import fit
        >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
        >>> y, track = (x[:, 0] > 0.5).long(), CurvatureTrack(x, (x[:, 0] > 0.5).long(), every=5)
        >>> _ = fit(torch.nn.Linear(4, 2), x, y, epochs=11, batch_size=16, callbacks=[track])
        >>> track.series("epoch"), len(track.series("top"))
        ([1, 5, 10], 3)
    """

    def __init__(
        self,
        x: Float[Tensor, "n ..."],
        y: Tensor,
        *,
        every: int = 1,
        probes: int = 0,
        input_samples: int = 0,
        tol: float = 1e-2,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        for name, value, low in (
            ("every", every, 1),
            ("probes", probes, 0),
            ("input_samples", input_samples, 0),
        ):
            if value < low:
                raise ValueError(f"{name}={value} must be at least {low}")
        if input_samples > len(x):
            raise ValueError(f"input_samples={input_samples} exceeds the number of samples, {len(x)}")
        self.x, self.y, self.loss, self.tol = x, y, loss, tol
        self.every, self.probes, self.input_samples = every, probes, input_samples
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0

    def __call__(self, state: State) -> None:
        """Measure, where it is time to."""
        epoch, model = state.epoch, state.model
        if epoch > 1 and epoch % self.every:
            return
        start = time.perf_counter()
        top = hessian_top(model, self.x, self.y, loss=self.loss, tol=self.tol)
        with torch.no_grad():
            value = self.loss(model(self.x), self.y).item()
        row = {
            "epoch": epoch,
            "loss": value,
            "top": top.values[0].item(),
            "top_error": top.errors[0].item(),
            "lowest": top.lowest.item(),
        }
        if self.probes:
            trace = hessian_trace(model, self.x, self.y, loss=self.loss, probes=self.probes)
            row |= {"trace": trace.mean.item(), "trace_error": trace.standard_error.item()}
        if self.input_samples:
            n = self.input_samples
            found = input_curvature(model, self.x[:n], self.y[:n], tol=self.tol)
            row |= {
                "input_gradient": found.gradient.median().item(),
                "input_hessian": found.norm.median().item(),
                "input_relative": found.relative.median().item(),
            }
        self.rows.append(row)
        self.seconds += time.perf_counter() - start

    def series(self, name: str) -> list[float]:
        """Return one number of every measurement, in order.

        Raises:
            ValueError: If it was not measured.
        """
        if self.rows and name not in self.rows[0]:
            raise ValueError(f"name={name!r} is not one of {sorted(self.rows[0])}")
        return [row[name] for row in self.rows]
