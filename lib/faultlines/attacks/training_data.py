r"""Attacks on training data, through a map that mixes samples.

Where samples attend to samples, moving some of them moves the representation of all. The attack therefore
differentiates through the set attended to as well: the reference holds the perturbed samples at every step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.attack import check_number
from faultlines.attacks.pgd import GradientAttack

Predict = Callable[[Tensor, Tensor], Tensor]
"""Maps samples `[s, *shape]` and the set they attend to, `[n, *shape]`, to scores `[s, classes]`."""


def perturb_training_data(
    attack: GradientAttack,
    predict: Predict,
    x: Float[Tensor, "n *shape"],
    y: Int64[Tensor, " n"],
    index: Int64[Tensor, " s"],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n *shape"]:
    """Return the training set with the samples at `index` attacked jointly; labels do not change.

    This is the paper's *transformed* intervention for the most influential samples and the *adversarial* one
    for all of them. The attack keeps, sample by sample, the worst point it visited; where samples mix, their
    worst points need not come from the same step.

    Args:
        attack: FGSM, PGD, MIM or another gradient attack.
        predict: The model, from pixels to scores, normalisation and attention included.
        x: The clean training set, in [0, 1].
        y: Its classes, 0 to `classes - 1`.
        index: Which samples to attack, without repetition.
        generator: Source of random starts; see the attack.

    Raises:
        ValueError: If an index repeats or is out of range, the attack stops early, or the attack refuses the batch.
    """
    _check_index(index, len(x))
    if attack.early_stop:
        raise ValueError(
            "attack.early_stop=True drops samples on the way; it must be False where samples mix"
        )
    fixed, index = x.detach(), index.to(x.device)

    def scores(z: Tensor) -> Tensor:
        return predict(z, fixed.index_copy(0, index, z))

    found = attack(scores, fixed[index], y[index], generator=generator).x_adv
    return fixed.index_copy(0, index, found)


def random_sign(
    x: Float[Tensor, "n *shape"],
    index: Int64[Tensor, " s"],
    *,
    eps: float,
    generator: torch.Generator,
) -> Float[Tensor, "n *shape"]:
    r"""Return the training set with $\pm \epsilon$ added to each pixel of the samples at `index`, clipped to [0, 1].

    The control of every signed-gradient attack: the same size, no direction.

    Args:
        x: The clean training set, in [0, 1].
        index: Which samples to perturb.
        eps: Size of the perturbation.
        generator: Source of the signs, on the CPU.

    Raises:
        ValueError: If an index repeats or is out of range, or `eps` is negative.

    Example:
        >>> x = torch.full((2, 1, 1, 2), 0.5)
        >>> moved = random_sign(x, torch.tensor([1]), eps=0.25, generator=torch.Generator().manual_seed(0))
        >>> (moved - x).abs().flatten(1).tolist()
        [[0.0, 0.0], [0.25, 0.25]]
    """
    eps = check_number(eps, "eps")
    _check_index(index, len(x))
    index = index.to(x.device)
    signs = 2 * torch.randint(0, 2, x[index].shape, generator=generator).to(x) - 1
    return x.index_copy(0, index, (x[index] + eps * signs).clamp(0, 1))


def _check_index(index: Tensor, n: int) -> None:
    if index.ndim != 1 or not len(index) or int(index.min()) < 0 or int(index.max()) >= n:
        raise ValueError(f"index of shape {tuple(index.shape)} must name samples from 0 to {n - 1}")
    if len(index.unique()) != len(index):
        raise ValueError(
            f"index names {len(index) - len(index.unique())} samples twice; each must be named once"
        )
