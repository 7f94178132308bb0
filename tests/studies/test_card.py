"""A card's targets: what is taken, what is refused in one line before anything is trained, and the numbers."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from faultlines.data import load
from faultlines.data.dataset import Dataset
from faultlines.models import ViT, record
from faultlines.studies import PROBES, card
from faultlines.studies.card import (
    Setting,
    check_classifier,
    check_mechanism_target,
    find_target,
    measure_target,
)
from faultlines.studies.card_target import known_mechanisms, maps_of_timm

TINY = Setting(
    train_size=60, test_size=60, grid=2, dim=8, epochs=40, loss=1.9, n_images=6, n_influence=20, steps=2
)
HEAD = "import torch\nfrom torch import nn\n"
MECHANISMS = {
    "a class": "class It(nn.Module):\n    def forward(self, q, k, v):\n        return (q @ k.mT).softmax(-1) @ v",
    "a class of sizes": (
        "class It(nn.Module):\n    def __init__(self, heads, head_dim):\n        super().__init__()\n"
        "        self.scale = nn.Parameter(torch.ones(heads, 1, 1) / head_dim**0.5)\n"
        "    def forward(self, q, k, v):\n        return (self.scale * q @ k.mT).softmax(-1) @ v"
    ),
    "a function": "def It(q, k, v):\n    maps = (q @ k.mT).softmax(-1)\n    return maps @ v, maps",
    "a maker": "from faultlines.models import SoftmaxMechanism\ndef It():\n    return SoftmaxMechanism()",
    "a factory": (
        "from faultlines.models import RBFAttention\ndef It(heads, head_dim):\n"
        "    return RBFAttention(heads, head_dim)"
    ),
    "a module": "from faultlines.models import SoftmaxMechanism\nIt = SoftmaxMechanism()",
}
BAD_MECHANISMS = {
    "raises": ("def It(q, k, v):\n    return 1 / 0", "failed with ZeroDivisionError"),
    "shape": ("def It(q, k, v):\n    return (q @ k.mT)", r"returns shape \(2, 2, 5, 5\)"),
    "type": ("def It(q, k, v):\n    return v.tolist()", "returns a list"),
    "dice": ("def It(q, k, v):\n    return v + torch.rand_like(v)", "another output the second time"),
    "nan": ("def It(q, k, v):\n    return (v - 9).log()", "not finite"),
    "detached": (
        "def It(q, k, v):\n    return (q.detach() @ k.detach().mT).softmax(-1) @ v.detach()",
        "no gradient",
    ),
    "second": (
        "class F(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, v):\n        return v * 2\n"
        "    @staticmethod\n    @torch.autograd.function.once_differentiable\n"
        "    def backward(ctx, g):\n        return g * 2\n"
        "def It(q, k, v):\n    return F.apply(v)",
        "no second derivative",
    ),
}
NET = "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.f = nn.Linear(64, 10)\n"
BAD_CLASSIFIERS = {
    "argmax": (
        "        return self.f(x.flatten(1)).argmax(1)[:, None] * torch.ones(10)",
        "no gradient to the image",
    ),
    "detach": ("        return self.f(x.detach().flatten(1))", "no gradient to the image"),
    "constant": ("        return self.f(0 * x.flatten(1))", "no gradient to the image"),
    "size": ("        return self.f(x.flatten(1)[:, :9])", "failed with RuntimeError"),
    "classes": (
        "        return self.f(x.flatten(1))[:, :7]",
        "returns 7 logits; the data set has 10 classes",
    ),
    "shape": ("        return self.f(x.flatten(1)).sum()", r"returns shape \(\)"),
    "dice": (
        "        return self.f(x.flatten(1)) + torch.rand(len(x), 10)",
        "another output the second time",
    ),
    "nan": ("        return self.f(x.flatten(1)) / 0", "not finite"),
    "text": ("        return 'seven'", "no logits are to be found"),
}


def write(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(HEAD + body + "\n")
    return f"{path}:It"


@pytest.mark.parametrize("body", MECHANISMS.values(), ids=MECHANISMS)
def test_a_mechanism_is_taken_in_every_form(body: str, tmp_path: Path) -> None:
    target = find_target(write(tmp_path, body))
    assert target.kind == "mechanism"
    check_mechanism_target(target, 2, 4, 5)
    net = ViT(
        image_size=8, patch_size=4, channels=1, classes=3, dim=8, depth=1, heads=2, attention=target.make
    )
    assert net(torch.rand(2, 1, 8, 8)).isfinite().all()


@pytest.mark.parametrize("name", ["softmax", "rbf normalised", "sparsemax", "differential"])
def test_a_mechanism_of_the_library_is_taken_by_name(name: str) -> None:
    check_mechanism_target(find_target(name), 2, 4, 5)


@pytest.mark.parametrize(("body", "words"), BAD_MECHANISMS.values(), ids=BAD_MECHANISMS)
def test_a_bad_mechanism_is_one_line_before_anything_is_trained(
    body: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "fit", lambda *a, **k: pytest.fail("trained"))
    target = find_target(write(tmp_path, body))
    with pytest.raises(ValueError, match=words) as caught:
        measure_target(target, load("digits"), TINY, 2, tmp_path / "kept")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("line", "words"), BAD_CLASSIFIERS.values(), ids=BAD_CLASSIFIERS)
def test_a_bad_classifier_is_one_line(line: str, words: str, tmp_path: Path) -> None:
    target = find_target(
        write(tmp_path, f"{NET}    def forward(self, x):\n{line}\ndef It():\n    return Net()")
    )
    assert target.kind == "classifier"
    with pytest.raises(ValueError, match=words) as caught:
        measure_target(target, load("digits"), TINY, 2, tmp_path / "kept")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nowhere.py:It", "nowhere.py is no file"),
        ("no.such.module:It", "cannot be imported: ModuleNotFoundError"),
        ("softmaks", "neither file.py:Name, package.module:Name nor one of"),
        ("torch:no_such_name", "torch has no no_such_name"),
        ("torch:float32", "is neither a mechanism"),
    ],
)
def test_what_cannot_be_found_is_one_line(words: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        find_target(words)
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_import_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be imported: NameError: name 'oops'"):
        find_target(write(tmp_path, "oops"))


def test_what_may_be_wrong_is_said() -> None:
    data = load("digits")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Softmax(1))
    said = check_classifier(net, "it", data.x_test, 0 * data.y_test + net(data.x_test).argmin(1), 10)
    assert "probabilities" in said[0] and "only 0% of the images are right" in said[1]


def test_a_mechanism_is_measured_as_the_same_network_by_its_name_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = find_target(
        write(
            tmp_path,
            "def It(q, k, v):\n    m = (q @ k.mT / q.shape[-1]**0.5).softmax(-1)\n    return m @ v, m",
        )
    )
    found = measure_target(target, load("digits"), TINY, 2, tmp_path / "kept")
    assert set(found.networks[0]["probes"]) == set(PROBES) and not found.left_out
    for seed in (0, 1):  # softmax was trained beside it, for this setting has no stored references
        for probe in PROBES:
            own, softmax = (
                found.networks[seed]["probes"][probe],
                found.references["softmax"][seed]["probes"][probe],
            )
            assert own == pytest.approx(softmax, abs=0.05), probe
    assert found.networks[0]["loss"] < TINY.loss + 0.2
    monkeypatch.setattr(card, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert measure_target(target, load("digits"), TINY, 2, tmp_path / "kept").networks == json.loads(
        json.dumps(found.networks),
        object_hook=lambda d: {int(k) if k.isdigit() else k: v for k, v in d.items()},
    )


WITHOUT_MAP = {
    "its output alone": "def It(q, k, v):\n    return (q @ k.mT).softmax(-1) @ v",
    "no map beside it": "def It(q, k, v):\n    return (q @ k.mT).softmax(-1) @ v, None",
    "torch's kernel": "def It(q, k, v):\n    return nn.functional.scaled_dot_product_attention(q, k, v)",
    "the mean of the values": "def It(q, k, v):\n    return v.mean(2, keepdim=True).expand_as(v) + 0 * q",
}


@pytest.mark.parametrize("body", WITHOUT_MAP.values(), ids=WITHOUT_MAP)
def test_a_mechanism_without_a_map_is_measured_by_the_other_probes(body: str, tmp_path: Path) -> None:
    found = measure_target(find_target(write(tmp_path, body)), load("digits"), TINY, 2, tmp_path / "kept")
    assert set(found.networks[0]["probes"]) == set(PROBES) - {"attention map"}
    assert set(found.left_out) == {"attention map"}
    assert set(found.references["softmax"][0]["probes"]) == set(PROBES)


BAD_IN_A_NETWORK = {
    "three things": ("m = (q @ k.mT).softmax(-1)\n    return m @ v, m, q", "in an untrained network"),
    "one map for all heads": ("m = (q @ k.mT).softmax(-1)\n    return m @ v, m.mean(1)", "maps has shape"),
    "a map without a graph": ("m = (q @ k.mT).softmax(-1)\n    return m @ v, m.detach()", "no graph"),
    "a hard choice": ("return (q @ k.mT).argmax(-1, keepdim=True) * 0.1 + v", "without a gradient to either"),
}


@pytest.mark.parametrize(("lines", "words"), BAD_IN_A_NETWORK.values(), ids=BAD_IN_A_NETWORK)
def test_what_no_probe_can_look_at_is_refused_before_it_is_trained(
    lines: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "fit", lambda *a, **k: pytest.fail("trained"))
    target = find_target(write(tmp_path, f"def It(q, k, v):\n    {lines}"))
    with pytest.raises(ValueError, match=words) as caught:
        measure_target(target, load("digits"), TINY, 2, tmp_path / "kept")
    assert "\n" not in str(caught.value)


def images_of(height: int, width: int, n: int = 200) -> Dataset:
    pixels = torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(n) % 2
    return Dataset("mine", pixels, classes, pixels[:60], classes[:60], ("a", "b"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (images_of(8, 8, 40), "train_size|n_train"),
        (images_of(9, 9), "patch"),
        (images_of(16, 8), "patch|grid"),
    ],
    ids=["too few", "patches that do not tile", "oblong"],
)
def test_images_that_do_not_fit_the_setting_are_told_before_training(
    data: Dataset, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "fit", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(ValueError, match=words) as caught:
        measure_target(find_target("softmax"), data, TINY, 2, tmp_path / "kept")
    assert "\n" not in str(caught.value)


def test_a_classifier_that_fails_on_one_image_has_no_card(tmp_path: Path) -> None:
    data = load("digits")
    data = replace(data, x_train=data.x_train.clone())
    data.x_train[:] = torch.where(
        torch.arange(len(data.x_train))[:, None, None, None] % 50 == 0, 0.5, data.x_train
    )
    forward = "    def forward(self, x):\n        x = x.flatten(1)\n        return self.f(x / x.std(1, keepdim=True))\n"
    target = find_target(write(tmp_path, f"{NET}{forward}def It():\n    return Net()"))
    with pytest.raises(ValueError, match="not finite"):
        measure_target(target, data, replace(TINY, train_size=600), 3, tmp_path / "kept")


def test_an_interrupted_card_of_a_classifier_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"{NET}    def forward(self, x):\n        return self.f(x.flatten(1))\ndef It():\n    torch.manual_seed(1)\n"
    target = find_target(write(tmp_path, body + "    return Net()"))
    given = (target, load("digits"), replace(TINY, test_size=100), 3, tmp_path / "kept")
    first, looked = measure_target(*given), []
    plain = card.look
    monkeypatch.setattr(card, "look", lambda *a: looked.append(1) or plain(*a))
    (sorted((tmp_path / "kept").glob("*.json"))[0]).unlink()
    again = measure_target(*given)
    assert looked == [1] and again.networks == json.loads(
        json.dumps(first.networks),
        object_hook=lambda d: {int(k) if k.isdigit() else k: v for k, v in d.items()},
    )


def test_a_classifier_is_measured_on_batches_with_what_fits_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = load("digits")
    x, y = data.x_train.flatten(1), torch.nn.functional.one_hot(data.y_train, 10).float()
    weight = torch.linalg.lstsq(x.T @ x + 10 * torch.eye(64), x.T @ y).solution
    torch.save({"f.weight": 10 * weight.T.contiguous(), "f.bias": torch.zeros(10)}, tmp_path / "w.pt")
    forward = "    def forward(self, x):\n        return {'logits': self.f(x.flatten(1))}\n"
    body = f"{NET}{forward}def It():\n    return Net()"
    found = measure_target(
        find_target(write(tmp_path, body)), data, TINY, 3, tmp_path / "kept", str(tmp_path / "w.pt")
    )
    assert len(found.networks) == 3 and found.networks[0]["accuracy"] > 0.8 and not found.warnings
    assert set(found.networks[0]["probes"]) == {"logits", "prediction", "gradient map", "influence"}
    assert set(found.left_out) == {"attention layer", "attention map"}
    for numbers in found.networks.values():
        assert numbers["probes"]["gradient map"] == [0, 0]  # the gradient of a linear network never moves
        assert numbers["probes"]["logits"][0] >= numbers["probes"]["logits"][1]
    with pytest.raises(ValueError, match="does not fit"):
        torch.save({"g": torch.zeros(1)}, tmp_path / "w.pt")
        measure_target(find_target(write(tmp_path, body)), data, TINY, 3, tmp_path, str(tmp_path / "w.pt"))


TIMM = (
    "import timm\ndef It():\n    torch.manual_seed(0)\n    return timm.models.VisionTransformer(img_size=8, "
    "patch_size=4, in_chans=1, embed_dim=16, depth=2, num_heads=2, num_classes=10{more})"
)
TORCHVISION = (
    "from torchvision.models import VisionTransformer\nclass Net(nn.Module):\n    def __init__(self):\n"
    "        super().__init__()\n        torch.manual_seed(0)\n"
    "        self.f = VisionTransformer(8, 4, 1, 2, 16, 16, num_classes=10)\n"
    "        nn.init.normal_(self.f.heads.head.weight)\n"  # torchvision's are 0: one class for all images
    "    def forward(self, x):\n        return self.f(x.expand(-1, 3, -1, -1))\n"
    "def It():\n    return Net()"
)


OWN = (
    "from faultlines.models.recorder import record_attention\nclass Net(nn.Module):\n    def __init__(self):\n"
    "        super().__init__()\n        torch.manual_seed(0)\n"
    "        self.qkv, self.f = nn.Linear(4, 12), nn.Linear(4, 10)\n"
    "    def forward(self, x):\n        x = nn.functional.pixel_unshuffle(x, 2).flatten(2).mT  # 16 patches\n"
    "        q, k, v = self.qkv(x).chunk(3, dim=-1)\n        maps = (4 * q @ k.mT).softmax(-1)\n"
    "        record_attention(maps[:, None])\n        return self.f(maps @ v).mean(dim=1)\n"
    "def It():\n    return Net()"
)


@pytest.mark.parametrize(
    ("package", "body"),
    [
        ("torch", OWN),
        ("timm", TIMM.format(more="")),
        ("timm", TIMM.format(more=", class_token=False, global_pool='avg'")),
        ("torchvision", TORCHVISION),
    ],
    ids=["one's own", "timm", "timm without a class token", "torchvision"],
)
def test_attention_maps_of_a_transformer_are_read_from_its_own_modules(
    package: str, body: str, tmp_path: Path
) -> None:
    pytest.importorskip(package)
    target = find_target(write(tmp_path, body))
    assert target.kind == "classifier"
    found = measure_target(target, load("digits"), replace(TINY, test_size=100), 2, tmp_path / "kept")
    assert set(found.networks[0]["probes"]) == set(PROBES) - {"attention layer"}
    assert set(found.left_out) == {"attention layer"}
    assert all(n["probes"]["attention map"][0] > 0 for n in found.networks.values())


def test_the_map_of_a_timm_layer_is_the_explicit_softmax_and_the_layer_stays_as_it_was() -> None:
    layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    layer = layers.Attention(16, num_heads=2, qkv_bias=True).eval()
    fused, x = layer.fused_attn, torch.randn(3, 5, 16)
    with torch.no_grad(), maps_of_timm(layer), record() as tape:
        out = layer(x)
    q, k, _ = (part.unflatten(-1, (2, 8)).transpose(1, 2).double() for part in layer.qkv(x).chunk(3, dim=-1))
    assert torch.allclose(tape.maps[0].double(), (q @ k.mT / 8**0.5).softmax(-1), atol=1e-6)
    assert layer.fused_attn == fused and not layer.attn_drop._forward_hooks
    assert torch.allclose(layer(x), out, atol=1e-6)


def test_references_of_photographs_see_more_of_them_and_smaller_changes() -> None:
    assert card.setting_for("digits") == Setting()
    clothes, photographs = card.setting_for("fashion_mnist"), card.setting_for("cifar10", steps=4, loss=0)
    assert (clothes.radius, clothes.loss, clothes.train_size) == (8 / 255, 0.4, 600)
    assert (photographs.radius, photographs.loss, photographs.train_size) == (2 / 255, 1.2, 2000)
    assert photographs.steps == 4


def test_stored_references_are_what_the_library_computes_now() -> None:
    stored = card.stored_references(Setting())
    assert "softmax" in stored and all(len(by_seed) >= 3 for by_seed in stored.values())
    assert card.stored_references(Setting(steps=7)) == {}
    assert {n for one in stored.values() for s in one.values() for n in s["probes"]} == set(PROBES)
    again = card.measure_mechanism("softmax", load("digits"), Setting(), 0)
    assert again is not None
    for probe, values in stored["softmax"][0]["probes"].items():
        assert again["probes"][probe] == pytest.approx(values, abs=0.1), probe
    held = json.loads(card.REFERENCES.read_text())
    assert held["schema"] == card.SCHEMA and held["sets"][0]["setting"] == asdict(Setting())


def test_an_extension_trains_what_is_missing_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "references.json"
    shutil.copy(card.REFERENCES, path)
    before, data = json.loads(path.read_text()), load("digits")
    first = card.extend_references(data, TINY, ["softmax", "relu"], 2, path)
    name, seed, numbers = next(first)
    first.close()  # as who interrupts it
    assert (name, seed) == ("softmax", 0) and numbers is not None
    assert [(n, s) for n, s, _ in card.extend_references(data, TINY, ["softmax", "relu"], 2, path)] == [
        ("softmax", 1),
        ("relu", 0),
        ("relu", 1),
    ]
    monkeypatch.setattr(card, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert list(card.extend_references(data, TINY, ["softmax", "relu"], 2, path)) == []
    assert list(card.extend_references(data, TINY, ["softmax"], 9, path, until=0)) == []
    held = json.loads(path.read_text())
    assert held["sets"][:-1] == before["sets"] and held["sets"][-1]["setting"] == asdict(TINY)
    assert path.read_text() == card.references_text(held)
    monkeypatch.setattr(card, "REFERENCES", path)
    stored = card.stored_references(TINY)
    assert stored["softmax"][0] == numbers and set(stored["relu"]) == {0, 1}


def test_a_seed_that_misses_the_loss_is_stored_as_missed(tmp_path: Path) -> None:
    path = tmp_path / "references.json"
    shutil.copy(card.REFERENCES, path)
    never = replace(TINY, epochs=1, loss=0.001)
    assert list(card.extend_references(load("digits"), never, ["softmax"], 1, path)) == [("softmax", 0, None)]
    one = json.loads(path.read_text())["sets"][-1]
    assert one["missed"] == {"softmax": [0]} and one["networks"] == {}
    assert list(card.extend_references(load("digits"), never, ["softmax"], 1, path)) == []


def test_every_mechanism_of_the_library_is_known_and_probes_have_a_size_of_interest() -> None:
    names = known_mechanisms()
    assert names[0] == "softmax" and {"rbf normalised", "linear normalised", "gated"} <= set(names)
    assert len(names) == len(set(names)) >= 16 and all(find_target(n).kind == "mechanism" for n in names)
    assert set(card.smallest_effects()) == set(PROBES) and min(card.smallest_effects().values()) > 0
    assert card.REFERENCES.stat().st_size < 600_000


def test_nothing_of_a_target_stays_in_the_path(tmp_path: Path) -> None:
    before = list(sys.path)
    find_target(write(tmp_path, MECHANISMS["a function"]))
    assert sys.path == before
