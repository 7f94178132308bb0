"""Objectives of domain generalisation: CORAL, MMD and DANN of features, IRM of the classifier, mixup of the images."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.models.attention import at_least_float
from faultlines.models.inference import logits_of
from faultlines.training.objectives.group_objective import (
    Clock,
    GroupBatch,
    GroupLoss,
    GroupObjective,
    GroupRun,
    LossAndTerms,
    check_pooled,
    pooled_features,
)
from faultlines.training.objectives.objective import check_number
from faultlines.training.seeding import seeded


def coral(a: Float[Tensor, "n k"], b: Float[Tensor, "m k"]) -> Float[Tensor, ""]:
    """Mean squared difference of the means plus that of the covariances, n and m at least 2.

    Example:
        >>> a = torch.tensor([[0.0, 1.0], [2.0, 3.0], [1.0, 0.0]])
        >>> coral(a, a).item(), round(coral(a, a + 1).item(), 4)
        (0.0, 1.0)
    """
    a, b = at_least_float(a), at_least_float(b)
    means = (a.mean(dim=0) - b.mean(dim=0)).square().mean()
    return means + (a.T.cov() - b.T.cov()).square().mean()


GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def mmd(a: Float[Tensor, "n k"], b: Float[Tensor, "m k"]) -> Float[Tensor, ""]:
    r"""Squared maximum mean discrepancy of two samples (Gretton et al. 2012, the biased estimate).

    The kernel is DomainBed's, $\sum_\gamma \exp(-\gamma \lVert u - v \rVert^2)$ over $\gamma = 10^{-3}, \dots, 10^3$.

    Example:
        >>> a = torch.tensor([[0.0, 1.0], [2.0, 3.0], [1.0, 0.0]])
        >>> mmd(a, a).item(), round(mmd(a, a + 100).item(), 4)
        (0.0, 8.0266)
    """
    a, b = at_least_float(a), at_least_float(b)

    def alike(u: Tensor, v: Tensor) -> Tensor:
        # by differences: from products of matrices, near features would lose their distance
        apart = torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist").square()
        return sum((torch.exp(-gamma * apart).mean() for gamma in GAMMAS), start=a.new_zeros(()))

    return alike(a, a) + alike(b, b) - 2 * alike(a, b)


@dataclass(frozen=True)
class _AlikeDomains(GroupObjective):
    """Cross-entropy plus a distance of the domains' features, the mean over pairs of domains.

    Args:
        coefficient: Weight of the distance.

    Raises:
        ValueError: If the coefficient is negative.
    """

    coefficient: float = 1.0

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)

    @staticmethod
    @abstractmethod
    def distance(a: Float[Tensor, "n k"], b: Float[Tensor, "m k"]) -> Float[Tensor, ""]:
        """Return the distance of the features of two domains, n and m at least 2."""

    def loss(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the sum and its terms; a domain of fewer than two samples is left out."""
        features, logits = pooled_features(model, batch.x)
        loss = F.cross_entropy(logits, batch.y)
        parts = [features[batch.domain == d] for d in batch.domain.unique()]
        pairs = list(combinations([part for part in parts if len(part) > 1], 2))
        apart = sum((self.distance(a, b) for a, b in pairs), start=torch.zeros_like(loss))
        penalty = apart / max(len(pairs), 1)
        return loss + self.coefficient * penalty, {
            "cross_entropy": loss,
            type(self).__name__.lower(): penalty,
        }


class CORAL(_AlikeDomains):
    """Cross-entropy plus the distance `coral` of the domains' features (Sun and Saenko 2016, as in DomainBed).

    Args:
        coefficient: Weight of the distance.

    Raises:
        ValueError: If the coefficient is negative.
    """

    distance = staticmethod(coral)


class MMD(_AlikeDomains):
    """Cross-entropy plus the distance `mmd` of the domains' features (Li et al. 2018, as in DomainBed).

    Args:
        coefficient: Weight of the distance.

    Raises:
        ValueError: If the coefficient is negative.
    """

    distance = staticmethod(mmd)


@dataclass(frozen=True)
class DANN(GroupObjective):
    r"""Cross-entropy on features from which a second network cannot tell the domain (Ganin et al. 2016).

    The second network, a perceptron on the pooled features, learns the domain. Its gradient reaches the features
    reversed, times `coefficient` $\cdot (2 / (1 + e^{-10 p}) - 1)$ at the share $p$ of the run, as in the paper.

    Args:
        coefficient: Weight of the reversed gradient at the end of the run.
        hidden: Width of the second network.

    Raises:
        ValueError: If the coefficient is negative, or the width no positive integer.
    """

    coefficient: float = 1.0
    hidden: int = 64

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)
        if not isinstance(self.hidden, int) or self.hidden < 1:
            raise ValueError(f"hidden={self.hidden!r} must be a positive integer")

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run, with a second network of its own."""
        domains = int(run.data.domain.max()) + 1

        def discriminator() -> nn.Module:
            width = check_pooled(run.make_model(run.classes)).head.in_features
            return nn.Sequential(nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, domains))

        made = seeded(discriminator, run.seed + DISCRIMINATOR_SEED)
        return DANNLoss(self.coefficient, made.to(run.data.y.device))


DISCRIMINATOR_SEED = 8_000_009  # added to the seed of a run: no network of the run starts from these draws


class DANNLoss(GroupLoss):
    """The loss of one run.

    Attributes:
        discriminator: From pooled features to a logit a domain; it is trained along.
    """

    def __init__(self, coefficient: float, discriminator: nn.Module) -> None:
        super().__init__()
        self.coefficient, self.discriminator = coefficient, discriminator

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the sum of both networks' cross-entropies, and the two."""
        features, logits = pooled_features(model, batch.x)
        weight = self.coefficient * (2 / (1 + math.exp(-10 * clock.progress)) - 1)
        # the value of the features, and minus their gradient
        reversed_ = (1 + weight) * features.detach() - weight * features
        loss = F.cross_entropy(logits, batch.y)
        told = F.cross_entropy(self.discriminator(reversed_), batch.domain)
        return loss + told, {"cross_entropy": loss, "domain": told}


@dataclass(frozen=True)
class IRM(GroupObjective):
    r"""Invariant risk minimisation, IRMv1 (Arjovsky et al. 2019).

    The penalty is the mean over domains $e$ of $\lVert \nabla_w R_e(w \cdot f) \rVert^2$ at $w = 1$. As in the
    authors' code it weighs 1 until the annealing ends, and the whole loss is divided by the weight where that
    is larger than 1, so that the size of a step stays.

    Args:
        coefficient: Weight of the penalty after the annealing.
        anneal: Share of the run before it.

    Raises:
        ValueError: If an argument is out of range.
    """

    coefficient: float = 10.0
    anneal: float = 0.5

    def __post_init__(self) -> None:
        check_number("coefficient", self.coefficient, low=0)
        check_number("anneal", self.anneal, low=0, high=1)

    def loss(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the sum, scaled, and its terms."""
        logits = logits_of(model(batch.x))
        risks, penalties = [], []
        for domain in batch.domain.unique():
            here = batch.domain == domain
            risks.append(F.cross_entropy(logits[here], batch.y[here]))
            penalties.append(irm_penalty(logits[here], batch.y[here]))
        loss, penalty = torch.stack(risks).mean(), torch.stack(penalties).mean()
        weight = self.coefficient if clock.progress >= self.anneal else 1.0
        return (loss + weight * penalty) / max(weight, 1.0), {"cross_entropy": loss, "irm": penalty}


def irm_penalty(logits: Float[Tensor, "n classes"], y: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    r"""Squared derivative of the mean cross-entropy in a common factor of the logits, at 1.

    The derivative is $\frac1n \sum_i \sum_k (p_{ik} - [y_i = k])\, s_{ik}$, so no second pass is needed.

    Example:
        >>> irm_penalty(torch.zeros(3, 4), torch.tensor([0, 1, 2])).item()
        0.0
    """
    logits = at_least_float(logits)
    residual = logits.softmax(dim=1) - F.one_hot(y, logits.shape[1])
    return (residual * logits).sum(dim=1).mean().square()


@dataclass(frozen=True)
class Mixup(GroupObjective):
    r"""Cross-entropy on $\mu x + (1 - \mu) x'$, $\mu \sim \mathrm{Beta}(\alpha, \alpha)$ (Zhang et al. 2018).

    A batch is mixed with itself in another order, with one $\mu$.

    Args:
        alpha: $\alpha > 0$; small values mix little.

    Raises:
        ValueError: If `alpha` is not positive.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, low=1e-6)

    def start(self, run: GroupRun) -> GroupLoss:
        """Return the loss of a run."""
        return MixupLoss(self.alpha, run.seed)


class MixupLoss(GroupLoss):
    """The loss of one run. Draws depend on seed and step alone, so that a run can be taken up anywhere."""

    def __init__(self, alpha: float, seed: int) -> None:
        super().__init__()
        self.alpha, self.seed = alpha, seed

    def forward(self, model: nn.Module, batch: GroupBatch, clock: Clock) -> LossAndTerms:
        """Return the loss, which is its own only term."""
        rng = np.random.default_rng([self.seed, clock.step])
        share = float(rng.beta(self.alpha, self.alpha))
        order = torch.as_tensor(rng.permutation(len(batch.y)), device=batch.y.device)
        logits = logits_of(model(share * batch.x + (1 - share) * batch.x[order]))
        loss = share * F.cross_entropy(logits, batch.y) + (1 - share) * F.cross_entropy(
            logits, batch.y[order]
        )
        return loss, {"cross_entropy": loss}
