"""How far things of one trained classifier move when pixels do: attention, logits, prediction, maps, influences.

One measure for each question that the book's papers ask, all but one in the same ball of pixels (which the search for
steep chords does not cut to [0, 1]), each with noise of the same size beside the attack. A larger number has moved
further. What has a scale or a part that is the same for every image (outputs, maps) is measured in units of what
another image does to it: a layer of small outputs is not steady for that, nor a map that never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines.attacks.pgd import PGD
from faultlines.attacks.training_data import perturb_training_data, random_sign
from faultlines.data.shortcut_patch import class_cue, other_class
from faultlines.estimators.attribution.methods import attribute
from faultlines.estimators.influence.kernel import loo_influence
from faultlines.estimators.lipschitz.local import layer_lipschitz, read_layer
from faultlines.estimators.malleability import most_influential
from faultlines.estimators.ntk.finite_width import empirical_ntk
from faultlines.estimators.ntk.ridge import centred_one_hot, match_ridge
from faultlines.models.inference import predictions
from faultlines.studies.explanation_robustness import common_correct, explanation_outcome

Samples = tuple[Float[Tensor, "n channel height width"], Int64[Tensor, " n"]]


@dataclass(frozen=True)
class ProbeBudget:
    """What every probe may do.

    Attributes:
        eps: Radius in the maximum norm, in pixels.
        steps: Gradient steps of an attack, and random draws of its noise.
        share: Share of training images that count as most influential, and are moved.
        fit: Effective dimension of the kernel that influences are computed with, over the number of training images.

    Raises:
        ValueError: If a number is out of range.
    """

    eps: float
    steps: int
    share: float = 0.1
    fit: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges that no probe would check before it computes."""
        if not 0 < self.eps < float("inf"):
            raise ValueError(f"eps={self.eps!r} must be positive and finite")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps!r} must be at least 1")
        for name in ("share", "fit"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie in (0, 1)")


@dataclass(frozen=True)
class Moved:
    """How far something moved.

    Attributes:
        attack: Under the attack.
        noise: Under noise of the same size.
        exchange: What another image does, in the unit of what was measured, where `attack` and `noise` are relative
            to it: the mean over images (and layers) of the distance to another one's output, or of 1 less the
            correlation with another one's map.
        points: Where an attack on predictions moved the test images, for who wants to look at them there.
    """

    attack: float
    noise: float
    exchange: float | None = None
    points: Float[Tensor, "n channel height width"] | None = field(default=None, repr=False, compare=False)


Probe = Callable[[nn.Module, Samples, Samples, ProbeBudget, int], Moved]
"""Takes a network in evaluation mode, training images, test images it classifies rightly, a budget and a seed."""


def steepness(
    model: nn.Module, train: Samples, test: Samples, budget: ProbeBudget, seed: int, *, reading: str
) -> Moved:
    r"""Return the mean logarithm of the steepest relative chord of a reading in the ball, over images and layers.

    A chord's change of output over its change of the image, times the radius, over the mean distance between the
    image's output and another image's: 0 says that at this slope the radius moves it as far as another image does.
    Neither a factor on the output nor what is added to it for all images changes that. A difference of two networks
    is the logarithm of a ratio. Noise is the steepest of random chords, corners of the cube; see `layer_lipschitz`.

    Raises:
        ValueError: If there are fewer than two images, or a reading is the same for all of them.
    """
    del train
    found = layer_lipschitz(
        model,
        test[0],
        budget.eps,
        readings=(reading,),
        directions=budget.steps,
        ascent_steps=budget.steps,
        norm="linf",
        seed=seed,
    )[reading]
    layers = [-1] if reading == "logits" else range(found.ascent.shape[1])
    with torch.no_grad():
        apart = torch.stack([_apart(read_layer(model, test[0], layer, reading)) for layer in layers], dim=1)
    if not bool((apart > 0).all()):
        raise ValueError(f"reading={reading!r} is the same for all images: nothing to compare a chord with")
    attack, noise = (
        (side.reshape(apart.shape) * budget.eps / apart).log().mean().item()
        for side in (found.ascent, found.random)
    )
    return Moved(attack, noise, apart.mean().item())


def _apart(outputs: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Return each output's mean distance to the others'."""
    _check_pair(outputs)
    flat = outputs.flatten(1)
    return torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1) / (len(flat) - 1)


def _check_pair(images: Tensor) -> None:
    if len(images) < 2:
        raise ValueError(
            f"test holds {len(images)} image: two are needed, for the unit is what another one does"
        )


def fooled(model: nn.Module, train: Samples, test: Samples, budget: ProbeBudget, seed: int) -> Moved:
    """Return the share of test images whose class PGD changes, and that any of the random corners changes."""
    del train
    x, y = test
    found = PGD(eps=budget.eps, steps=budget.steps)(model, x, y, generator=_seeded(seed, x))
    generator, everyone = torch.Generator().manual_seed(seed), torch.arange(len(x))
    wrong = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with torch.no_grad():
        for _ in range(budget.steps):
            wrong |= predictions(model(random_sign(x, everyone, eps=budget.eps, generator=generator))) != y
    return Moved(found.success.double().mean().item(), wrong.double().mean().item(), points=found.x_adv)


def map_lost(
    model: nn.Module, train: Samples, test: Samples, budget: ProbeBudget, seed: int, *, method: str
) -> Moved:
    r"""Return how far an explanation moves while the prediction is kept, in units of what another image does to it.

    With Spearman's correlation $\rho$ to the clean map, and $\rho_0$ its mean over the clean maps of two different
    images, it is $(1 - \rho) / (1 - \rho_0)$: one less the robustness corrected for chance,
    $(\rho - \rho_0) / (1 - \rho_0)$. A map that does not depend on the image is steady and explains nothing; here it
    has no unit, and counts as 0 only if nothing moves it. The attack lowers $\rho$; noise is the worst of the random
    points. See `explanation_outcome`.

    Raises:
        ValueError: If there are fewer than two images, or an attack moves a map that is the same for all of them.
    """
    del train
    _check_pair(test[0])
    explain = partial(attribute, method=method, create_graph=True)
    found = explanation_outcome(
        model, *test, explain, "spearman", eps=budget.eps, steps=budget.steps, k=1, seed=seed
    )
    attack, noise = (1 - side["spearman"].mean().item() for side in (found.attacked, found.noisy))
    exchange = 1 - found.others.double().mean().item()
    if exchange < 1e-6 < max(attack, noise):
        raise ValueError(
            f"method={method!r} gives one map for all images: there is no unit for how far it moves"
        )
    moved, noisy = (lost / exchange if exchange >= 1e-6 else 0.0 for lost in (attack, noise))
    return Moved(moved, noisy, exchange)


def influences_flipped(
    model: nn.Module, train: Samples, test: Samples, budget: ProbeBudget, seed: int
) -> Moved:
    """Return the share of influences that change sign, of the most influential training images, which are moved.

    The network is linearised at its trained weights: kernel ridge regression with its empirical tangent kernel, at the
    ridge that gives the clean kernel the effective dimension of the budget. Influences are leave-one-out, on the
    score of each test image's class. The images of largest mean absolute influence are moved together, by PGD on the
    network's own loss or by random signs, and the kernel is made again; the weights stay. What is counted is the
    influence of each of them on each test image; by chance alone half would change.
    """
    (x, y), (x_test, y_test) = train, test
    targets = centred_one_hot(y, model(x[:1]).shape[1])
    clean = _kernels(model, x, x_test)
    ridge = match_ridge(clean[0], budget.fit * len(x))

    def influence(kernels: tuple[Tensor, Tensor]) -> Float[Tensor, "n t"]:
        found = loo_influence(*kernels, targets, ridge)
        return found.gather(2, y_test[None, :, None].expand(len(found), -1, 1)).squeeze(2)

    before = influence(clean)
    index = most_influential(before, budget.share)
    attack = PGD(eps=budget.eps, steps=budget.steps)
    attacked = perturb_training_data(attack, lambda z, _: model(z), x, y, index, generator=_seeded(seed, x))
    noisy = random_sign(x, index, eps=budget.eps, generator=torch.Generator().manual_seed(seed))
    signs = before[index].sign()
    # all Jacobians again: those of the moved images alone would differ from these in the last bit
    attack_share, noise_share = (
        (influence(_kernels(model, moved, x_test))[index].sign() != signs).double().mean().item()
        for moved in (attacked, noisy)
    )
    return Moved(attack_share, noise_share)


def cue_moved(
    model: nn.Module, train: Samples, test: Samples, budget: ProbeBudget, seed: int, *, side: int
) -> Moved:
    """Return the share of test images whose predicted class changes when the cue in the corner names another class.

    For networks that saw `class_cue` in training; whatever stands in the corner of the test images is covered by it.
    In place of noise stands the black square that names no class. It is no small perturbation, and the ball does not
    matter.
    """
    del train, budget
    x, y = test
    wrong = other_class(y, model(x[:1]).shape[1], torch.Generator().manual_seed(seed))
    with torch.no_grad():
        changed = [
            predictions(model(class_cue(x, code, side=side))) != y
            for code in (wrong + 1, torch.zeros_like(y))
        ]
    attack, noise = (share.double().mean().item() for share in changed)
    return Moved(attack, noise)


PROBES: dict[str, Probe] = {
    "attention layer": partial(steepness, reading="attention"),
    "logits": partial(steepness, reading="logits"),
    "prediction": fooled,
    "gradient map": partial(map_lost, method="gradient"),
    "attention map": partial(map_lost, method="raw_attention"),
    "influence": influences_flipped,
}


def _kernels(
    model: nn.Module, x: Tensor, x_test: Tensor
) -> tuple[Float[Tensor, "n n"], Float[Tensor, "t n"]]:
    """Return the tangent kernel of training images, and of test against training images, in float64."""
    kernel = empirical_ntk(model, torch.cat([x, x_test])).double()
    n = len(x)
    return (kernel[:n, :n] + kernel[:n, :n].T) / 2, kernel[n:, :n]  # float32's rounding is not symmetric


def _seeded(seed: int, x: Tensor) -> torch.Generator:
    return torch.Generator(x.device).manual_seed(seed)


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
