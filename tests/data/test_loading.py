"""`load` over every way a data set can lie on disk; the files are written here."""

from __future__ import annotations

import gzip
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torchvision import datasets as tv

from faultlines.data import arrays, available, image_shape, load
from faultlines.data import loading as loading_module
from faultlines.data.catalogue import KNOWN, n_classes


def write_idx(path, array, pack):
    blob = (
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".gz" * pack).write_bytes(gzip.compress(blob) if pack else blob)


def images(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def labels(n, k=10):
    return (np.arange(n) % k).astype(np.uint8)


def write_mnist(root, folder, pack):
    x_train, x_test = images(40, 28, 28), images(20, 28, 28, seed=1)
    for prefix, x in (("train", x_train), ("t10k", x_test)):
        write_idx(root / folder / "raw" / f"{prefix}-images-idx3-ubyte", x, pack)
        write_idx(root / folder / "raw" / f"{prefix}-labels-idx1-ubyte", labels(len(x)), pack)
    return x_train, x_test


def write_cifar10(root, protocol):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    parts = {}
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        flat = images(10, 3 * 32 * 32, seed=i)
        batch = {"batch_label": "x", "labels": list(range(10)), "data": flat, "filenames": ["a.png"] * 10}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
        parts[name] = flat.reshape(-1, 3, 32, 32)
    return parts


def write_npz(root, name="mine", **changes):
    arrays = {"x_train": images(12, 6, 5, 3), "y_train": labels(12, 3), "x_test": images(6, 6, 5, 3)}
    arrays |= {"y_test": labels(6, 3)} | changes
    np.savez(root / f"{name}.npz", **{key: value for key, value in arrays.items() if value is not None})
    return arrays


def test_digits_is_fixed_balanced_and_covers_scikit_learn():
    from sklearn.datasets import load_digits

    data = load("digits")
    assert data.x_train.shape == (1297, 1, 8, 8)
    assert data.x_test.shape == (500, 1, 8, 8)
    assert data.x_train.dtype == torch.float32
    assert data.y_train.dtype == torch.int64
    assert data.y_test.bincount().tolist() == [50] * 10
    assert data.x_train.min() == 0
    assert data.x_train.max() == 1
    original, y = load_digits(return_X_y=True)
    rows = [tuple(row) for row in np.column_stack([original, y]).astype(int)]
    ours = torch.cat([data.x_train, data.x_test]).flatten(1) * 16
    ours = torch.column_stack([ours, torch.cat([data.y_train, data.y_test])]).int().tolist()
    assert sorted(rows) == sorted(map(tuple, ours))


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("name", "folder"), [("fashion_mnist", "FashionMNIST"), ("mnist", "MNIST")])
def test_idx_folder(tmp_path, name, folder, pack):
    x_train, x_test = write_mnist(tmp_path, folder, pack)
    data = load(name, tmp_path, download=False)
    assert torch.equal(data.x_train, torch.from_numpy(x_train)[:, None].float() / 255)
    assert torch.equal(data.x_test, torch.from_numpy(x_test)[:, None].float() / 255)
    assert data.y_test.tolist() == labels(20).tolist()
    assert data.classes == KNOWN[name].classes


def test_idx_agrees_with_torchvision(tmp_path):
    write_mnist(tmp_path, "FashionMNIST", pack=False)
    data, theirs = load("fashion_mnist", tmp_path, download=False), tv.FashionMNIST(tmp_path, train=False)
    assert torch.equal((data.x_test[:, 0] * 255).round().byte(), theirs.data)
    assert torch.equal(data.y_test, theirs.targets)
    assert list(data.classes) == theirs.classes


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar10_batches(tmp_path, protocol):
    parts = write_cifar10(tmp_path, protocol)
    data = load("cifar10", tmp_path, download=False)
    expected = np.concatenate([parts[f"data_batch_{i}"] for i in range(1, 6)])
    assert torch.equal(data.x_train, torch.from_numpy(expected).float() / 255)
    assert torch.equal(data.x_test, torch.from_numpy(parts["test_batch"]).float() / 255)
    assert data.y_train.tolist() == list(range(10)) * 5


def test_cifar100_uses_fine_labels(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    for part, n in (("train", 100), ("test", 100)):
        batch = {"data": images(n, 3072), "fine_labels": list(range(100)), "coarse_labels": [0] * 100}
        (tmp_path / "cifar-100-python" / part).write_bytes(pickle.dumps(batch, protocol=2))
    data = load("cifar100", tmp_path, download=False)
    assert data.y_test.tolist() == list(range(100))
    assert len(data.classes) == len(set(data.classes)) == 100
    assert list(data.classes) == sorted(data.classes)


def test_npz_is_a_data_set_and_comes_before_torchvisions_layout(tmp_path):
    arrays = write_npz(tmp_path, classes=np.array(["cat", "dog", "eel"]))
    data = load("mine", tmp_path)
    assert torch.equal(data.x_train, torch.from_numpy(arrays["x_train"]).permute(0, 3, 1, 2).float() / 255)
    assert data.classes == ("cat", "dog", "eel")
    assert data.image_shape == (3, 6, 5)
    write_mnist(tmp_path, "MNIST", pack=True)
    x = images(10, 28, 28, seed=5)
    write_npz(tmp_path, "mnist", x_train=x, y_train=labels(10), x_test=x, y_test=labels(10))
    data = load("mnist", tmp_path)
    assert torch.equal(data.x_train[:, 0], torch.from_numpy(x).float() / 255)
    assert data.classes == KNOWN["mnist"].classes


def test_grey_npz_gets_one_channel_and_numbered_classes(tmp_path):
    write_npz(tmp_path, x_train=images(12, 6, 5), x_test=images(6, 6, 5))
    data = load("mine", tmp_path)
    assert data.image_shape == (1, 6, 5)
    assert data.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_train": images(12, 6, 5, 3).astype(np.float32)}, "x_train has dtype float32"),
        ({"x_train": images(12, 30)}, "x_train has shape"),
        ({"x_train": images(12, 7, 6, 5)}, "the channel last"),
        (
            {"x_train": images(12, 3, 4, 4), "x_test": images(6, 3, 4, 4)},
            r"first or last.*transpose\(0, 2, 3, 1\)",
        ),
        ({"x_train": images(12, 6, 5, 3) / 255.0 * 2}, r"values from 0.0 to 2.0; .*x.astype\(numpy.uint8\)"),
        ({"x_train": np.full((12, 6, 5, 3), np.nan)}, "floats in \\[0, 1\\]"),
        ({"x_train": images(12, 6, 5, 3).astype(int)}, r"dtype int64 and values .*x.astype\(numpy.uint8\)"),
        ({"y_train": np.eye(3, dtype=int)[labels(12, 3)]}, r"y_train has shape \(12, 3\).*argmax"),
        ({"x_test": images(6, 7, 5, 3)}, "test images"),
        ({"y_train": labels(11, 3)}, "y_train has shape"),
        ({"y_train": labels(12, 3).astype(float)}, "labels must be integers"),
        ({"y_train": labels(12, 3) + 1}, "0 to k - 1"),
        ({"y_test": labels(6, 4)}, "y_test has labels from 0 to 3"),
        ({"x_train": images(12, 6, 5, 3) / 127.5 - 1}, r"values from -1.0 to 1.0; .*\(x \+ 1\) / 2"),
        ({"x_train": np.full((12, 6, 5, 3), np.float32(1 + 2**-23))}, r"to 1.0000001.*x.clip\(0, 1\)"),
        ({"x_train": np.full((12, 6, 5, 3), np.nan)}, "nan_to_num"),
        ({"x_train": images(12, 6, 5, 3) > 99}, r"dtype bool; .*255 \* x.astype"),
        ({"x_train": images(12, 6, 5, 3).astype(np.float32) - 300}, r"\(x - x.min\(\)\)"),
        ({"y_train": np.eye(3)[labels(12, 3)]}, "argmax"),
        ({"y_train": np.ones((12, 3), dtype=int)}, "not one-hot"),
        ({"y_train": labels(12, 3)[None]}, r"y_train has shape \(1, 12\).*ravel"),
        ({"y_train": labels(12, 3).astype(str)}, "numpy.unique"),
        ({"y_train": np.full(12, 2**64 - 1, dtype=np.uint64)}, f"the label {2**64 - 1}"),
        ({"x_train": images(12, 6, 28, 28)}, "6 or 28 channels"),
        ({"classes": np.array([1, 2, 3])}, "classes has dtype"),
        ({"y_train": np.array([None] * 12, dtype=object)}, "plain arrays"),
    ],
)
def test_bad_npz_is_a_clear_error(tmp_path, changes, words):
    write_npz(tmp_path, **changes)
    with pytest.raises(ValueError, match=words):
        load("mine", tmp_path)


COMMON = {
    "labels of Keras": {"y_train": labels(12, 3)[:, None], "y_test": labels(6, 3)[:, None]},
    "channels first": {"x_train": images(12, 3, 6, 5), "x_test": images(6, 3, 6, 5, seed=1)},
    "grey, channels first": {"x_train": images(12, 1, 6, 5), "x_test": images(6, 1, 6, 5, seed=1)},
    "floats": {"x_train": images(12, 6, 5, 3) / 255.0, "x_test": images(6, 6, 5, 3, seed=1) / 255.0},
    "small squares": {"x_train": images(12, 4, 4, 3), "x_test": images(6, 4, 4, 3, seed=1)},
    "float32, grey": {
        "x_train": np.float32(images(12, 6, 5) / 255),
        "x_test": np.float32(images(6, 6, 5) / 255),
    },
}


@pytest.mark.parametrize("changes", COMMON.values(), ids=COMMON)
def test_forms_that_people_have_are_read_as_the_documented_one(tmp_path, changes):
    stored = write_npz(tmp_path, **changes)
    data, first = load("mine", tmp_path), stored["x_train"]
    expected = first if first.dtype != np.uint8 else np.float32(first) / 255
    expected = expected[:, None] if expected.ndim == 3 else expected
    if expected.shape[1] > 3:
        expected = expected.transpose(0, 3, 1, 2)
    assert torch.allclose(data.x_train, torch.from_numpy(expected).float(), rtol=0, atol=1e-7)
    assert data.y_train.tolist() == labels(12, 3).tolist()
    assert image_shape("mine", tmp_path) == data.image_shape
    assert n_classes("mine", tmp_path) == len(data.classes) == 3


def test_a_file_of_medmnist_is_a_data_set_with_its_test_set(tmp_path):
    parts = {"train": images(12, 8, 8), "val": images(3, 8, 8), "test": images(6, 8, 8, seed=1)}
    named = {f"{part}_images": x for part, x in parts.items()}
    named |= {f"{part}_labels": labels(len(x), 3)[:, None] for part, x in parts.items()}
    np.savez_compressed(tmp_path / "bloodmnist.npz", **named)
    data = load("bloodmnist", tmp_path)
    assert torch.equal(data.x_test[:, 0], torch.from_numpy(parts["test"]).float() / 255)
    assert (image_shape("bloodmnist", tmp_path), n_classes("bloodmnist", tmp_path)) == ((1, 8, 8), 3)
    (entry,) = [entry for entry in available(tmp_path) if entry.name == "bloodmnist"]
    assert (entry.n_train, entry.n_test, entry.image_shape) == (12, 6, (1, 8, 8))


class TestShapeWithoutImages:
    def test_of_known_names_it_is_the_originals(self, tmp_path):
        for name, known in KNOWN.items():
            assert image_shape(name, tmp_path) == known.image_shape
            assert n_classes(name, tmp_path) == len(known.classes)

    def test_the_images_are_not_read(self, tmp_path, monkeypatch):
        write_npz(tmp_path, classes=np.array(["a", "b", "c", "d"]))
        monkeypatch.setattr(np, "load", None)
        assert (image_shape("mine", tmp_path), n_classes("mine", tmp_path)) == ((3, 6, 5), 4)

    @pytest.mark.parametrize("ask", [image_shape, n_classes])
    def test_what_is_not_there_is_told(self, tmp_path, ask):
        for name in ("absent", "../x", "a" * 100_000):
            with pytest.raises(ValueError, match="known") as error:
                ask(name, tmp_path)
            assert len(str(error.value)) < 500
        (tmp_path / "broken.npz").write_bytes(b"broken")
        with pytest.raises(ValueError, match=r"broken.npz cannot be read"):
            ask("broken", tmp_path)

    def test_no_torch_is_imported(self):
        code = (
            "import sys; from faultlines.data.catalogue import n_classes, image_shape; image_shape('digits'); "
            "n_classes('cifar10'); assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def damage(path, kind):
    """Make an archive into one that cannot be read."""
    if kind == "larger than memory":
        with zipfile.ZipFile(path, "a") as archive, archive.open("x_train.npy", "w") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000, 3)}
            )
        return
    blob = bytearray(path.read_bytes())
    for signature, flags, method in ((b"PK\x03\x04", 6, 8), (b"PK\x01\x02", 8, 10)):
        at = blob.find(signature)
        while at >= 0:
            if kind == "encrypted":
                blob[at + flags] |= 1
            elif kind == "unknown compression":
                blob[at + method : at + method + 2] = b"\x62\x00"
            at = blob.find(signature, at + 1)
    if kind == "flipped bytes":
        blob[80:200] = bytes(255 - byte for byte in blob[80:200])
    path.write_bytes(blob)


@pytest.mark.parametrize("kind", ["encrypted", "unknown compression", "larger than memory", "flipped bytes"])
def test_a_damaged_archive_is_one_line(tmp_path, kind):
    write_npz(tmp_path, **({"x_train": None} if kind == "larger than memory" else {}))
    damage(tmp_path / "mine.npz", kind)
    for ask in (load, image_shape, n_classes):
        if kind == "flipped bytes" and ask is not load:
            continue
        with pytest.raises(ValueError, match=r"mine.npz cannot be read as a data set") as error:
            ask("mine", tmp_path)
        assert "\n" not in str(error.value)
    assert [entry.name for entry in available(tmp_path)][: len(KNOWN)] == list(KNOWN)


def test_arrays_larger_than_memory_are_one_line(tmp_path, monkeypatch):
    write_npz(tmp_path)
    monkeypatch.setattr(arrays, "_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"its arrays take 0 GB, this machine has 0 GB"):
        load("mine", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"hello", pickle.dumps({"a": 1})])
def test_what_is_no_npz_is_a_clear_error(tmp_path, content):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a data set"):
        load("mine", tmp_path)


def test_known_name_with_other_images_is_refused(tmp_path):
    write_npz(tmp_path, "cifar10")
    with pytest.raises(ValueError, match="images of cifar10"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "magic", "gzip"])
def test_damaged_idx(tmp_path, damage):
    write_mnist(tmp_path, "MNIST", pack=damage == "gzip")
    path = tmp_path / "MNIST/raw" / ("train-images-idx3-ubyte" + ".gz" * (damage == "gzip"))
    blob = path.read_bytes()
    path.write_bytes(b"\1" + blob[1:] if damage == "magic" else blob[: len(blob) // 2])
    with pytest.raises(ValueError, match="train-images"):
        load("mnist", tmp_path)


class TestMissing:
    def test_error_names_three_ways(self, tmp_path, monkeypatch):
        def no_network(known, root):
            raise OSError("no route to host")

        monkeypatch.setattr(loading_module, "fetch", no_network)
        with pytest.raises(FileNotFoundError) as caught:
            load("cifar10", tmp_path)
        for words in ("cifar10.npz", "cifar-10-batches-py", "torchvision and a network", "no route to host"):
            assert words in str(caught.value)

    def test_download_is_read_from_disk(self, tmp_path, monkeypatch):
        calls = []

        def fake_fetch(known, root):
            calls.append(known.name)
            write_mnist(root, "MNIST", pack=True)

        monkeypatch.setattr(loading_module, "fetch", fake_fetch)
        assert len(load("mnist", tmp_path).y_train) == 40
        assert len(load("mnist", tmp_path).y_train) == 40
        assert calls == ["mnist"]

    def test_unknown_name(self, tmp_path):
        with pytest.raises(ValueError, match=r"imagenet.*known are digits"):
            load("imagenet", tmp_path)

    @pytest.mark.parametrize("name", ["../secret", "a/b", "", None, ".hidden", "/" * 100_000])
    def test_a_path_is_no_name(self, tmp_path, name):
        with pytest.raises(ValueError, match="name=") as error:
            load(name, tmp_path)
        assert len(str(error.value)) < 300


def test_root_order(tmp_path, monkeypatch):
    for folder in ("argument", "variable", "cache/faultlines"):
        (tmp_path / folder).mkdir(parents=True)
        write_npz(tmp_path / folder, classes=np.array([folder, "b", "c"]))
    monkeypatch.setenv("FAULTLINES_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert load("mine", tmp_path / "argument").classes[0] == "argument"
    assert load("mine").classes[0] == "variable"
    monkeypatch.delenv("FAULTLINES_DATA")
    assert load("mine").classes[0] == "cache/faultlines"


@pytest.mark.parametrize("argument", ["n_train", "n_test"])
@pytest.mark.parametrize("n", [0, -1, 1.5, True, 10**6])
def test_bad_sizes(argument, n):
    with pytest.raises(ValueError, match=argument):
        load("digits", **{argument: n})


def test_subsets_are_balanced_seeded_and_nested():
    small, large = load("digits", n_train=100, seed=3), load("digits", n_train=203, seed=3)
    assert small.y_train.bincount().tolist() == [10] * 10
    assert torch.equal(small.x_train, large.x_train[:100])
    assert not torch.equal(small.x_train, load("digits", n_train=100, seed=4).x_train)
    assert torch.equal(load("digits", n_train=100, seed=4).x_test, load("digits").x_test)


def test_loading_from_disk_does_not_import_torchvision(tmp_path):
    write_mnist(tmp_path, "MNIST", pack=True)
    code = (
        "import sys; from faultlines.data import load, available; load('digits'); "
        f"load('mnist', {str(tmp_path)!r}); available({str(tmp_path)!r}); "
        "assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
