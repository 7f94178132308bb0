"""ResNet-18 and ResNet-50 (He et al. 2016) from torchvision, with ImageNet weights from a file where there is one."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.models.small_cnn import Normalize
from faultlines.models.weight_files import IMAGENET_PIXELS, read_state

DEPTHS = (18, 50)


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
            layers["conv1"] = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(layers["conv1"].weight, mode="fan_out", nonlinearity="relu")
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
        if not path.is_file():
            raise ValueError(f"weights={str(path)!r} is no file; leave it out to start from random weights")
        state = {name: v for name, v in read_state(path).items() if not name.startswith("fc.")}
        try:
            self.body.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"weights={str(path)!r} does not fit: {error}") from error


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
