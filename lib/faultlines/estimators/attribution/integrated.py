"""Integrated Gradients: the gradient integrated along the line from a baseline (Sundararajan et al. 2017)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.attribution.averaged import CHUNK, averaged_gradient
from faultlines.estimators.attribution.checks import check_count, check_images, check_target
from faultlines.estimators.attribution.gradient import Images, Model, Target
from faultlines.estimators.attribution.mode import derivatives

RULES = ("riemann_middle", "riemann_right", "gausslegendre")


def integrated_gradients(
    model: Model,
    x: Images,
    target: Target,
    *,
    steps: int = 32,
    baseline: Float[Tensor, "... channel height width"] | float = 0.0,
    rule: str = "riemann_middle",
    chunk: int = CHUNK,
    create_graph: bool = False,
) -> Images:
    r"""Return $(x - x') \odot \int_0^1 \nabla z_t(x' + \alpha (x - x'))\, d\alpha$ by a sum of `steps` terms, signed.

    Completeness: its entries sum to $z_t(x) - z_t(x')$ up to the error of the sum, which at an equal number of
    steps is the smallest for `"gausslegendre"` on a smooth model and of order $1/m^2$ for `"riemann_middle"`.

    Args:
        model: Maps images to logits.
        x: Images.
        target: The class of each image, or one for all.
        steps: Number of gradients, $m$.
        baseline: $x'$, a number or a tensor that fits the images, finite; black by default.
        rule: Where on the line the gradients are taken, in captum's names: `"riemann_middle"` at $(k - 1/2)/m$,
            `"riemann_right"` at $k/m$ (the authors' eq. 3), `"gausslegendre"` at the nodes of that quadrature.
        chunk: At most so many images in one forward pass, or one batch where that is more.
        create_graph: As in `gradient`; the graph also leads through the points of the line.

    Returns:
        One attribution an image; 0 wherever a pixel equals the baseline.

    Raises:
        ValueError: If an argument is not as stated.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Softplus())
        >>> x = torch.rand(2, 1, 2, 2)
        >>> total = integrated_gradients(model, x, target=1).sum(dim=(1, 2, 3))
        >>> torch.allclose(total, (model(x) - model(0 * x))[:, 1], atol=1e-4)
        True
    """
    with derivatives(create_graph, x, target, baseline) as (x, target, baseline):
        check_images(x)
        target = check_target(target, x)
        nodes, weights = (
            torch.as_tensor(a, device=x.device, dtype=x.dtype) for a in _quadrature(rule, steps)
        )
        start_of_line = torch.as_tensor(baseline, device=x.device, dtype=x.dtype)
        try:
            fits = torch.broadcast_shapes(start_of_line.shape, x.shape) == x.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"baseline has shape {tuple(start_of_line.shape)}; it must be a number or fit {tuple(x.shape)}"
            )
        if not start_of_line.isfinite().all():
            entry = start_of_line[~start_of_line.isfinite()][0].item()
            raise ValueError(
                f"baseline holds {entry}; every entry must be finite in {x.dtype}, or the map is not"
            )
        line = x - start_of_line

        def points(start: int, stop: int) -> Tensor:
            return start_of_line + nodes[start:stop].view(-1, 1, 1, 1, 1) * line

        return line * averaged_gradient(
            model, x, target, points, weights, create_graph=create_graph, chunk=chunk
        )


def _quadrature(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes in [0, 1] and the weights of a rule."""
    check_count(steps, "steps")
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is not one of {RULES}")
    if rule == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (1 + nodes) / 2, weights / 2
    last = 0.5 if rule == "riemann_middle" else 0.0
    return (np.arange(1, steps + 1) - last) / steps, np.full(steps, 1 / steps)
