"""What attacks do to a network's explanations, and what noise of the same size does, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines.attacks.explanation.attack import ExplanationNoise, ExplanationPGD, ExplanationResult
from faultlines.attacks.explanation.criteria import Criterion
from faultlines.attacks.explanation.objective import Explain
from faultlines.estimators.similarity.correlation import cosine, spearman, topk_intersection
from faultlines.estimators.similarity.kendall import kendall_tau

Likeness = dict[str, Float[Tensor, " image"]]


@dataclass(frozen=True)
class ExplanationOutcome:
    """One network's explanations under one attack, and under noise.

    Attributes:
        attacked: Likeness of each image's map to its clean one, by measure, at the attack's worst point.
        noisy: The same at the worst of the random points.
        score: The attack's own score, image by image.
        kept_share: Share of the points the attack visited that kept the prediction, mean over images.
    """

    attacked: Likeness
    noisy: Likeness
    score: Float[Tensor, " image"]
    kept_share: float


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
    return ExplanationOutcome(
        _likeness(found, k),
        _likeness(random, k),
        found.score.detach().cpu(),
        float(torch.where(share.isnan(), 1.0, share)),
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
    right = torch.stack([network(x).argmax(dim=1) == y for network in networks]).all(dim=0)
    chosen = right.nonzero().flatten()[:limit]
    if not len(chosen):
        raise ValueError(f"no sample of {len(x)} is classified right by all of the {len(networks)} networks")
    return chosen
