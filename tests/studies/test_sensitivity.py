"""Every probe is what its parts say, is 0 where nothing can move, and leaves the network as it was."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from faultlines.attacks import PGD
from faultlines.data.shortcut_patch import class_cue
from faultlines.estimators import attribute, loo_influence
from faultlines.estimators.malleability import most_influential
from faultlines.estimators.ntk import centred_one_hot, match_ridge
from faultlines.models import ViT
from faultlines.models.transformer_blocks import MECHANISMS
from faultlines.studies import ProbeBudget, ProbeStudy, cue_moved
from faultlines.studies.explanation_robustness import explanation_outcome
from faultlines.studies.sensitivity import PROBES, influences_flipped
from faultlines.training import seeded

BUDGET = ProbeBudget(eps=0.1, steps=3)


def vit(attention: str = "softmax", **options: object) -> ViT:
    make = partial(
        ViT, image_size=8, patch_size=4, channels=1, classes=3, dim=8, depth=2, heads=2, attention=attention
    )
    return seeded(partial(make, **options), 0).eval()


def data(model: nn.Module, n: int = 20) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(dim=1)


class Flat(nn.Module):
    """A network with attention whose logits do not depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = vit()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 0 + torch.tensor([1.0, 0.0, 0.0])


@pytest.mark.parametrize("attention", MECHANISMS)
@pytest.mark.parametrize("probe", PROBES)
def test_every_mechanism_under_every_probe(attention: str, probe: str) -> None:
    model = vit(attention)
    train = data(model)
    test = (train[0][:6], train[1][:6])
    before = deepcopy(model.state_dict())
    found, again = (PROBES[probe](model, train, test, BUDGET, 0) for _ in range(2))
    assert found == again
    assert np.isfinite([found.attack, found.noise]).all()
    if probe in ("attention layer", "logits"):
        assert found.attack >= found.noise  # ascent starts at the steepest random chord
    else:
        most = 1 if found.exchange is None else 2 / found.exchange
        assert 0 <= found.noise <= most
        assert 0 <= found.attack <= most
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_prediction_is_pgd_and_random_corners() -> None:
    model = vit()
    x, y = data(model, 30)
    budget = ProbeBudget(eps=0.3, steps=5)
    found = PROBES["prediction"](model, (x, y), (x, y), budget, 3)
    pgd = PGD(eps=0.3, steps=5)(model, x, y, generator=torch.Generator().manual_seed(3))
    assert found.attack == pgd.success.double().mean().item()
    assert found.attack >= found.noise
    still = Flat()
    assert PROBES["prediction"](still, (x, y), (x, torch.zeros_like(y)), budget, 3).attack == 0


def dense_kernel(model: nn.Module, x: Tensor) -> Tensor:
    """Return the tangent kernel, mean over classes, one backward pass a logit in float64."""
    model = deepcopy(model).double()
    logits = model(x.double())
    rows = []
    for one in logits:
        for logit in one:
            gradients = torch.autograd.grad(
                logit, list(model.parameters()), retain_graph=True, materialize_grads=True
            )
            rows.append(torch.cat([g.flatten() for g in gradients]))
    features = torch.stack(rows).reshape(len(x), logits.shape[1], -1)
    return torch.einsum("nkp,mkp->nm", features, features) / logits.shape[1]


@pytest.mark.parametrize("attention", ["softmax", "differential", "linear"])
def test_influences_are_those_of_the_dense_tangent_kernel(attention: str) -> None:
    model = vit(attention)
    x, _ = data(model, 24)
    y = torch.arange(24) % 3
    x_test, y_test = x[-4:], y[-4:]
    x, y = x[:-4], y[:-4]
    budget = ProbeBudget(eps=0.3, steps=3, share=0.2)
    clean = dense_kernel(model, torch.cat([x, x_test]))
    ridge = match_ridge(clean[:20, :20], 10.0)

    def influence(kernel: Tensor) -> Tensor:
        found = loo_influence(kernel[:20, :20], kernel[20:, :20], centred_one_hot(y, 3), ridge)
        return torch.stack([found[:, t, c] for t, c in enumerate(y_test)], dim=1)

    before = influence(clean)
    index = most_influential(before, 0.2)
    attacked = x.clone()
    attack = PGD(eps=0.3, steps=3)
    attacked[index] = attack(model, x[index], y[index], generator=torch.Generator().manual_seed(5)).x_adv
    after = influence(dense_kernel(model, torch.cat([attacked, x_test])))
    found = influences_flipped(model, (x, y), (x_test, y_test), budget, 5)
    flipped = [[float(before[i, t] * after[i, t] < 0) for t in range(4)] for i in index]
    assert found.attack == pytest.approx(np.mean(flipped), abs=1e-6)
    assert found.attack > 0


def test_a_network_that_reads_only_the_cue_moves_with_it_and_one_that_does_not_stays() -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            code = x[:, 0, :2, :2].flatten(1) @ torch.tensor([1.0, 2.0, 4.0, 8.0])
            return -(code[:, None] - torch.arange(1.0, 4.0)).abs()

    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0, 4, 4:7]

    x, y = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    marked = class_cue(x, y + 1, side=2)
    found = cue_moved(Corner(), (x, y), (marked, y), BUDGET, 0, side=2)
    assert found.attack == 1
    assert found.noise == pytest.approx(2 / 3)  # black is nearest to the first class
    y = Middle()(x).argmax(dim=1)
    found = cue_moved(Middle(), (x, y), (class_cue(x, y + 1, side=2), y), BUDGET, 0, side=2)
    assert (found.attack, found.noise) == (0, 0)


def test_the_study_measures_once_and_pairs_by_seed() -> None:
    calls = []

    def probe(model: nn.Module, train: tuple, test: tuple, budget: ProbeBudget, seed: int) -> object:
        calls.append(seed)
        return PROBES["prediction"](model, train, test, budget, seed)

    model = vit()
    x, y = data(model)
    networks = {(name, seed): model for name in ("softmax", "other") for seed in (4, 2)}
    study = ProbeStudy(networks, (x, y), (x, y), limit=5, budget=BUDGET, probes={"a": probe, "b": probe})
    assert study.seeds == [2, 4]
    assert study.table().shape == (2, 2, 2)
    assert np.array_equal(study.gaps("other", "a"), np.zeros(2))
    assert np.array_equal(study.table(noise=True)[:, 1, 0], study.values("other", "a", noise=True))
    assert len(calls) == 8
    assert len(study.test[0]) == 5


@pytest.mark.parametrize(
    ("given", "word"),
    [({"probe": "no"}, "probe='no'"), ({"mechanism": "no"}, "mechanism='no'"), ({"seed": 9}, "seed=9")],
)
def test_the_study_names_what_it_does_not_have(given: dict, word: str) -> None:
    model = vit()
    x, y = data(model)
    study = ProbeStudy({("softmax", 0): model}, (x, y), (x, y), limit=5, budget=BUDGET)
    with pytest.raises(ValueError, match=word):
        study.moved(**{"mechanism": "softmax", "seed": 0, "probe": "logits"} | given)


def test_mechanisms_need_the_same_seeds() -> None:
    model = vit()
    networks = {("softmax", 0): model, ("softmax", 1): model, ("rbf", 0): model}
    with pytest.raises(ValueError, match=r"\('rbf', 1\)"):
        ProbeStudy(networks, data(model), data(model), limit=5, budget=BUDGET)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"eps": 0.0}, "eps=0.0"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"steps": 0}, "steps=0"),
        ({"share": 1.0}, "share=1.0"),
        ({"fit": 0.0}, "fit=0.0"),
    ],
)
def test_a_budget_out_of_range_is_refused(given: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ProbeBudget(**{"eps": 0.1, "steps": 2} | given)


def test_the_attack_on_predictions_is_told_and_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, called = vit(), []
    x, y = data(model)
    original = PGD.__call__
    monkeypatch.setattr(PGD, "__call__", lambda self, *a, **k: called.append(1) or original(self, *a, **k))
    study = ProbeStudy({("softmax", 3): model}, (x, y), (x, y), limit=9, budget=BUDGET)
    points = study.moved("softmax", 3, "prediction").points
    assert study.moved("softmax", 3, "prediction").points is points and called == [1]
    alone = PGD(eps=0.1, steps=3)(model, *study.test, generator=torch.Generator().manual_seed(3))
    assert points is not None and torch.equal(points, alone.x_adv)


def test_the_clean_kernel_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from faultlines.studies import sensitivity

    model, made = vit(), []
    (x, y), original = data(model), sensitivity.empirical_ntk
    monkeypatch.setattr(sensitivity, "empirical_ntk", lambda m, x: made.append(x.clone()) or original(m, x))
    influences_flipped(model, (x, y), (x[:5], y[:5]), BUDGET, 0)
    assert [torch.equal(given[:20], x) for given in made] == [True, False, False]


class Rescaled(nn.Module):
    """A network whose logits are another's, times a factor and with something added for all images."""

    def __init__(self, factor: float, added: float) -> None:
        super().__init__()
        self.inner, self.factor, self.added = vit(), factor, added

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.inner(x) + self.added


def test_neither_scale_nor_a_constant_makes_an_output_steep() -> None:
    model = vit()
    test = tuple(t[:6] for t in data(model))
    plain, scaled = (
        PROBES["logits"](one.double(), test, (test[0].double(), test[1]), BUDGET, 0)
        for one in (model, Rescaled(7.0, 3.0))
    )
    assert scaled.attack == pytest.approx(plain.attack, abs=1e-6)
    assert scaled.noise == pytest.approx(plain.noise, abs=1e-6)
    assert plain.exchange is not None and scaled.exchange == pytest.approx(7 * plain.exchange)
    assert (
        PROBES["logits"](model.float(), test, test, ProbeBudget(eps=1e-3, steps=3), 0).attack
        < PROBES["logits"](model, test, test, ProbeBudget(eps=0.3, steps=3), 0).attack
    )


def test_a_map_is_measured_against_the_maps_of_other_images() -> None:
    model = vit()
    x, y = (t[:5] for t in data(model))
    explain = partial(attribute, method="gradient", create_graph=True)
    raw = explanation_outcome(model, x, y, explain, "spearman", eps=0.1, steps=3, k=1, seed=4)
    found = PROBES["gradient map"](model, (x, y), (x, y), BUDGET, 4)
    maps = attribute(model, x, y).detach()
    pairs = [
        stats.spearmanr(maps[i].flatten(), maps[j].flatten()).statistic for i in range(5) for j in range(i)
    ]
    unit = 1 - np.mean(pairs)
    assert found.exchange == pytest.approx(unit, rel=1e-5)
    assert found.attack == pytest.approx((1 - raw.attacked["spearman"].mean().item()) / unit, rel=1e-5)
    linear = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 3)
    )  # one gradient for all images: steady, and no map of them
    assert PROBES["gradient map"](linear, (x, y), (x, torch.zeros_like(y)), BUDGET, 4).attack == 0


def test_torchs_own_attention_is_put_under_the_probe_of_maps() -> None:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=3).eval()
    nn.init.normal_(model.heads[0].weight)
    x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    y, seen = model(x).argmax(dim=1), []
    found = PROBES["attention map"](model, (x, y), (x, y), BUDGET, 0)
    assert np.isfinite([found.attack, found.noise]).all() and found.attack > 0
    layer = model.encoder.layers[-1].self_attention  # the last layer's map, by its own account
    handle = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(x)
    handle.remove()
    _, expected = layer(seen[0], seen[0], seen[0], need_weights=True)
    maps = attribute(model, x, y, method="raw_attention")
    assert torch.allclose(maps.flatten(1), expected[:, 0, 1:], atol=1e-6)
    assert torch.equal(model(x).argmax(dim=1), y) and not layer._forward_hooks
