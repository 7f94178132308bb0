"""eX2L (arXiv 2605.06368): a label classifier that looks elsewhere than a classifier of the confounder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.estimators.attribution.cam import Method, logits_and_maps
from faultlines.training.objectives.erm import ERM
from faultlines.training.objectives.group_objective import (
    Clock,
    GroupBatch,
    GroupLoss,
    GroupObjective,
    GroupRun,
    LossAndTerms,
)  # fmt: skip
from faultlines.training.objectives.map_similarity import EPS, Similarity, map_similarity
from faultlines.training.objectives.objective import check_number
from faultlines.training.seeding import seeded

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
        return EX2LLoss(self, confounder.to(run.data.x.device))


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
