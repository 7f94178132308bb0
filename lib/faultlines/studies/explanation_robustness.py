"""Whose explanations give way, and to what: attacks on them beside noise of the same size, network by network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines.attacks.explanation.attack import ExplanationNoise, ExplanationPGD, ExplanationResult
from faultlines.attacks.explanation.criteria import Criterion
from faultlines.attacks.explanation.objective import Explain
from faultlines.estimators.similarity.correlation import cosine, spearman, topk_intersection
from faultlines.estimators.similarity.kendall import kendall_tau
from faultlines.studies.network_curvature import NetworkTraits, network_traits

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


Values = Float[np.ndarray, " seed"]


@dataclass(frozen=True)
class Budget:
    """What an attack on explanations may do.

    Attributes:
        eps: Radius in the maximum norm, in pixels.
        steps: Gradient steps; noise has as many draws.
        k: Pixels of the top-k intersection.
        beta: Softplus of the surrogate of ReLU networks.
    """

    eps: float
    steps: int
    k: int
    beta: float = 30.0


class ExplanationStudy:
    """Explanations of networks that differ in one setting, attacked on images that every one of them has right.

    What is measured is kept, so that a figure and a table ask for it once.

    Args:
        networks: Networks in evaluation mode by `(setting, seed)`.
        x: Test images.
        y: Their classes.
        limit: Images to explain, at most.
        explain: Differentiable explanations by name.
        criteria: What attacks lower, by name.
        budget: What they may do.

    Raises:
        ValueError: If there is no network, or no image that all have right.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from faultlines.estimators import attribute
        >>> nets = {("plain", seed): nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for seed in (0, 1)}
        >>> x = torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> y = nets["plain", 0](x).argmax(1)
        >>> nets["plain", 1] = nets["plain", 0]
        >>> explain = {"gradient": partial(attribute, create_graph=True)}
        >>> study = ExplanationStudy(nets, x, y, limit=5, explain=explain, criteria={"cosine": "cosine"},
        ...                          budget=Budget(eps=0.1, steps=2, k=1))
        >>> study.values("plain", "gradient", "cosine", "cosine")  # a linear network has one gradient
        array([1., 1.])
    """

    def __init__(
        self,
        networks: Mapping[tuple[Hashable, int], nn.Module],
        x: Float[Tensor, "n channel height width"],
        y: Int64[Tensor, " n"],
        *,
        limit: int,
        explain: Mapping[str, Explain],
        criteria: Mapping[str, str | Criterion],
        budget: Budget,
    ) -> None:
        self.networks = dict(networks)
        self.explain, self.criteria, self.budget = dict(explain), dict(criteria), budget
        self.test = (x, y)
        chosen = common_correct(list(self.networks.values()), x, y, limit)
        self.explained = (x[chosen], y[chosen])
        self._outcomes: dict[tuple, ExplanationOutcome] = {}
        self._traits: dict[tuple, NetworkTraits] = {}
        self._trained: list[tuple[Tensor, Tensor]] = []  # the samples that traits were measured on

    def seeds(self, *settings: Hashable) -> list[int]:
        """Return the seeds that have a network of every one of these settings; no seed has one of an unknown one."""
        found = [{seed for own, seed in self.networks if own == setting} for setting in settings]
        return sorted(set.intersection(*found)) if found else []

    def outcome(self, setting: Hashable, seed: int, method: str, criterion: str) -> ExplanationOutcome:
        """Return what one attack does to one network; attacked once.

        Raises:
            ValueError: If the method or the criterion is not one of the study's.
        """
        for name, value, known in (("method", method, self.explain), ("criterion", criterion, self.criteria)):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not one of {sorted(known)}")
        key = (setting, seed, method, criterion)
        if key not in self._outcomes:
            self._outcomes[key] = explanation_outcome(
                self.networks[setting, seed],
                *self.explained,
                self.explain[method],
                self.criteria[criterion],
                seed=seed,
                **vars(self.budget),
            )
        return self._outcomes[key]

    def values(
        self,
        setting: Hashable,
        method: str = "gradient",
        criterion: str = "spearman",
        measure: str = "spearman",
        *,
        noise: bool = False,
        seeds: list[int] | None = None,
    ) -> Values:
        """Return one mean likeness a seed, under the attack or under noise.

        Args:
            setting: Which networks.
            method: Which explanation.
            criterion: Which attack.
            measure: Which likeness; see `explanation_likeness`. `"score"` is the attack's own, which noise has not.
            noise: Whether to take the worst of the random points instead.
            seeds: Which seeds, in this order; all of the setting by default.

        Raises:
            ValueError: If method, criterion, measure or a seed is not one of the study's.
        """
        if unknown := sorted(set(seeds or []) - set(self.seeds(setting))):
            raise ValueError(f"seeds={unknown} have no network of {setting!r}; it has {self.seeds(setting)}")
        found = []
        for seed in self.seeds(setting) if seeds is None else seeds:
            outcome = self.outcome(setting, seed, method, criterion)
            of_images = outcome.noisy if noise else {**outcome.attacked, "score": outcome.score}
            if measure not in of_images:
                raise ValueError(f"measure={measure!r} is not one of {sorted(of_images)}")
            found.append(float(of_images[measure].mean()))
        return np.array(found)

    def gains(self, before: Hashable, after: Hashable, *which: str, noise: bool = False) -> Values:
        """Return the differences of `values` between two settings, paired over the seeds that have both."""
        seeds = self.seeds(before, after)
        return self.values(after, *which, noise=noise, seeds=seeds) - self.values(
            before, *which, noise=noise, seeds=seeds
        )

    def traits(
        self, setting: Hashable, train: tuple[Tensor, Tensor], read: Callable[[NetworkTraits], float]
    ) -> Values:
        """Return one trait a seed; see `network_traits`.

        Args:
            setting: Which networks.
            train: Samples and labels for the sharpness.
            read: Picks the number, `attrgetter("sharpness")`, say.
        """
        found, samples = [], self._samples(train)
        for seed in self.seeds(setting):
            if (key := (setting, seed, samples)) not in self._traits:
                self._traits[key] = network_traits(
                    self.networks[setting, seed], train, self.test, self.explained, beta=self.budget.beta
                )
            found.append(read(self._traits[key]))
        return np.array(found)

    def _samples(self, train: tuple[Tensor, Tensor]) -> int:
        """Return the number under which these samples are known, by their values."""
        for number, known in enumerate(self._trained):
            if all(torch.equal(own, given) for own, given in zip(known, train, strict=True)):
                return number
        self._trained.append(train)
        return len(self._trained) - 1
