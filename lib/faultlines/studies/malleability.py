r"""Influence malleability of kernel regression on images: attack training images, look at who mattered before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.pgd import FGSM, MIM, PGD
from faultlines.attacks.training_data import perturb_training_data, random_sign
from faultlines.estimators.influence.kernel import loo_influence
from faultlines.estimators.malleability import (
    curated,
    flip_rate,
    most_influential,
    rank_correlation,
    top_overlap,
)
from faultlines.estimators.ntk.ridge import KernelRidge, centred_one_hot, match_ridge, signed_targets
from faultlines.estimators.ntk.two_layer import finite_relu_ntk, relu_ntk
from faultlines.models.linearized import Representation
from faultlines.models.two_layer import KernelExpansion

ATTACKS = ("fgsm", "pgd", "mim", "random")
AIMED = "aimed"
INTERVENTIONS = ("transformed", "adversarial", "curated")


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

    Raises:
        ValueError: If there is one class only, an image is blank, or the kernel is singular at that ridge.
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
        if self.classes < 2 or int(y.min()) < 0:
            raise ValueError(
                f"y has the classes {y.unique().tolist()[:12]}; there must be two or more, from 0"
            )
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
        self,
        x_test: Tensor,
        y_test: Int64[Tensor, " t"],
        x: Tensor | None = None,
        *,
        keep: Int64[Tensor, " r"] | None = None,
        frozen: bool = False,
    ) -> Float[Tensor, "r t"]:
        """Return the leave-one-out influence on the score of the true class (on the output, for two classes).

        Args:
            x_test: Test images.
            y_test: Their classes.
            x: Training images to refit on, with the labels as they are; the clean ones by default.
            keep: Which of them to refit on, and attend to; all by default.
            frozen: Whether all images go on attending to the clean training images, all of them.
        """
        x, targets = self.x if x is None else x, self.targets
        if keep is not None:
            x, targets = x[keep], targets[keep]
        reference = self.x if frozen else x
        rows, test = self.representation(x, reference), self.representation(x_test, reference)
        found = loo_influence(self.kernel(rows), self.kernel(test, rows), targets, self.ridge)
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
            sign, `[t]`: another reading of the definition. Not a number where they were removed.
        aggregated: Share of the images of largest summed influence whose sum changed sign: a third one.
    """

    flips: Float[Tensor, " t"]
    correlation: Float[Tensor, " t"]
    overlap: Float[Tensor, " t"]
    attacked: Float[Tensor, " t"]
    aggregated: float


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


def aim_at_influences(
    model: KernelClassifier,
    x_test: Tensor,
    y_test: Int64[Tensor, " t"],
    index: Int64[Tensor, " s"],
    *,
    eps: float,
    share: float = 0.1,
    steps: int = 10,
    seed: int = 0,
) -> Tensor:
    r"""Return the training images with those at `index` moved so that influences change their sign.

    PGD on the training images, labels as they are, that minimises the mean of $\mathrm{sign}(I_{it}) I'_{it} /
    |I_{it}|$, cut off at -1, over the `share` of images most influential on each test image: $I$ before and $I'$
    after. The gradient runs through the refit, and through the attention of all images to the moved ones. Of all
    steps the one that flips most is kept, the clean images among them.

    At finite width the kernel's gates have no gradient, so that only its inner products are seen.

    Args:
        model: The classifier under attack.
        x_test: Test images.
        y_test: Their classes.
        index: Which training images may move.
        eps: Radius in pixels.
        share: See above.
        steps: Steps, of size 2.5 `eps` / `steps`.
        seed: Seed of the random start.
    """
    before = model.influence(x_test, y_test).detach()
    top = most_influential_each(before, share)
    scale = before.abs().gather(0, top).clamp_min(torch.finfo(before.dtype).tiny)
    sign = before.gather(0, top).sign()
    clean = model.x[index]
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=clean.dtype)
    z = (clean + eps * (2 * noise.to(clean.device) - 1)).clamp(0, 1)
    best, most = clean, 0.0
    for step in range(steps + 1):
        z = z.detach().requires_grad_()
        after = _refitted(model, x_test, y_test, model.x.index_copy(0, index, z)).gather(0, top)
        flipped = float((after.detach().sign() != sign).double().mean())
        if flipped > most:
            best, most = z.detach(), flipped
        if step < steps:
            (slope,) = torch.autograd.grad((sign * after / scale).clamp_min(-1).mean(), z)
            z = z.detach() - 2.5 * eps / steps * slope.sign()
            z = torch.minimum(torch.maximum(z, clean - eps), clean + eps).clamp(0, 1)
    return model.x.index_copy(0, index, best)


def _refitted(model: KernelClassifier, x_test: Tensor, y_test: Int64[Tensor, " t"], x: Tensor) -> Tensor:
    # KernelClassifier.influence on moved images, written so that it has a gradient in them
    rows, test = model.representation(x, x), model.representation(x_test, x)
    kernel = model.kernel(rows)
    inverse = torch.linalg.inv(
        kernel + model.ridge * torch.eye(len(x), dtype=kernel.dtype, device=kernel.device)
    )
    weights = model.kernel(test, rows) @ inverse  # [t, n]
    alpha = inverse @ model.targets.to(kernel.dtype)
    chosen = alpha[:, None] if model.classes == 2 else alpha[:, y_test]  # [n, 1] or [n, t]
    return weights.T * chosen / inverse.diagonal()[:, None]


def most_influential_each(influence: Float[Tensor, "n t"], share: float = 0.1) -> Int64[Tensor, "s t"]:
    """Return the indices of the `share` of training images with the largest influence on each test image."""
    return influence.abs().topk(max(1, round(share * len(influence))), dim=0).indices


def malleability(
    model: KernelClassifier,
    x_test: Tensor,
    y_test: Int64[Tensor, " t"],
    attack: str = "pgd",
    *,
    eps: float,
    intervention: Literal["transformed", "adversarial", "curated"] = "transformed",
    share: float = 0.1,
    steps: int = 10,
    seed: int = 0,
    frozen: bool = False,
) -> Malleability:
    """Change the training set, refit, and compare the influences (Definition 3.4 of the paper, second-hand).

    The paper's three interventions: *transformed* attacks the most influential training images together,
    *adversarial* attacks all of them, *curated* removes the most influential and compares the influences of
    those that stay. With `attack="random"` each has its control: signs without direction, or the removal of as
    many images chosen at random.

    Args:
        model: The classifier.
        x_test: Test images.
        y_test: Their classes.
        attack: One of `ATTACKS`, or `AIMED` at the influences themselves (see `aim_at_influences`); for *curated*
            only whether it is `"random"` counts.
        eps: Radius in pixels; without effect for *curated*.
        intervention: See above.
        share: Share of training images that count as most influential, in the choice of whom to attack
            (largest mean size over the test images) and in the flip rate.
        steps: Steps of the iterated attacks.
        seed: Seed of random starts, signs and choices.
        frozen: Whether attention goes on reading the clean training images (the control).

    Raises:
        ValueError: If attack or intervention are unknown.
    """
    if attack not in (*ATTACKS, AIMED):
        raise ValueError(f"attack={attack!r} is not one of {', '.join((*ATTACKS, AIMED))}")
    if intervention not in INTERVENTIONS:
        raise ValueError(f"intervention={intervention!r} is not one of {', '.join(INTERVENTIONS)}")
    before = model.influence(x_test, y_test)
    index = most_influential(before, share)
    if intervention == "adversarial":
        index = torch.arange(len(before), device=before.device)
    if intervention == "curated":
        if attack == "random":
            order = torch.randperm(len(before), generator=torch.Generator().manual_seed(seed))
            index = order[: len(index)].to(index.device)
        keep = curated(len(before), index.cpu()).to(index.device)
        before, after = before[keep], model.influence(x_test, y_test, keep=keep, frozen=frozen)
        attacked = torch.full_like(before[0], float("nan"))
    else:
        if attack == AIMED:
            options: dict[str, Any] = {"eps": eps, "share": share, "steps": steps, "seed": seed}
            moved = aim_at_influences(model, x_test, y_test, index, **options)
        else:
            moved = perturb(model, attack, index, eps=eps, steps=steps, seed=seed)
        after = model.influence(x_test, y_test, moved, frozen=frozen)
        attacked = flip_rate(before[index], after[index], share=1.0)
    return Malleability(
        flip_rate(before, after, share=share),
        rank_correlation(before, after),
        top_overlap(before, after, share=share),
        attacked,
        float(flip_rate(before, after, share=share, mode="aggregated")),
    )
