from __future__ import annotations

import pytest
import torch
from PIL import Image

from faultlines.data import load_waterbirds
from faultlines.data.waterbirds import FOLDER

HEAD = "img_id,img_filename,y,split,place,place_filename\n"
ROWS = [(y, split, place) for split in (0, 1, 2) for y in (0, 1) for place in (0, 1)] + [(1, 0, 1)]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / FOLDER
    text = HEAD
    for k, (y, split, place) in enumerate(ROWS):
        name = f"{k % 3}.bird/{k}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (200 * y, 100 * split, 200 * place)).save(folder / name, quality=95)
        text += f"{k},{name},{y},{split},{place},somewhere.jpg\n"
    (folder / "metadata.csv").write_text(text)
    return tmp_path


def test_splits_classes_and_places(root, monkeypatch):
    monkeypatch.setenv("FAULTLINES_DATA", str(root))
    for data in (
        load_waterbirds(root, size=8),
        load_waterbirds(root / FOLDER, size=8),
        load_waterbirds(size=8),
    ):
        assert (len(data.train), len(data.ood_validation), len(data.test)) == (5, 4, 4)
        for number, name in enumerate(("train", "ood_validation", "test")):
            images = getattr(data, name)
            assert images.split == name and images.x.shape[1:] == (3, 8, 8)
            expected = torch.stack([200 * images.y, 0 * images.y + 100 * number, 200 * images.c], 1) / 255
            assert (images.x.mean((2, 3)) - expected).abs().max() < 0.03
            assert torch.equal(images.group, 2 * images.y + images.c)
        assert data.validation.split == "ood_validation"  # it has seen the test's groups, whatever its name
        assert data.backgrounds == ("land", "water")


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"looked for .*metadata.csv.*group_DRO"):
        load_waterbirds(tmp_path / "nowhere")
    (root / FOLDER / "1.bird" / "1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 13 images, 1.bird/1.jpg first"):
        load_waterbirds(root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("img_id,img_filename,y,split\n", "has no column 'place'"),
        (HEAD + "0,a.jpg,2,0,0,b\n", r"line 2: y, split, place are \['2', '0', '0'\]"),
        (HEAD + "0,0.bird/0.jpg,0,0,0,b\n", "has no row of split 1"),
    ],
)
def test_a_table_that_is_not_as_published(root, text, words):
    (root / FOLDER / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_waterbirds(root, size=8)
