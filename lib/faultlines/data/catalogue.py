"""The data sets that have a name of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
