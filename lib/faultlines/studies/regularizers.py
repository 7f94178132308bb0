"""What regularizers do to networks that each see images of their own, and what a step of training costs with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.data import load
from faultlines.data.dataset import Split
from faultlines.studies.robustness_profiles import Attack, accuracy_profile, steepness_profile
from faultlines.training.ensemble import Arm, fit_ensemble
from faultlines.training.objectives.objective import Objective


@dataclass(frozen=True)
class RegularizerStudy:
    """One comparison of arms, repeated over seeds; each seed draws images, weights and batches of its own.

    Args:
        make_model: Makes a network.
        dataset: Name of the data set.
        n_train: Training images of a seed.
        n_validation: Images of a seed to choose coefficients on; part of the training set, trained on by none.
        n_test: Test images of a seed.
        training: Settings of `fit_ensemble` that all arms share.
        device: Where networks are trained and attacked.
    """

    make_model: Callable[[], nn.Module]
    dataset: str
    n_train: int
    n_validation: int
    n_test: int
    training: Mapping[str, Any] = field(default_factory=dict)
    device: str | torch.device = "cpu"
    _read: dict[int, tuple[Split, Split, Split]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def splits(self, seed: int) -> tuple[Split, Split, Split]:
        """Return the training, validation and test images of a seed, disjoint; those of the last seed are kept."""
        if seed not in self._read:
            self._read.clear()
            data = load(self.dataset, n_train=self.n_train + self.n_validation, n_test=self.n_test, seed=seed)
            train, validation = data.hold_out(self.n_validation, seed=seed)
            self._read[seed] = (train.to(self.device), validation.to(self.device), data.test.to(self.device))
        return self._read[seed]

    def train(self, arms: Mapping[str, Objective | Arm], seed: int) -> dict[str, nn.Module]:
        """Return one network an arm; equal initial weights, images and batches."""
        images = self.splits(seed)[0]
        trained = fit_ensemble(
            self.make_model, images.x, images.y, seeds=[seed], arms=arms, vectorize="never", **self.training
        )
        return {arm: trained[arm][0] for arm in arms}

    def outcomes(
        self,
        networks: Mapping[str, nn.Module],
        seed: int,
        attacks: Mapping[str, Sequence[Attack]],
        *,
        validation: bool = False,
        steep: int = 0,
    ) -> dict[str, dict[str, float]]:
        """Return what each network of a seed does, by arm: `loss` on its training images, `clean`, and by attack.

        Args:
            networks: From `train` with the same seed.
            seed: The seed.
            attacks: Groups of attacks, see `accuracy_profile`.
            validation: Judge on the validation images instead of the test images.
            steep: Test images whose local norms are measured too, see `steepness_profile`; 0 for none.
        """
        train, held, test = self.splits(seed)
        images, found = (held if validation else test), {}
        for arm, network in networks.items():
            with torch.no_grad():
                loss = F.cross_entropy(network(train.x), train.y).item()
            found[arm] = {"loss": loss} | accuracy_profile(network, images.x, images.y, attacks, seed=seed)
            if steep:
                found[arm] |= steepness_profile(network, images.x[:steep], attention_samples=steep // 4 or 1)
        return found


def by_arm(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, np.ndarray]]:
    """Turn outcomes of several seeds into arrays: `by_arm(runs)[arm][measurement]`, one value a seed.

    Example:
        >>> by_arm([{"a": {"clean": 0.5}}, {"a": {"clean": 0.75}}])["a"]["clean"].tolist()
        [0.5, 0.75]
    """
    return {arm: {key: np.array([run[arm][key] for run in runs]) for key in runs[0][arm]} for arm in runs[0]}


def step_seconds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    objectives: Mapping[str, Objective],
    *,
    rounds: int,
    steps: int = 3,
) -> dict[str, np.ndarray]:
    """Return seconds of forward and backward passes, by objective, one value a round; weights stay as they are.

    In a round every objective is run in turn, so that what slows the machine slows all of them; the least of
    `steps` passes counts.

    Args:
        model: The network.
        x: One batch.
        y: Its labels.
        objectives: What is minimised, by name.
        rounds: Rounds, at least 1.
        steps: Passes of each objective in a round.

    Raises:
        ValueError: If there is no objective, round or step.
    """
    if not objectives or rounds < 1 or steps < 1:
        raise ValueError(
            f"{len(objectives)} objectives, rounds={rounds}, steps={steps} must be at least 1 each"
        )
    taken = {name: np.full(rounds, np.inf) for name in objectives}
    parameters = [p for p in model.parameters() if p.requires_grad]
    for i in range(rounds):
        for name, objective in objectives.items():
            for _ in range(steps):
                start = time.perf_counter()
                loss, _ = objective(model, x, y)
                torch.autograd.grad(loss, parameters)
                if x.is_cuda:
                    torch.cuda.synchronize(x.device)
                taken[name][i] = min(taken[name][i], time.perf_counter() - start)
    return taken
