from __future__ import annotations

import numpy as np
import pytest

import faultlines.data
from faultlines.data import available, spawrious, waterbirds
from faultlines.data.catalogue import KNOWN, folder_sets


def by_name(root):
    return {entry.name: entry for entry in available(root)}


def test_nothing_there(tmp_path):
    entries = by_name(tmp_path / "absent")
    assert list(entries) == list(KNOWN)
    assert entries["digits"].source == "embedded"
    assert all(
        entry.source is None and entry.path is None for name, entry in entries.items() if name != "digits"
    )
    assert "cifar10.npz" in entries["cifar10"].how
    assert "170 MB" in entries["cifar10"].how
    assert not (tmp_path / "absent").exists()


def test_finds_npz_and_folders_with_sizes(tmp_path):
    x = np.zeros((7, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=x[:, 0, 0, 0], x_test=x[:2], y_test=x[:2, 0, 0, 0])
    np.savez(
        tmp_path / "mine.npz",
        x_train=x[..., 0],
        y_train=x[:, 0, 0, 0],
        x_test=x[:2, ..., 0],
        y_test=x[:2, 0, 0, 0],
    )
    np.savez(tmp_path / "unrelated.npz", weights=x)
    (tmp_path / "mnist.npz").write_bytes(b"broken")
    raw = tmp_path / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte.gz").write_bytes(b"12345")
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(b"123")
    entries = by_name(tmp_path)
    assert list(entries) == [*KNOWN, "mine"]
    cifar = entries["cifar10"]
    assert (cifar.source, cifar.path) == ("npz", tmp_path / "cifar10.npz")
    assert (cifar.n_train, cifar.n_test, cifar.image_shape) == (7, 2, (3, 32, 32))
    assert cifar.size == (tmp_path / "cifar10.npz").stat().st_size
    assert entries["mine"].image_shape == (1, 32, 32)
    assert entries["fashion_mnist"].source == "torchvision"
    assert entries["fashion_mnist"].size == 16
    assert entries["mnist"].source is None
    assert "damaged" in entries["mnist"].how


def test_what_is_not_there_says_where_to_get_it(tmp_path):
    for entry, source in zip(folder_sets(tmp_path), ("aengusl/spawrious", "group_DRO"), strict=True):
        assert entry.path is None
        assert str(tmp_path) in entry.how and source in entry.how
        assert callable(getattr(faultlines.data, entry.loader.removeprefix("faultlines.data.")))


@pytest.mark.parametrize("inner", ["", "spawrious"])
def test_what_is_there_is_found_where_its_loader_looks(tmp_path, monkeypatch, inner):
    monkeypatch.setenv("FAULTLINES_DATA", str(tmp_path))
    dogs, birds = tmp_path / inner / spawrious.FOLDER, tmp_path / waterbirds.FOLDER
    for folder in (dogs, birds):
        folder.mkdir(parents=True)
    assert [entry.path for entry in folder_sets()] == [dogs, None]  # a folder without its table is none
    (birds / "metadata.csv").write_text("")
    assert [(entry.path, entry.how) for entry in folder_sets()] == [(dogs, ""), (birds, "")]
