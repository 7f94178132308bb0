"""SmoothGrad: the gradient averaged over noisy copies of an image (Smilkov et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from faultlines.estimators.attribution.averaged import CHUNK, averaged_gradient
from faultlines.estimators.attribution.checks import check_count, check_images, check_target
from faultlines.estimators.attribution.gradient import Images, Model, Target
from faultlines.estimators.attribution.mode import derivatives


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
        chunk: At most so many images in one forward pass, or one batch where that is more. The noise is drawn a
            pass at a time, so another `chunk` is another draw.
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
            noise = torch.randn((stop - start, *x.shape), generator=generator, device=x.device, dtype=x.dtype)
            return x + sigma * noise

        weights = x.new_full((samples,), 1 / samples)
        return averaged_gradient(model, x, target, points, weights, create_graph=create_graph, chunk=chunk)
