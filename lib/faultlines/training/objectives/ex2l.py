"""Penalties on Grad-CAM maps: eX2L (arXiv 2605.06368), and the upper reference that knows the foreground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.estimators.attribution.cam import Method, logits_and_maps, normalize_map
from faultlines.models.attention import at_least_float
from faultlines.training.objectives.group_objective import (
    Clock,
    GroupBatch,
    GroupLoss,
    GroupObjective,
    GroupRun,
    LossAndTerms,
)
from faultlines.training.objectives.objective import check_number
from faultlines.training.objectives.reweighting import ERM
from faultlines.training.seeding import seeded

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
    a, b = at_least_float(a), at_least_float(b)
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


Stop = Literal["none", "confounder", "label"]
Control = Literal["none", "shuffled", "constant", "frozen", "untrained", "centring", "losses"]

CONFOUNDER_SEED = (
    1_000_003  # added to the run's seed: the two networks start apart, and ERM's start is the label's
)


@dataclass(frozen=True)
class EX2L(GroupObjective):
    r"""Two cross-entropies plus the similarity of the two classifiers' Grad-CAM maps.

    $$L = \mathrm{CE}(f_Y(x), y) + \mathrm{CE}(f_C(x), c)
      + \lambda\, \operatorname{mean} S\bigl(M_Y^y(x), M_C^c(x)\bigr)$$

    with two whole networks that meet in the penalty alone. The paper's formula was not readable: that there
    are two networks trained side by side and a penalty on the similarity of their Grad-CAM maps is its
    abstract's; the similarity, the target classes, the schedule and where gradients stop are options here.

    Controls take away one reason each why the penalty may work:

    - `"shuffled"`: the map of the next image of the batch stands for the confounder's map;
    - `"constant"`: a map of ones does, and no second network is trained;
    - `"frozen"`: the confounder's classifier is trained before, alone, and does not change;
    - `"untrained"`: it keeps its initial weights;
    - `"losses"`: both losses, no penalty;
    - `"centring"`: as `"losses"`, the label's cross-entropy on centred logits.

    Args:
        coefficient: $\lambda$ after warm-up and ramp.
        similarity: See `map_similarity`.
        stop: Which classifier's map is held constant in the penalty: `"none"`, `"confounder"` or `"label"`.
        center: Whether maps are those of the centred logits; see `logits_and_maps`.
        relu: Whether maps hold positive evidence only.
        warmup: Share of the run without penalty.
        ramp: Share of the run over which the weight then rises.
        control: See above.
        layer: Name of the layer that is mapped; by default what `features` returns.
        method: `"closed"`, `"autograd"` or `"auto"`; see `logits_and_maps`.
        eps: Norm below which a map counts as empty.

    Raises:
        ValueError: If an argument is out of range.
    """

    coefficient: float = 1.0
    similarity: Similarity = "cosine"
    stop: Stop = "none"
    center: bool = False
    relu: bool = True
    warmup: float = 0.15
    ramp: float = 0.15
    control: Control = "none"
    layer: str | None = None
    method: Method = "auto"
    eps: float = EPS

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)
        check_number("warmup", self.warmup, low=0, high=1)
        check_number("ramp", self.ramp, low=0, high=1)
        check_number("eps", self.eps, low=0)
        for name, allowed in (
            ("similarity", Similarity),
            ("stop", Stop),
            ("control", Control),
            ("method", Method),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {get_args(allowed)}")

    def start(self, run: GroupRun) -> EX2LLoss:
        """Return the loss of a run, with a confounder classifier of its own where one is needed."""
        if self.control == "constant":
            return EX2LLoss(self, None)
        if self.control == "frozen":
            return EX2LLoss(self, run.fit(ERM(label="c"), 1.0))
        confounder = seeded(lambda: run.make_model(run.confounders), run.seed + CONFOUNDER_SEED)
        return EX2LLoss(self, confounder.to(run.data.y.device))


class EX2LLoss(GroupLoss):
    """The loss of one run.

    Attributes:
        confounder: The confounder's classifier; None under the control `"constant"`.
    """

    def __init__(self, options: EX2L, confounder: nn.Module | None) -> None:
        super().__init__()
        self.options, self.confounder = options, confounder
        self.fixed = options.control in ("frozen", "untrained")
        if self.fixed and confounder is not None:
            confounder.requires_grad_(False)

    def train(self, mode: bool = True) -> EX2LLoss:
        """Set the mode; a classifier that is not trained stays in evaluation mode."""
        super().train(mode)
        if self.fixed and self.confounder is not None:
            self.confounder.eval()
        return self

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the sum and its terms.

        `similarity` is the penalty without its weight, `empty` the share of images whose label map is empty:
        the similarity is 0 there, and no sign that the network looks elsewhere.
        """
        o = self.options
        weight = clock.weight(o.coefficient, warmup=o.warmup, ramp=o.ramp)
        if o.control in ("losses", "centring"):
            weight = 0.0
        own_logits, own = self._look(model, batch, batch.y, weight > 0 and o.stop != "label")
        if o.control == "centring":
            own_logits = own_logits - own_logits.mean(dim=1, keepdim=True)
        loss = F.cross_entropy(own_logits, batch.y)
        terms = {"cross_entropy": loss}
        if self.confounder is None:
            other = torch.ones_like(own)
        else:
            follow = weight > 0 and o.stop != "confounder" and not self.fixed
            other_logits, other = self._look(self.confounder, batch, batch.c, follow)
            terms["confounder_cross_entropy"] = F.cross_entropy(other_logits, batch.c)
            if not self.fixed:
                loss = loss + terms["confounder_cross_entropy"]
            if o.control == "shuffled":
                other = other.roll(1, dims=0)
        alike = map_similarity(own, other, o.similarity, eps=o.eps)
        terms["similarity"] = alike.mean()
        terms["empty"] = (own.detach().flatten(1).norm(dim=1) <= o.eps).float().mean()
        return (loss + weight * terms["similarity"] if weight else loss), terms

    def _look(
        self, model: nn.Module, batch: GroupBatch, target: Tensor, follow: bool
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch height width"]]:
        o = self.options
        return logits_and_maps(
            model, batch.x, target, layer=o.layer, relu=o.relu, center=o.center, method=o.method,
            create_graph=follow,
        )  # fmt: skip


@dataclass(frozen=True)
class MaskOracle(GroupObjective):
    """Cross-entropy plus the share of the label's Grad-CAM map that lies outside the known foreground.

    After Ross et al. (2017), who penalise input gradients outside a mask. It uses what no method in the
    comparison may use, and stands for what penalising the right places can give.

    Args:
        coefficient: Weight of the penalty after warm-up and ramp.
        center: Whether maps are those of the centred logits; see `logits_and_maps`.
        warmup: Share of the run without penalty.
        ramp: Share of the run over which the weight then rises.

    Raises:
        ValueError: If an argument is out of range.
    """

    coefficient: float = 1.0
    center: bool = True
    warmup: float = 0.15
    ramp: float = 0.15

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)
        check_number("warmup", self.warmup, low=0, high=1)
        check_number("ramp", self.ramp, low=0, high=1)

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run.

        Raises:
            ValueError: If the data have no masks.
        """
        if run.data.mask is None:
            raise ValueError("MaskOracle needs data with foreground masks; these have mask=None")
        return super().start(run)

    def loss(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the sum and its terms."""
        if batch.mask is None:
            raise ValueError("MaskOracle needs batches with foreground masks; this one has mask=None")
        logits, maps = logits_and_maps(model, batch.x, batch.y, center=self.center, create_graph=True)
        loss = F.cross_entropy(logits, batch.y)
        outside = outside_share(maps, batch.mask).mean()
        weight = clock.weight(self.coefficient, warmup=self.warmup, ramp=self.ramp)
        return loss + weight * outside, {"cross_entropy": loss, "outside": outside}


def outside_share(
    maps: Float[Tensor, "batch height width"], mask: Float[Tensor, "batch rows columns"]
) -> Float[Tensor, " batch"]:
    """Share of each map's mass outside the mask, which is averaged down to the map's cells; 0 for an empty map.

    Example:
        >>> import torch
        >>> outside_share(torch.ones(1, 2, 2), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])).item()
        0.5
    """
    inside = F.adaptive_avg_pool2d(mask[:, None].to(maps), (maps.shape[-2], maps.shape[-1]))[:, 0]
    return (normalize_map(maps, "l1") * (1 - inside)).sum(dim=(1, 2))
