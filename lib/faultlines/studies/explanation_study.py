"""A study of explanations: networks that differ in one setting, each seed with data of its own; and their curvature."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines.attacks.explanation.criteria import Criterion
from faultlines.attacks.explanation.objective import Explain
from faultlines.attacks.explanation.surrogate import count_relu, softplus_surrogate
from faultlines.estimators.curvature.inputs import input_curvature
from faultlines.estimators.curvature.parameters import hessian_top
from faultlines.models.inference import predictions
from faultlines.studies.explanation_robustness import (
    ExplanationOutcome,
    common_correct,
    explanation_outcome,
)


@dataclass(frozen=True)
class NetworkTraits:
    r"""Of one network; medians are over the explained samples.

    Attributes:
        sharpness: Largest eigenvalue of the Hessian of the training loss.
        input_hessian: Median of $\lVert \nabla_x^2 f_y \rVert_2$.
        relative_curvature: Median of $\kappa = \lVert \nabla_x^2 f_y \rVert_2 / \lVert \nabla_x f_y \rVert_2$.
        gradient: Median of $\lVert \nabla_x f_y \rVert_2$.
        margin: Median of the logit of the class less the largest other.
        accuracy: On the test set.
    """

    sharpness: float
    input_hessian: float
    relative_curvature: float
    gradient: float
    margin: float
    accuracy: float


def network_traits(
    model: nn.Module,
    train: tuple[Float[Tensor, "n ..."], Int64[Tensor, " n"]],
    test: tuple[Float[Tensor, "m ..."], Int64[Tensor, " m"]],
    explained: tuple[Float[Tensor, "e ..."], Int64[Tensor, " e"]],
    *,
    beta: float = 30.0,
    steps: int = 30,
) -> NetworkTraits:
    r"""Measure a trained network.

    A ReLU network has no curvature in its input: there the input curvature is that of the same weights with
    $\mathrm{softplus}_\beta$, which is the network that attacks on its explanations climb. Everything else is the
    network's own.

    Args:
        model: The network, in evaluation mode.
        train: Training samples and labels for the sharpness.
        test: Test samples and labels for the accuracy.
        explained: Samples and classes whose explanations are attacked.
        beta: Sharpness of the softplus; numbers with different ones are not comparable.
        steps: At most so many products with an input Hessian.

    Raises:
        ValueError: If samples and labels do not fit the network.

    Example:
        >>> x, y = torch.rand(20, 4), torch.arange(20) % 3
        >>> found = network_traits(nn.Linear(4, 3), (x, y), (x, y), (x, y))
        >>> found.input_hessian, found.gradient > 0
        (0.0, True)
    """
    sharp = hessian_top(model, *train, generator=torch.Generator(train[0].device).manual_seed(0))
    smooth = softplus_surrogate(model, beta) if count_relu(model, explained[0][:1]) else nullcontext(model)
    with smooth as twin:
        curved = input_curvature(twin, *explained, steps=steps)
    with torch.no_grad():
        logits, y = model(explained[0]), explained[1]
        own = logits.gather(1, y[:, None]).squeeze(1)
        other = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
        accuracy = (predictions(model(test[0])) == test[1]).double().mean().item()
    return NetworkTraits(
        sharpness=sharp.values[0].item(),
        input_hessian=curved.norm.median().item(),
        relative_curvature=curved.relative.nanmedian().item(),
        gradient=curved.gradient.median().item(),
        margin=(own - other).median().item(),
        accuracy=accuracy,
    )


Values = Float[np.ndarray, " seed"]
Samples = tuple[Float[Tensor, "n channel height width"], Int64[Tensor, " n"]]


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
    """Explanations of networks that differ in one setting, attacked on images that all of one seed have right.

    Networks are compared within a seed, and so on the same images; every seed has images of its own, and one with
    fewer than two that all of its networks have right is left out, as nothing could be corrected for chance there.
    What is measured is kept, so that a figure and a table ask for it once.

    Args:
        networks: Networks in evaluation mode by `(setting, seed)`.
        tests: Test images and their classes, by seed.
        limit: Images to explain a seed, at most.
        explain: Differentiable explanations by name.
        criteria: What attacks lower, by name.
        budget: What they may do.

    Raises:
        ValueError: If there is no network, a seed has no test images, or no image that all of its networks have right.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from faultlines.estimators import attribute
        >>> nets = {("plain", seed): nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for seed in (0, 1)}
        >>> x = torch.rand(40, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> y = nets["plain", 0](x).argmax(1)
        >>> nets["plain", 1] = nets["plain", 0]
        >>> explain = {"gradient": partial(attribute, create_graph=True)}
        >>> study = ExplanationStudy(nets, {0: (x, y), 1: (x, y)}, limit=5, explain=explain,
        ...                          criteria={"cosine": "cosine"}, budget=Budget(eps=0.1, steps=2, k=1))
        >>> study.values("plain", "gradient", "cosine", "cosine")  # a linear network has one gradient
        array([1., 1.])
    """

    def __init__(
        self,
        networks: Mapping[tuple[Hashable, int], nn.Module],
        tests: Mapping[int, Samples],
        *,
        limit: int,
        explain: Mapping[str, Explain],
        criteria: Mapping[str, str | Criterion],
        budget: Budget,
    ) -> None:
        self.networks = dict(networks)
        self.explain, self.criteria, self.budget = dict(explain), dict(criteria), budget
        seeds = sorted({seed for _, seed in self.networks})
        if not seeds:
            raise ValueError("networks is empty; there is nothing to explain")
        if missing := sorted(set(seeds) - set(tests)):
            raise ValueError(f"tests has no images for seeds {missing}")
        self.tests = {seed: tests[seed] for seed in seeds}
        self.explained: dict[int, Samples] = {}
        for seed, (x, y) in self.tests.items():
            of_seed = [network for (_, own), network in self.networks.items() if own == seed]
            chosen = common_correct(of_seed, x, y, limit)
            self.explained[seed] = (x[chosen], y[chosen])
        few = [seed for seed, (x, _) in self.explained.items() if len(x) < 2]
        if len(few) == len(seeds):
            raise ValueError("no seed has two test images that all of its networks have right")
        self.networks = {key: network for key, network in self.networks.items() if key[1] not in few}
        self._outcomes: dict[tuple, ExplanationOutcome] = {}
        self._traits: dict[tuple, NetworkTraits] = {}

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
                *self.explained[seed],
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
                `"corrected"` is chance-corrected robustness, `"lost"` the logarithm of one minus it, and `"others"`
                and `"same class"` how alike maps of different images are, see `ExplanationOutcome`.
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
            if measure in ("corrected", "lost"):
                value = outcome.corrected(noise=noise)
                found.append(value if measure == "corrected" else float(np.log(max(1 - value, 1e-6))))
                continue
            of_images = outcome.noisy if noise else {**outcome.attacked, "score": outcome.score}
            of_images = {**of_images, "others": outcome.others, "same class": outcome.same_class}
            if measure not in of_images:
                known = [*sorted(of_images), "corrected", "lost"]
                raise ValueError(f"measure={measure!r} is not one of {known}")
            found.append(float(of_images[measure].nanmean()))
        return np.array(found)

    def gains(self, before: Hashable, after: Hashable, *which: str, noise: bool = False) -> Values:
        """Return the differences of `values` between two settings, paired over the seeds that have both."""
        seeds = self.seeds(before, after)
        return self.values(after, *which, noise=noise, seeds=seeds) - self.values(
            before, *which, noise=noise, seeds=seeds
        )

    def traits(
        self, setting: Hashable, train: Mapping[int, Samples], read: Callable[[NetworkTraits], float]
    ) -> Values:
        """Return one trait a seed; see `network_traits`. Measured once: the samples are those of the first call.

        Args:
            setting: Which networks.
            train: Samples and labels for the sharpness, by seed.
            read: Picks the number, `attrgetter("sharpness")`, say.
        """
        found = []
        for seed in self.seeds(setting):
            if (key := (setting, seed)) not in self._traits:
                self._traits[key] = network_traits(
                    self.networks[key],
                    train[seed],
                    self.tests[seed],
                    self.explained[seed],
                    beta=self.budget.beta,
                )
            found.append(read(self._traits[key]))
        return np.array(found)
