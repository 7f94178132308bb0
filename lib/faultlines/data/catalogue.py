"""What data sets there are: those with a name of their own, those a user brought, and which are on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faultlines.data.arrays import KEYS, npz_headers, npz_image_shape, npz_n_classes, shown
from faultlines.data.torchvision_layout import find_cifar, find_idx

Source = Literal["embedded", "npz", "torchvision"]

_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip


@dataclass(frozen=True)
class KnownSet:
    """What is known of a data set before it is read.

    Attributes:
        name: The name that `load` takes.
        form: `"embedded"` comes with scikit-learn; `"idx"` and `"cifar"` are torchvision's layouts.
        folder: torchvision's folder under the root; empty for an embedded set.
        torchvision: Name of torchvision's class; empty for an embedded set.
        classes: Class names.
        image_shape: Channel, height, width.
        n_train: Training images in the original.
        n_test: Test images in the original.
        download_mb: Megabytes to download.
    """

    name: str
    form: Literal["embedded", "idx", "cifar"]
    folder: str
    torchvision: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    n_train: int
    n_test: int
    download_mb: int


KNOWN = {
    known.name: known
    for known in (
        KnownSet("digits", "embedded", "", "", _DIGITS, (1, 8, 8), 1297, 500, 0),
        KnownSet(
            "fashion_mnist",
            "idx",
            "FashionMNIST/raw",
            "FashionMNIST",
            _FASHION,
            (1, 28, 28),
            60000,
            10000,
            31,
        ),
        KnownSet("mnist", "idx", "MNIST/raw", "MNIST", _DIGITS, (1, 28, 28), 60000, 10000, 12),
        KnownSet(
            "cifar10", "cifar", "cifar-10-batches-py", "CIFAR10", _CIFAR10, (3, 32, 32), 50000, 10000, 170
        ),
        KnownSet(
            "cifar100", "cifar", "cifar-100-python", "CIFAR100", _CIFAR100, (3, 32, 32), 50000, 10000, 169
        ),
    )
}


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Return the data folder: the argument, else `FAULTLINES_DATA`, else the user's cache folder.

    Args:
        root: The folder, when the caller names one.

    Returns:
        The folder, which need not exist.
    """
    if root is not None:
        return Path(root).expanduser()
    if named := os.environ.get("FAULTLINES_DATA"):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "faultlines"


def locate(name: str, root: Path) -> tuple[Source, Path] | None:
    """Return how and where a data set lies on disk, or None.

    Args:
        name: Name of the data set, not an embedded one.
        root: The data folder.

    Returns:
        `("npz", file)` or `("torchvision", folder)`.
    """
    if (path := root / f"{name}.npz").is_file():
        return "npz", path
    known = KNOWN.get(name)
    if known is not None:
        folder = root / known.folder
        found = find_idx(folder) if known.form == "idx" else find_cifar(folder, name)
        if found is not None:
            return "torchvision", folder
    return None


def how_to_get(name: str, root: Path) -> str:
    """Say the ways in which a data set can come to be under `root`."""
    known = KNOWN.get(name)
    npz = f"put {root / name}.npz there (uint8 x_train, y_train, x_test, y_test)"
    if known is None:
        return npz
    if known.form == "embedded":
        return "comes with scikit-learn"
    return (
        f"{npz}; or torchvision's files in {root / known.folder}; or let faultlines.data.load({name!r}) "
        f"download them ({known.download_mb} MB; needs torchvision and a network)"
    )


def image_shape(name: str, root: str | os.PathLike | None = None) -> tuple[int, int, int]:
    """Return channel, height and width of a data set's images, without reading them.

    Of a known name it is what the original has (which `load` insists on), whether the files are here or not; of an
    `.npz` under another name it is read from the headers of its arrays.

    Args:
        name: The name that `load` takes.
        root: The data folder; by default `FAULTLINES_DATA`, else `~/.cache/faultlines`.

    Raises:
        ValueError: If there is no such data set, or its file cannot be read.

    Example:
        >>> image_shape("digits"), image_shape("cifar10")
        ((1, 8, 8), (3, 32, 32))
    """
    if name in KNOWN:
        return KNOWN[name].image_shape
    path = _brought(name, root)
    return npz_image_shape(npz_headers(path), path)


def n_classes(name: str, root: str | os.PathLike | None = None) -> int:
    """Return the number of classes of a data set, without reading its images.

    Args:
        name: The name that `load` takes.
        root: The data folder; by default `FAULTLINES_DATA`, else `~/.cache/faultlines`.

    Raises:
        ValueError: If there is no such data set, or its file cannot be read.

    Example:
        >>> n_classes("digits"), n_classes("cifar100")
        (10, 100)
    """
    if name in KNOWN:
        return len(KNOWN[name].classes)
    path = _brought(name, root)
    return npz_n_classes(npz_headers(path), path)


def check_name(name: object) -> str:
    """Refuse what is no plain name of a data set.

    Raises:
        ValueError: If it is no string, or could lead out of the data folder.
    """
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,199}", name):
        raise ValueError(f"name={shown(name)} must be a plain name; known: {', '.join(KNOWN)}")
    return name


def unknown(name: str, root: Path) -> ValueError:
    """Return the error for a name that is neither known nor that of a file."""
    return ValueError(
        f"name={shown(name)} is no data set: known are {', '.join(KNOWN)}. To bring your own, "
        f"{how_to_get(name, root)}"
    )


def _brought(name: str, root: str | os.PathLike | None) -> Path:
    folder = data_root(root)
    found = locate(check_name(name), folder)
    if found is None:
        raise unknown(name, folder)
    return found[1]


@dataclass(frozen=True)
class Availability:
    """Whether a data set can be loaded now.

    Attributes:
        name: The name that `load` takes.
        source: `"embedded"`, `"npz"`, `"torchvision"`, or None where it is not on disk.
        path: The file or folder it was found in.
        n_train: Training images: found, or in the original where nothing was found.
        n_test: Test images.
        image_shape: Channel, height, width.
        size: Bytes on disk; 0 where nothing was found.
        how: How to get it.
    """

    name: str
    source: Source | None
    path: Path | None
    n_train: int
    n_test: int
    image_shape: tuple[int, int, int]
    size: int
    how: str


def available(root: str | os.PathLike | None = None) -> list[Availability]:
    """Survey the known data sets and every `.npz` data set under `root`; reads no images, downloads nothing.

    Args:
        root: The data folder; by default `FAULTLINES_DATA`, else `~/.cache/faultlines`.

    Returns:
        One entry a data set: the known ones first, then those the user brought, by name. An `.npz` that is no
        data set is left out.

    Example:
        >>> [entry.name for entry in available("/nonexistent") if entry.source]
        ['digits']
    """
    folder = data_root(root)
    brought = sorted({path.stem for path in folder.glob("*.npz")} - set(KNOWN)) if folder.is_dir() else []
    entries = (_survey(name, folder) for name in [*KNOWN, *brought])
    return [entry for entry in entries if entry is not None]


def _survey(name: str, root: Path) -> Availability | None:
    known, how = KNOWN.get(name), how_to_get(name, root)
    if known is not None and known.form == "embedded":
        return _of_known(known, None, how)
    found = locate(name, root)
    if found is None:
        return None if known is None else _of_known(known, None, how)
    source, path = found
    if source == "torchvision":
        return None if known is None else _of_known(known, found, how)
    try:
        headers = npz_headers(path)
        shape = npz_image_shape(headers, path)
        n_train, n_test = (headers[key].shape[0] for key in ("x_train", "x_test"))
        if any(key not in headers for key in KEYS):
            return None
    except (ValueError, LookupError):
        # of a known name: worth showing as missing; of any other: some .npz that is not ours
        return None if known is None else _of_known(known, None, f"{path} is damaged; {how}")
    return Availability(name, "npz", path, n_train, n_test, shape, path.stat().st_size, how)


def _of_known(known: KnownSet, found: tuple[Source, Path] | None, how: str) -> Availability:
    """Return what the catalogue tells of a known set: embedded, in torchvision's folder, or not here."""
    source: Source | None = None
    path, size = None, 0
    if known.form == "embedded":
        source = "embedded"
    elif found is not None:
        source, path = found
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return Availability(known.name, source, path, known.n_train, known.n_test, known.image_shape, size, how)


@dataclass(frozen=True)
class FolderSet:
    """Whether a folder of pictures is there.

    Attributes:
        name: Its name.
        loader: The function that reads it.
        path: The folder, or None where it is not there.
        how: Where it was looked for and how to get it; empty where it is there.
    """

    name: str
    loader: str
    path: Path | None
    how: str


def folder_sets(root: str | os.PathLike | None = None) -> list[FolderSet]:
    """Look for Spawrious and Waterbirds; reads no pictures, so that only their loaders know whether all are there.

    Args:
        root: The data folder; by default `FAULTLINES_DATA`, else `~/.cache/faultlines`.

    Returns:
        One entry a data set.

    Example:
        >>> [(entry.name, entry.path) for entry in folder_sets("/nonexistent")]
        [('spawrious', None), ('waterbirds', None)]
    """
    # their loaders bring torch along, which the rest of the catalogue does without
    from faultlines.data.spawrious import find_spawrious
    from faultlines.data.waterbirds import find_waterbirds

    looked: dict[str, Callable[..., Path]] = {"spawrious": find_spawrious, "waterbirds": find_waterbirds}
    found = []
    for name, look in looked.items():
        try:
            path, how = look(root), ""
        except FileNotFoundError as error:
            path, how = None, str(error)
        found.append(FolderSet(name, f"faultlines.data.load_{name}", path, how))
    return found
