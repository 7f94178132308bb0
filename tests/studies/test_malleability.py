from __future__ import annotations

import pytest
import torch

from faultlines.data import load, make_task
from faultlines.estimators.influence import loo_influence
from faultlines.estimators.malleability import curated, flip_rate, most_influential
from faultlines.estimators.ntk import finite_relu_ntk, signed_targets
from faultlines.models import Representation, linear_attention
from faultlines.studies.malleability import (
    ATTACKS,
    KernelClassifier,
    _refitted,
    aim_at_influences,
    malleability,
    most_influential_each,
    perturb,
)


@pytest.fixture(scope="module")
def task():
    return make_task(load("digits"), (3, 8), n_train=40, n_test=12, seed=0)


def classifier(task, attention=linear_attention, weight=None, **options):
    return KernelClassifier(Representation(attention), task.x, task.y, weight=weight, **options)


def hidden(width=64):
    return torch.randn(width, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("weight", [None, hidden()])
def test_scores_are_the_ridge_prediction(task, weight):
    model = classifier(task, weight=weight, ridge=0.1)
    rows = model.representation(task.x_test, task.x)
    expected = model.kernel(rows, model.rows) @ model.fit.alpha
    torch.testing.assert_close(model.scores(task.x_test, task.x), torch.stack([-expected, expected], dim=1))
    assert model.accuracy(task.x_test, task.y_test) > 0.8


def test_influence_after_a_change_is_that_of_a_fresh_fit(task):
    model, moved = classifier(task, weight=hidden(), ridge=0.1), (task.x + 0.1).clamp(max=1)
    rows, test = model.representation(moved, moved), model.representation(task.x_test, moved)
    expected = loo_influence(
        finite_relu_ntk(rows, weight=hidden()),
        finite_relu_ntk(test, rows, weight=hidden()),
        signed_targets(task.y),
        0.1,
    )
    torch.testing.assert_close(model.influence(task.x_test, task.y_test, moved), expected)
    frozen = model.influence(task.x_test, task.y_test, moved, frozen=True)
    assert not torch.allclose(frozen, expected)
    plain = classifier(task, None, ridge=0.1)  # without attention there is nothing to freeze
    torch.testing.assert_close(
        plain.influence(task.x_test, task.y_test, moved, frozen=True),
        plain.influence(task.x_test, task.y_test, moved),
    )


def test_several_classes_take_the_true_ones_score():
    task = make_task(load("digits"), (1, 2, 3), n_train=30, n_test=9, seed=0)
    model = classifier(task, ridge=0.1)
    rows, test = model.rows, model.representation(task.x_test, task.x)
    whole = loo_influence(model.kernel(rows), model.kernel(test, rows), model.targets, 0.1)
    found = model.influence(task.x_test, task.y_test)
    assert found.shape == (30, 9)
    torch.testing.assert_close(found[:, 4], whole[:, 4, int(task.y_test[4])])
    assert model.scores(task.x_test, task.x).shape == (9, 3)


def test_ridge_matched_by_effective_dimension(task):
    model = classifier(task, dimension=10.0)
    kernel = model.kernel(model.rows)
    hat = kernel @ torch.linalg.inv(kernel + model.ridge * torch.eye(len(kernel), dtype=kernel.dtype))
    assert float(hat.trace()) == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("weight", [None, hidden()])
def test_attacks_move_the_chosen_images(task, name, weight):
    model, index = classifier(task, weight=weight, ridge=0.1), torch.tensor([3, 11])
    moved = perturb(model, name, index, eps=0.1, steps=3, seed=0)
    changed = (moved != task.x).flatten(1).any(dim=1).nonzero().flatten().tolist()
    assert set(changed) <= {3, 11} and changed
    assert (moved - task.x).abs().max() <= 0.1 + 1e-12


def test_no_perturbation_flips_nothing(task):
    found = malleability(classifier(task), task.x_test, task.y_test, "random", eps=0.0)
    assert found.flips.max() == 0 and found.attacked.max() == 0
    torch.testing.assert_close(found.correlation, torch.ones(12, dtype=torch.float64))
    assert found.overlap.min() == 1


def test_a_perturbation_flips_something_the_same_way_every_time(task):
    model = classifier(task, weight=hidden())
    runs = [malleability(model, task.x_test, task.y_test, "pgd", eps=0.2, steps=3, seed=1) for _ in range(2)]
    assert runs[0].flips.mean() > 0 and torch.equal(runs[0].flips, runs[1].flips)


def test_curated_compares_those_that_stay_with_a_fit_without_the_others(task):
    model = classifier(task, weight=hidden(), ridge=0.1)
    before = model.influence(task.x_test, task.y_test)
    keep = curated(40, most_influential(before, 0.2))
    alone = KernelClassifier(
        model.representation, task.x[keep], task.y[keep], weight=hidden(), ridge=0.1
    ).influence(task.x_test, task.y_test)
    found = malleability(model, task.x_test, task.y_test, eps=0.0, intervention="curated", share=0.2)
    torch.testing.assert_close(found.flips, flip_rate(before[keep], alone, share=0.2))
    torch.testing.assert_close(model.influence(task.x_test, task.y_test, keep=keep), alone)
    other = malleability(
        model, task.x_test, task.y_test, "random", eps=0.0, intervention="curated", share=0.2, seed=1
    )
    assert found.attacked.isnan().all() and not torch.equal(other.correlation, found.correlation)


def test_adversarial_attacks_everyone(task):
    model = classifier(task, ridge=0.1)
    found = malleability(
        model, task.x_test, task.y_test, "fgsm", eps=0.1, intervention="adversarial", share=0.2
    )
    moved = perturb(model, "fgsm", torch.arange(40), eps=0.1, steps=1, seed=0)
    assert (moved != task.x).flatten(1).any(dim=1).sum() > 20  # an image stays where the step helps it
    before = model.influence(task.x_test, task.y_test)
    after = model.influence(task.x_test, task.y_test, moved)
    torch.testing.assert_close(found.flips, flip_rate(before, after, share=0.2))
    torch.testing.assert_close(found.attacked, flip_rate(before, after, share=1.0))
    assert found.aggregated == float(flip_rate(before, after, share=0.2, mode="aggregated"))


def test_bad_tasks(task):
    with pytest.raises(ValueError, match=r"y has the classes \[0\]; there must be two or more"):
        KernelClassifier(Representation(), task.x, torch.zeros_like(task.y))
    blank = task.x.clone()
    blank[7] = 0
    with pytest.raises(ValueError, match=r"rows \[7\] of x are zero"):
        KernelClassifier(Representation(linear_attention), blank, task.y)
    double = task.x.clone()
    double[5] = double[2]
    with pytest.raises(ValueError, match=r"ridge=0.0 leaves the kernel .*rows 2 and 5 are duplicates"):
        KernelClassifier(Representation(linear_attention), double, task.y, ridge=0.0)


def test_unknown_attack_or_intervention(task):
    with pytest.raises(ValueError, match="name='noise' is not one of fgsm, pgd, mim, random"):
        perturb(classifier(task), "noise", torch.tensor([0]), eps=0.1, steps=1, seed=0)
    with pytest.raises(ValueError, match="attack='noise' is not one of fgsm, pgd, mim, random"):
        malleability(classifier(task), task.x_test, task.y_test, "noise", eps=0.1)
    with pytest.raises(ValueError, match="intervention='removed' is not one of transformed, adversarial"):
        malleability(classifier(task), task.x_test, task.y_test, eps=0.1, intervention="removed")


@pytest.mark.parametrize("attention", [None, linear_attention])
def test_an_attack_that_aims_at_influences_flips_more_than_noise_and_stays_in_its_radius(task, attention):
    model = classifier(task, attention, ridge=0.01, dimension=20)
    before = model.influence(task.x_test, task.y_test)
    index = most_influential(before, 0.1)
    moved = aim_at_influences(model, task.x_test, task.y_test, index, eps=0.3, steps=10)
    others = [i for i in range(len(task.x)) if i not in index.tolist()]
    assert torch.equal(moved[others], task.x[others])
    assert (
        float((moved - task.x).abs().max()) <= 0.3 + 1e-6
        and 0 <= float(moved.min()) <= float(moved.max()) <= 1
    )
    options = {"eps": 0.3, "steps": 10}
    aimed, random = (
        malleability(model, *task[2:], name, **options).flips.mean() for name in ("aimed", "random")
    )
    # what is kept is the best step, judged by the flip rate as the study computes it
    top = most_influential_each(before)
    after = model.influence(task.x_test, task.y_test, moved)
    flipped = (before.gather(0, top).sign() != after.gather(0, top).sign()).double().mean()
    assert float(aimed) == pytest.approx(float(flipped))
    assert aimed > random


def test_most_influential_each_is_the_largest_in_size_column_by_column():
    influence = torch.tensor([[1.0, -5.0], [-3.0, 0.0], [2.0, 4.0]])
    assert most_influential_each(influence, 1 / 3).tolist() == [[1, 0]]


@pytest.mark.parametrize("classes", [(3, 8), None])
@pytest.mark.parametrize("weight", [None, hidden()])
def test_the_influence_with_a_gradient_is_the_influence(classes, weight):
    task = make_task(load("digits"), classes, n_train=40, n_test=12, seed=0)
    model, moved = classifier(task, weight=weight, ridge=0.1), (task.x + 0.1).clamp(max=1)
    found = _refitted(model, task.x_test, task.y_test, moved)
    torch.testing.assert_close(found, model.influence(task.x_test, task.y_test, moved), rtol=1e-6, atol=1e-8)
