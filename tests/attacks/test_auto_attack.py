"""The ensemble against the authors' package, its resumption, and its members."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from faultlines.attacks import AutoAttack
from faultlines.attacks.norms import as_norm

SMALL = {"steps": 8, "queries": 60, "target_classes": 3, "batch_size": 10}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.07), ("l2", 0.4)])
def test_agrees_with_the_authors(cnn, digits, norm, eps):
    """Standard ensembles on 200 samples; whole for the maximum norm, with fewer queries for the other."""
    queries = 5000 if norm == "linf" else 800
    from pyautoattack import AutoAttack as Peer

    x = torch.cat([digits.x_test, digits.x_train[:50]])
    y = torch.cat([digits.y_test, digits.y_train[:50]])
    assert len(x) == 200
    theirs = Peer(copy.deepcopy(cnn), norm=norm.capitalize(), eps=eps, seed=0, device="cpu")
    theirs.square.n_queries = queries
    z = theirs.run_standard_evaluation(x, y, batch_size=200)
    z = z[0] if isinstance(z, tuple) else z
    with torch.no_grad():
        peer = (cnn(z).argmax(dim=1) == y).float().mean()
    result = AutoAttack(eps=eps, norm=norm, queries=queries)(cnn, x, y)
    assert 0.05 < peer < 0.95
    assert abs((~result.success).float().mean() - peer) <= 0.02


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.06), ("l2", 0.35)])
def test_each_member_sees_what_survives(cnn, digits, norm, eps, monkeypatch):
    x, y = digits.test
    attack, seen = AutoAttack(eps=eps, norm=norm, **SMALL), {}
    member = AutoAttack.member

    def watched(self, name):
        inner = member(self, name)

        def search(victim, batch, labels, generator):
            seen[name] = seen.get(name, 0) + len(batch)
            assert len(batch) <= 10
            return inner.search(victim, batch, labels, generator)

        return SimpleNamespace(search=search)

    monkeypatch.setattr(AutoAttack, "member", watched)
    result = attack(cnn, x, y)
    with torch.no_grad():
        wrong = cnn(x).argmax(dim=1) != y
        assert torch.equal(cnn(result.x_adv).argmax(dim=1) != y, result.success)
    assert torch.equal(result.found_by == 0, wrong)
    assert torch.equal(result.found_by >= 0, result.success)
    left = len(x) - int(wrong.sum())
    for place, name in enumerate(attack.attacks, 1):
        assert seen[name] == left
        left -= int((result.found_by == place).sum())
    assert 0 < left < len(x)
    assert (as_norm(norm).size(result.x_adv - x) <= eps + 1e-6).all()
    assert torch.equal(result.x_adv[~result.success], x[~result.success])


class Breaks(nn.Module):
    """A model that dies after so many calls, as a machine does."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.left = inner, 10**9

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.inner(x)


@pytest.mark.parametrize("calls", [15, 120, 500])
def test_resumed_is_as_unbroken(cnn, digits, tmp_path, calls):
    x, y = digits.x_test[:40], digits.y_test[:40]
    attack, model, path = AutoAttack(eps=0.06, **SMALL), Breaks(cnn), tmp_path / "deep" / "state"
    whole = attack(model, x, y, generator=seeded(3))
    used = 10**9 - model.left
    assert used > 500
    model.left = calls
    with pytest.raises(KeyboardInterrupt):
        attack(model, x, y, generator=seeded(3), state=path)
    assert path.exists() == (calls > 15) or path.exists()
    model.left = 10**9
    resumed = attack(model, x, y, generator=seeded(3), state=path)
    if calls > 15:
        assert 10**9 - model.left < used
    for name in ("x_adv", "success", "loss", "gradients", "found_by"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name))
    assert [file.name for file in path.parent.iterdir()] == ["state"]
    model.left = 10**9
    attack(model, x, y, generator=seeded(3), state=path)
    assert 10**9 - model.left <= 8  # all is known: the clean samples and the points found are looked at


def test_refuses_the_state_of_another(cnn, digits, tmp_path):
    x, y = digits.x_test[:12], digits.y_test[:12]
    attack, path = AutoAttack(eps=0.06, **SMALL), tmp_path / "state"
    attack(cnn, x, y, state=path)
    kept = path.read_bytes()
    other = copy.deepcopy(cnn)
    with torch.no_grad():
        next(other.parameters())[0] += 1e-6
    for model, images, changed, generator, what in (
        (other, x, attack, seeded(), "model"),
        (cnn, x.flip(0), attack, seeded(), "samples"),
        (cnn, x, AutoAttack(eps=0.05, **SMALL), seeded(), "settings"),
        (cnn, x, attack, seeded(9), "settings"),
    ):
        with pytest.raises(ValueError, match=f"made with other {what}"):
            changed(model, images, y, generator=generator, state=path)
    with pytest.raises(ValueError, match=r"no nn\.Module"):
        attack(lambda z: cnn(z), x, y, state=path)
    assert path.read_bytes() == kept


def tampered(path, kind):
    """Damage a state as a full disk, another program or a hand does."""
    content = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        identity, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "a pickle":
            path.write_bytes(b"\x80\x04 pickle")
        case "another shape":
            save_file(tensors | {"reached": tensors["reached"][:-1]}, path, metadata=identity)
        case "another type":
            save_file(tensors | {"found_by": tensors["found_by"].float()}, path, metadata=identity)
        case "a tensor less":
            save_file({"x_adv": tensors["x_adv"]}, path, metadata=identity)
        case "no numbers":
            save_file(tensors | {"x_adv": tensors["x_adv"] * torch.nan}, path, metadata=identity)
        case "no name":
            save_file(tensors, path)


DAMAGE = (
    "empty",
    "truncated",
    "a pickle",
    "another shape",
    "another type",
    "a tensor less",
    "no numbers",
    "no name",
)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_state_is_set_aside_and_the_attack_begins_anew(cnn, digits, tmp_path, kind):
    x, y = digits.x_test[:6], digits.y_test[:6]
    attack, path = AutoAttack(eps=0.06, **(SMALL | {"attacks": ("apgd-ce",)})), tmp_path / "state"
    whole = attack(cnn, x, y, state=path)
    tampered(path, kind)
    with pytest.warns(UserWarning, match="state of AutoAttack.*cannot be read; it is now 'state.damaged'"):
        again = attack(cnn, x, y, state=path)
    assert torch.equal(again.x_adv, whole.x_adv) and torch.equal(again.found_by, whole.found_by)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state", "state.damaged"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(cnn, x, y, state=path)  # which is whole again
    with pytest.raises(ValueError, match="is a folder"):
        attack(cnn, x, y, state=tmp_path)


def test_too_few_classes():
    x, y = torch.rand(3, 1, 4, 4, generator=seeded()), torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=r"3 classes.*attacks=\('apgd-ce', 'fab-t', 'square'\)"):
        AutoAttack(eps=0.1)(lambda z: z.flatten(1)[:, :3], x, y)
    fixed = AutoAttack(eps=0.1, attacks=("apgd-ce", "fab-t", "square"), steps=3, queries=5)
    assert fixed(lambda z: z.flatten(1)[:, :3], x, y).success.dtype == torch.bool


def test_arguments():
    for arguments, words in (
        ({"eps": -1.0}, "eps=-1"),
        ({"eps": 0.1, "norm": "l1"}, "norm='l1'"),
        ({"eps": 0.1, "attacks": ("pgd",)}, "attacks="),
        ({"eps": 0.1, "attacks": "square"}, "attacks="),
        ({"eps": 0.1, "queries": 0}, "queries=0"),
    ):
        with pytest.raises(ValueError, match=words):
            AutoAttack(**arguments)
    with pytest.raises(ValueError, match="leave it out"):
        AutoAttack(eps=0.1)(lambda z: z, torch.rand(2, 5), torch.tensor([0, 1]))
