"""Products with the Hessian of a loss in the parameters, by differentiating a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.estimators.forward import (
    check_steady,
    explicit_attention,
    in_any_mode,
    original,
    outputs,
    warn_of_nan,
)
from faultlines.models.pixel_normalization import check_tensor

Loss = Callable[[Tensor, Tensor], Tensor]


DRAWS = 6  # where a loss that looks at some samples only, the largest say, looks at others


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
            dropout is in training mode, the loss is no scalar, or it does not split into its pieces.
    """

    @in_any_mode
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
        y = _check(model, x, y, chunk_size, loss)
        model = original(model)
        given = model.parameters() if parameters is None else parameters
        self.parameters = [p for p in given if p.requires_grad]
        if not self.parameters:
            raise ValueError("parameters holds none that requires a gradient")
        self.model, self.x, self.y, self.loss = model, x, y, loss
        self.chunk_size = int(chunk_size or len(x))
        self._shares = [1.0] if self.chunk_size >= len(x) else self._split_loss()
        self._kept = list(self._gradients()) if self.chunk_size >= len(x) else None

    @property
    def like(self) -> Float[Tensor, "1 parameter"]:
        """An empty row of the shape, dtype and device of the products."""
        return self.parameters[0].new_empty(1, sum(p.numel() for p in self.parameters))

    @in_any_mode
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
        warn_of_nan(total)
        return total

    def _gradients(self) -> Iterator[tuple[float, Sequence[Tensor]]]:
        """Yield for each piece its share of the loss and its gradient, with a graph."""
        pieces = (self.x.split(self.chunk_size), self.y.split(self.chunk_size), self._shares)
        for xb, yb, share in zip(*pieces, strict=True):
            if share == 0:
                continue
            with torch.enable_grad():
                with explicit_attention():
                    value = self._loss(outputs(self.model, xb), yb)
                if value.ndim:
                    raise ValueError(f"loss returned shape {tuple(value.shape)}; a scalar is needed")
                gradients = torch.autograd.grad(
                    value, self.parameters, create_graph=True, materialize_grads=True
                )
            yield share, gradients

    def _loss(self, z: Tensor, y: Tensor) -> Tensor:
        try:
            return self.loss(z, y)
        except IndexError as error:  # cross-entropy's
            raise ValueError(
                f"y has labels from {int(y.min())} to {int(y.max())}; the model's outputs of shape {tuple(z.shape)} do "
                f"not have them: {error}"
            ) from error

    def _split_loss(self) -> list[float]:
        r"""Return $s_p$ with $L = \sum_p s_p L_p$ over the pieces: shares of samples, of class weights, ones for a sum.

        They are read off the slopes of the loss in the outputs, a little beside them, where no slope vanishes.
        """
        with torch.no_grad():
            z = torch.cat([outputs(self.model, xb) for xb in self.x.split(self.chunk_size)])
        generator = torch.Generator(z.device).manual_seed(0)
        draws = []
        for place in (z, z, *DRAWS * [0 * z]):  # shares that depend on the outputs are none
            noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
            draws.append(self._shares_at(place + noise))
        rounding = 1e3 * torch.finfo(z.dtype).eps
        first, *others = (torch.tensor([math.nan if s is None else s for s in shares]) for shares in draws)
        if not all(torch.allclose(first, other, rtol=rounding, atol=0) for other in others):
            raise ValueError(
                f"chunk_size={self.chunk_size} would change the value: the loss over all samples is no weighted sum of "
                "the losses over pieces of them; pass chunk_size=None"
            )
        even = [len(xb) / len(self.x) for xb in self.x.split(self.chunk_size)]
        return [e if abs(s - e) <= rounding * e else s for s, e in zip(draws[0], even, strict=True)]

    def _shares_at(self, z: Tensor) -> list[Any]:
        """Return the share of each piece, None where its slope is no multiple of its own."""
        rounding = 1e3 * torch.finfo(z.dtype).eps
        whole = self._slope(z, self.y).split(self.chunk_size)
        shares: list[Any] = []
        for zb, yb, slope in zip(z.split(self.chunk_size), self.y.split(self.chunk_size), whole, strict=True):
            if not bool((slope != 0).any()):  # of ignored targets only: such a piece has no mean of its own
                shares.append(0.0)
                continue
            own = self._slope(zb, yb)
            share = float((slope * own).sum() / own.square().sum())
            fits = float((slope - share * own).norm()) <= rounding * float(slope.norm())
            shares.append(share if fits else None)
        return shares

    def _slope(self, z: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            return torch.autograd.grad(self.loss(leaf, y).sum(), leaf)[0]


def _check(model: nn.Module, x: Tensor, y: Tensor, chunk_size: int | None, loss: Loss) -> Tensor:
    """Return the targets; classes as cross-entropy takes them."""
    check_tensor(x, "x")
    check_tensor(y, "y")
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x has {len(x)} samples and y {len(y)}; they must be equal and not 0")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} must be at least 1, or None")
    check_steady(model)
    if loss is not F.cross_entropy or y.ndim > 1 or y.is_floating_point():
        if loss is F.cross_entropy and not (y.ndim > 1 and y.is_floating_point()):
            raise ValueError(
                f"y has shape {tuple(y.shape)} and dtype {y.dtype}; cross-entropy takes integers of shape ({len(x)},)"
            )
        return y
    return y.long()
