import math

import pytest
import torch

from faultlines.estimators.lipschitz import logit_jacobian_norm
from faultlines.estimators.margins import margin_radius
from faultlines.models import ViT


def test_logit_norm_against_central_differences():
    torch.manual_seed(0)
    model = ViT(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=2).double()
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = 1e-5 * torch.eye(16, dtype=torch.float64).reshape(16, 1, 1, 4, 4)
    with torch.no_grad():
        columns = torch.stack(
            [(model(x + h) - model(x - h)) / 2e-5 for h in steps], dim=-1
        )  # [batch, class, pixel]
    torch.testing.assert_close(
        logit_jacobian_norm(model, x), torch.linalg.svdvals(columns)[:, 0], rtol=1e-7, atol=0
    )


def test_margin_radius_of_a_linear_classifier_is_exact_for_opposite_rows():
    # rows w and -w: |w_1 - w_2| = 2|w| = sqrt 2 ||W||, so the estimate is the distance to the boundary
    w = torch.tensor([[3.0, 4.0], [-3.0, -4.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    norm = logit_jacobian_norm(lambda x: x @ w.T, x)
    torch.testing.assert_close(norm.item(), 5 * math.sqrt(2))
    torch.testing.assert_close(margin_radius(x @ w.T, norm).item(), 11 / 5)


def test_margin_radius_never_exceeds_the_distance_of_a_linear_classifier():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    x = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    logits = x @ w.T
    best = logits.argmax(dim=1)
    others = torch.where(
        torch.arange(5) == best[:, None],
        math.inf,
        (logits.amax(dim=1, keepdim=True) - logits) / (w[best][:, None] - w).norm(dim=-1),
    )
    radius = margin_radius(logits, logit_jacobian_norm(lambda x: x @ w.T, x))
    assert (radius <= others.amin(dim=1) * (1 + 1e-12)).all()


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match="model returned"):
        logit_jacobian_norm(lambda x: x[:, None], torch.zeros(2, 3))
    with pytest.raises(ValueError, match="logits"):
        margin_radius(torch.zeros(2, 1), 1.0)
    with pytest.raises(ValueError, match="lipschitz"):
        margin_radius(torch.zeros(2, 2), 0.0)
    with pytest.raises(ValueError, match="model returned"):
        logit_jacobian_norm(lambda x: x[:, :0], torch.zeros(2, 3))
    with pytest.raises(ValueError, match="dtype"):  # the constant would be cut to an integer
        margin_radius(torch.tensor([[3, 1]]), 2.7)
    with pytest.raises(ValueError, match="lipschitz has shape"):
        margin_radius(torch.zeros(1, 2), torch.ones(4))
