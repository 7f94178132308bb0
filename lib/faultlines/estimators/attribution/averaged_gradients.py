"""SmoothGrad and Integrated Gradients: gradients averaged over points near an image, or on the way to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.estimators.attribution.gradients import (
    Images,
    Model,
    Target,
    check_count,
    check_images,
    check_target,
    logit_gradient,
)
from faultlines.estimators.forward import derivatives

Points = Float[Tensor, "point batch channel height width"]


CHUNK = 256  # images a forward pass; more of them leave the cache of a CPU


def averaged_gradient(
    model: Model,
    x: Images,
    target: Tensor,
    points: Callable[[int, int], Points],
    weights: Float[Tensor, " point"],
    *,
    create_graph: bool,
    chunk: int,
) -> Images:
    r"""Return $\sum_k w_k\, \nabla z_t(p_k)$, several points a pass.

    Args:
        model: Maps images to logits.
        x: Images, for their shape.
        target: The class of each image, checked.
        points: Returns the points `start` to `stop`, asked for in ascending order and once each.
        weights: $w_k$.
        create_graph: Whether the result can be differentiated, also through the points.
        chunk: At most so many images in one forward pass, or one batch where that is more.

    Raises:
        ValueError: If `chunk` is no positive integer.
    """
    check_count(chunk, "chunk")
    total, size = torch.zeros_like(x), max(1, chunk // len(x))
    for start in range(0, len(weights), size):
        w = weights[start : start + size]
        here = points(start, start + len(w))
        found = logit_gradient(model, here.flatten(0, 1), target.repeat(len(w)), create_graph=create_graph)
        total = total + torch.tensordot(w, found.unflatten(0, (len(w), len(x))), dims=1)
    return total


def smoothgrad(
    model: Model,
    x: Images,
    target: Target,
    *,
    samples: int = 32,
    sigma: float = 0.15,
    generator: torch.Generator | None = None,
    chunk: int = CHUNK,
    create_graph: bool = False,
) -> Images:
    r"""Return $\frac1n \sum_{k=1}^n \nabla z_t(x + \sigma \varepsilon_k)$ with standard normal $\varepsilon_k$, signed.

    The average is taken before any modulus. Noisy copies are not clipped to [0, 1].

    Args:
        model: Maps images to logits.
        x: Images.
        target: The class of each image, or one for all.
        samples: Noisy copies of an image, $n$.
        sigma: Standard deviation of the noise, in pixels (0 to 1).
        generator: Source of the noise. One seeded with 0 for this call by default, so that two calls, on a
            clean and an attacked batch say, see the same noise.
        chunk: At most so many images in one forward pass, or one batch where that is more. It changes no value.
        create_graph: As in `gradient`.

    Returns:
        One averaged gradient an image.

    Raises:
        ValueError: If an argument is not as stated.
    """
    with derivatives(create_graph, x, target) as (x, target):
        check_images(x)
        target = check_target(target, x)
        check_count(samples, "samples")
        if not (math.isfinite(sigma) and sigma >= 0):
            raise ValueError(f"sigma={sigma!r} must be a finite number, at least 0 (pixels run from 0 to 1)")
        if generator is None:
            generator = torch.Generator(x.device).manual_seed(0)

        def points(start: int, stop: int) -> Tensor:
            options: dict[str, Any] = {"generator": generator, "device": x.device, "dtype": x.dtype}
            noise = [
                torch.randn(x.shape, **options) for _ in range(start, stop)
            ]  # the same in passes of any size
            return x + sigma * torch.stack(noise)

        weights = x.new_full((samples,), 1 / samples)
        return averaged_gradient(model, x, target, points, weights, create_graph=create_graph, chunk=chunk)


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
