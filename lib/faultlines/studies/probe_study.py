"""Networks of several mechanisms and seeds under every probe, on the same images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from torch import nn

from faultlines.studies.explanation_outcomes import common_correct
from faultlines.studies.probes import PROBES, Moved, Probe, ProbeBudget, Samples


class ProbeStudy:
    """Every network under every probe; what is measured is kept, so that a figure and a table ask for it once.

    Args:
        networks: Networks in evaluation mode by `(mechanism, seed)`; every mechanism with the same seeds.
        train: Images and classes whose influences are computed.
        test: Images and classes that the rest looks at, those that every network classifies rightly.
        limit: Test images to look at, at most.
        budget: What a probe may do.
        probes: The probes by name.

    Raises:
        ValueError: If there is no network, a mechanism lacks a seed that another has, or no test image is classified
            rightly by all.

    Example:
        >>> import torch
        >>> from faultlines.models import ViT
        >>> make = lambda: ViT(image_size=4, patch_size=2, channels=1, classes=2, dim=8, depth=1, heads=2).eval()
        >>> x = torch.rand(40, 1, 4, 4)
        >>> net = make()
        >>> networks, data = {("softmax", 0): net, ("softmax", 1): net}, (x, net(x).argmax(dim=1))
        >>> study = ProbeStudy(networks, data, data, limit=4, budget=ProbeBudget(eps=0.1, steps=2))
        >>> study.values("softmax", "prediction").shape, sorted(study.probes)[0]
        ((2,), 'attention layer')
    """

    def __init__(
        self,
        networks: Mapping[tuple[str, int], nn.Module],
        train: Samples,
        test: Samples,
        *,
        limit: int,
        budget: ProbeBudget,
        probes: Mapping[str, Probe] = PROBES,
    ) -> None:
        self.networks, self.train, self.budget, self.probes = dict(networks), train, budget, dict(probes)
        self.mechanisms = list(dict.fromkeys(mechanism for mechanism, _ in self.networks))
        self.seeds = sorted({seed for _, seed in self.networks})
        missing = [(m, s) for m in self.mechanisms for s in self.seeds if (m, s) not in self.networks]
        if missing:
            raise ValueError(
                f"networks has none of {missing[:3]}; every mechanism needs the same seeds, or is left out"
            )
        chosen = common_correct(list(self.networks.values()), *test, limit)
        self.test = (test[0][chosen], test[1][chosen])
        self._moved: dict[tuple[str, int, str], Moved] = {}

    def moved(self, mechanism: str, seed: int, probe: str) -> Moved:
        """Return how far a probe moved in one network; measured once.

        Raises:
            ValueError: If there is no such network or probe.
        """
        for name, value, known in (
            ("mechanism", mechanism, self.mechanisms),
            ("seed", seed, self.seeds),
            ("probe", probe, list(self.probes)),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not one of {known}")
        key = (mechanism, seed, probe)
        if key not in self._moved:
            network = self.networks[mechanism, seed]
            self._moved[key] = self.probes[probe](network, self.train, self.test, self.budget, seed)
        return self._moved[key]

    def values(self, mechanism: str, probe: str, *, noise: bool = False) -> Float[np.ndarray, " seed"]:
        """Return one number a seed, under the attack or under noise."""
        moved = [self.moved(mechanism, seed, probe) for seed in self.seeds]
        return np.array([one.noise if noise else one.attack for one in moved])

    def gaps(
        self, mechanism: str, probe: str, baseline: str = "softmax", *, noise: bool = False
    ) -> Float[np.ndarray, " seed"]:
        """Return by how much more it moves than in the baseline, paired over seeds."""
        return self.values(mechanism, probe, noise=noise) - self.values(baseline, probe, noise=noise)

    def table(self, *, noise: bool = False) -> Float[np.ndarray, "seed mechanism probe"]:
        """Return all numbers."""
        columns = [[self.values(m, p, noise=noise) for p in self.probes] for m in self.mechanisms]
        return np.moveaxis(np.array(columns), -1, 0)
