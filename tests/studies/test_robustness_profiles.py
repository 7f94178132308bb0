from __future__ import annotations

import pytest
import torch

from faultlines.attacks import PGD
from faultlines.estimators import attention_bound, jacobian_norm, map_statistics
from faultlines.models import ViT, record
from faultlines.studies import attention_records
from faultlines.studies.robustness_profiles import accuracy_profile, steepness_profile, survives
from faultlines.training import choose_device


@pytest.fixture(scope="module")
def model() -> ViT:
    torch.manual_seed(0)
    return ViT(
        image_size=8, patch_size=4, channels=1, classes=4, dim=8, depth=2, heads=2, qkv_bias=False
    ).eval()


@pytest.fixture(scope="module")
def batch(model: ViT) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(-1)
    y[:6] = (y[:6] + 1) % 4  # six are misclassified from the start
    return x, y


def test_a_sample_survives_only_the_whole_group(model: ViT, batch: tuple) -> None:
    x, y = batch
    attacks = [PGD(eps=0.02, steps=4, loss=loss) for loss in ("margin", "cross_entropy")]
    alone = [
        survives(model, x, y, [attack], generator=torch.Generator().manual_seed(2)) for attack in attacks
    ]
    both = survives(model, x, y, attacks, generator=torch.Generator().manual_seed(2))
    assert not both[:6].any()
    assert (both <= alone[0]).all()
    assert both.sum() <= min(a.sum() for a in alone) + 1  # the second attack's random start differs by itself


def test_later_attacks_see_survivors_only(model: ViT, batch: tuple) -> None:
    seen = []

    class Counting(PGD):
        def __call__(self, model: ViT, x: torch.Tensor, y: torch.Tensor, **options: object) -> object:
            seen.append(len(x))
            return super().__call__(model, x, y, **options)

    x, y = batch
    survives(
        model, x, y, [Counting(eps=1.0, steps=8, norm="l2"), Counting(eps=0.0)], generator=torch.Generator()
    )
    assert seen[0] == 18
    assert len(seen) == 1 or seen[1] < 18


def test_accuracies_fall_with_the_radius_and_repeat(model: ViT, batch: tuple) -> None:
    x, y = batch
    attacks = {f"{eps}": [PGD(eps=eps, norm="l2", steps=5)] for eps in (0.0, 0.2, 2.0)}
    profile = accuracy_profile(model, x, y, attacks, seed=3)
    assert profile["clean"] == profile["0.0"] == 0.75
    assert profile["0.0"] >= profile["0.2"] >= profile["2.0"]
    assert profile == accuracy_profile(model, x, y, attacks, seed=3)


def test_records_pair_each_layer_with_its_input(model: ViT, batch: tuple) -> None:
    pairs = attention_records(model, batch[0])
    assert [layer for layer, _ in pairs] == [block.attention for block in model.blocks]
    for layer, seen in pairs:
        assert not seen.maps.requires_grad
        with record() as tape, torch.no_grad():
            layer(seen.inputs)
        torch.testing.assert_close(tape.maps[0], seen.maps)


def test_a_layer_that_does_not_run_is_an_error(batch: tuple) -> None:
    class Idle(ViT):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.blocks[0](self.tokens(x)))[:, 0])

    idle = Idle(image_size=8, patch_size=4, channels=1, classes=4, dim=8, depth=2, heads=2)
    with pytest.raises(ValueError, match="2 attention layers, but 1 ran"):
        attention_records(idle, batch[0])


def test_the_steepness_profile_is_what_its_parts_say(model: ViT, batch: tuple) -> None:
    x = batch[0]
    profile = steepness_profile(model, x, attention_samples=5, tol=1e-4)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: model(z[None])[0]))(x).flatten(2)
    exact = torch.linalg.matrix_norm(jacobian, ord=2).median().item()
    assert profile["network"] == pytest.approx(exact, rel=1e-4)
    with torch.no_grad():
        top = model(x).topk(2).values
    radius = (top[:, 0] - top[:, 1]) / (2**0.5 * torch.linalg.matrix_norm(jacobian, ord=2))
    assert profile["radius"] == pytest.approx(radius.median().item(), rel=1e-3)
    layers = attention_records(model, x[:5])
    norms = torch.cat([jacobian_norm(layer, seen.inputs, tol=1e-5) for layer, seen in layers])
    assert profile["attention"] == pytest.approx(norms.log().mean().exp().item(), rel=1e-3)
    bounds = torch.cat([attention_bound(layer, seen.inputs) for layer, seen in layers])
    assert profile["theorem3"] == pytest.approx(bounds.log().mean().exp().item(), rel=1e-4)
    assert profile["attention"] < profile["centred"] < profile["theorem3"]
    entropy = torch.stack([map_statistics(seen.maps).entropy.mean() for _, seen in layers]).mean().item()
    assert profile["entropy"] == pytest.approx(entropy, rel=1e-5)


def test_devices_are_named_or_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="gpu"):
        choose_device("gpu")
    with pytest.raises(ValueError, match="cuda:99"):
        choose_device("cuda:99")
