"""The contrastive loop: a step by hand, learning, pairing, lambda."""

from __future__ import annotations

import copy

import pytest
import torch

from faultlines.data import ATTRIBUTES, all_captions, captioned_images
from faultlines.models import (
    CLIP,
    DifferentialAttention,
    ImageTower,
    TextTower,
    WordTokenizer,
    ZeroShot,
    contrastive_loss,
)
from faultlines.training import fit_contrastive, seeded

SIZES = {"embed_dim": 8, "dim": 16, "depth": 1, "heads": 4, "mlp_ratio": 2.0}
TOKENIZER = WordTokenizer(all_captions(), context=10)


def towers(seed=0, **options):
    return seeded(
        lambda: CLIP(
            ImageTower(image_size=8, patch_size=4, **SIZES),
            TextTower(vocabulary=TOKENIZER.vocabulary, context=10, **SIZES),
            **options,
        ),
        seed,
    )


def pairs(n, seed=0):
    data = captioned_images(n, size=8, seed=seed)
    return data.x, TOKENIZER(data.captions)


def test_one_step_is_adamw_on_the_contrastive_loss():
    x, tokens = pairs(6)
    model, reference = towers(), towers()
    history = fit_contrastive(
        model, x, tokens, epochs=1, batch_size=6, lr=1e-3, weight_decay=0.0, warmup=0.0, grad_clip=None
    )
    stepper = torch.optim.AdamW(reference.parameters(), lr=1e-3, weight_decay=0.0)
    loss = contrastive_loss(reference(x, tokens))
    loss.backward()
    stepper.step()
    assert history.loss == pytest.approx([loss.item()], rel=1e-5)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        # Adam's first step has the gradient's sign, which rounding decides where there is none to speak of
        steady = theirs.grad.abs() > 1e-6
        assert torch.allclose(ours[steady], theirs[steady], atol=1e-6)


def test_it_learns_to_name_colours():
    x, tokens = pairs(600)
    model = towers()
    history = fit_contrastive(model, x, tokens, epochs=12, batch_size=50, lr=5e-3)
    assert history.loss[-1] < 0.8 * history.loss[0]
    held = captioned_images(200, size=8, seed=1)
    with torch.no_grad():
        groups = [[c for c in all_captions() if f" {name} " in c] for name in ATTRIBUTES["colour"]]
        classes = torch.stack([model.encode_text(TOKENIZER(group)).mean(dim=0) for group in groups])
        answers = ZeroShot(model.image, classes, scale=1.0)(held.x).argmax(dim=1)
    right = (answers == held.labels("colour")).float().mean()
    assert right > 0.5  # chance is 1/8


def test_lambda_is_logged_after_every_epoch():
    x, tokens = pairs(20)
    model = towers(attention="differential", attention_options={"lambda_init": 0.5}, towers=("image",))
    history = fit_contrastive(model, x, tokens, epochs=2, batch_size=10)
    assert list(history.terms) == ["image lambda 0"]
    mechanism = model.image.blocks[0].attention.mechanism
    assert isinstance(mechanism, DifferentialAttention)
    assert history.terms["image lambda 0"][-1] == pytest.approx(mechanism.lambda_value().item())


def test_the_same_seed_gives_the_same_towers():
    x, tokens = pairs(20)
    first, second, third = (towers() for _ in range(3))
    for model, seed in ((first, 1), (second, 1), (third, 2)):
        fit_contrastive(model, x, tokens, epochs=2, batch_size=10, seed=seed)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    other = [torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True)]
    assert all(same) and not all(other)


def test_a_last_batch_of_one_pair_is_left_out():
    x, tokens = pairs(7)
    model, same = towers(), towers()
    fit_contrastive(model, x, tokens, epochs=1, batch_size=3)
    assert all(p.isfinite().all() for p in model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize(("images", "captions", "batch"), [(6, 5, 2), (6, 6, 7), (6, 6, 1)])
def test_bad_pairs(images, captions, batch):
    x, tokens = pairs(6)
    with pytest.raises(ValueError, match=f"batch_size={batch}"):
        fit_contrastive(towers(), x[:images], tokens[:captions], epochs=1, batch_size=batch)


def test_a_loss_that_is_not_finite():
    x, tokens = pairs(6)
    model = copy.deepcopy(towers())
    model.image.patch.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="at step 1 of 6"):
        fit_contrastive(model, x, tokens, epochs=3, batch_size=3)
