"""The baseline that stands beside every network's accuracy: logistic regression on the pixels."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor


def linear_accuracy(
    x: Float[Tensor, "n *shape"],
    y: Int64[Tensor, " n"],
    x_test: Float[Tensor, "t *shape"],
    y_test: Int64[Tensor, " t"],
) -> float:
    r"""Return the test accuracy of logistic regression on flattened pixels, as scikit-learn does it by default.

    Softmax regression with the penalty $\frac12 \lVert W \rVert^2$ beside the sum of the losses, minimised by L-BFGS
    in float64: convex, from zero weights, so that the same images give the same number. Nothing is tuned.

    Args:
        x: Training images, of any shape.
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
    if not (bool(x.isfinite().all()) and bool(x_test.isfinite().all())):
        raise ValueError("x or x_test has a pixel that is not finite")
    if len(y.unique()) < 2:
        raise ValueError(f"y has the classes {y.unique().tolist()}; there must be at least two")
    train, test = (images.detach().flatten(1).double().cpu().numpy() for images in (x, x_test))
    fitted = LogisticRegression(max_iter=10_000).fit(train, y.cpu().numpy())
    return float((fitted.predict(test) == y_test.cpu().numpy()).mean())
