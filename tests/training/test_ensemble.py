from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from faultlines.models import ViT
from faultlines.training import (
    Adversarial,
    Arm,
    CropFlip,
    CrossEntropy,
    InputGradient,
    JaSMin,
    fit,
    fit_ensemble,
    seeded,
)

ARMS = {
    "baseline": CrossEntropy(),
    "jasmin 0.01": JaSMin(0.01),
    "jasmin 0.3": JaSMin(0.3),
    "jasmin k=2": JaSMin(0.3, k=2),
    "decayed": Arm(CrossEntropy(), weight_decay=0.5),
    "slow": Arm(CrossEntropy(), lr=1e-3),
    "gradient": InputGradient(0.1),
    "adversarial": Adversarial(0.02, steps=2),
}


def vit():
    return ViT(image_size=4, patch_size=2, channels=1, classes=3, dim=8, depth=2, heads=2).double()


def data(n=22):
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 4, 4, dtype=torch.float64, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("grad_clip", [0.5, None])
def test_members_equal_separate_runs(optimizer, grad_clip):
    x, y = data()
    settings = {
        "epochs": 3,
        "batch_size": 8,
        "lr": 0.01,
        "optimizer": optimizer,
        "weight_decay": 0.1,
        "grad_clip": grad_clip,
        "augment": CropFlip(1),
    }
    seeds = [4, 0, 9]
    trained = fit_ensemble(vit, x, y, seeds=seeds, arms=ARMS, vectorize="always", **settings)
    assert trained.vectorized
    assert list(trained) == list(ARMS)
    for name, arm in ARMS.items():
        arm = arm if isinstance(arm, Arm) else Arm(arm)
        own = {k: v for k, v in (("lr", arm.lr), ("weight_decay", arm.weight_decay)) if v is not None}
        for i, seed in enumerate(seeds):
            alone = seeded(vit, seed)
            history = fit(alone, x, y, seed=seed, objective=arm.objective, **(settings | own))
            for ours, theirs in zip(trained[name][i].parameters(), alone.parameters(), strict=True):
                # a gain or shift of AdamW's first step is lr * sign(gradient): rounding near 0 is magnified
                assert torch.allclose(ours, theirs, atol=1e-7, rtol=0), (name, seed)
            told = trained.histories[name][i]
            assert told.loss == pytest.approx(history.loss, abs=1e-8)
            assert told.lr == history.lr
            assert told.terms.keys() == history.terms.keys()


def test_one_after_the_other_is_exactly_fit():
    x, y = data()
    trained = fit_ensemble(
        vit, x, y, seeds=[1, 2], arms={"a": JaSMin(0.1)}, epochs=2, batch_size=8, vectorize="never"
    )
    assert not trained.vectorized
    alone = seeded(vit, 2)
    fit(alone, x, y, epochs=2, batch_size=8, seed=2, objective=JaSMin(0.1))
    for ours, theirs in zip(trained["a"][1].parameters(), alone.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_arms_are_paired_by_seed(vectorize):
    # equal objectives under two names: with equal initial weights and batches the arms cannot differ
    x, y = data()
    arms = {"a": JaSMin(0.1), "b": JaSMin(0.1)}
    trained = fit_ensemble(vit, x, y, seeds=[0, 1], arms=arms, epochs=2, batch_size=8, vectorize=vectorize)
    logits = trained(x)
    assert logits.shape == (4, 22, 3)
    assert torch.allclose(logits[:2], logits[2:], atol=1e-9)
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)
    assert torch.equal(logits[3], trained["b"][1](x))


def with_dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Dropout(0.5)).double()


def with_statistics():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3)).double()


@pytest.mark.parametrize("make", [with_dropout, with_statistics])
def test_what_vmap_cannot_train_is_refused_or_trained_in_turn(make):
    x, y = data()
    run = {"seeds": [0, 1], "arms": {"a": CrossEntropy()}, "epochs": 1, "batch_size": 8}
    with pytest.raises(ValueError, match="vectorize='always' cannot train the"):
        fit_ensemble(make, x, y, vectorize="always", **run)
    assert not fit_ensemble(make, x, y, **run).vectorized


def test_frozen_parameters_stay():
    def frozen():
        model = vit()
        model.patch.requires_grad_(False)
        return model

    x, y = data()
    trained = fit_ensemble(
        frozen, x, y, seeds=[0, 1], arms={"a": CrossEntropy()}, epochs=2, batch_size=8, vectorize="always"
    )
    alone = seeded(frozen, 1)
    fit(alone, x, y, epochs=2, batch_size=8, seed=1)
    assert torch.equal(trained["a"][1].patch.weight, seeded(frozen, 1).patch.weight)
    assert torch.allclose(trained["a"][1].head.weight, alone.head.weight, atol=1e-7)


def test_a_diverging_member_is_named():
    x, y = data()
    arms = {"good": CrossEntropy(), "bad": Arm(CrossEntropy(), lr=1e200)}
    with pytest.raises(FloatingPointError, match="arm 'bad', seed 6"):
        fit_ensemble(
            vit, x, y, seeds=[6], arms=arms, epochs=3, batch_size=8, vectorize="always", grad_clip=None
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds=\\[\\] must be distinct"),
        ({"seeds": [1, 1]}, "seeds=\\[1, 1\\]"),
        ({"arms": {}}, "arms is empty"),
        ({"vectorize": "maybe"}, "vectorize='maybe'"),
        ({"epoch": 3}, "epoch is no setting"),
        ({"arms": {"a": Arm(CrossEntropy(), lr=-1.0)}}, "lr=-1.0"),
        ({"lr": math.inf}, "lr=inf"),
        ({"batch_size": 23}, "batch_size=23 exceeds"),
    ],
)
def test_bad_arguments_are_named(change, message):
    x, y = data()
    run = {"seeds": [0], "arms": {"a": CrossEntropy()}, "epochs": 1, "batch_size": 8}
    with pytest.raises(ValueError, match=message):
        fit_ensemble(vit, x, y, **(run | change))


def test_auto_trains_at_once_where_that_was_measured_to_pay():
    x, y = data()
    run = {"arms": {"a": CrossEntropy(), "b": JaSMin(0.1)}, "epochs": 1, "batch_size": 22}
    assert fit_ensemble(vit, x, y, seeds=range(5), **run).vectorized
    assert not fit_ensemble(vit, x, y, seeds=range(4), **run).vectorized


def test_more_members_than_one_call_takes():
    x, y = data()
    run = {"seeds": range(6), "arms": {"a": JaSMin(0.1), "b": JaSMin(0.2)}, "epochs": 1, "batch_size": 8}
    at_once, in_turn = (fit_ensemble(vit, x, y, vectorize=how, **run) for how in ("always", "never"))
    assert torch.allclose(at_once(x), in_turn(x), atol=1e-6)
