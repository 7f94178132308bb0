"""Arms x seeds of one architecture, trained with a paired design."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faultlines.estimators.forward import with_gradients
from faultlines.models.inference import logits_of
from faultlines.training.batches import Augment
from faultlines.training.fit import fit
from faultlines.training.loop import History
from faultlines.training.objectives.objective import Objective
from faultlines.training.optimizer import Settings, plain_number, prepared
from faultlines.training.seeding import seeded
from faultlines.training.vmap_training import Member, fit_vmap

Vectorize = Literal["auto", "always", "never"]

AT_ONCE = 10  # members a vectorised call: more were not measured, and activations grow with them


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison: an objective and what else differs from the common settings.

    Args:
        objective: What is minimised.
        lr: Peak learning rate, where it is not the common one.
        weight_decay: Weight decay, where it is not the common one.
    """

    objective: Objective
    lr: float | None = None
    weight_decay: float | None = None

    def settings(self, common: Settings) -> Settings:
        """Return the common settings with this arm's own values put in."""
        own = {"lr": self.lr, "weight_decay": self.weight_decay}
        return replace(common, **cast(Any, {name: value for name, value in own.items() if value is not None}))


class Ensemble(Mapping[str, list[nn.Module]]):
    """Trained networks by arm; `ensemble[arm]` lists them in the order of the seeds.

    Attributes:
        seeds: The seeds.
        histories: For every arm the history of each seed.
        vectorized: Whether the members were trained at once.
    """

    def __init__(
        self,
        models: dict[str, list[nn.Module]],
        histories: dict[str, list[History]],
        seeds: Sequence[int],
        *,
        vectorized: bool,
    ) -> None:
        self._models, self.histories, self.seeds = models, histories, tuple(seeds)
        self.vectorized = vectorized

    def __getitem__(self, arm: str) -> list[nn.Module]:
        """Return the networks of an arm, one a seed."""
        return self._models[arm]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the arms' names."""
        return iter(self._models)

    def __len__(self) -> int:
        """Number of arms."""
        return len(self._models)

    def members(self) -> list[nn.Module]:
        """Return all networks, arm after arm, within an arm in the order of the seeds."""
        return [model for models in self._models.values() for model in models]

    def __call__(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "member batch classes"]:
        """Return every member's logits, in the order of `members()`."""
        return torch.stack([logits_of(model(x)) for model in self.members()])


@with_gradients
def fit_ensemble(
    make_model: Callable[[], nn.Module],
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    *,
    seeds: Sequence[int],
    arms: Mapping[str, Objective | Arm] | dict[str, Arm],
    augment: Augment | None = None,
    vectorize: Vectorize = "auto",
    progress: bool | None = None,
    **settings: Any,
) -> Ensemble:
    """Train every arm from every seed; arms share initial weights and batches where the seed is equal.

    The member of an arm and a seed is what `fit(seeded(make_model, seed), x, y, seed=seed, ...)` gives:
    exactly so one after the other, up to rounding when they are trained at once. At once means one network
    whose parameters carry a leading member axis (`torch.func.vmap`); arms whose objectives differ in a number
    only, such as the coefficient, go through one such call.

    Args:
        make_model: Makes a network; called once a seed, with torch's generator seeded.
        x: Inputs, on the device to train on.
        y: Labels, int64.
        seeds: Distinct seeds.
        arms: An objective, or an `Arm` with settings of its own, by name.
        augment: Called as `augment(batch, generator)`; equal for equal seeds.
        vectorize: `"always"` trains at once, `"never"` one after the other, `"auto"` what `pays` says.
        progress: A bar; by default only in a terminal.
        **settings: Of `Settings`: `epochs`, `batch_size`, `lr`, `optimizer`, `weight_decay`, `momentum`,
            `warmup`, `schedule`, `grad_clip`, `stop_at_loss`, `stop_every`.

    Returns:
        The trained networks by arm, in evaluation mode, and their histories.

    Raises:
        ValueError: If there is no seed or no arm, a seed is given twice, a setting or the data do not fit, or
            `vectorize="always"` meets a stop rule, or a network with dropout or batch statistics.
        FloatingPointError: If a member's loss is not finite; the message names it.

    Example:
        >>> from faultlines.training.objectives import CrossEntropy
        >>> x = torch.rand(64, 4, generator=torch.Generator().manual_seed(0))
        >>> arms = {"plain": CrossEntropy(), "smooth": CrossEntropy(label_smoothing=0.1)}
        >>> trained = fit_ensemble(
        ...     lambda: nn.Linear(4, 2), x, (x[:, 0] > 0.5).long(), seeds=[0, 1, 2], arms=arms, epochs=2, batch_size=9
        ... )
        >>> list(trained), len(trained["smooth"]), trained(x).shape
        (['plain', 'smooth'], 3, torch.Size([6, 64, 2]))
    """
    seeds = [plain_number(seed) for seed in seeds]
    common = _check(seeds, arms, vectorize, settings)
    arms = cast(
        dict[str, Arm], {name: arm if isinstance(arm, Arm) else Arm(arm) for name, arm in arms.items()}
    )
    per_arm = {name: arm.settings(common) for name, arm in arms.items()}  # checks the arms' own values
    initial = {seed: seeded(make_model, seed).to(x.device) for seed in seeds}
    first = initial[seeds[0]]
    x, y = prepared(first, x, y, common.batch_size)
    obstacle = _obstacle(first, common, arms)
    if vectorize == "always" and obstacle:
        raise ValueError(f"vectorize='always' cannot train {obstacle}; take 'auto' or 'never'")
    at_once = vectorize == "always" or (
        vectorize == "auto"
        and not obstacle
        and pays(min(len(names) for names in group(arms)) * len(seeds), first, x.device)
    )

    models = {name: [copy.deepcopy(initial[seed]) for seed in seeds] for name in arms}
    histories: dict[str, list[History]] = {}
    if not at_once:
        for name, arm in arms.items():
            own = {field.name: getattr(per_arm[name], field.name) for field in fields(Settings)}
            histories[name] = [
                fit(
                    model, x, y, objective=arm.objective, seed=seed, augment=augment, progress=progress, **own
                )
                for model, seed in zip(models[name], seeds, strict=True)
            ]
        return Ensemble(models, histories, seeds, vectorized=False)
    for names in group(arms):
        members = [
            Member(models[name][i], arms[name].objective, per_arm[name], seed, name)
            for name in names
            for i, seed in enumerate(seeds)
        ]
        told = []
        for start in range(0, len(members), AT_ONCE):
            some = members[start : start + AT_ONCE]
            told += fit_vmap(some, x, y, augment=augment, progress=progress)
        for i, name in enumerate(names):
            histories[name] = told[i * len(seeds) : (i + 1) * len(seeds)]
    histories = {name: histories[name] for name in arms}
    return Ensemble(models, histories, seeds, vectorized=True)


def group(arms: Mapping[str, Arm]) -> list[list[str]]:
    """Return the names of arms that can share one vectorised call: objectives equal but for their numbers.

    Example:
        >>> from faultlines.training.objectives import CrossEntropy, JaSMin
        >>> arms = {"a": Arm(JaSMin(0.1)), "b": Arm(CrossEntropy()), "c": Arm(JaSMin(0.2))}
        >>> group(arms)
        [['a', 'c'], ['b']]
    """
    groups: dict[tuple, list[str]] = {}
    for name, arm in arms.items():
        objective = arm.objective
        common = {key: value for key, value in vars(objective).items() if key not in objective.per_member}
        groups.setdefault((type(objective), repr(common)), []).append(name)
    return list(groups.values())


def pays(members: int, model: nn.Module, device: torch.device) -> bool:
    """Say whether training at once was measured to be faster than one member after the other.

    Measured on a shared CPU of two cores, the digits ViT (20 thousand parameters, batch 128), seconds in
    turn over seconds at once, for cross-entropy and JaSMin:

    | members | one thread | two threads |
    |---|---|---|
    | 1 | 0.69, 0.64 | 0.64, 0.60 |
    | 5 | 1.16, 0.99 | unclear: 0.44 to 1.74, 1.08 |
    | 10 | 1.05, 1.09 | 1.47, 1.47 |

    The gain is in the overhead of calls, not in arithmetic, so it goes as a network grows; larger networks
    and accelerators were not measured and are trained in turn.
    """
    size = sum(p.numel() for p in model.parameters())
    return device.type == "cpu" and members >= 5 and size <= 50_000


def _obstacle(model: nn.Module, settings: Settings, arms: Mapping[str, Arm]) -> str | None:
    for name, arm in arms.items():
        if arm.objective.draws:
            return f"the random draws of arm {name!r}"
    if settings.stop_at_loss is not None:
        return "members that each stop at a step of their own"
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            return f"the running statistics of {name}"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return f"the random draws of {name}"
    return None


def _check(
    seeds: Sequence[int], arms: Mapping[str, Objective | Arm], vectorize: str, settings: dict[str, Any]
) -> Settings:
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds={list(seeds)} must be distinct and at least one")
    if not arms:
        raise ValueError("arms is empty; it must name at least one objective")
    if vectorize not in ("auto", "always", "never"):
        raise ValueError(f"vectorize={vectorize!r} is not one of 'auto', 'always', 'never'")
    known = {field.name for field in fields(Settings)}
    if unknown := settings.keys() - known:
        raise ValueError(f"{', '.join(sorted(unknown))} is no setting; the settings are {sorted(known)}")
    return Settings(**settings)
