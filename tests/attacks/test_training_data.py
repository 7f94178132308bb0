from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from faultlines.attacks.pgd import FGSM, MIM, PGD
from faultlines.attacks.training_data import perturb_training_data, random_sign
from faultlines.estimators.ntk import KernelRidge, relu_ntk
from faultlines.models.linearized import Representation, linear_attention

EPS = 0.1


@pytest.fixture
def case():
    draw = torch.Generator().manual_seed(0)
    x = 0.2 + 0.6 * torch.rand(12, 1, 2, 3, generator=draw, dtype=torch.float64)
    y = torch.arange(12) % 2
    whole = Representation(linear_attention)
    rows = whole(x, x)
    fit = KernelRidge(relu_ntk(rows), 2.0 * y - 1, 0.1)

    def predict(z, reference):
        f = fit(relu_ntk(whole(z, reference), rows))
        return torch.stack([-f, f], dim=1)

    return predict, x, y, torch.tensor([5, 0, 7])


def loss(predict, x, y, index):
    return F.cross_entropy(predict(x[index], x), y[index], reduction="none")


@pytest.mark.parametrize("attack", [FGSM(eps=EPS), PGD(eps=EPS, steps=8), MIM(eps=EPS, steps=8)])
def test_attacks_raise_the_loss_of_the_chosen_samples_only(case, attack):
    predict, x, y, index = case
    found = perturb_training_data(attack, predict, x, y, index, generator=torch.Generator().manual_seed(1))
    others = torch.tensor([i for i in range(12) if i not in index])
    assert torch.equal(found[others], x[others])
    assert (found - x).abs().max() <= EPS + 1e-12 and found.min() >= 0 and found.max() <= 1
    assert loss(predict, found, y, index).sum() > loss(predict, x, y, index).sum()


def test_fgsm_follows_the_gradient_through_the_reference(case):
    predict, x, y, index = case
    z = x.clone().requires_grad_()
    whole = torch.autograd.grad(loss(predict, z, y, index).sum(), z)[0][index]
    found = perturb_training_data(FGSM(eps=1e-4), predict, x, y, index)
    moved = (found - x)[index]
    better = moved != 0  # a sample whose loss the joint step lowers keeps its clean point
    assert better.any() and torch.equal(moved[better].sign(), whole.sign()[better])
    held = x.clone()
    z = x[index].clone().requires_grad_()
    inductive = torch.autograd.grad(F.cross_entropy(predict(z, held), y[index], reduction="sum"), z)[0]
    assert not torch.equal(whole.sign(), inductive.sign())


def test_momentum_accumulates_normalised_gradients():
    rule = MIM(eps=0.4, steps=4, decay=0.5).step_rule()
    assert rule.step_size == pytest.approx(0.1)
    z = torch.full((1, 2), 0.5)
    ball = type("Ball", (), {"norm": MIM(eps=0.4).norm})
    rule.start(z)
    first = rule.propose(0, ball, z, torch.tensor([[3.0, -1.0]]), torch.zeros(1))
    torch.testing.assert_close(first, torch.tensor([[0.6, 0.4]]))
    rule.propose(1, ball, z, torch.tensor([[0.0, 2.0]]), torch.zeros(1))
    torch.testing.assert_close(rule.memory, torch.tensor([[0.375, 0.875]]))  # 0.5 (3/4, -1/4) + (0, 1)
    rule.keep(torch.tensor([], dtype=torch.int64))
    assert rule.memory.shape == (0, 2)


def test_momentum_without_decay_is_iterated_fgsm(case):
    predict, x, y, index = case
    plain = PGD(eps=EPS, steps=5, step_size=EPS / 5, random_start=False)
    runs = [perturb_training_data(a, predict, x, y, index) for a in (MIM(eps=EPS, steps=5, decay=0), plain)]
    torch.testing.assert_close(*runs)


def test_random_sign_repeats_and_stays_in_the_box(case):
    _, x, _, index = case
    runs = [random_sign(x, index, eps=0.3, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*runs) and runs[0].min() >= 0 and runs[0].max() <= 1
    inside = random_sign(x, index, eps=0.05, generator=torch.Generator().manual_seed(4))
    assert (inside - x)[index].abs().min() == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([0, 12]), "must name samples from 0 to 11"),
        (torch.tensor([1, 1]), "names 1 samples twice"),
        (torch.tensor([], dtype=torch.int64), "must name samples"),
    ],
)
def test_bad_index(case, index, message):
    predict, x, y, _ = case
    with pytest.raises(ValueError, match=message):
        random_sign(x, index, eps=0.1, generator=torch.Generator())
    with pytest.raises(ValueError, match=message):
        perturb_training_data(FGSM(eps=0.1), predict, x, y, index)


def test_early_stop_is_refused(case):
    predict, x, y, index = case
    with pytest.raises(ValueError, match="early_stop=True"):
        perturb_training_data(PGD(eps=0.1, early_stop=True), predict, x, y, index)
