r"""Networks that differ in one thing, trained on tasks of their seed, and attacked on images all of them have right.

A *trial* is one seed: it draws the training and the test images, the initial weights that all arms share, and the
batches. Within a trial arms are paired; trials are independent but for the pool that images are drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines.data.dataset import Task
from faultlines.studies.robustness_profiles import Attack, Outcomes, attack_outcomes
from faultlines.training.fit import fit
from faultlines.training.loop import History
from faultlines.training.objectives.objective import TrackLambda
from faultlines.training.seeding import seeded

ATTEMPTS = 3  # trainings of a network, each twice as long as the one before


@dataclass(frozen=True)
class Arm:
    r"""The networks of one arm, one a seed, in the order of the seeds.

    Attributes:
        networks: Trained networks, in evaluation mode.
        loss: Cross-entropy of each on its training images.
        epochs: How long each might train at its last attempt.
        histories: Epoch means, with $\lambda$ of every layer that has one.
    """

    networks: list[nn.Module]
    loss: Float[Tensor, " seed"]
    epochs: list[int]
    histories: list[History]


def train_arms(
    arms: Mapping[str, Callable[[], nn.Module]],
    tasks: Mapping[int, Task],
    *,
    loss: float,
    epochs: int,
    **settings: Any,
) -> dict[str, Arm]:
    """Train every arm on every task to one loss, so that arms are matched in how well they fit.

    Training ends after the first epoch at whose end the cross-entropy on the training images is at most `loss`. A
    network that is above it at the end is trained anew, from the same weights, for twice as many epochs, and once more
    for four times as many.

    Args:
        arms: What makes the network of an arm, called once a seed with torch's generator seeded.
        tasks: The task of each seed.
        loss: Cross-entropy on the training images that every network has to come down to.
        epochs: Passes over the training images at the first attempt, at most.
        **settings: Of `fit`.

    Raises:
        ValueError: If there is no arm or no task, or a network does not come down to `loss` within the attempts.
    """
    if not arms or not tasks:
        raise ValueError(
            f"arms={list(arms)} and tasks of seeds {list(tasks)}: at least one of each is needed"
        )
    trained = {}
    for name, make in arms.items():
        rows = [_train(name, make, task, seed, loss, epochs, settings) for seed, task in tasks.items()]
        networks, losses, lasted, histories = (list(column) for column in zip(*rows, strict=True))
        trained[name] = Arm(networks, torch.tensor(losses, dtype=torch.float64), lasted, histories)
    return trained


def _train(
    name: str,
    make: Callable[[], nn.Module],
    task: Task,
    seed: int,
    loss: float,
    epochs: int,
    settings: dict[str, Any],
) -> tuple[nn.Module, float, int, History]:
    reached, lasts = torch.inf, epochs
    for attempt in range(ATTEMPTS):
        network = seeded(make, seed).to(task.x.device)
        lasts = epochs * 2**attempt
        history = fit(
            network,
            task.x,
            task.y,
            seed=seed,
            epochs=lasts,
            stop_at_loss=loss,
            objective=TrackLambda(),
            **settings,
        )
        with torch.no_grad():
            reached = F.cross_entropy(network(task.x.to(next(network.parameters()).dtype)), task.y).item()
        if reached <= loss:
            return network, reached, lasts, history
    raise ValueError(
        f"{name!r}, seed {seed}: loss {reached:.3g} after {lasts} epochs; loss={loss!r} was asked for"
    )


def own_outcomes(
    networks: Sequence[nn.Module],
    tests: Sequence[tuple[Float[Tensor, "image channel height width"], Int64[Tensor, " image"]]],
    attacks: Mapping[str, Attack],
    *,
    seed: int,
) -> Outcomes:
    """Run every attack on every network, each on test images of its own; rows are networks.

    Args:
        networks: Networks in evaluation mode.
        tests: The images and classes of each, equally many.
        attacks: See `attack_outcomes`.
        seed: Seed of the random starts.

    Raises:
        ValueError: If there is no network, or not one test set of equal size for each.
    """
    if not networks or len(networks) != len(tests) or len({len(y) for _, y in tests}) != 1:
        sizes = [len(y) for _, y in tests]
        raise ValueError(
            f"{len(networks)} networks and test sets of sizes {sizes}; one of equal size for each"
        )
    rows = [
        attack_outcomes([network], x, y, attacks, seed=seed)
        for network, (x, y) in zip(networks, tests, strict=True)
    ]
    return Outcomes(
        torch.cat([row.correct for row in rows]),
        {name: torch.cat([row.fooled[name] for row in rows]) for name in attacks},
        {name: torch.cat([row.distance[name] for row in rows]) for name in attacks},
    )


def shared_rates(
    arms: Sequence[Outcomes], attack: str
) -> tuple[Float[Tensor, "arm seed"], Int64[Tensor, " seed"]]:
    """Return the attack success of each arm, seed by seed, among the images that all of the arms have right.

    Arms of unlike clean accuracy are asked about the same images, so that none is spared the hard ones; differences
    between arms add up.

    Returns:
        The rates, and how many images of each seed they rest on.

    Raises:
        ValueError: If arms have unlike shapes, or in some seed have no image right in common.
    """
    if len({arm.correct.shape for arm in arms}) != 1:
        raise ValueError(f"shapes {[tuple(arm.correct.shape) for arm in arms]} must agree")
    right: Bool[Tensor, "seed image"] = torch.stack([arm.correct for arm in arms]).all(dim=0)
    count = right.sum(dim=1)
    if not bool(count.all()):
        raise ValueError("in some seed the arms have no image right in common")
    return torch.stack([(right & arm.fooled[attack]).sum(1) / count.double() for arm in arms]), count
