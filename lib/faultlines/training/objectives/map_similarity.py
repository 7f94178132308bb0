"""How alike two explanation maps of one image are."""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from faultlines.estimators.attribution.cam import normalize_map

Similarity = Literal["cosine", "centred_cosine", "mae", "ssim"]
Maps = Float[Tensor, "batch height width"]

EPS = 1e-4
"""Norm below which a map counts as empty. The gradient of a cosine grows as one over the norm, and a map holds a
logit divided by its number of cells: norms of trained networks are near one."""

WINDOW = 7  # side of the window of SSIM, or the map's own where that is smaller
C1, C2 = 0.01**2, 0.03**2  # of SSIM, for maps in [0, 1]


def map_similarity(
    a: Maps, b: Maps, kind: Similarity = "cosine", *, eps: float = EPS
) -> Float[Tensor, " batch"]:
    r"""Similarity of two maps of each image; 1 for equal maps, whatever the kind.

    - `"cosine"`: $\langle a, b \rangle / \lVert a \rVert \lVert b \rVert$; in [0, 1] for maps behind a ReLU.
    - `"centred_cosine"`: the same of the maps less their means (Pearson correlation).
    - `"mae"`: $1 - \operatorname{mean} |a - b|$ of the maps scaled to [0, 1].
    - `"ssim"`: mean structural similarity (Wang et al. 2004) of the maps scaled to [0, 1], uniform windows of
      7 cells, or as many as there are, population moments.

    An empty map (norm, or range, at most `eps`) has similarity 0 to every other under the cosines and counts
    as zero under the others; no gradient comes from it.

    Args:
        a: Maps.
        b: Maps of the same images.
        kind: See above.
        eps: Norm or range below which a map counts as empty.

    Raises:
        ValueError: If the kind is unknown or the shapes differ.

    Example:
        >>> import torch
        >>> a = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
        >>> b = torch.tensor([[[0.0, 0.0], [0.0, 5.0]]])
        >>> map_similarity(a, a).item(), map_similarity(a, b).item(), map_similarity(a, b, "mae").item()
        (1.0, 0.0, 0.5)
    """
    if kind not in get_args(Similarity):
        raise ValueError(f"similarity={kind!r} is not one of {get_args(Similarity)}")
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(
            f"maps have shapes {tuple(a.shape)} and {tuple(b.shape)}; both must be [batch, height, width]"
        )
    if kind in ("cosine", "centred_cosine"):
        if kind == "centred_cosine":
            a, b = (m - m.mean(dim=(1, 2), keepdim=True) for m in (a, b))
        a, b = (normalize_map(m, "l2", eps=eps) for m in (a, b))
        return (a * b).sum(dim=(1, 2))
    a, b = (normalize_map(m, "minmax", eps=eps) for m in (a, b))
    if kind == "mae":
        return 1 - (a - b).abs().mean(dim=(1, 2))
    return _ssim(a[:, None], b[:, None])


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    window = tuple(min(WINDOW, side) for side in a.shape[-2:])

    def mean(m: Tensor) -> Tensor:
        return F.avg_pool2d(m, window, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return (top / ((mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2))).mean(dim=(1, 2, 3))
