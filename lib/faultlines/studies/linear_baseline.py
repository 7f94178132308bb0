"""The baseline that stands beside every network's accuracy: logistic regression on the pixels."""

from __future__ import annotations

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

LARGEST, AVERAGED = 64, 32  # pixels a side


def linear_accuracy(
    x: Shaped[Tensor, "n *shape"],
    y: Int64[Tensor, " n"],
    x_test: Shaped[Tensor, "t *shape"],
    y_test: Int64[Tensor, " t"],
) -> float:
    r"""Return the test accuracy of logistic regression on flattened pixels, as scikit-learn does it by default.

    Softmax regression with the penalty $\frac12 \lVert W \rVert^2$ beside the sum of the losses, minimised by L-BFGS
    in float64: convex, from zero weights, so that the same images give the same number. Nothing is tuned.

    Images with more than 64 pixels a side are averaged over rectangles to 32 a side.

    Args:
        x: Training images, of any shape: floating point, or bytes that count as 0 to 1.
        y: Their classes, at least two.
        x_test: Test images.
        y_test: Their classes.

    Raises:
        ValueError: If images and classes differ in number, the shapes of the two sets differ, a set is empty, a pixel
            is not finite, or there is one class only.
        ModuleNotFoundError: If scikit-learn is not there (extra `notebooks`).

    Example:
        >>> from faultlines.data import load, make_task
        >>> task = make_task(load("digits"), (3, 8), n_train=100, n_test=50, seed=0)
        >>> linear_accuracy(*task) > 0.9
        True
    """
    from sklearn.linear_model import LogisticRegression

    if not (len(x) == len(y) and len(x_test) == len(y_test) and len(x) and len(x_test)):
        raise ValueError(
            f"x has {len(x)} images and y {len(y)} classes, x_test {len(x_test)} and y_test {len(y_test)}; "
            "there must be as many, and some"
        )
    if x.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"x_test has images of {list(x_test.shape[1:])}, x of {list(x.shape[1:])}; they must agree"
        )
    if not all(bool(part.isfinite().all()) for images in (x, x_test) for part in images.split(256)):
        raise ValueError("x or x_test has a pixel that is not finite")
    if len(y.unique()) < 2:
        raise ValueError(f"y has the classes {y.unique().tolist()}; there must be at least two")
    train, test = (_pixels(images.detach().cpu()).flatten(1).double().numpy() for images in (x, x_test))
    fitted = LogisticRegression(max_iter=10_000).fit(train, y.cpu().numpy())
    return float((fitted.predict(test) == y_test.cpu().numpy()).mean())


def _pixels(images: Tensor) -> Tensor:
    if images.ndim != 4 or max(images.shape[2:]) <= LARGEST:
        return images / 255 if images.dtype == torch.uint8 else images
    # a part at a time: there may be more images than memory
    parts = [adaptive_avg_pool2d(part.float(), AVERAGED) for part in images.split(256)]
    return torch.cat(parts) / (255 if images.dtype == torch.uint8 else 1)
