"""Products with the Hessian of a loss in the parameters, by differentiating a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.estimators.curvature.inputs import check_mode
from faultlines.estimators.forward import check_recording
from faultlines.models.recorder import record

Loss = Callable[[Tensor, Tensor], Tensor]


class HessianProduct:
    r"""$v \mapsto \nabla^2_\theta L\, v$ for the mean loss $L$ of a network over `(x, y)`.

    The graph of the gradient is built once and kept, so that a product costs one backward pass through it: about a
    third less than building it each time. With `chunk_size` it is built piece by piece at every product instead,
    in the memory of one piece. Attention runs in its explicit form, for a fused kernel has no second derivative.

    The weights must stay as they are while the graph is in use; torch raises an error where they do not.

    The network stays in the mode it is in. In evaluation mode batch normalisation is the fixed affine map of its
    running statistics: that is the network that is attacked and explained, but not quite the function whose
    gradient SGD follows.

    Args:
        model: The network; its parameters that require a gradient are $\theta$.
        x: Inputs.
        y: Targets, as `loss` takes them.
        loss: `loss(model(x), y)`, a *mean* over the samples.
        parameters: The parameters $\theta$, where it is not all of them.
        chunk_size: Samples a piece; None takes all at once.

    Raises:
        ValueError: If there is no parameter, lengths differ or `chunk_size` is below 1, batch normalisation or
            dropout is in training mode, or the loss is no scalar.
        RuntimeError: If called under `torch.inference_mode()`.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Tensor,
        *,
        loss: Loss = F.cross_entropy,
        parameters: Sequence[Tensor] | None = None,
        chunk_size: int | None = None,
    ) -> None:
        check_recording()
        _check(model, x, y, chunk_size)
        given = model.parameters() if parameters is None else parameters
        self.parameters = [p for p in given if p.requires_grad]
        if not self.parameters:
            raise ValueError("parameters holds none that requires a gradient")
        self.model, self.x, self.y, self.loss = model, x, y, loss
        self.chunk_size = chunk_size or len(x)
        self._kept = list(self._gradients()) if self.chunk_size >= len(x) else None

    @property
    def like(self) -> Float[Tensor, "1 parameter"]:
        """An empty row of the shape, dtype and device of the products."""
        return self.parameters[0].new_empty(1, sum(p.numel() for p in self.parameters))

    @property
    def gradient(self) -> Float[Tensor, " parameter"]:
        """The gradient of the loss, flat."""
        return sum(
            share * torch.cat([g.detach().flatten() for g in gradients])
            for share, gradients in self._kept or self._gradients()
        )

    def __call__(self, v: Float[Tensor, "1 parameter"]) -> Float[Tensor, "1 parameter"]:
        """Return the product; one row in, one row out."""
        pieces = v.reshape(-1).split([p.numel() for p in self.parameters])
        pieces = [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]
        total = torch.zeros_like(v)
        for share, gradients in self._kept or self._gradients():
            curved = [(g, piece) for g, piece in zip(gradients, pieces, strict=True) if g.requires_grad]
            if not curved:  # linear in the parameters
                continue
            outputs, weights = zip(*curved, strict=True)
            products = torch.autograd.grad(
                outputs, self.parameters, weights, retain_graph=self._kept is not None, materialize_grads=True
            )
            total += share * torch.cat([p.flatten() for p in products])
        return total

    def _gradients(self) -> Iterator[tuple[float, Sequence[Tensor]]]:
        """Yield for each piece its share of the samples and its gradient, with a graph."""
        for xb, yb in zip(self.x.split(self.chunk_size), self.y.split(self.chunk_size), strict=True):
            with torch.enable_grad():
                with record():
                    value = self.loss(self.model(xb), yb)
                if value.ndim:
                    raise ValueError(f"loss returned shape {tuple(value.shape)}; a scalar is needed")
                gradients = torch.autograd.grad(
                    value, self.parameters, create_graph=True, materialize_grads=True
                )
            yield len(xb) / len(self.x), gradients


def _check(model: nn.Module, x: Tensor, y: Tensor, chunk_size: int | None) -> None:
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x has {len(x)} samples and y {len(y)}; they must be equal and not 0")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} must be at least 1, or None")
    check_mode(model)
