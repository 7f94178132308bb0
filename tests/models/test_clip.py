from __future__ import annotations

import math

import pytest
import torch

from faultlines.models import record
from faultlines.models.clip import CLIP, MAX_LOG_SCALE, ImageTower, TextTower, WordTokenizer, contrastive_loss

SIZES = {"embed_dim": 6, "dim": 8, "depth": 2, "heads": 2}


def clip(attention="softmax", **options):
    torch.manual_seed(0)
    image = ImageTower(image_size=8, patch_size=4, **SIZES)
    return CLIP(image, TextTower(vocabulary=9, context=5, **SIZES), attention=attention, **options)


@pytest.fixture
def data():
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([[1, 8, 0, 0, 0], [1, 2, 3, 8, 0], [1, 5, 8, 0, 0]])


@pytest.mark.parametrize("attention", ["softmax", "differential"])
def test_text_ignores_what_follows_the_end(data, attention):
    model, (_, tokens) = clip(attention), data
    padded = tokens.clone()
    padded[0, 2:] = 4
    padded[1, 4] = 7
    assert torch.allclose(model.encode_text(padded), model.encode_text(tokens), atol=1e-6)
    padded[1, 1] = 7
    assert not torch.allclose(model.encode_text(padded)[1], model.encode_text(tokens)[1], atol=1e-4)


@pytest.mark.parametrize("towers", [("image", "text"), ("image",), ("text",)])
def test_both_mechanisms_share_weights(data, towers):
    plain = clip().state_dict()
    differential = clip("differential", towers=towers)
    theirs = differential.state_dict()
    shared = [name for name in plain if "mechanism.bias" not in name]
    assert all(torch.equal(plain[name], theirs[name]) for name in shared)
    extra = {name.split(".")[0] for name in theirs.keys() - plain.keys()}
    assert extra == set(towers)
    with record() as tape:
        differential(*data)
    assert len(tape.layers) == 4
    assert [bool(layer.terms) for layer in tape.layers] == [
        t in towers for t in ("image", "image", "text", "text")
    ]


def test_zero_shot_is_a_row_of_the_logits(data):
    model, (x, tokens) = clip("differential").eval(), data
    classifier = model.zero_shot(tokens)
    assert not classifier.training
    assert torch.allclose(classifier(x), model(x, tokens), atol=1e-5)
    assert torch.allclose(classifier.prompts.norm(dim=1), torch.ones(3))


def test_loss_is_least_on_the_diagonal_and_symmetric():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for m in (logits, logits.T):
        expected -= sum(math.log(m[i, i].exp().item() / m[i].exp().sum().item()) for i in range(4)) / 8
    assert contrastive_loss(logits).item() == pytest.approx(expected, rel=1e-5)
    assert contrastive_loss(20 * torch.eye(4)) < 1e-6 < contrastive_loss(torch.eye(4).roll(1, 0))


def test_scale_is_learned_and_capped(data):
    model = clip()
    contrastive_loss(model(*data)).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in (model.log_scale, model.image.patch.weight)
    )
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    assert model.scale.item() == pytest.approx(100) and pytest.approx(math.log(100)) == MAX_LOG_SCALE


def test_tokenizer():
    tokenizer = WordTokenizer(["a red circle", "a blue one"], context=6)
    rows = tokenizer(["a red circle", "blue"])
    assert rows.shape == (2, 6) and tokenizer.vocabulary == rows.max() + 1
    assert rows.argmax(1).tolist() == [4, 2] and (rows[1, 3:] == 0).all() and (rows[:, 0] == 1).all()
    assert len(set(tokenizer.numbers.values()) | {0, 1, tokenizer.end}) == tokenizer.vocabulary
    with pytest.raises(ValueError, match="'green'"):
        tokenizer(["a green circle"])
    with pytest.raises(ValueError, match="context=6"):
        tokenizer(["a a a a a"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: clip(towers=("audio",)), "towers="),
        (lambda: clip("gauss"), "attention='gauss'"),
        (lambda: clip()(torch.rand(1, 3, 8, 9), torch.zeros(1, 5).long()), "this model takes"),
        (lambda: clip().text(torch.zeros(1, 4).long()), r"\[batch, 5\]"),
        (lambda: contrastive_loss(torch.zeros(2, 3)), "as many images"),
        (lambda: ImageTower(image_size=8, patch_size=3, **SIZES), "patch_size=3"),
        (lambda: ImageTower(image_size=8, patch_size=4, std=0.0, **SIZES), "std="),
        (lambda: ImageTower(image_size=8, patch_size=4, activation="relu", **SIZES), "activation='relu'"),
        (lambda: TextTower(vocabulary=0, context=3, **SIZES), "vocabulary=0"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
