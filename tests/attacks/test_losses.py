from __future__ import annotations

import pytest
import torch

from faultlines.attacks.losses import cross_entropy, dlr, margin


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return (
        3 * torch.randn(50, 6, dtype=torch.float64, generator=generator),
        torch.randint(6, (50,), generator=generator),
    )


def test_values_against_loops(batch):
    logits, y = batch
    for z, k, ce, m, d in zip(
        logits.tolist(), y.tolist(), cross_entropy(*batch), margin(*batch), dlr(*batch), strict=True
    ):
        others = max(v for i, v in enumerate(z) if i != k)
        ranked = sorted(z, reverse=True)
        assert ce.item() == pytest.approx(-torch.tensor(z).double().log_softmax(0)[k].item())
        assert m.item() == pytest.approx(others - z[k])
        assert d.item() == pytest.approx(-(z[k] - others) / (ranked[0] - ranked[2]))


@pytest.mark.parametrize("loss", [margin, dlr])
def test_positive_exactly_where_misclassified(batch, loss):
    logits, y = batch
    assert torch.equal(loss(logits, y) > 0, logits.argmax(dim=1) != y)


def test_dlr_ignores_shift_and_scale(batch):
    logits, y = batch
    assert torch.allclose(dlr(7 * logits + 3, y), dlr(logits, y))
    assert not torch.allclose(margin(7 * logits, y), margin(logits, y))


def test_dlr_of_equal_logits_is_finite():
    logits = torch.zeros(2, 4, requires_grad=True)
    loss = dlr(logits, torch.tensor([0, 1]))
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(2))
    assert logits.grad.isfinite().all()


def test_dlr_takes_three_classes():
    with pytest.raises(ValueError, match="2 classes"):
        dlr(torch.zeros(1, 2), torch.tensor([0]))
