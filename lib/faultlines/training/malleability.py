r"""Influence malleability of kernel regression on images: attack training images, look at who mattered before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.fgsm import FGSM
from faultlines.attacks.momentum import MIM
from faultlines.attacks.pgd import PGD
from faultlines.attacks.training_data import perturb_training_data, random_sign
from faultlines.estimators.influence.kernel import loo_influence
from faultlines.estimators.malleability import flip_rate, most_influential, rank_correlation, top_overlap
from faultlines.estimators.ntk.arccosine import relu_ntk
from faultlines.estimators.ntk.finite import finite_relu_ntk
from faultlines.estimators.ntk.ridge import KernelRidge, match_ridge
from faultlines.estimators.ntk.targets import centred_one_hot, signed_targets
from faultlines.models.linearized import Representation
from faultlines.models.two_layer import KernelExpansion

ATTACKS = ("fgsm", "pgd", "mim", "random")


class KernelClassifier:
    r"""Kernel ridge regression on the represented images, with the influence of every one of them.

    Args:
        representation: From images to rows; with attention, images attend to the training images.
        x: Training images.
        y: Classes from 0. Two classes become $\pm 1$, more become centred one-hot targets.
        weight: Hidden weights `[m, d]` of the finite-width kernel; None for infinite width.
        ridge: $\lambda$.
        dimension: If given, the ridge is the one that gives the clean kernel this effective dimension.

    Attributes:
        ridge: The ridge in use.
    """

    def __init__(
        self,
        representation: Representation,
        x: Float[Tensor, "n *shape"],
        y: Int64[Tensor, " n"],
        *,
        weight: Tensor | None = None,
        ridge: float = 1e-3,
        dimension: float | None = None,
    ) -> None:
        self.representation, self.x, self.y, self.weight = representation, x, y, weight
        self.classes = int(y.max()) + 1
        self.targets = signed_targets(y) if self.classes == 2 else centred_one_hot(y, self.classes)
        self.rows = representation(x, x)
        kernel = self.kernel(self.rows)
        self.ridge = ridge if dimension is None else match_ridge(kernel, dimension)
        self.fit = KernelRidge(kernel, self.targets, self.ridge)
        self._expansion = None if weight is None else KernelExpansion(weight, self.rows, self.fit.alpha)

    def kernel(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """Return the kernel between rows."""
        return relu_ntk(a, b) if self.weight is None else finite_relu_ntk(a, b, weight=self.weight)

    def scores(self, x: Tensor, reference: Tensor) -> Float[Tensor, "t classes"]:
        """Return scores of images that attend to `reference`, differentiable in both."""
        rows = self.representation(x, reference)
        f = self.fit(relu_ntk(rows, self.rows)) if self._expansion is None else self._expansion(rows)
        return torch.stack([-f, f], dim=1) if self.classes == 2 else f

    def accuracy(self, x: Tensor, y: Int64[Tensor, " t"]) -> float:
        """Return the share of test images classified rightly, attending to the clean training images."""
        with torch.no_grad():
            return float((self.scores(x, self.x).argmax(dim=1) == y).double().mean())

    def influence(
        self, x_test: Tensor, y_test: Tensor, x: Tensor | None = None, *, frozen: bool = False
    ) -> Float[Tensor, "n t"]:
        """Return the leave-one-out influence on the score of the true class (on the output, for two classes).

        Args:
            x_test: Test images.
            y_test: Their classes.
            x: Training images to refit on, with the labels as they are; the clean ones by default.
            frozen: Whether all images go on attending to the clean training images.
        """
        x = self.x if x is None else x
        reference = self.x if frozen else x
        rows, test = self.representation(x, reference), self.representation(x_test, reference)
        found = loo_influence(self.kernel(rows), self.kernel(test, rows), self.targets, self.ridge)
        if self.classes == 2:
            return found
        return found.gather(2, y_test[None, :, None].expand(len(found), -1, 1)).squeeze(2)


@dataclass(frozen=True)
class Malleability:
    """What became of the influences on each test image.

    Attributes:
        flips: Share of the most influential training images whose influence changed sign, `[t]`.
        correlation: Spearman correlation of the influence rankings, `[t]`.
        overlap: Share of the most influential that stayed among them, `[t]`.
        attacked: Share of the attacked training images, the same for every test image, whose influence changed
            sign, `[t]`: another reading of the definition.
    """

    flips: Float[Tensor, " t"]
    correlation: Float[Tensor, " t"]
    overlap: Float[Tensor, " t"]
    attacked: Float[Tensor, " t"]


def perturb(
    model: KernelClassifier, name: str, index: Int64[Tensor, " s"], *, eps: float, steps: int, seed: int
) -> Tensor:
    """Return the training images with those at `index` perturbed by one of `ATTACKS`.

    Args:
        model: The classifier under attack.
        name: `"fgsm"`, `"pgd"`, `"mim"`, or `"random"` for signs without direction.
        index: Which training images.
        eps: Radius in pixels.
        steps: Steps of the iterated attacks.
        seed: Seed of random starts and signs.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in ATTACKS:
        raise ValueError(f"name={name!r} is not one of {', '.join(ATTACKS)}")
    generator = torch.Generator().manual_seed(seed)
    if name == "random":
        return random_sign(model.x, index, eps=eps, generator=generator)
    attack = {"fgsm": FGSM(eps=eps), "pgd": PGD(eps=eps, steps=steps), "mim": MIM(eps=eps, steps=steps)}[name]
    return perturb_training_data(attack, model.scores, model.x, model.y, index, generator=generator)


def malleability(
    model: KernelClassifier,
    x_test: Tensor,
    y_test: Int64[Tensor, " t"],
    attack: str = "pgd",
    *,
    eps: float,
    share: float = 0.1,
    steps: int = 10,
    seed: int = 0,
    frozen: bool = False,
) -> Malleability:
    """Attack the most influential training images together, refit, and compare the influences.

    The paper's *transformed* intervention with its flip rate (Definition 3.4, second-hand), asked per test image.

    Args:
        model: The classifier.
        x_test: Test images.
        y_test: Their classes.
        attack: One of `ATTACKS`.
        eps: Radius in pixels.
        share: Share of training images that count as most influential, in the choice of whom to attack
            (largest mean size over the test images) and in the flip rate.
        steps: Steps of the iterated attacks.
        seed: Seed of random starts and signs.
        frozen: Whether attention goes on reading the clean training images (the control).
    """
    before = model.influence(x_test, y_test)
    index = most_influential(before, share)
    moved = perturb(model, attack, index, eps=eps, steps=steps, seed=seed)
    after = model.influence(x_test, y_test, moved, frozen=frozen)
    return Malleability(
        flip_rate(before, after, share=share),
        rank_correlation(before, after),
        top_overlap(before, after, share=share),
        flip_rate(before[index], after[index], share=1.0),
    )
