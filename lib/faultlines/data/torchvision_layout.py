"""torchvision's folders, found, fetched and read: the idx files of the MNIST family and CIFAR's batches.

CIFAR's batches are pickles, and a pickle is a program: loading one calls whatever it names. These need one array of
bytes and lists of numbers and strings, so the reader below lets a pickle name four things, and gives it inert
stand-ins of ours for them in place of numpy's constructors. Any other name is refused before anything is called.
"""

from __future__ import annotations

import gzip
import pickle
import socket
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faultlines.data.arrays import KEYS, Arrays

if TYPE_CHECKING:
    from faultlines.data.catalogue import KnownSet

IDX_PARTS = {"train": "train", "test": "t10k"}
BATCHES = {
    "cifar10": (tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",), "labels"),
    "cifar100": (("train",), ("test",), "fine_labels"),
}
PATIENCE = 30  # seconds without a byte after which a network counts as absent


def read_idx(path: Path) -> np.ndarray:
    """Read one idx file of unsigned bytes, gzipped or not.

    Args:
        path: File named `*.gz` or unpacked.

    Returns:
        The array in its own shape, uint8.

    Raises:
        ValueError: If the header is not that of unsigned bytes, or the file is truncated or damaged.
    """
    try:
        blob = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it to have it fetched again") from error
    if len(blob) < 4 or blob[:3] != b"\0\0\x08" or len(blob) < 4 + 4 * blob[3]:
        raise ValueError(f"{path} is no idx file of unsigned bytes: it starts with {blob[:4].hex(' ')!r}")
    shape = tuple(np.frombuffer(blob, ">u4", count=blob[3], offset=4).tolist())
    data = np.frombuffer(blob, np.uint8, offset=4 + 4 * len(shape))
    if data.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} is truncated: shape {shape} in its header, {data.size} bytes of data")
    return data.reshape(shape)


def find_idx(folder: Path) -> dict[str, Path] | None:
    """Return the four files of torchvision's `raw` folder, packed or not, or None if one is missing."""
    found = {}
    for part, prefix in IDX_PARTS.items():
        for key, kind in ((f"x_{part}", "images-idx3-ubyte"), (f"y_{part}", "labels-idx1-ubyte")):
            candidates = (folder / f"{prefix}-{kind}", folder / f"{prefix}-{kind}.gz")
            path = next((path for path in candidates if path.is_file()), None)
            if path is None:
                return None
            found[key] = path
    return found


def read_idx_folder(folder: Path) -> Arrays:
    """Read torchvision's `raw` folder of the MNIST family.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    found = find_idx(folder)
    if found is None:
        raise ValueError(f"{folder} lacks one of the four idx files of the MNIST family")
    x_train, y_train, x_test, y_test = (read_idx(found[key]) for key in KEYS)
    return Arrays(x_train, y_train, x_test, y_test)


class _StoredType:
    """Stands in for `numpy.dtype`: remembers the name, ignores the rest."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        del state


class _StoredArray:
    """Stands in for an `ndarray` under reconstruction: keeps shape, type, order and bytes."""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def read(self) -> np.ndarray:
        """Return the array, when it is one of unsigned bytes.

        Raises:
            ValueError: If it is of another type, or shape and length disagree.
        """
        name = getattr(self.dtype, "name", None)
        if name not in ("u1", "|u1", "uint8"):
            raise ValueError(f"an array of dtype {name!r}, not uint8")
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        return np.frombuffer(data, np.uint8).reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(*_: object) -> _StoredArray:
    return _StoredArray()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): object(),  # only ever an argument
    ("numpy", "dtype"): _StoredType,
    ("_codecs", "encode"): _encode,
}


class _DataOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image batch needs") from None


def read_batch(path: Path) -> dict[str, Any]:
    """Read one CIFAR batch as plain data.

    Args:
        path: A file of `cifar-10-batches-py` or `cifar-100-python`.

    Returns:
        Its dictionary, with arrays of unsigned bytes as `ndarray`.

    Raises:
        ValueError: If the file is damaged or asks for anything but a byte array, lists, numbers and strings.
    """
    try:
        with path.open("rb") as file:
            batch = _DataOnly(file, encoding="latin1").load()
        if not isinstance(batch, dict):
            raise ValueError(f"it holds a {type(batch).__name__}, not a dictionary")
        return {
            key: value.read() if isinstance(value, _StoredArray) else value for key, value in batch.items()
        }
    # a hostile or damaged pickle can make the machine raise nearly anything; none of it is ours
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a CIFAR batch: {error}") from error


def find_cifar(folder: Path, name: str) -> list[Path] | None:
    """Return the batch files of torchvision's layout, or None if one is missing."""
    train, test, _ = BATCHES[name]
    paths = [folder / batch for batch in train + test]
    return paths if all(path.is_file() for path in paths) else None


def read_cifar_folder(folder: Path, name: str) -> Arrays:
    """Read `cifar-10-batches-py` or `cifar-100-python`.

    Raises:
        ValueError: If a batch is missing, damaged or not plain data.
    """
    if find_cifar(folder, name) is None:
        raise ValueError(f"{folder} lacks one of the batches of {name}")
    train, test, label_key = BATCHES[name]
    arrays = {}
    for part, names in (("train", train), ("test", test)):
        images, labels = [], []
        for batch_name in names:
            batch = read_batch(folder / batch_name)
            data, y = batch.get("data"), batch.get(label_key)
            if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
                raise ValueError(f"{folder / batch_name}: 'data' is no [n, 3072] array")
            if not isinstance(y, list) or not all(type(label) is int for label in y):
                raise ValueError(f"{folder / batch_name}: {label_key!r} is no list of integers")
            images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(np.array(y, dtype=np.int64))
        arrays[f"x_{part}"], arrays[f"y_{part}"] = np.concatenate(images), np.concatenate(labels)
    x_train, y_train, x_test, y_test = (arrays[key] for key in KEYS)
    return Arrays(x_train, y_train, x_test, y_test)


def download(known: KnownSet, root: Path) -> None:
    """Fetch a data set into torchvision's layout under `root`; all of it or nothing.

    Args:
        known: A data set of form `"idx"` or `"cifar"`.
        root: The data folder; made when it does not exist.

    Raises:
        ImportError: If torchvision does not import.
        OSError: If the network or the disk fails.
        RuntimeError: If torchvision finds a wrong checksum.
    """
    # a torchvision that does not fit its torch fails with RuntimeError at import
    try:
        from torchvision import datasets
        from torchvision.datasets.utils import download_and_extract_archive
    except Exception as error:
        raise ImportError(f"torchvision does not import ({error})") from error

    source = getattr(datasets, known.torchvision)
    root.mkdir(parents=True, exist_ok=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        # beside, then renamed: a broken-off download never stands where a whole one is looked for
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as partial:
            if known.form == "idx":
                source(partial, download=True)
            else:  # not its constructor, which would unpickle the batches
                download_and_extract_archive(
                    source.url, partial, filename=source.filename, md5=source.tgz_md5
                )
            target = root / known.folder
            target.mkdir(parents=True, exist_ok=True)
            for path in (Path(partial) / known.folder).iterdir():
                path.replace(target / path.name)
    finally:
        socket.setdefaulttimeout(patience)
