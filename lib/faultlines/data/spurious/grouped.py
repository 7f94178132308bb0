"""Images with class, background and foreground mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from faultlines.data.spurious.structure import LOCATIONS


@dataclass(frozen=True, repr=False, eq=False)
class GroupedImages:
    """Images whose nuisance is known.

    Attributes:
        x: Images, `[n, 3, height, width]`, float32 in [0, 1].
        y: Classes, `[n]`.
        c: Backgrounds, `[n]`: the confounder.
        environment: Training environment 0 or 1, `[n]`.
        mask: True where the foreground is, `[n, height, width]`; None where it is not known.
        backgrounds: Number of backgrounds there are, also of those that do not occur here.
        split: `"train"`, `"validation"` (of the training groups), `"ood_validation"` (of the test groups), `"test"`,
            or empty; a model may be chosen on a validation set alone.
    """

    x: Float[Tensor, "n 3 height width"]
    y: Int64[Tensor, " n"]
    c: Int64[Tensor, " n"]
    environment: Int64[Tensor, " n"]
    mask: Bool[Tensor, "n height width"] | None = None
    backgrounds: int = len(LOCATIONS)
    split: str = ""

    @property
    def group(self) -> Int64[Tensor, " n"]:
        """Number of class and background together, `y * backgrounds + c`."""
        return self.y * self.backgrounds + self.c

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: slice | Tensor) -> GroupedImages:
        """Return the images at a slice, at indices or where a mask is True."""
        return self._map(lambda tensor: tensor[index])

    def to(self, device: str | torch.device) -> GroupedImages:
        """Return the images on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> GroupedImages:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: change(v) if isinstance(v, Tensor) else v for name, v in values.items()}
        return GroupedImages(**changed)

    def __repr__(self) -> str:
        groups = len(self.group.unique())
        return f"GroupedImages({len(self)} images {' x '.join(map(str, self.x.shape[1:]))}, {groups} groups)"
