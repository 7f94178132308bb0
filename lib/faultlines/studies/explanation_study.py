"""Networks of several settings and seeds, judged on the same images: whose explanations give way, and to what."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines.attacks.explanation.criteria import Criterion
from faultlines.attacks.explanation.objective import Explain
from faultlines.studies.explanation_outcomes import ExplanationOutcome, common_correct, explanation_outcome
from faultlines.studies.network_traits import NetworkTraits, network_traits

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
