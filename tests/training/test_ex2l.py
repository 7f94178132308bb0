from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from faultlines.data.spurious import spurious_benchmark
from faultlines.estimators import logits_and_maps
from faultlines.models import SmallCNN
from faultlines.training import ERM, EX2L, fit_groups, map_similarity
from faultlines.training.group_batches import as_batch
from faultlines.training.objectives.group_objective import Clock, GroupRun

CONTROLS = ("none", "shuffled", "constant", "frozen", "untrained", "centring", "losses")


def make(classes):
    return SmallCNN(classes=classes, width=2)


@pytest.fixture(scope="module")
def data():
    return spurious_benchmark("m2m_hard", n_train=4, n_validation=1, n_test=1, size=32, patch=12).train


def start(objective, data, dtype=torch.float64):
    batch, groups = as_batch(data, torch.device("cpu"))
    batch = replace(batch, x=batch.x.to(dtype))
    torch.manual_seed(1)
    other = make(4).eval()
    run = GroupRun(make, batch, groups, 4, 4, 0, lambda objective, share: other)
    torch.manual_seed(0)
    model, loss_of = make(4).to(dtype), objective.start(run).to(dtype)
    return model.train(), loss_of.train(), batch


LATE = Clock(9, 10)


@pytest.mark.parametrize("similarity", ["cosine", "centred_cosine", "mae", "ssim"])
@pytest.mark.parametrize("center", [True, False])
def test_the_loss_is_the_formula(data, similarity, center):
    model, loss_of, batch = start(EX2L(0.7, similarity=similarity, center=center), data)
    loss, terms = loss_of(model, batch, LATE)
    maps = [
        logits_and_maps(net, batch.x, target, center=center, method="autograd")[1]
        for net, target in ((model, batch.y), (loss_of.confounder, batch.c))
    ]
    expected = (
        F.cross_entropy(model(batch.x), batch.y)
        + F.cross_entropy(loss_of.confounder(batch.x), batch.c)
        + 0.7 * map_similarity(*maps, similarity).mean()
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert terms["similarity"].item() == pytest.approx(
        map_similarity(*maps, similarity).mean().item(), abs=1e-12
    )


@pytest.mark.parametrize("stop", ["none", "confounder", "label"])
def test_closed_form_and_double_backward_have_one_gradient(data, stop):
    gradients = []
    for method in ("closed", "autograd"):
        model, loss_of, batch = start(EX2L(2.0, stop=stop, center=True, method=method), data)
        loss_of(model, batch, LATE)[0].backward()
        nets = (model, loss_of.confounder)
        gradients.append(torch.cat([p.grad.flatten() for net in nets for p in net.parameters()]))
    assert gradients[0].norm() > 0.1
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("options", "label_moves", "confounder_moves"),
    [
        ({}, True, True),
        ({"stop": "confounder"}, True, False),
        ({"stop": "label"}, False, True),
        ({"control": "untrained"}, True, None),
        ({"control": "frozen"}, True, None),
        ({"control": "losses"}, False, False),
    ],
)
def test_the_penalty_reaches_only_the_networks_it_may(data, options, label_moves, confounder_moves):
    """Against the gradient of the two cross-entropies alone; None: the network has no gradient at all."""

    def gradients(coefficient):
        model, loss_of, batch = start(EX2L(coefficient, **options), data)
        loss_of(model, batch, LATE)[0].backward()
        return [
            [torch.zeros(()) if p.grad is None else p.grad for p in net.parameters()]
            for net in (model, loss_of.confounder)
        ]

    for without, given, moves in zip(
        gradients(0.0), gradients(1.0), (label_moves, confounder_moves), strict=True
    ):
        if moves is None:
            assert all((g == 0).all() for g in given)
        else:
            assert any((a != b).any() for a, b in zip(without, given, strict=True)) == moves


def test_shuffled_takes_the_next_images_map(data):
    model, loss_of, batch = start(EX2L(1.0, control="shuffled"), data)
    own, other = (
        logits_and_maps(m, batch.x, t)[1] for m, t in ((model, batch.y), (loss_of.confounder, batch.c))
    )
    _, terms = loss_of(model, batch, LATE)
    expected = torch.stack(
        [map_similarity(own[i : i + 1], other[i - 1 : i or None]) for i in range(len(own))]
    )
    assert terms["similarity"].item() == pytest.approx(expected.mean().item(), abs=1e-12)


def test_constant_has_no_second_network(data):
    model, loss_of, batch = start(EX2L(1.0, control="constant"), data)
    own = logits_and_maps(model, batch.x, batch.y)[1]
    _, terms = loss_of(model, batch, LATE)
    assert loss_of.confounder is None and not list(loss_of.parameters())
    assert terms["similarity"].item() == pytest.approx(
        map_similarity(own, torch.ones_like(own)).mean().item()
    )


@pytest.mark.parametrize("control", ["frozen", "untrained"])
def test_a_fixed_confounder_stays_as_it_was(data, control):
    found = fit_groups(make, data, epochs=2, batch_size=8, objective=EX2L(control=control, warmup=0, ramp=0))
    trained = fit_groups(make, data, epochs=2, batch_size=8, objective=EX2L(warmup=0, ramp=0))
    ended = found.loss.confounder.state_dict()
    from faultlines.training.objectives.ex2l import CONFOUNDER_SEED
    from faultlines.training.seeding import seeded

    begun = seeded(lambda: make(4), CONFOUNDER_SEED).state_dict()
    same = all(torch.equal(begun[name], ended[name]) for name in begun)
    assert same == (control == "untrained")  # the frozen one was trained before
    if control == "frozen":
        alone = EX2L(control="frozen", warmup=1.0)  # no penalty at any time: the same confounder
        again = fit_groups(make, data, epochs=2, batch_size=8, objective=alone).loss.confounder.state_dict()
        assert all(torch.equal(ended[name], again[name]) for name in ended)
    assert any(not torch.equal(ended[n], v) for n, v in trained.loss.confounder.state_dict().items())


def weights(found):
    return torch.cat([p.detach().flatten() for p in found.model.parameters()])


@pytest.mark.parametrize("control", CONTROLS)
def test_no_penalty_is_erm(data, control):
    """Two networks that share nothing but the penalty: without it the label's is that of ERM."""
    erm = fit_groups(make, data, epochs=3, batch_size=8, objective=ERM(), seed=5)
    weight = 1.0 if control in ("losses", "centring") else 0.0
    other = fit_groups(make, data, epochs=3, batch_size=8, objective=EX2L(weight, control=control), seed=5)
    gap = (weights(erm) - weights(other)).abs().max().item()
    assert gap == 0 if control != "centring" else gap < 1e-3
    moved = fit_groups(
        make, data, epochs=3, batch_size=8, objective=EX2L(5.0, warmup=0, ramp=0, control=control), seed=5
    )
    assert ((weights(erm) - weights(moved)).abs().max() > 0.01) == (control not in ("losses", "centring"))


def test_the_penalty_waits_for_the_warm_up(data):
    for step, expected in ((0, False), (4, False), (5, True)):
        model, loss_of, batch = start(EX2L(1.0, warmup=0.45, ramp=0.1), data)
        loss, terms = loss_of(model, batch, Clock(step, 10))
        plain = terms["cross_entropy"] + terms["confounder_cross_entropy"]
        assert (loss.item() > plain.item()) == expected


def test_training_lowers_the_similarity(data):
    runs = [
        fit_groups(make, data, epochs=25, batch_size=16, objective=EX2L(c, warmup=0.1, ramp=0.1), seed=0)
        for c in (0.0, 2.0)
    ]
    without, given = (run.history.terms["similarity"][-1] for run in runs)
    assert given < 0.7 * without


@pytest.mark.parametrize("control", CONTROLS)
def test_empty_maps_and_missing_classes_are_safe(data, control):
    one = SimpleNamespace(x=data.x[:3], y=torch.zeros(3).long(), c=torch.zeros(3).long(), mask=None)
    batch, groups = as_batch(one, torch.device("cpu"))
    run = GroupRun(make, batch, groups, 1, 1, 0, lambda objective, share: make(1))
    model, loss_of = (
        make(1),
        EX2L(control=control, center=True).start(run),
    )  # one logit, centred: every map is empty
    loss, terms = loss_of(model, batch, LATE)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and terms["empty"] == 1 and terms["similarity"] == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_any_layer(data):
    model, loss_of, batch = start(EX2L(1.0, layer="body.1"), data)
    loss, _ = loss_of(model, batch, LATE)
    loss.backward()
    assert model.body[0][0].weight.grad.norm() > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"coefficient": -1.0}, "coefficient=-1.0 must be"),
        ({"similarity": "dice"}, "similarity='dice' is not one of"),
        ({"stop": "both"}, "stop='both' is not one of"),
        ({"control": "shuffle"}, "control='shuffle' is not one of"),
        ({"method": "hooks"}, "method='hooks' is not one of"),
        ({"warmup": 1.5}, "warmup=1.5 must be"),
        ({"eps": float("inf")}, "eps=inf must be"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        EX2L(**options)
