"""Whose explanations give way, and to what: attacks on them beside noise of the same size, network by network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines.attacks.explanation.attack import ExplanationNoise, ExplanationPGD, ExplanationResult
from faultlines.attacks.explanation.criteria import Criterion
from faultlines.attacks.explanation.objective import Explain
from faultlines.estimators.similarity import (
    average_ranks,
    cosine,
    kendall_tau,
    spearman,
    topk_intersection,
)
from faultlines.models.inference import predictions

Likeness = dict[str, Float[Tensor, " image"]]


@dataclass(frozen=True)
class ExplanationOutcome:
    """One network's explanations under one attack, and under noise.

    Attributes:
        attacked: Likeness of each image's map to its clean one, by measure, at the attack's worst point.
        noisy: The same at the worst of the random points.
        score: The attack's own score, image by image.
        kept_share: Share of the points the attack visited that kept the prediction, mean over images.
        others: Mean rank correlation of each clean map with those of the other images, see `likeness_of_others`.
        same_class: The same over the other images of its class; NaN where there is none.
    """

    attacked: Likeness
    noisy: Likeness
    score: Float[Tensor, " image"]
    kept_share: float
    others: Float[Tensor, " image"]
    same_class: Float[Tensor, " image"]

    def corrected(self, *, noise: bool = False) -> float:
        r"""Return chance-corrected robustness, $1 - (1 - a) / (1 - o)$.

        Here $a$ is the rank correlation left by the attack, or by noise, and $o$ that between maps of different
        images, both means over images. It is 1 where the perturbation changes nothing, and 0 where a perturbed map
        is as far from the clean one as that of another image. One minus it is the share lost. Maps that are all the
        same have nothing to lose or keep: NaN.
        """
        left = float((self.noisy if noise else self.attacked)["spearman"].mean())
        chance = float(self.others.mean())
        return 1 - (1 - left) / (1 - chance) if chance < 1 else float("nan")


def explanation_likeness(
    maps: Float[Tensor, "image height width"], clean: Float[Tensor, "image height width"], *, k: int
) -> Likeness:
    """Return rank, top-k and direction measures of likeness: 1 for equal maps, 0 for one with nothing to compare.

    A constant map has no ranks, and a zero map no direction: where a measure is not defined the likeness is 1 if both
    maps are equal, and else 0, a map lost.

    Args:
        maps: Maps after a perturbation.
        clean: Maps before it.
        k: Pixels of the top-k intersection.

    Returns:
        `spearman`, `kendall`, `top-k`, `cosine`, and `centred`, the cosine after each map's mean is taken off.

    Example:
        >>> a, b = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 2.0], [4.0, 3.0]]])
        >>> {name: round(value.item(), 2) for name, value in explanation_likeness(a, b, k=1).items()}
        {'spearman': 0.8, 'kendall': 0.67, 'top-k': 0.0, 'cosine': 0.97, 'centred': 0.8}
    """
    found = {
        "spearman": spearman(maps, clean),
        "kendall": kendall_tau(maps, clean),
        "top-k": topk_intersection(maps, clean, k),
        "cosine": cosine(maps, clean),
        "centred": cosine(maps, clean, centre=True),
    }
    same = (maps == clean).flatten(1).all(dim=1).to(maps.dtype)
    return {name: torch.where(value.isnan(), same, value) for name, value in found.items()}


def likeness_of_others(
    maps: Float[Tensor, "image height width"], y: Int64[Tensor, " image"]
) -> tuple[Float[Tensor, " image"], Float[Tensor, " image"]]:
    """Return how alike maps of different images are: each map's mean Spearman correlation with the others.

    A map that hardly depends on its image is steady under every attack, and explains nothing: this is the level that
    robustness has to be measured from. A constant map has no ranks: it is like an equal one, 1, and like no other, 0.

    Args:
        maps: Clean maps, at least two.
        y: The classes explained.

    Returns:
        The mean over all other images, and that over the others of the same class, NaN where there is none.

    Raises:
        ValueError: If there are fewer than two maps, or not one class a map.

    Example:
        >>> ramp = torch.arange(4.0).view(1, 2, 2)
        >>> everyone, alike = likeness_of_others(torch.cat([ramp, 3 * ramp, -ramp]), torch.tensor([0, 0, 1]))
        >>> [round(v, 3) for v in everyone.tolist()], [round(v, 3) for v in alike.tolist()]
        ([0.0, 0.0, -1.0], [1.0, 1.0, nan])
    """
    n = len(maps)
    if n < 2 or y.shape != (n,):
        raise ValueError(
            f"maps and y have {n} and {tuple(y.shape)}; need at least two maps, and a class for each"
        )
    ranks = average_ranks(maps.flatten(1))
    ranks = ranks - ranks.mean(dim=1, keepdim=True)
    norms = ranks.norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, ranks / norms, 0.0)
    pairs = (unit @ unit.T).clamp(-1, 1)
    constant, level = norms == 0, maps.flatten(1)[:, :1]
    pairs = torch.where(constant & constant.T & (level == level.T), 1.0, pairs)
    different = ~torch.eye(n, dtype=torch.bool, device=maps.device)
    alike = different & (y[:, None] == y[None])
    return cast(
        tuple[Tensor, Tensor],
        tuple(((pairs * mask).sum(dim=1) / mask.sum(dim=1)).to(maps.dtype) for mask in (different, alike)),
    )


def explanation_outcome(
    model: Callable[[Tensor], Tensor],
    x: Float[Tensor, "image channel height width"],
    y: Int64[Tensor, " image"],
    explain: Explain,
    criterion: str | Criterion,
    *,
    eps: float,
    steps: int,
    k: int,
    beta: float | None = 30.0,
    draws: int | None = None,
    seed: int = 0,
) -> ExplanationOutcome:
    """Attack the explanations of a batch in the maximum norm while predictions stay, and set noise beside it.

    Args:
        model: The network, in evaluation mode.
        x: Images in [0, 1].
        y: The classes explained.
        explain: A differentiable explanation, as `ExplanationPGD` takes it.
        criterion: What the attack lowers.
        eps: Radius in pixels.
        steps: Gradient steps of the attack.
        k: Pixels of the top-k intersection.
        beta: Softplus of the surrogate in the attack's gradient; without effect where no ReLU runs.
        draws: Random points that the noise is the worst of; as many as the attack has steps by default.
        seed: Of the attack's random start and of the noise.

    Raises:
        ValueError: If a setting is out of range, or the explanation cannot be differentiated.

    Example:
        >>> from functools import partial
        >>> from faultlines.estimators import attribute
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> x, explain = torch.rand(2, 1, 4, 4), partial(attribute, create_graph=True)
        >>> found = explanation_outcome(model, x, torch.tensor([0, 1]), explain, "spearman", eps=0.1, steps=3, k=4)
        >>> found.attacked["spearman"].tolist()  # a linear network's gradient does not depend on the image
        [1.0, 1.0]
    """
    attack = ExplanationPGD(explain, criterion, eps=eps, steps=steps, surrogate_beta=beta)
    noise = ExplanationNoise(explain, criterion, eps=eps, draws=steps if draws is None else draws)
    found, random = (
        run(model, x, y, generator=torch.Generator(x.device).manual_seed(seed)) for run in (attack, noise)
    )
    share = found.kept_share.nanmean()
    clean = found.clean_explanation.detach()
    others, same_class = (
        likeness_of_others(clean, y) if len(y) > 1 else [torch.full((len(y),), torch.nan)] * 2
    )
    return ExplanationOutcome(
        _likeness(found, k),
        _likeness(random, k),
        found.score.detach().cpu(),
        float(torch.where(share.isnan(), 1.0, share)),
        others.cpu(),
        same_class.cpu(),
    )


def _likeness(result: ExplanationResult, k: int) -> Likeness:
    found = explanation_likeness(result.explanation.detach(), result.clean_explanation.detach(), k=k)
    return {name: value.cpu() for name, value in found.items()}


@torch.no_grad()
def common_correct(
    networks: Sequence[nn.Module], x: Float[Tensor, "n ..."], y: Int64[Tensor, " n"], limit: int
) -> Int64[Tensor, " chosen"]:
    """Return the first `limit` samples that every network classifies right, so that all are judged on the same ones.

    Raises:
        ValueError: If there is no network, `limit` is below 1, or no sample is classified right by all.
    """
    if not networks:
        raise ValueError("networks is empty; there is no one to be right")
    if limit < 1:
        raise ValueError(f"limit={limit} must be at least 1")
    right = torch.stack([predictions(network(x)) == y for network in networks]).all(dim=0)
    chosen = right.nonzero().flatten()[:limit]
    if not len(chosen):
        raise ValueError(f"no sample of {len(x)} is classified right by all of the {len(networks)} networks")
    return chosen
