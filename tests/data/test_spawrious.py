from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from faultlines.data import CLASSES, LOCATIONS, benchmark_cells, load_spawrious

SIZE = 12


def colour(inner, location, label, k):
    """Every file has a colour of its own, so that an image says where it came from."""
    return 40 * LOCATIONS.index(location), 60 * CLASSES.index(label) + 20 * inner, 20 * k


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for inner in (0, 1):
        for location in LOCATIONS:
            for label in CLASSES:
                folder = root / "spawrious224" / str(inner) / location / label
                folder.mkdir(parents=True)
                for k in (5, 3, 0, 9, 1, 7):  # not in the order of their names
                    Image.new("RGB", (SIZE, SIZE), colour(inner, location, label, k)).save(
                        folder / f"{k}.png"
                    )
                (folder / "notes.txt").write_text("no image")
    return root


def where(x):
    """Return location, class, folder and file of images of even colour."""
    r, g, b = (x.mean((2, 3)) * 255).round().long().T
    return r // 40, g // 60, g % 60 // 20, b // 20


@pytest.mark.parametrize("name", ["m2m_hard", "m2m_easy", "o2o_hard"])
def test_images_come_from_the_folders_of_their_cells(tree, name):
    data = load_spawrious(name, tree, size=SIZE, limit=4, validation=0.25)
    cells = benchmark_cells(name, 4)
    for images, part in ((data.train, cells.train), (data.test, cells.test)):
        location, label, inner, _ = where(images.x)
        assert torch.equal(location, images.c) and torch.equal(label, images.y)
        assert torch.equal(inner, images.environment if name.startswith("o2o") else torch.zeros_like(inner))
        assert {tuple(row) for row in torch.stack([images.y, images.c], 1).tolist()} <= {
            (c.y, c.c) for c in part
        }
    assert len(data.test) == sum(cell.count for cell in cells.test)
    assert (data.train.split, data.validation.split, data.test.split) == ("train", "validation", "test")
    assert data.train.mask is None and data.ood_validation is None
    assert data.train.x.dtype == torch.float32 and data.train.x.max() <= 1


def test_validation_is_held_out_of_every_training_cell(tree):
    data = load_spawrious("m2m_hard", tree, size=SIZE, limit=4, validation=0.25)
    assert (len(data.train), len(data.validation)) == (24, 8)
    assert data.validation.group.unique().equal(data.train.group.unique())
    rows = [torch.stack(where(part.x), 1).tolist() for part in (data.train, data.validation)]
    files = [tuple(row) for part in rows for row in part]
    assert len(set(files)) == len(files) == 32
    again = load_spawrious("m2m_hard", tree, size=SIZE, limit=4, validation=0.25)
    other = load_spawrious("m2m_hard", tree, size=SIZE, limit=4, validation=0.25, seed=1)
    assert torch.equal(again.validation.x, data.validation.x)
    assert not torch.equal(other.validation.x, data.validation.x)


def test_a_limit_takes_the_first_names(tree):
    data = load_spawrious("m2m_hard", tree, size=SIZE, limit=3, validation=0.34)
    assert set(where(data.test.x)[3].tolist()) == {0, 1, 3}


def test_the_root_is_found(tree, tmp_path, monkeypatch):
    kw = {"size": SIZE, "limit": 4, "validation": 0.4}
    expected = load_spawrious("o2o_easy", tree, **kw).test.x
    assert torch.equal(load_spawrious("o2o_easy", tree / "spawrious224", **kw).test.x, expected)
    monkeypatch.setenv("FAULTLINES_DATA", str(tree))
    assert torch.equal(load_spawrious("o2o_easy", **kw).test.x, expected)
    (tmp_path / "spawrious").symlink_to(tree)
    monkeypatch.setenv("FAULTLINES_DATA", str(tmp_path))
    assert torch.equal(load_spawrious("o2o_easy", **kw).test.x, expected)


def test_images_are_resized_and_halved(tree):
    data = load_spawrious("m2m_hard", tree, size=8, limit=2, validation=0.5, dtype=torch.float16)
    assert data.test.x.shape[1:] == (3, 8, 8) and data.test.x.dtype == torch.float16
    assert torch.equal(where(data.test.x.float())[0], data.test.c)


def test_what_is_missing_is_named(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"looked for .*spawrious224.*github.com/aengusl/spawrious"):
        load_spawrious("m2m_hard", tmp_path)
    (tmp_path / "spawrious224" / "0" / "snow" / "corgi").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        load_spawrious("m2m_hard", tmp_path, limit=2)
    for place in ("dirt/bulldog (0 of 2 images)", "snow/corgi (0 of 2", "beach/labrador"):
        assert f"{tmp_path}/spawrious224/0/{place}" in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"6 of 3168 images"):
        load_spawrious("m2m_hard", tree)


def test_a_damaged_image_is_named(tmp_path):
    for cell in (*benchmark_cells("m2m_hard", 2).train, *benchmark_cells("m2m_hard", 2).test):
        folder = tmp_path / "spawrious224" / "0" / cell.location / cell.label
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(2):
            (folder / f"{k}.png").write_bytes(np.zeros(20, np.uint8).tobytes())
    with pytest.raises(ValueError, match=r"0.png cannot be read as an image"):
        load_spawrious("m2m_hard", tmp_path, limit=2, validation=0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "m2m"}, "name='m2m' is not one of"),
        ({"limit": 1}, "limit=1 must be an integer of at least 2"),
        ({"size": 4}, "size=4 must be an integer of at least 8"),
        ({"validation": 1.0}, r"validation=1.0 must lie in \(0, 1\)"),
        ({"validation": 0.01}, "leaves one part empty"),
        ({"dtype": torch.float64}, "dtype=torch.float64 is not one of"),
    ],
)
def test_bad_input_is_named(tree, change, words):
    with pytest.raises(ValueError, match=words):
        load_spawrious(**{"name": "m2m_hard", "root": tree, "limit": 2, "validation": 0.5, **change})
