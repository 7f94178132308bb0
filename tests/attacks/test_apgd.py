"""Auto-PGD against its algorithm written sample by sample, against the authors' code, and its losses."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from faultlines.attacks import APGD, PGD
from faultlines.attacks.apgd import AutoStep, checkpoints
from faultlines.attacks.loop import ascend
from faultlines.attacks.losses import dlr, likeliest_others, targeted_dlr
from faultlines.attacks.norms import L2, Ball, Linf


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [1, 7, 10, 33, 100, 500])
def test_checkpoints(steps):
    from fractions import Fraction

    p = [Fraction(0), Fraction(22, 100)]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    assert checkpoints(steps) == sorted({math.ceil(q * steps) for q in p[1:] if math.ceil(q * steps) < steps})


def bumpy(z):
    """Many local maxima, so that walks oscillate and halve."""
    flat = z.flatten(1)
    return (torch.sin(17 * flat) * torch.cos(11 * flat.roll(1, 1))).sum(dim=1) + flat.square().sum(dim=1)


def algorithm_1(x, eps, norm, steps):
    """Walk from the clean point of one sample, `[1, n]`; return all points."""
    ball, marks = Ball(x, eps, norm), [0, *checkpoints(steps)]

    def look(z):
        z = z.detach().requires_grad_()
        value = bumpy(z)
        return value.item(), torch.autograd.grad(value.sum(), z)[0]

    eta, points, values = 2 * eps, [x], []
    value, gradient = look(x)
    values.append(value)
    best, best_point, best_gradient = value, x, gradient
    sizes_at, best_at = {0: eta}, {0: value}
    # W_0 has no checkpoint before it: the second condition cannot hold at the first one
    sizes_at[0] = None
    points.append(ball.project(x + eta * norm.steepest(gradient)))
    last, z = x, points[-1]
    for k in range(1, steps):
        value, gradient = look(z)
        values.append(value)
        if value > best:
            best, best_point, best_gradient = value, z, gradient
        if k in marks:
            j = marks.index(k)
            rises = sum(values[i + 1] > values[i] for i in range(marks[j - 1], k))
            first = rises < 0.75 * (k - marks[j - 1])
            second = sizes_at[marks[j - 1]] == eta and best_at[marks[j - 1]] == best
            before = eta
            if first or second:
                eta, z, gradient = eta / 2, best_point, best_gradient
            sizes_at[k], best_at[k] = (before if eta == before else None), best
        ahead = ball.project(z + eta * norm.steepest(gradient))
        last, z = z, ball.project(z + 0.75 * (ahead - z) + 0.25 * (z - last))
        points.append(z)
    return torch.cat(points), eta


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_step_rule_is_algorithm_1(norm):
    x = torch.rand(6, 5, dtype=torch.float64, generator=seeded())
    visited = []

    def objective(z, index):
        visited.append(z.detach().clone())
        return bumpy(z), torch.zeros(len(z), dtype=torch.bool)

    rule = AutoStep(60)
    ascend(objective, Ball(x, 0.3, norm), rule, steps=60)
    walks = torch.stack(visited, dim=1)
    sizes = set()
    for sample in range(6):
        points, eta = algorithm_1(x[sample : sample + 1], 0.3, norm, 60)
        assert torch.allclose(walks[sample], points, atol=1e-9)
        assert rule.memory.step_size[sample].item() == pytest.approx(eta)
        sizes.add(eta)
    assert len(sizes) > 1  # else halving has not been tried


def test_targeted_dlr_against_loops():
    logits = 3 * torch.randn(40, 6, dtype=torch.float64, generator=seeded())
    y = torch.randint(6, (40,), generator=seeded(1))
    targets = likeliest_others(logits, y, 9)
    assert targets.shape == (40, 5)
    for rank in range(5):
        loss = targeted_dlr(logits, y, targets[:, rank])
        for z, k, t, value in zip(logits.tolist(), y, targets[:, rank], loss, strict=True):
            others = sorted((v for i, v in enumerate(z) if i != k), reverse=True)
            assert z[t] == others[rank]
            p = sorted(z, reverse=True)
            assert value.item() == pytest.approx(-(z[k] - z[t]) / (p[0] - (p[2] + p[3]) / 2))
    assert torch.allclose(targeted_dlr(5 * logits + 2, y, targets[:, 0]), loss_of(logits, y, targets[:, 0]))


def loss_of(logits, y, target):
    return targeted_dlr(logits, y, target)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.07), ("l2", 0.4)])
@pytest.mark.parametrize("loss", ["cross_entropy", "dlr", "targeted_dlr"])
def test_agrees_with_the_authors(cnn, digits, norm, eps, loss):
    """Means over seeds: one draw alone moves either by more than they differ."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    x, y = digits.x_test[:100], digits.y_test[:100]
    options = {"n_iter": 30, "norm": norm.capitalize(), "eps": eps, "device": "cpu", "n_restarts": 1}
    ours, theirs = [], []
    for seed in range(2):
        if loss == "targeted_dlr":
            peer = APGDAttack_targeted(copy.deepcopy(cnn), n_target_classes=3, seed=seed, **options)
        else:
            name = {"cross_entropy": "ce"}.get(loss, loss)
            peer = APGDAttack(copy.deepcopy(cnn), seed=seed, loss=name, **options)
        with torch.no_grad():
            theirs.append((cnn(peer.perturb(x, y)).argmax(dim=1) == y).float().mean())
        attack = APGD(eps=eps, steps=30, norm=norm, loss=loss, target_classes=3, early_stop=True)
        ours.append((~attack(cnn, x, y, generator=seeded(seed)).success).float().mean())
    ours, theirs = torch.stack(ours).mean(), torch.stack(theirs).mean()
    assert 0.05 < theirs < 0.95
    assert abs(ours - theirs) <= 0.02


def test_needs_no_step_size(trained, digits):
    """Not weaker than PGD at equal cost on any of these radii."""
    x, y = digits.test
    for eps in (0.03, 0.06, 0.1):
        auto = APGD(eps=eps, steps=20, early_stop=True)(trained, x, y, generator=seeded())
        fixed = PGD(eps=eps, steps=20, early_stop=True)(trained, x, y, generator=seeded())
        assert auto.success.float().mean() >= fixed.success.float().mean() - 0.01


def test_targets_together_or_in_turn(cnn, digits):
    """Trying targets at once changes draws, not strength."""
    x, y = digits.x_test[:60], digits.y_test[:60]
    found = [
        APGD(eps=0.06, steps=10, loss="targeted_dlr", random_start=False, batch_size=size)(cnn, x, y)
        for size in (1, 1000)
    ]
    assert torch.equal(found[0].success, found[1].success)
    assert torch.equal(found[0].gradients, found[1].gradients)
    assert (found[0].x_adv - found[1].x_adv).flatten(1).abs().amax(dim=1).le(1e-4).float().mean() > 0.9


@pytest.mark.parametrize(
    ("loss", "classes", "fix"), [("dlr", 2, "margin"), ("targeted_dlr", 3, "cross_entr")]
)
def test_too_few_classes(loss, classes, fix):
    x, y = torch.rand(2, 5, generator=seeded()), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=f"{classes} classes.*{fix}"):
        APGD(eps=0.1, steps=2, loss=loss)(lambda z: z[:, :classes], x, y)


def test_unknown_loss():
    with pytest.raises(ValueError, match=r"loss='hinge'.*targeted_dlr"):
        APGD(eps=0.1, loss="hinge")
    assert APGD(eps=0.1, loss=dlr).loss is dlr
