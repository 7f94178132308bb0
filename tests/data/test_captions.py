from __future__ import annotations

import pytest
import torch

from faultlines.data import captioned_images, prompts
from faultlines.data.captions import ATTRIBUTES, COLOURS, POSITIONS, SHAPES, TEXTURES, all_captions, caption


@pytest.fixture(scope="module")
def data():
    return captioned_images(600, seed=3, noise=0.0)


def test_captions_say_what_was_drawn(data):
    assert data.x.shape == (600, 3, 32, 32) and data.x.dtype == torch.float32
    assert data.x.min() >= 0 and data.x.max() <= 1
    for text, numbers in zip(data.captions, data.attributes.tolist(), strict=True):
        assert text == caption(*numbers)
        assert all(names[i] in text for names, i in zip(ATTRIBUTES.values(), numbers, strict=True))
    assert set(data.captions) <= set(all_captions()) and len(set(all_captions())) == 8 * 6 * 4 * 5
    for attribute, names in ATTRIBUTES.items():
        counts = data.labels(attribute).bincount(minlength=len(names))
        assert (counts > 600 / len(names) / 2).all()


def test_seeded(data):
    again, other = captioned_images(600, seed=3, noise=0.0), captioned_images(600, seed=4, noise=0.0)
    assert torch.equal(again.x, data.x) and again.captions == data.captions
    assert not torch.equal(other.x, data.x)
    assert (captioned_images(600, seed=3, noise=0.1).x - data.x).std() > 0.05


def contrast(x):
    """Return how far each pixel is from the grey of the ground, which is that of most corners."""
    ground = x[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].median(dim=2).values
    return (x - ground[:, :, None, None]).abs().amax(dim=1)


def figure(x):
    return contrast(x) > 0.05


def test_the_centre_of_the_figure_tells_the_position(data):
    mask = figure(data.x).float()
    line = (torch.arange(32) + 0.5) / 16 - 1
    centre = (
        torch.stack([(mask * line).sum((1, 2)), (mask * line[:, None]).sum((1, 2))], 1)
        / mask.sum((1, 2))[:, None]
    )
    nearest = torch.cdist(centre, torch.tensor(list(POSITIONS.values()))).argmin(1)
    assert (nearest == data.labels("position")).float().mean() > 0.98


def test_the_pixels_of_most_contrast_tell_the_colour(data):
    index = contrast(data.x).flatten(1).argmax(1)  # never on an edge, which is a mixture with the ground
    paint = data.x.flatten(2)[torch.arange(600), :, index]
    directions = torch.nn.functional.normalize(torch.tensor(list(COLOURS.values())), dim=1)
    guess = (torch.nn.functional.normalize(paint, dim=1) @ directions.T).argmax(1)
    assert (guess == data.labels("colour")).float().mean() > 0.95


def test_shapes_and_textures_differ_in_area_and_darkness(data):
    area = figure(data.x).float().mean((1, 2))
    by_shape = [area[data.labels("shape") == i].mean().item() for i in range(len(SHAPES))]
    assert (
        by_shape[SHAPES.index("square")] > by_shape[SHAPES.index("diamond")] > by_shape[SHAPES.index("cross")]
    )
    edges = (data.x[..., 1:] - data.x[..., :-1]).abs().mean((1, 2, 3)) + (
        data.x[:, :, 1:] - data.x[:, :, :-1]
    ).abs().mean((1, 2, 3))
    plain = data.labels("texture") == TEXTURES.index("plain")
    assert edges[~plain].mean() > 1.3 * edges[plain].mean()


def test_a_linear_probe_is_far_from_perfect_on_shapes(data):
    """The task is not solved by a template: the attribute needs more than a linear reading of pixels."""
    from sklearn.linear_model import RidgeClassifier

    test = captioned_images(300, seed=9, noise=0.0)
    probe = RidgeClassifier(10.0).fit(data.x.flatten(1).numpy(), data.labels("shape").numpy())
    assert probe.score(test.x.flatten(1).numpy(), test.labels("shape").numpy()) < 0.6


def test_prompts_are_words_of_captions():
    words = {word for text in all_captions() for word in text.split()}
    for attribute, names in ATTRIBUTES.items():
        made = prompts(attribute)
        assert len(made) == len(names) and all(name in text for name, text in zip(names, made, strict=True))
        assert {word for text in made for word in text.split()} <= words


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: captioned_images(0), "n=0"),
        (lambda: captioned_images(2, size=4), "size=4"),
        (lambda: captioned_images(2, noise=-1.0), "noise=-1.0"),
        (lambda: captioned_images(2).labels("size"), "attribute='size'"),
        (lambda: prompts("hue"), "attribute='hue'"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
