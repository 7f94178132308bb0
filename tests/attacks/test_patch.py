from __future__ import annotations

import pytest
import torch

from faultlines.attacks import FGSM, MIM, PatchAttack, SquarePatch


def box(mask):
    """Return rows and columns that a mask of one square covers."""
    rows, columns = mask[0].any(dim=1).nonzero().flatten(), mask[0].any(dim=0).nonzero().flatten()
    assert mask.sum() == len(rows) * len(columns)
    return rows.tolist(), columns.tolist()


@pytest.mark.parametrize("location", [(0, 0), (5, 4), "gradient", "random"])
def test_changes_one_square(trained, digits, location):
    x, y = digits.x_test[:40], digits.y_test[:40]
    result = PatchAttack(size=3, location=location, steps=8)(trained, x, y)
    changed = (result.x_adv != x).any(dim=1)
    for one in changed:
        rows, columns = one.any(dim=1).nonzero().flatten(), one.any(dim=0).nonzero().flatten()
        if len(rows):
            assert rows[-1] - rows[0] < 3
            assert columns[-1] - columns[0] < 3
            if not isinstance(location, str):
                assert rows[0] >= location[0]
                assert columns[0] >= location[1]
                assert rows[-1] < location[0] + 3
                assert columns[-1] < location[1] + 3
    assert changed.any()
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    with torch.no_grad():
        assert torch.equal(trained(result.x_adv).argmax(dim=1) != y, result.success)


def test_place_of_largest_gradient():
    x = torch.full((2, 1, 6, 6), 0.5)
    weight = torch.zeros(2, 36)
    weight[0, 2 * 6 + 3] = 1.0  # pixel (2, 3)
    weight[1, 2 * 6 + 3] = -1.0

    def model(z):
        return z.flatten(1) @ weight.T

    attack = PatchAttack(size=1, steps=2, step_size=1.0, random_start=False)
    result = attack(model, x, torch.tensor([0, 1]))
    assert (result.x_adv != x).nonzero()[:, 2:].tolist() == [[2, 3], [2, 3]]
    assert result.x_adv[:, 0, 2, 3].tolist() == [0.0, 1.0]


def test_larger_patches_fool_more_and_chosen_ones_more_than_random(trained, digits):
    x, y = digits.test
    rate = lambda **kw: PatchAttack(steps=15, early_stop=True, **kw)(trained, x, y).success.float().mean()  # noqa: E731
    clean = FGSM(eps=0)(trained, x, y).success.float().mean()
    small, large, chance = rate(size=1), rate(size=3), rate(size=3, location="random")
    assert clean < small < large
    assert chance < large


def test_random_places_differ_and_repeat():
    x = torch.rand(30, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    patch = SquarePatch(3, "random")
    one, same = (patch.mask(None, x, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, same)
    assert len({str(box(mask)) for mask in one}) > 10
    assert (one.sum(dim=(1, 2, 3)) == 9).all()


@pytest.mark.parametrize("location", [(2, 3), "gradient", "random"])
def test_generator_decides(trained, digits, location):
    """Place first, then the starts: same seed, same patch; restarts add draws and move no earlier one."""
    x, y = digits.x_test[:20], digits.y_test[:20]
    attack, state = PatchAttack(size=3, location=location, steps=2), torch.get_rng_state()
    one, same, other = (attack(trained, x, y, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one.x_adv, same.x_adv)
    assert not torch.equal(one.x_adv, other.x_adv)
    assert torch.equal(attack(trained, x, y).x_adv, attack(trained, x, y).x_adv)
    assert torch.equal(torch.get_rng_state(), state)

    generator = torch.Generator().manual_seed(3)
    mask = attack.patch.mask(attack.objective(trained, x, y), x, generator)
    assert torch.equal(one.x_adv.where(~mask, 0), x.where(~mask, 0))
    again = PatchAttack(size=3, location=location, steps=2, restarts=2)
    more = again(trained, x, y, generator=torch.Generator().manual_seed(3))
    assert torch.equal(more.x_adv.where(~mask, 0), x.where(~mask, 0))
    assert (more.success | ~one.success).all()
    level = more.success == one.success
    assert (more.loss[level] >= one.loss[level] - 1e-5).all()


def test_options_that_have_no_say_are_refused():
    with pytest.raises(TypeError, match="norm"):
        PatchAttack(size=3, norm="l2")
    with pytest.raises(TypeError, match="random_start"):
        MIM(eps=0.1, random_start=True)
    with pytest.raises(ValueError, match="restarts=2"):
        MIM(eps=0.1, restarts=2)


def test_bad_places(trained, digits):
    x, y = digits.x_test[:2], digits.y_test[:2]
    for arguments, words in (({"size": 0}, "size=0"), ({"size": 2, "location": "left"}, "location='left'")):
        with pytest.raises(ValueError, match=words):
            PatchAttack(**arguments)
    for arguments, words in (
        ({"size": 9}, "size=9 is larger"),
        ({"size": 3, "location": (6, 0)}, r"location=\(6, 0\)"),
    ):
        with pytest.raises(ValueError, match=words):
            PatchAttack(**arguments)(trained, x, y)
