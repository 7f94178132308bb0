"""Logistic regression on pixels, against the same objective minimised in torch and against cases that are known."""

from __future__ import annotations

import pytest
import torch

from faultlines.data import load, make_task
from faultlines.studies import linear_accuracy


@pytest.mark.parametrize("classes", [(3, 8), None])
def test_agrees_with_the_objective_minimised_in_torch(classes):
    task = make_task(load("digits"), classes, n_train=100, n_test=100, seed=0)
    x, test = (images.flatten(1).double() for images in (task.x, task.x_test))
    weight = torch.zeros(x.shape[1], 10, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    seen = (
        task.y.unique()
    )  # of two classes scikit-learn fits one weight vector, whose penalty is twice that of two

    def objective() -> torch.Tensor:
        w = weight[:, seen] if len(seen) > 2 else torch.stack([-weight[:, 0], weight[:, 0]], 1) / 2
        b = bias[seen] if len(seen) > 2 else torch.stack([-bias[0], bias[0]]) / 2
        of = w if len(seen) > 2 else weight[:, 0]
        labels = torch.searchsorted(seen, task.y)
        loss = torch.nn.functional.cross_entropy(x @ w + b, labels, reduction="sum") + of.square().sum() / 2
        objective.scores = test @ w + b
        return loss

    steps = torch.optim.LBFGS(
        [weight, bias], max_iter=2000, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        steps.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    steps.step(closure)
    objective()
    right = seen[objective.scores.argmax(dim=1)] == task.y_test
    assert linear_accuracy(*task) == pytest.approx(float(right.double().mean()), abs=0.011)


def test_separable_classes_are_all_right_and_classes_without_a_line_are_not():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(20, 1)[:, None, None]
    left, xor = (x[..., 0] > 0.5).flatten().long(), ((x[..., 0] > 0.5) ^ (x[..., 1] > 0.5)).flatten().long()
    assert linear_accuracy(x, left, x, left) == 1
    assert linear_accuracy(x, xor, x, xor) <= 0.75


def test_same_images_same_number_and_nothing_is_changed():
    task = make_task(load("digits"), None, n_train=60, n_test=40, seed=1)
    before = task.x.clone()
    assert linear_accuracy(*task) == linear_accuracy(*task) and torch.equal(task.x, before)


def test_bad_input():
    x, y = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match="x has 4 images and y 3"):
        linear_accuracy(x, y[:3], x, y)
    with pytest.raises(ValueError, match="must agree"):
        linear_accuracy(x, y, x[..., :1], y)
    with pytest.raises(ValueError, match="not finite"):
        linear_accuracy(x / 0, y, x, y)
    with pytest.raises(ValueError, match="at least two"):
        linear_accuracy(x, y * 0, x, y)


def test_bytes_are_shares_and_large_images_are_averaged():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (80, 3, 6, 6), generator=generator, dtype=torch.uint8)
    y = (x.float().mean((1, 2, 3)) > 127).long()
    parts = x[:60], y[:60], x[60:], y[60:]
    floats = linear_accuracy(parts[0] / 255, y[:60], parts[2] / 255, y[60:])
    assert linear_accuracy(*parts) == floats
    small = torch.randint(256, (80, 1, 32, 32), generator=generator, dtype=torch.uint8)
    small[:, :, 0, 0] = 255 * y[:, None].byte()
    large = small.repeat_interleave(4, dim=2).repeat_interleave(3, dim=3)
    found = [linear_accuracy(images[:60], y[:60], images[60:], y[60:]) for images in (small, large)]
    assert found[0] == found[1] and found[0] > 0.5
