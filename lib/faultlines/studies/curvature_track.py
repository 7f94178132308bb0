r"""Curvature through training, logged by a callback: where the sharpness settles against $2 / \eta$."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from faultlines.estimators.curvature.inputs import input_curvature
from faultlines.estimators.curvature.parameters import hessian_top, hessian_trace
from faultlines.training.loop import State


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
