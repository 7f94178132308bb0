from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from faultlines.attacks import PGD
from faultlines.models import ViT
from faultlines.studies import RegularizerStudy, step_seconds
from faultlines.training import Arm, CrossEntropy, JaSMin, fit, seeded

SETTINGS = {"epochs": 1, "batch_size": 20, "lr": 0.003, "weight_decay": 0.05}
small = partial(
    ViT, image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=1, heads=2, qkv_bias=False
)


@pytest.fixture(scope="module")
def study() -> RegularizerStudy:
    return RegularizerStudy(small, "digits", 60, 20, 30, SETTINGS)


def test_the_three_parts_of_a_seed_are_disjoint_and_seeds_differ(study: RegularizerStudy) -> None:
    parts, others = study.splits(1), study.splits(2)
    assert [len(part.y) for part in parts] == [60, 20, 30]
    seen = {tuple(image.flatten().tolist()) for part in parts for image in part.x}
    assert len(seen) == 110
    assert not torch.equal(parts[0].x, others[0].x) and not torch.equal(parts[2].x, others[2].x)


def test_an_arm_is_what_fit_gives_alone(study: RegularizerStudy) -> None:
    arms = {
        "none": CrossEntropy(),
        "JaSMin": JaSMin(0.1, k=3),
        "decay": Arm(CrossEntropy(), weight_decay=5.0),
    }
    networks, train = study.train(arms, 7), study.splits(7)[0]
    alone = seeded(small, 7)
    fit(alone, train.x, train.y, objective=JaSMin(0.1, k=3), seed=7, progress=False, **SETTINGS)
    alone.eval()
    torch.testing.assert_close(networks["JaSMin"](train.x), alone(train.x))
    assert not torch.equal(networks["none"](train.x), networks["decay"](train.x))


def test_outcomes_count_the_right_images(study: RegularizerStudy) -> None:
    networks = study.train({"none": CrossEntropy()}, 3)
    train, held, test = study.splits(3)
    attacks = {"l2": [PGD(eps=0.2, norm="l2", steps=2, loss="margin")]}
    on_test = study.outcomes(networks, 3, attacks, steep=4)["none"]
    on_held = study.outcomes(networks, 3, attacks, validation=True)["none"]
    with torch.no_grad():
        logits = {
            name: networks["none"](part.x)
            for name, part in (("train", train), ("held", held), ("test", test))
        }
    assert on_test["loss"] == pytest.approx(F.cross_entropy(logits["train"], train.y).item())
    assert on_test["clean"] == pytest.approx((logits["test"].argmax(1) == test.y).double().mean().item())
    assert on_held["clean"] == pytest.approx((logits["held"].argmax(1) == held.y).double().mean().item())
    assert on_test["l2"] <= on_test["clean"] and on_test["network"] > 0 and "network" not in on_held


def test_seconds_see_a_step_that_does_the_work_several_times() -> None:
    class Often(CrossEntropy):
        def __call__(self, model, x, y):
            for _ in range(9):
                loss, terms = super().__call__(model, x, y)
            return loss, terms

    model, x, y = small(), torch.rand(50, 1, 8, 8), torch.arange(50) % 10
    before = [p.clone() for p in model.parameters()]
    taken = step_seconds(model, x, y, {"once": CrossEntropy(), "often": Often()}, rounds=5)
    assert taken["once"].shape == (5,)
    assert np.median(taken["often"] / taken["once"]) > 1.5
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    with pytest.raises(ValueError, match="rounds=0"):
        step_seconds(model, x, y, {"once": CrossEntropy()}, rounds=0)
