"""The fast adaptive boundary attack, targeted (Croce & Hein 2020, arXiv 1907.02044)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.attack import Attack, Victim, check_closed_form, check_count
from faultlines.attacks.loop import gradient_of
from faultlines.attacks.losses import likeliest_others, margin, together
from faultlines.attacks.norms import Linf, Norm
from faultlines.attacks.results import AttackResult, Nearest

ALPHA_MAX, OVERSHOOT, BACKWARD = 0.1, 1.05, 0.9
r"""$\alpha_{\max}$, $\eta$ and $\beta$ of the paper, as everywhere in AutoAttack."""


class FAB(Attack[AttackResult]):
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
        super().__init__(eps=eps, norm=norm)
        check_closed_form(self.norm)
        self.steps = check_count(steps, "steps")
        self.target_classes = check_count(target_classes, "target_classes")
        self.restarts = check_count(restarts, "restarts")
        self.early_stop = early_stop
        self.batch_size = check_count(batch_size, "batch_size")

    def search(self, victim: Victim, x: Tensor, y: Tensor, generator: torch.Generator) -> AttackResult:
        """Return the nearest misclassified points where they lie within `eps`; `loss` is the margin."""
        with torch.no_grad():
            logits = victim(x)
        near = Nearest(x, self.norm, margin(logits, y), logits.argmax(dim=1) != y)
        targets = likeliest_others(logits, y, self.target_classes)
        done = targets.shape[1] if self.eps == 0 else 0
        while done < targets.shape[1]:
            active = near.beyond(self.eps if self.early_stop else 0.0)
            if not len(active):
                break
            group = targets[active, done : done + together(done, len(active), self.batch_size)].T
            done += len(group)
            self._towards(victim, near, active, y, group, generator)
        return near.result(self.eps)

    def _towards(
        self,
        victim: Victim,
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
            self._walk(victim, found, start, y[copies], group)
            for part in torch.arange(len(copies), device=start.device).chunk(len(group)):
                near.add(active, found.part(part))

    def _walk(
        self,
        victim: Victim,
        near: Nearest,
        start: Tensor,
        y: Tensor,
        group: Int64[Tensor, "targets active"],
    ) -> None:
        target = group.flatten()
        z, active = start, torch.arange(len(start), device=start.device)
        for _ in range(self.steps):
            fooled = self._look(victim, near, z, active, y)
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
            logits = victim(z)
            ours, theirs = (logits.gather(1, label[active, None]).squeeze(1) for label in (y, target))
            gap = theirs - ours
            gradient = gradient_of(gap, z)
            near.gradients[active] += 1
            victim.note_slope(gradient, fooled)
            z = self._step(x, z.detach(), gap.detach(), gradient)
        self._look(victim, near, z, active, y)

    def _look(self, victim: Victim, near: Nearest, z: Tensor, active: Tensor, y: Tensor) -> Tensor:
        """Enter the points that fool the model, and return which do."""
        with torch.no_grad():
            logits = victim(z)
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


def to_hyperplane(
    point: Float[Tensor, "batch n"],
    normal: Float[Tensor, "batch n"],
    value: Float[Tensor, " batch"],
    norm: Norm,
) -> Float[Tensor, "batch n"]:
    r"""Return the smallest move $d$ with $v + \langle w, d \rangle = 0$ and $p + d \in [0, 1]^n$.

    Every coordinate moves towards the plane, by $\min(\lambda a_i, c_i)$: $c_i$ is its room in the box and $a_i$ its
    speed, 1 for the maximum norm and $|w_i|$ for the Euclidean one. The gain $\sum_i |w_i| \min(\lambda a_i, c_i)$
    is piecewise linear in $\lambda$, so $\lambda$ follows from one sort of the places $c_i / a_i$ where coordinates
    come to rest (Croce & Hein 2020, arXiv 1907.02044, sec. 3 and appendix A). Where the box does not reach the
    plane, the move goes to the point of the box nearest to it.

    Args:
        point: $p$, in the box.
        normal: $w$.
        value: $v$, the linear function at $p$.
        norm: `Linf()` or `L2()`.

    Example:
        >>> from faultlines.attacks.norms import L2
        >>> p, w, v = torch.tensor([[0.5, 0.1]]), torch.tensor([[1.0, 1.0]]), torch.tensor([0.5])
        >>> to_hyperplane(p, w, v, Linf())  # the second coordinate has room for 0.1 only
        tensor([[-0.4000, -0.1000]])
    """
    sign = -normal.sign() * torch.where(value >= 0, 1.0, -1.0).to(point)[:, None]
    weight = normal.abs()
    room = torch.where(sign > 0, 1 - point, point) * (weight > 0)
    speed = torch.ones_like(weight) if isinstance(norm, Linf) else weight
    rest, order = torch.where(weight > 0, room / speed, 0.0).sort(dim=1)
    weight_sorted = weight.gather(1, order)
    done = (weight_sorted * room.gather(1, order)).cumsum(dim=1)
    drive = weight_sorted * speed.gather(1, order)
    still = drive.flip(1).cumsum(dim=1).flip(1) - drive  # of the coordinates that have not come to rest
    gain = done + rest * still
    need = value.abs()[:, None]
    # the piece of the gain that holds what is needed, and the state at its beginning
    piece = torch.searchsorted(gain.contiguous(), need.contiguous())
    at = (piece - 1).clamp(min=0)
    first = piece == 0
    moved = torch.where(first, 0.0, done.gather(1, at))
    slope = torch.where(first, drive.sum(dim=1, keepdim=True), still.gather(1, at))
    scale = torch.where(slope > 0, (need - moved) / torch.where(slope > 0, slope, 1), 0.0)
    out_of_reach = piece == piece.new_tensor(point.shape[1])
    return sign * torch.where(out_of_reach, room, torch.minimum(scale * speed, room))
