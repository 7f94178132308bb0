from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

from faultlines.data import (
    CLASSES,
    LOCATIONS,
    benchmark_cells,
    image_files,
    load_spawrious,
    shared_images,
    spurious_benchmark,
)
from faultlines.data.spurious.grouped import BENCHMARKS
from faultlines.studies import with_ood_validation

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
                for k in (5, 3, 0, 9, 1, 7, 2, 4):  # not in the order of their names
                    Image.new("RGB", (SIZE, SIZE), colour(inner, location, label, k)).save(
                        folder / f"{k}.png"
                    )
                (folder / "notes.txt").write_text("no image")
    return root


FEW = {"n_train": 3, "n_validation": 1, "n_test": 4}


def where(x):
    """Return location, class, folder and file of images of even colour."""
    r, g, b = (x.float().mean((2, 3)) * (1 if x.dtype == torch.uint8 else 255)).round().long().T
    return r // 40, g // 60, g % 60 // 20, b // 20


def files(*parts):
    return [tuple(row) for x in parts for row in torch.stack(where(x), 1).tolist()]


@pytest.mark.parametrize("name", ["m2m_hard", "m2m_easy", "o2o_hard"])
def test_images_come_from_the_folders_of_their_cells(tree, name):
    data = load_spawrious(name, tree, size=SIZE, **FEW)
    for images, part, n in ((data.train, "train", 3), (data.validation, "train", 1), (data.test, "test", 4)):
        location, label, inner, _ = where(images.x)
        assert torch.equal(location, images.c) and torch.equal(label, images.y)
        assert torch.equal(inner, images.environment if name.startswith("o2o") else torch.zeros_like(inner))
        cells = getattr(benchmark_cells(name, n), part)
        assert len(images) == sum(cell.count for cell in cells) == 8 * n
        assert {tuple(row) for row in torch.stack([images.y, images.c], 1).tolist()} <= {
            (c.y, c.c) for c in cells
        }
    assert (data.train.split, data.validation.split, data.test.split) == ("train", "validation", "test")
    assert data.train.mask is None and data.ood_validation is None


def test_counts_are_those_of_the_rendered_benchmark(tree):
    counts = {"n_train": 4, "n_validation": 2, "n_test": 3, "n_ood_validation": 2}
    ours = load_spawrious("m2m_hard", tree, size=SIZE, **counts)
    theirs = spurious_benchmark("m2m_hard", size=32, **counts)
    for split in ("train", "validation", "test", "ood_validation"):
        assert torch.equal(getattr(ours, split).group, getattr(theirs, split).group)
    assert with_ood_validation(ours) is ours


@pytest.mark.parametrize("n_train", [1, 4, 7])
def test_a_small_training_set_has_a_validation_set(tree, n_train):
    data = load_spawrious("m2m_hard", tree, size=SIZE, n_train=n_train, n_test=1)
    assert (len(data.train), len(data.validation)) == (8 * n_train, 8)
    assert data.validation.group.unique().equal(data.train.group.unique())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_no_image_is_in_two_splits(tree, name):
    data = load_spawrious(name, tree, size=SIZE, n_train=2, n_validation=2, n_test=2, n_ood_validation=2)
    found = files(*(part.x for part in (data.train, data.validation, data.test, data.ood_validation)))
    assert len(set(found)) == len(found) == 64


def test_a_seed_draws_files_and_draws_the_same_ones_again(tree):
    one, again, other = (
        load_spawrious("m2m_hard", tree, size=SIZE, seed=s, **FEW).train.x for s in (0, 0, 1)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("tuning", BENCHMARKS)
@pytest.mark.parametrize("main", ["m2m_hard", "o2o_easy"])
def test_what_options_are_chosen_on_is_not_reported(tree, tuning, main):
    few = {"n_train": 1, "n_validation": 1, "n_test": 1, "n_ood_validation": 1}
    many = {"n_train": 3, "n_validation": 2, "n_test": 3, "n_ood_validation": 2}
    chosen = load_spawrious(tuning, tree, size=SIZE, part="choosing", **few)
    told = load_spawrious(main, tree, size=SIZE, part="reporting", **many)
    for first in (chosen.train, chosen.validation, chosen.test, chosen.ood_validation):
        for second in (told.train, told.validation, told.test, told.ood_validation):
            assert shared_images(first.x, second.x) == 0


def test_without_parts_benchmarks_share_images_which_the_check_sees(tree):
    easy, hard = (
        load_spawrious(name, tree, size=SIZE, n_train=7, n_test=8) for name in ("m2m_easy", "m2m_hard")
    )
    assert shared_images(easy.train.x, hard.test.x) > 0


def copied(tree, tmp_path, source, target):
    """Return a copy of the tree in which one folder's last file is a copy of another's first one."""
    root = tmp_path / "copied"
    shutil.copytree(tree, root)
    first, last = (root / "spawrious224" / "0" / where for where in (source, target))
    shutil.copy(first / "0.png", last / "9.png")
    return root


def test_copies_of_a_file_are_one_image(tree, tmp_path):
    root = copied(tree, tmp_path, "snow/corgi", "snow/corgi")  # eight files, 0 and 9 alike
    few = {"n_train": 1, "n_validation": 1, "n_ood_validation": 1}
    with pytest.raises(FileNotFoundError, match=r"snow/corgi \(7 of 8 images\)"):
        load_spawrious("m2m_medium", root, size=SIZE, n_train=7, n_validation=1, n_test=8)
    load_spawrious("m2m_hard", root, size=SIZE, n_test=1, **few)
    chosen, told = (
        load_spawrious("m2m_medium", root, size=SIZE, n_test=n, part=part, **few)
        for part, n in (("choosing", 1), ("reporting", 4))
    )
    assert shared_images(chosen.test.x, told.test.x) == 0


def test_a_copy_in_another_folder_is_refused(tree, tmp_path):
    root = copied(tree, tmp_path, "dirt/bulldog", "snow/bulldog")  # of m2m_hard: in training, in the test
    with pytest.raises(ValueError, match="1 images of `test` have the pixels of images of `train`"):
        load_spawrious("m2m_hard", root, size=SIZE, n_train=7, n_validation=1, n_test=8)


def test_the_root_is_found(tree, tmp_path, monkeypatch):
    expected = load_spawrious("o2o_easy", tree, size=SIZE, **FEW).test.x
    assert torch.equal(load_spawrious("o2o_easy", tree / "spawrious224", size=SIZE, **FEW).test.x, expected)
    monkeypatch.setenv("FAULTLINES_DATA", str(tree))
    assert torch.equal(load_spawrious("o2o_easy", size=SIZE, **FEW).test.x, expected)
    (tmp_path / "spawrious").symlink_to(tree)
    monkeypatch.setenv("FAULTLINES_DATA", str(tmp_path))
    assert torch.equal(load_spawrious("o2o_easy", size=SIZE, **FEW).test.x, expected)


def test_types_hold_the_same_images_resized(tree):
    kept = {t: load_spawrious("m2m_hard", tree, size=8, dtype=t, **FEW).test for t in image_files.NUMPY_TYPES}
    for dtype, images in kept.items():
        assert images.x.shape[1:] == (3, 8, 8) and images.x.dtype == dtype
        assert torch.equal(where(images.x)[0], images.c)
    bytes_, floats = kept[torch.uint8].x, kept[torch.float32].x
    assert torch.equal(bytes_.float() / 255, floats)
    assert load_spawrious("m2m_hard", tree, size=8, **FEW).test.x.dtype == torch.uint8


def test_many_pixels_are_mapped_and_the_same(tree, monkeypatch):
    expected = load_spawrious("m2m_hard", tree, size=SIZE, **FEW)
    monkeypatch.setattr(image_files, "IN_MEMORY", 100)
    data = load_spawrious("m2m_hard", tree, size=SIZE, **FEW)
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(data, split).x, getattr(expected, split).x)
    assert torch.equal(data.test[1::2].x, expected.test.x[1::2])


def test_what_is_missing_is_named(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"looked for .*spawrious224.*github.com/aengusl/spawrious"):
        load_spawrious("m2m_hard", tmp_path)
    (tmp_path / "spawrious224" / "0" / "snow" / "corgi").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        load_spawrious("m2m_hard", tmp_path, n_train=1, n_test=2)
    for place in ("dirt/bulldog (0 of 2 images)", "snow/corgi (0 of 2", "beach/labrador"):
        assert f"{tmp_path}/spawrious224/0/{place}" in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"8 of 3168 images"):
        load_spawrious("m2m_hard", tree)
    with pytest.raises(FileNotFoundError, match=r"for part='choosing'.*2 of 792 images"):
        load_spawrious("m2m_hard", tree, part="choosing")


def test_a_damaged_image_is_named(tmp_path):
    for cell in (*benchmark_cells("m2m_hard", 2).train, *benchmark_cells("m2m_hard", 2).test):
        folder = tmp_path / "spawrious224" / "0" / cell.location / cell.label
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(2):
            (folder / f"{k}.png").write_bytes(bytes([k] * 20))
    with pytest.raises(ValueError, match=r"\d.png cannot be read as an image"):
        load_spawrious("m2m_hard", tmp_path, n_train=1, n_test=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "m2m"}, "name='m2m' is not one of"),
        ({"n_train": 0}, "n_train=0 must be an integer of at least 1"),
        ({"n_validation": 0}, "n_validation=0 must be an integer of at least 1"),
        ({"n_test": True}, "n_test=True must be an integer of at least 1"),
        ({"n_ood_validation": -1}, "n_ood_validation=-1 must be an integer of at least 0"),
        ({"part": "half"}, "part='half' is not one of all, choosing, reporting"),
        ({"size": 4}, "size=4 must be an integer of at least 8"),
        ({"dtype": torch.float64}, "dtype=torch.float64 is not one of"),
    ],
)
def test_bad_input_is_named(tree, change, words):
    with pytest.raises(ValueError, match=words):
        load_spawrious(**{"name": "m2m_hard", "root": tree, "n_train": 2, "n_test": 2, **change})
