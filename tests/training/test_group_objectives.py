from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faultlines.models import SmallCNN
from faultlines.training import (
    CORAL,
    DANN,
    ERM,
    IRM,
    JTT,
    MMD,
    GroupDRO,
    MaskOracle,
    Mixup,
    Reweighting,
    fit_groups,
)
from faultlines.training.objectives.domain_generalisation import GAMMAS, coral, irm_penalty, mmd
from faultlines.training.objectives.ex2l import outside_share
from faultlines.training.objectives.group_objective import Clock, GroupBatch, GroupRun, pooled_features

ALL = [
    ERM(),
    ERM("c"),
    Reweighting(),
    GroupDRO(),
    CORAL(),
    MMD(),
    DANN(),
    IRM(),
    JTT(),
    MaskOracle(),
    Mixup(),
]


def make(classes):
    return SmallCNN(classes=classes, width=2)


def batch(y=(0, 0, 1, 1, 2, 2), c=(0, 1, 0, 1, 0, 1), group=None, seed=0, size=16):
    generator = torch.Generator().manual_seed(seed)
    y, c = torch.tensor(y), torch.tensor(c)
    pairs = (
        torch.stack([y, c]).unique(dim=1, return_inverse=True)[1] if group is None else torch.tensor(group)
    )
    x = torch.rand(len(y), 3, size, size, generator=generator)
    mask = (torch.rand(len(y), size, size, generator=generator) < 0.4).float()
    return GroupBatch(x, y, c, mask, pairs, c, torch.arange(len(y)))


def run_of(data, seed=0):
    def fit(objective, share):
        return make(int(data.c.max() if objective.label == "c" else data.y.max()) + 1).eval()

    groups = int(data.group.max()) + 1
    return GroupRun(make, data, groups, int(data.y.max()) + 1, int(data.c.max()) + 1, seed, fit)


class Table(nn.Module):
    """Gives fixed logits, so that a step can be computed by hand."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float64))

    def forward(self, x):
        return self.logits


def test_group_dro_step_by_hand():
    data = batch(y=(0, 1, 1, 0), c=(0, 0, 1, 1), group=(0, 2, 2, 1))
    model = Table([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    loss_of = GroupDRO(step_size=0.5).start(run_of(data)).double()
    losses = [math.log(2), math.log(1 + math.e), math.log(1 + math.exp(-2)), math.log(1 + math.exp(-3))]
    means = [losses[0], losses[3], (losses[1] + losses[2]) / 2]
    q = [math.exp(0.5 * mean) / 3 for mean in means]
    q = [value / sum(q) for value in q]
    loss, terms = loss_of(model, data, Clock(0, 10))
    assert loss.item() == pytest.approx(sum(a * b for a, b in zip(q, means, strict=True)), abs=1e-12)
    assert loss_of.weight.tolist() == pytest.approx(q, abs=1e-12)
    assert terms["largest_weight"].item() == pytest.approx(max(q))
    loss.backward()  # by hand: dL/ds = q_g / n_g (p - onehot), the weights held constant
    residual = model.logits.detach().softmax(1) - F.one_hot(data.y, 2)
    share = torch.tensor([q[0], q[2] / 2, q[2] / 2, q[1]], dtype=torch.float64)
    assert torch.allclose(model.logits.grad, share[:, None] * residual, atol=1e-12)
    # a second batch without group 1: its weight shrinks by the normaliser alone, and the state moved on
    again = batch(y=(0, 1), c=(0, 1), group=(0, 2))
    before = loss_of.weight.clone()
    loss_of(Table([[0.0, 0.0], [0.0, 0.0]]), again, Clock(1, 10))
    half = before * torch.tensor([math.sqrt(2), 1, math.sqrt(2)], dtype=torch.float64)
    assert torch.allclose(loss_of.weight, half / half.sum(), atol=1e-12)


def test_group_dro_without_steps_is_the_mean_over_groups():
    data, model = batch(), make(3).eval()
    loss, _ = GroupDRO(0.0).start(run_of(data))(model, data, Clock(0, 1))
    assert loss.item() == pytest.approx(F.cross_entropy(model(data.x), data.y).item(), rel=1e-5)


@pytest.mark.parametrize("objective", ALL, ids=repr)
@pytest.mark.parametrize(
    "labels",
    [
        {"y": (1, 1, 1), "c": (0, 0, 0), "group": (0, 0, 0)},
        {"y": (0, 2, 2), "c": (0, 1, 1)},
        {"y": (0, 2), "c": (1, 0)},
    ],
    ids=["one group", "a class is missing", "one sample a domain"],
)
def test_odd_batches_have_finite_losses_and_gradients(objective, labels):
    data, model = batch(**labels), make(3)
    loss, terms = objective.start(run_of(data))(model.train(), data, Clock(9, 10))
    loss.backward()
    assert loss.ndim == 0 and torch.isfinite(loss) and all(term.ndim == 0 for term in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("step_size", [1e-4, 1.0, 1e3])
def test_group_dro_keeps_finite_weights_that_can_rise_again(step_size, scale, dtype):
    data = batch()
    groups = int(data.group.max()) + 1
    loss_of = GroupDRO(step_size).start(run_of(data)).to(dtype)
    generator, exact = torch.Generator().manual_seed(0), torch.zeros(groups, dtype=torch.float64)
    for step in range(30):
        logits = scale * torch.rand(len(data.y), 3, generator=generator).to(dtype)
        if step == 20:  # what was learnt best is now the worst
            exact = exact.flip(0)
            loss_of.log_weight, loss_of.weight = loss_of.log_weight.flip(0), loss_of.weight.flip(0)
        loss, _ = loss_of(lambda _, logits=logits: logits, data, Clock(step, 30))
        means = torch.stack(
            [F.cross_entropy(logits[data.group == g], data.y[data.group == g]) for g in range(groups)]
        )
        exact = (exact + step_size * means.double()).log_softmax(0)
        assert loss.isfinite() and loss_of.weight.sum().item() == pytest.approx(1, abs=1e-5)
        tolerance = {torch.float32: 1e-3, torch.float64: 1e-9}[dtype] * max(1.0, step_size * scale)
        assert torch.allclose(loss_of.weight.double(), exact.exp(), atol=min(tolerance, 2.0))


@pytest.mark.parametrize("objective", [CORAL(), MMD(), DANN(), IRM(), MaskOracle(), GroupDRO()], ids=repr)
def test_a_network_without_gradient_is_safe(objective):
    data, model = batch(), make(3)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    loss, terms = objective.start(run_of(data))(model, data, Clock(9, 10))
    loss.backward()
    assert terms["cross_entropy"].item() == pytest.approx(math.log(3), abs=1e-6)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_reweighting_gives_every_group_one_weight():
    data, model = batch(y=(0, 0, 0, 1), c=(0, 0, 0, 0)), make(2).eval()
    losses = F.cross_entropy(model(data.x), data.y, reduction="none")
    loss, _ = Reweighting().start(run_of(data))(model, data, Clock(0, 1))
    assert loss.item() == pytest.approx((losses[:3].mean() + losses[3]).item() / 2, rel=1e-6)


def test_coral_is_zero_for_equal_moments_and_the_formula_else():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    b = 2 * torch.randn(5, 4, generator=generator, dtype=torch.float64) + 1
    assert coral(a, a.flip(0)).item() == pytest.approx(0, abs=1e-15)
    ca, cb = ((m - m.mean(0)).T @ (m - m.mean(0)) / (len(m) - 1) for m in (a, b))
    expected = (a.mean(0) - b.mean(0)).pow(2).mean() + (ca - cb).pow(2).mean()
    assert coral(a, b).item() == pytest.approx(expected.item(), abs=1e-12)


def test_coral_averages_over_pairs_of_domains():
    data, model = batch(y=(0, 1, 2, 0, 1, 2, 0), c=(0, 0, 1, 1, 2, 2, 3)), make(3).eval()
    features, _ = pooled_features(model, data.x)
    pairs = [coral(features[i : i + 2], features[j : j + 2]) for i, j in ((0, 2), (0, 4), (2, 4))]
    _, terms = CORAL(1.0).start(run_of(data))(model, data, Clock(0, 1))
    assert terms["coral"].item() == pytest.approx((sum(pairs) / 3).item(), rel=1e-5)


def test_mmd_is_the_distance_of_mean_embeddings():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    b = 0.5 * torch.randn(4, 3, generator=generator, dtype=torch.float64) + 1

    def kernel(u, v):
        return sum(
            math.exp(-gamma * sum((p - q) ** 2 for p, q in zip(u, v, strict=True))) for gamma in GAMMAS
        )

    def mean(one, two):
        return sum(kernel(u, v) for u in one.tolist() for v in two.tolist()) / (len(one) * len(two))

    assert mmd(a, b).item() == pytest.approx(mean(a, a) + mean(b, b) - 2 * mean(a, b), abs=1e-12)
    assert mmd(a, a.flip(0)).item() == pytest.approx(0, abs=1e-14)
    # far from the origin, where distances from products of matrices are lost
    far, near = (t.float() + 1000 for t in (a, b))
    assert mmd(far, near).item() == pytest.approx(mmd(far.double(), near.double()).item(), abs=1e-4)
    rows = torch.cat([a, a[:2]]).requires_grad_()  # equal rows have a slope
    (slope,) = torch.autograd.grad(mmd(rows, b), rows)
    assert slope.isfinite().all() and torch.autograd.gradcheck(lambda u: mmd(u, b), a.requires_grad_())


@pytest.mark.parametrize(("objective", "term"), [(CORAL, "coral"), (MMD, "mmd")])
def test_penalties_between_domains_pull_their_features_together(objective, term):
    data = batch(y=(0, 1) * 12, c=(0,) * 12 + (1,) * 12)
    data.x[12:] = data.x[12:] / 2  # one domain is darker
    ends = {
        weight: fit_groups(make, data, epochs=20, batch_size=24, flip=False, objective=objective(weight))
        for weight in (0.0, 10.0)
    }
    left = {weight: found.history.terms[term][-1] for weight, found in ends.items()}
    assert left[10.0] < 0.7 * left[0.0], left


def test_dann_reverses_the_gradient_of_the_domain_by_its_weight():
    data, model = batch(), make(3).double().eval()
    data = data.floating(torch.float64)
    for step, coefficient in ((0, 2.0), (4, 2.0), (9, 0.5)):
        loss_of = DANN(coefficient).start(run_of(data)).double()
        weight = coefficient * (2 / (1 + math.exp(-step)) - 1)
        features, logits = pooled_features(model, data.x)
        loss, domain = (
            F.cross_entropy(logits, data.y),
            F.cross_entropy(loss_of.discriminator(features), data.domain),
        )
        body = list(model.parameters())
        wanted = torch.autograd.grad(loss - weight * domain, body, retain_graph=True)
        own = torch.autograd.grad(domain, list(loss_of.parameters()))
        total, terms = loss_of(model, data, Clock(step, 10))
        assert total.item() == pytest.approx((loss + domain).item(), abs=1e-12)
        assert terms["domain"].item() == pytest.approx(domain.item(), abs=1e-12)
        found = torch.autograd.grad(total, [*body, *loss_of.parameters()])
        assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, [*wanted, *own], strict=True))


def test_dann_hides_the_domain_from_its_second_network():
    data = batch(y=(0, 1) * 24, c=(0,) * 24 + (1,) * 24)
    data.x[24:] = data.x[24:] / 2  # one domain is darker, which has nothing to do with the class
    options = {"epochs": 40, "batch_size": 48, "flip": False, "lr": 0.01}
    told = {c: fit_groups(make, data, objective=DANN(c), **options) for c in (0.0, 3.0)}
    seen = {c: found.history.terms["domain"][-1] for c, found in told.items()}
    assert seen[0.0] < 0.8 * math.log(2) and seen[3.0] > 0.95 * math.log(2), seen  # 1: it cannot tell
    again = fit_groups(make, data, objective=DANN(3.0), **options)
    assert again.history.terms["domain"] == told[3.0].history.terms["domain"]


def test_irm_penalty_is_the_squared_derivative():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, factor = torch.tensor([0, 1, 2, 0, 1, 2]), torch.ones((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(factor * logits, y), factor)
    assert irm_penalty(logits, y).item() == pytest.approx(slope.item() ** 2, abs=1e-14)


def test_irm_anneals():
    data, model = batch(), make(3).eval()
    loss_of = IRM(coefficient=50.0, anneal=0.5).start(run_of(data))
    for step, weight in ((4, 1.0), (5, 50.0)):
        loss, terms = loss_of(model, data, Clock(step, 10))
        assert loss.item() == pytest.approx((terms["cross_entropy"] + weight * terms["irm"]).item() / weight)


def test_mixup_depends_on_seed_and_step_alone():
    data, model = batch(), make(3).eval()
    first, again = (Mixup(1.0).start(run_of(data, seed=3)) for _ in range(2))
    first(model, data, Clock(0, 9))
    assert first(model, data, Clock(4, 9))[0] == again(model, data, Clock(4, 9))[0]
    assert first(model, data, Clock(5, 9))[0] != again(model, data, Clock(4, 9))[0]
    other = Mixup(1.0).start(run_of(data, seed=4))
    assert other(model, data, Clock(4, 9))[0] != again(model, data, Clock(4, 9))[0]


def test_mixup_lies_between_the_images():
    data = batch()
    seen = []
    Mixup(1.0).start(run_of(data))(lambda x: seen.append(x) or make(3)(x), data, Clock(0, 1))
    low, high = data.x.amin(0), data.x.amax(0)
    assert (
        (seen[0] >= low - 1e-6).all() and (seen[0] <= high + 1e-6).all() and not torch.equal(seen[0], data.x)
    )


def test_jtt_weighs_the_errors_of_the_first_network():
    data = batch()
    torch.manual_seed(0)
    loss_of = JTT(upweight=5.0).start(run_of(data))
    assert set(loss_of.weight.tolist()) == {1.0, 5.0}  # an untrained network gets some right and some wrong
    model = make(3).eval()
    losses = F.cross_entropy(model(data.x), data.y, reduction="none")
    loss, _ = loss_of(model, data, Clock(0, 1))
    assert loss.item() == pytest.approx(
        ((loss_of.weight * losses).sum() / loss_of.weight.sum()).item(), rel=1e-6
    )


def test_outside_share():
    maps = torch.tensor([[[1.0, 3.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    mask = torch.zeros(2, 4, 4)
    mask[:, :2, :2] = 1  # the first cell, whole
    mask[0, :2, 2] = 1  # half of the second
    assert outside_share(maps, mask).tolist() == pytest.approx([3 / 8, 0])


def test_mask_oracle_moves_the_map_into_the_mask():
    data = batch(y=tuple(range(3)) * 8, c=(0, 1) * 12)
    data.mask[:] = 0
    data.mask[:, 4:12, 4:12] = 1

    class Data:
        x, y, c, mask = data.x, data.y, data.c, data.mask.bool()

    found = {
        weight: fit_groups(make, Data, epochs=25, batch_size=12, flip=False, objective=MaskOracle(weight))
        for weight in (0.0, 5.0)
    }
    assert found[5.0].history.terms["outside"][-1] < 0.6 * found[0.0].history.terms["outside"][-1]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda: GroupDRO(-1.0), "step_size=-1.0 must be a finite number in"),
        (lambda: CORAL(float("nan")), "coefficient=nan must be"),
        (lambda: MMD(-1.0), "coefficient=-1.0 must be"),
        (lambda: DANN(float("inf")), "coefficient=inf must be"),
        (lambda: DANN(hidden=0), "hidden=0 must be a positive integer"),
        (lambda: IRM(anneal=2.0), "anneal=2.0 must be"),
        (lambda: Mixup(0.0), "alpha=0.0 must be"),
        (lambda: JTT(upweight=0.5), "upweight=0.5 must be"),
        (lambda: ERM("z"), "label='z' is not one of"),
        (lambda: MaskOracle(warmup=-0.1), "warmup=-0.1 must be"),
        (lambda: MaskOracle().start(run_of(replace(batch(), mask=None))), "MaskOracle needs data with"),
    ],
)
def test_bad_arguments_are_named(bad, said):
    with pytest.raises(ValueError, match=said):
        bad()


def test_a_network_without_a_head_is_refused():
    data = batch()
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    for objective in (CORAL(), MMD(), DANN()):
        with pytest.raises(ValueError, match="Sequential has no features"):
            objective.start(run_of(data))(model, data, Clock(0, 1))
