"""Networks that end in features, their mean and a linear head, so that Grad-CAM at the features has a closed form."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.data.arrays import shown
from faultlines.models.pixel_normalization import IMAGENET_PIXELS, Normalize, Statistic
from faultlines.models.weight_files import one_line, read_state

DEPTHS = (18, 50)


class SmallCNN(nn.Module):
    r"""Four convolutions with batch norm and ReLU, global average pooling, a linear layer.

    Images are in $[0, 1]$; normalisation is the first step of `features`. The logits are
    `head(features(x).mean((2, 3)))`, so Grad-CAM at the features is a weighted sum of them
    (Selvaraju et al. 2017, section 3.1).

    With the default kernels and strides a feature sees 15 x 15 pixels: less than an animal of 32 pixels, so that its
    map can tell where evidence lies. A last kernel of 3 widens that to 23.

    Args:
        channels: Image channels.
        classes: Number of logits.
        width: Channels of the first convolution; the others have 2, 4 and 4 times as many.
        strides: Strides of the first three convolutions. `(2, 2, 1)` makes 16 x 16 maps of 64 x 64 images;
            `(2, 2, 2)` makes 8 x 8 maps at under half of the cost.
        last_kernel: 1 or 3, the kernel of the fourth convolution.
        mean: Channel means that the input is centred with.
        std: Channel standard deviations that the input is divided by.

    Raises:
        ValueError: If a size, a stride, the kernel or a statistic is out of range.

    Example:
        >>> model = SmallCNN(classes=4)
        >>> model(torch.rand(2, 3, 64, 64)).shape, model.features(torch.rand(2, 3, 64, 64)).shape
        (torch.Size([2, 4]), torch.Size([2, 64, 16, 16]))
        >>> model.receptive_field, SmallCNN(classes=4, last_kernel=3).receptive_field
        (15, 23)
    """

    def __init__(
        self,
        *,
        classes: int,
        channels: int = 3,
        width: int = 16,
        strides: Sequence[int] = (2, 2, 1),
        last_kernel: int = 1,
        mean: Statistic = 0.5,
        std: Statistic = 0.25,
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("classes", classes), ("width", width)):
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        strides = tuple(strides)
        if len(strides) != 3 or not all(stride in (1, 2) for stride in strides):
            raise ValueError(f"strides={strides} must be three numbers, each 1 or 2")
        if last_kernel not in (1, 3):
            raise ValueError(f"last_kernel={last_kernel} is not one of 1, 3")
        widths = (channels, width, 2 * width, 4 * width, 4 * width)
        kernels = (3, 3, 3, last_kernel)
        self.receptive_field = receptive_field(kernels, (*strides, 1))
        self.normalize = Normalize(channels, mean, std)
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for before, after, kernel, stride in zip(
                    widths[:-1], widths[1:], kernels, (*strides, 1), strict=True
                )
            )
        )
        self.head = nn.Linear(widths[-1], classes)

    def features(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature rows columns"]:
        """Return the last feature maps, at least 0."""
        return self.body(self.normalize(x))

    def forward(self, x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        return self.head(self.features(x).mean(dim=(2, 3)))


class ResNet(nn.Module):
    r"""A residual network on images in $[0, 1]$ that ends in pooled features and a new linear head.

    The logits are `head(features(x).mean((2, 3)))`, so Grad-CAM at the last block has a closed form. torchvision is
    imported when the first one is made. Nothing is ever downloaded.

    Args:
        classes: Number of logits.
        depth: 18 or 50.
        weights: A state dict under torchvision's names, read with `weights_only=True` or from safetensors;
            its classifier is left out. By default the network starts from random weights.
        dropout: Share of features dropped in training: whole maps, which is the same as dropout behind the pool.
        small_images: Start with a 3 x 3 convolution of stride 1 and no pool, as is usual below 100 pixels; maps then
            are an eighth of the image and not a thirty-second.

    Raises:
        ImportError: If torchvision is not installed.
        ValueError: If an argument is out of range, or the file is refused or does not fit.

    Example:
        >>> model = ResNet(classes=4, depth=18, small_images=True)
        >>> model.features(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 512, 4, 4])
    """

    def __init__(
        self,
        *,
        classes: int,
        depth: int = 50,
        weights: str | Path | None = None,
        dropout: float = 0.0,
        small_images: bool = False,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes={classes} must be at least 1")
        if depth not in DEPTHS:
            raise ValueError(f"depth={depth!r} is not one of {DEPTHS}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout!r} must lie in [0, 1)")
        if weights is not None and small_images:
            raise ValueError("weights are of the large first convolution; they need small_images=False")
        layers = _trunk(depth)
        if small_images:
            first = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            layers["conv1"] = first
            layers["maxpool"] = nn.Identity()
        self.normalize = Normalize(3, *IMAGENET_PIXELS)
        self.body = nn.Sequential(layers)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Linear({18: 512, 50: 2048}[depth], classes)
        if weights is not None:
            self._load(Path(weights))

    def features(
        self, x: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature rows columns"]:
        """Return the last block's maps, at least 0."""
        return self.dropout(self.body(self.normalize(x)))

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return logits."""
        return self.head(self.features(x).mean(dim=(2, 3)))

    def _load(self, path: Path) -> None:
        try:
            state = {name: v for name, v in read_state(path).items() if not name.startswith("fc.")}
        except ValueError as error:
            raise ValueError(
                f"weights: {error}; without `weights` the network starts from random ones"
            ) from None
        try:
            self.body.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"weights={shown(str(path), 200)} does not fit: {one_line(error)}") from error


def _trunk(depth: int) -> OrderedDict[str, nn.Module]:
    try:
        from torchvision.models import resnet
    except ImportError as error:
        raise ImportError(
            "ResNet takes its layers from torchvision; install the release that belongs to torch "
            f"{torch.__version__}"
        ) from error
    network = {18: resnet.resnet18, 50: resnet.resnet50}[depth](weights=None)
    return OrderedDict((name, m) for name, m in network.named_children() if name not in ("avgpool", "fc"))


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many pixels across one output of a stack of convolutions sees.

    Example:
        >>> receptive_field([3, 3], [2, 1])
        7
    """
    field, jump = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field, jump = field + (kernel - 1) * jump, jump * stride
    return field
