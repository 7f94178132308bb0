"""The fast adaptive boundary attack, targeted (Croce & Hein 2020, arXiv 1907.02044)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.checks import check_call, check_count, check_eps, or_seeded
from faultlines.attacks.gradient_attack import prepared
from faultlines.attacks.hyperplane import to_hyperplane
from faultlines.attacks.loop import AttackResult, gradient_of
from faultlines.attacks.losses import margin
from faultlines.attacks.nearest import Nearest
from faultlines.attacks.norms import L2, Linf, Norm, as_norm
from faultlines.attacks.targets import checked_logits, likeliest_others, together

ALPHA_MAX, OVERSHOOT, BACKWARD = 0.1, 1.05, 0.9
r"""$\alpha_{\max}$, $\eta$ and $\beta$ of the paper, as everywhere in AutoAttack."""


class FAB:
    r"""Looks for the nearest misclassified point, by steps onto the linearised decision boundary.

    Towards each of the likeliest other classes, with $\pi$ the hyperplane where the linearised difference of target and
    true logit is 0, each step goes to

    $$(1 - \alpha)(x^k + \eta d_1) + \alpha (x + \eta d_2), \quad \alpha = \min\Bigl(
    \frac{\|d_1\|}{\|d_1\| + \|d_2\|}, \alpha_{\max}\Bigr),$$

    clipped to the box, where $d_1$ and $d_2$ bring $x^k$ and the clean $x$ to $\pi$. A misclassified point is
    kept if it is the nearest so far, and the walk goes on from `BACKWARD` times its perturbation.

    Args:
        eps: Radius in pixels within which a misclassified point counts as a success. The walk itself knows no
            radius, so a large one gives the nearest point found.
        norm: `"linf"` or `"l2"`.
        steps: Steps towards each class.
        target_classes: How many classes are tried.
        restarts: Walks towards each class; the first begins at the clean sample, others at a random point.
        early_stop: Whether a sample is left alone once there is a misclassified point within `eps`; it need then
            not be the nearest.
        batch_size: Several targets are tried at once where samples times targets stay below it.

    Raises:
        ValueError: If a value is out of range or the norm is another one.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        >>> result = FAB(eps=0.2, steps=20)(model, torch.tensor([[0.7, 0.5]]), torch.tensor([0]))
        >>> result.success, (result.x_adv - torch.tensor([[0.7, 0.5]])).abs().max() < 0.101
        (tensor([True]), tensor(True))
    """

    def __init__(
        self,
        *,
        eps: float,
        norm: str | Norm = "linf",
        steps: int = 100,
        target_classes: int = 9,
        restarts: int = 1,
        early_stop: bool = False,
        batch_size: int = 256,
    ) -> None:
        self.eps = check_eps(eps)
        self.norm = as_norm(norm)
        if not isinstance(self.norm, (Linf, L2)):
            raise ValueError(f"norm={norm!r} must be 'linf' or 'l2': FAB projects in closed form")
        self.steps = check_count(steps, "steps")
        self.target_classes = check_count(target_classes, "target_classes")
        self.restarts = check_count(restarts, "restarts")
        self.early_stop = early_stop
        self.batch_size = check_count(batch_size, "batch_size")

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        x: Float[Tensor, batch * dims],
        y: Int64[Tensor, " batch"],
        *,
        generator: torch.Generator | None = None,
    ) -> AttackResult:
        """Attack a batch; neither model nor tensors are changed.

        Args:
            model: Maps `[batch, *]` in [0, 1] to logits `[batch, classes]`.
            x: Clean samples in [0, 1].
            y: True classes.
            generator: Source of the random starts of further restarts; None takes a fresh one seeded with 0.

        Returns:
            The nearest misclassified point where it lies within `eps`, else the clean sample; `loss` is the margin.

        Raises:
            ValueError: If samples, labels or logits are not as stated.
        """
        check_call(model, x, y)
        generator = or_seeded(generator)
        with prepared(model, x) as clean:
            logits = checked_logits(model, clean, y)
            near = Nearest(clean, self.norm, margin(logits, y), logits.argmax(dim=1) != y)
            targets = likeliest_others(logits, y, self.target_classes)
            done = targets.shape[1] if self.eps == 0 else 0
            while done < targets.shape[1]:
                active = near.beyond(self.eps if self.early_stop else 0.0)
                if not len(active):
                    break
                group = targets[active, done : done + together(done, len(active), self.batch_size)].T
                done += len(group)
                self._towards(model, near, active, y, group, generator)
        return near.result(self.eps)

    def _towards(
        self,
        model: Callable[[Tensor], Tensor],
        near: Nearest,
        active: Tensor,
        y: Tensor,
        group: Int64[Tensor, "targets active"],
        generator: torch.Generator,
    ) -> None:
        """Walk from the active samples towards several targets at once, and enter what was found."""
        copies = active.repeat(len(group))
        for restart in range(self.restarts):
            start = near.x[copies]
            if restart:
                radius = near.distance[copies].clamp(max=self.eps).reshape(-1, *[1] * (start.ndim - 1))
                start = (start + self.norm.sample(start, 0.5, generator) * radius).clamp_(0, 1)
            found = near.at(copies)
            self._walk(model, found, start, y[copies], group)
            for part in torch.arange(len(copies), device=start.device).chunk(len(group)):
                near.add(active, found.part(part))

    def _walk(
        self,
        model: Callable[[Tensor], Tensor],
        near: Nearest,
        start: Tensor,
        y: Tensor,
        group: Int64[Tensor, "targets active"],
    ) -> None:
        target = group.flatten()
        z, active = start, torch.arange(len(start), device=start.device)
        for _ in range(self.steps):
            fooled = self._look(model, near, z, active, y)
            if self.early_stop and fooled.any():
                # a sample is done by whichever target
                nearest = near.distance.reshape(group.shape).amin(dim=0).repeat(len(group))
                keep = (nearest[active] > self.eps).nonzero().squeeze(1)
                if not len(keep):
                    return
                active, z, fooled = active[keep], z[keep], fooled[keep]
            x = near.x[active]
            back = fooled.reshape(-1, *[1] * (z.ndim - 1))
            # most points of a walk are fooled and left again: the gradient is taken where the walk goes on from
            z = torch.where(back, x + BACKWARD * (z - x), z).requires_grad_()
            logits = model(z)
            ours, theirs = (logits.gather(1, label[active, None]).squeeze(1) for label in (y, target))
            gap = theirs - ours
            gradient = gradient_of(gap, z)
            near.gradients[active] += 1
            z = self._step(x, z.detach(), gap.detach(), gradient)
        self._look(model, near, z, active, y)

    def _look(
        self, model: Callable[[Tensor], Tensor], near: Nearest, z: Tensor, active: Tensor, y: Tensor
    ) -> Tensor:
        """Enter the points that fool the model, and return which do."""
        with torch.no_grad():
            logits = model(z)
        fooled = logits.argmax(dim=1) != y[active]
        if fooled.any():
            near.visit(active, z, margin(logits, y[active]), fooled)
        return fooled

    def _step(self, x: Tensor, z: Tensor, gap: Tensor, gradient: Tensor) -> Tensor:
        """Return the biased, overshot step onto the plane where the linearised gap is 0."""
        w = gradient.flatten(1)
        from_clean = gap + (w * (x - z).flatten(1)).sum(dim=1)
        both = torch.cat([z, x]).flatten(1)
        moves = to_hyperplane(both, torch.cat([w, w]), torch.cat([gap, from_clean]), self.norm)
        size = self.norm.size(moves).clamp(min=1e-8).reshape(-1, *[1] * (z.ndim - 1))
        (d1, d2), (a1, a2) = moves.reshape(2, *z.shape), size.chunk(2)
        alpha = (a1 / (a1 + a2)).clamp(max=ALPHA_MAX)
        return ((1 - alpha) * (z + OVERSHOOT * d1) + alpha * (x + OVERSHOOT * d2)).clamp_(0, 1)
