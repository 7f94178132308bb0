"""A study of explanations against its parts: same images, paired seeds, everything measured once."""

from __future__ import annotations

import math
from functools import partial
from operator import attrgetter

import numpy as np
import pytest
import torch

from faultlines.estimators import attribute
from faultlines.models import MLP
from faultlines.studies import Budget, ExplanationStudy
from faultlines.studies.explanation_robustness import explanation_outcome
from faultlines.studies.explanation_study import network_traits
from faultlines.training import seeded

BUDGET = Budget(eps=0.1, steps=3, k=4)


def small(seed, width):
    return seeded(partial(MLP, image_shape=(1, 4, 4), classes=2, widths=(width,)), seed).eval()


@pytest.fixture(scope="module")
def study():
    networks = {("narrow", 0): small(0, 8), ("narrow", 1): small(1, 8), ("narrow", 2): small(2, 8)}
    networks |= {("wide", seed): small(seed, 32) for seed in (2, 0)}
    x = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.stack([n(x).argmax(1) for n in networks.values()]).double().mean(0).round().long()
    return ExplanationStudy(
        networks, dict.fromkeys(range(3), (x, y)), limit=7, explain={"gradient": partial(attribute, create_graph=True)},
        criteria={"spearman": "spearman", "mass-centre": "mass-centre"}, budget=BUDGET,
    )  # fmt: skip


def test_all_networks_have_the_explained_images_right(study):
    for (_, seed), network in study.networks.items():
        x, y = study.explained[seed]
        assert 1 <= len(x) <= 7
        assert (network(x).argmax(1) == y).all()


def test_values_are_means_of_outcomes(study):
    alone = explanation_outcome(
        study.networks["wide", 2],
        *study.explained[2],
        study.explain["gradient"],
        "spearman",
        seed=2,
        **vars(BUDGET),
    )
    found = study.values("wide")
    assert study.seeds("wide") == [0, 2]
    assert found[1] == pytest.approx(alone.attacked["spearman"].mean().item())
    assert study.values("wide", noise=True)[1] == pytest.approx(alone.noisy["spearman"].mean().item())
    assert study.outcome("wide", 2, "gradient", "spearman") is study.outcome(
        "wide", 2, "gradient", "spearman"
    )


def test_gains_pair_the_seeds_that_both_settings_have(study):
    assert study.seeds("narrow", "wide") == [0, 2]
    gains = study.gains("narrow", "wide", "gradient", "mass-centre", "score")
    before = study.values("narrow", "gradient", "mass-centre", "score")
    after = study.values("wide", "gradient", "mass-centre", "score")
    assert np.allclose(gains, after - before[[0, 2]])


def test_traits_are_those_of_the_network(study):
    x = torch.rand(2, 20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    train = {0: (x[0], torch.arange(20) % 2), 2: (x[1], torch.arange(20) % 2)}
    for at, seed in enumerate((0, 2)):
        alone = network_traits(
            study.networks["wide", seed], train[seed], study.tests[seed], study.explained[seed]
        )
        assert study.traits("wide", train, attrgetter("sharpness"))[at] == pytest.approx(alone.sharpness)


def test_corrected_robustness_is_measured_from_the_level_of_other_images(study):
    outcome = study.outcome("wide", 2, "gradient", "spearman")
    left, chance = outcome.attacked["spearman"].mean().item(), outcome.others.mean().item()
    corrected = study.values("wide", measure="corrected")[1]
    assert corrected == pytest.approx((left - chance) / (1 - chance), abs=1e-6)
    assert study.values("wide", measure="lost")[1] == pytest.approx(math.log(1 - corrected), abs=1e-6)
    assert study.values("wide", measure="others")[1] == pytest.approx(chance, abs=1e-6)
    assert study.values("wide", measure="corrected", noise=True)[1] > corrected


def test_a_seed_with_one_image_is_left_out(study):
    x, y = study.explained[0]
    tests = {0: (x[:1], y[:1]), 1: study.tests[1], 2: study.tests[2]}
    options = {"limit": 7, "explain": study.explain, "criteria": study.criteria, "budget": BUDGET}
    assert ExplanationStudy(study.networks, tests, **options).seeds("wide") == [2]
    with pytest.raises(ValueError, match="no seed has two"):
        ExplanationStudy({("wide", 0): study.networks["wide", 0]}, tests, **options)


def test_a_seed_without_images_is_named(study):
    with pytest.raises(ValueError, match=r"seeds \[1, 2\]"):
        ExplanationStudy(
            study.networks, {0: study.tests[0]}, limit=7, explain=study.explain, criteria=study.criteria,
            budget=BUDGET,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("which", "message"), [(("lime",), "method='lime'"), (("gradient", "l2"), "criterion='l2'")]
)
def test_what_the_study_does_not_have_is_named(study, which, message):
    with pytest.raises(ValueError, match=message):
        study.values("wide", *which)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "l2"}, "measure='l2'"),
        ({"measure": "score", "noise": True}, "measure='score'"),
        ({"seeds": [0, 7]}, r"seeds=\[7\]"),
    ],
)
def test_measures_and_seeds_it_does_not_have_are_named(study, options, message):
    with pytest.raises(ValueError, match=message):
        study.values("wide", **options)


def test_a_setting_without_a_network_has_no_seeds(study):
    assert study.seeds("other") == study.seeds() == []
