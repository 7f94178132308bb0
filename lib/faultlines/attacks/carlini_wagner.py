"""The attack of Carlini & Wagner 2017 that minimises the Euclidean perturbation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from faultlines.attacks.attack import Attack, Victim, check_count, check_number
from faultlines.attacks.loop import gradient_of
from faultlines.attacks.losses import margin
from faultlines.attacks.norms import L2
from faultlines.attacks.results import AttackResult, Nearest

EDGE = 0.999999  # arctanh of 1 is infinite: pixels of 0 and 1 begin this close to it
CHECKS = 10  # looks at a walk's progress
UNSEEN = 1e-4  # largest change of a pixel of a walk that has not left the edge
PROGRESS = 0.9999  # share of the last look's loss that must be undercut
BETA1, BETA2, TINY = 0.9, 0.999, 1e-8  # Adam's


class CarliniWagnerL2(Attack[AttackResult]):
    r"""Minimises the perturbation and the margin together (arXiv 1608.04644, sec. V and VI.A).

    In $w$ with $z(w) = (\tanh w + 1) / 2$, which cannot leave the pixel box, Adam minimises

    $$\|z(w) - x\|_2^2 + c \max(z_y - \max_{i \ne y} z_i + \kappa,\, 0),$$

    and a binary search finds for each sample the smallest $c$ that still fools the model. A sample whose loss makes no
    progress over a tenth of the steps is left alone until the next $c$, unless it has not been seen to move at all:
    pixels of 0 and 1 begin at $|w| = 7.3$, and leave the edge after `7 / step_size` steps or so. With
    `steps * step_size` below that they stay, and the perturbation lies on the other pixels.

    Args:
        steps: Adam's steps for each $c$.
        step_size: Adam's learning rate.
        search_steps: Values of $c$ tried.
        initial_c: The first one; it grows tenfold until the model is fooled.
        confidence: $\kappa$, by how much the wrong logit must lead.
        targeted: Whether `y` names the class wanted instead of the true one.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> with torch.no_grad():
        ...     _ = model.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        >>> x = torch.tensor([[0.7, 0.5]])  # at distance 0.1414 from the boundary
        >>> result = CarliniWagnerL2(steps=200)(model, x, torch.tensor([0]))
        >>> bool(result.success), bool(0.1414 < (result.x_adv - x).norm() < 0.15)
        (True, True)
    """

    def __init__(
        self,
        *,
        steps: int = 1000,
        step_size: float = 0.01,
        search_steps: int = 9,
        initial_c: float = 1e-3,
        confidence: float = 0.0,
        targeted: bool = False,
    ) -> None:
        self.steps = check_count(steps, "steps")
        self.step_size = check_number(step_size, "step_size", zero=False)
        self.search_steps = check_count(search_steps, "search_steps")
        self.initial_c = check_number(initial_c, "initial_c", zero=False)
        self.confidence = check_number(confidence, "confidence")
        self.targeted = targeted

    def search(self, victim: Victim, x: Tensor, y: Tensor, generator: torch.Generator) -> AttackResult:
        """Return the nearest points found that fool the model with the confidence asked for."""
        del generator  # nothing is drawn
        with torch.no_grad():
            lead = self._lead(victim(x), y)
        near = Nearest(x, L2(), lead, self._fooled(lead))
        todo = near.beyond(0.0)
        if not len(todo):
            return near.result()
        z = x.detach().clone().requires_grad_()
        victim.note_slope(gradient_of(self._lead(victim(z), y), z), self._fooled(lead))
        lead = lead.to(torch.promote_types(lead.dtype, torch.float32))
        lower, upper = torch.zeros_like(lead), torch.full_like(lead, math.inf)
        c = torch.full_like(lead, self.initial_c)
        for _ in range(self.search_steps):
            found = self._minimise(victim, near, y, c, todo)
            upper, lower = torch.where(found, c, upper), torch.where(found, lower, c)
            c = torch.where(upper.isinf(), 10 * c, (lower + upper) / 2)
        result = near.result()
        stuck = ~result.success & ((x == 0) | (x == 1)).flatten(1).any(dim=1)
        reach, edge = self.steps * self.step_size, math.atanh(EDGE)
        if reach < edge and stuck.any():
            victim.remarks.append(
                f"{int(stuck.sum())} of {len(x)} samples were not fooled and have pixels of 0 or 1, which "
                f"steps * step_size = {reach:g} cannot move off the edge; {edge:.1f} or more does"
            )
        return result

    def _lead(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return by how much the logits that should win do."""
        value = margin(logits, y)
        return -value if self.targeted else value

    def _fooled(self, lead: Tensor) -> Tensor:
        return (lead > 0) & (lead >= self.confidence)

    def _minimise(self, victim: Victim, near: Nearest, y: Tensor, c: Tensor, active: Tensor) -> Tensor:
        """Walk once with the constants `c`; return which samples fooled the model on the way."""
        found = torch.zeros_like(y, dtype=torch.bool)
        x = near.x[active]
        # in float16 the edge would round to 1, and its w be infinite
        w = start = torch.atanh((2 * x.to(c.dtype) - 1) * EDGE)
        origin = (w.tanh() + 1) / 2
        first, second = torch.zeros_like(w), torch.zeros_like(w)
        last = torch.full_like(c[active], math.inf)
        every = math.ceil(self.steps / CHECKS)
        for step in range(self.steps):
            w.requires_grad_()
            z = (w.tanh() + 1) / 2
            lead = self._lead(victim(z.to(x.dtype)), y[active]).to(c.dtype)
            # the distance's gradient in closed form would be two lines more and no faster
            loss = (z - origin).square().flatten(1).sum(dim=1) + c[active] * (self.confidence - lead).clamp(
                min=0
            )
            gradient = gradient_of(loss, w)
            near.gradients[active] += 1
            fooled = self._fooled(lead.detach())
            victim.note_slope(gradient, fooled)
            found[active] |= fooled
            near.visit(active, z.to(x.dtype), lead, fooled)
            loss, w = loss.detach(), w.detach()
            first.lerp_(gradient, 1 - BETA1)
            second.lerp_(gradient.square(), 1 - BETA2)
            rate = self.step_size / (1 - BETA1 ** (step + 1))
            w = w.addcdiv(first, (second / (1 - BETA2 ** (step + 1))).sqrt_().add_(TINY), value=-rate)
            if step % every == 0:
                # pixels that begin at the edge move long before it can be seen
                unseen = ((z.detach() - origin).abs() < UNSEEN).flatten(1).all(dim=1)
                moving = (loss < PROGRESS * last) | (unseen & (w != start).flatten(1).any(dim=1))
                last = loss
                if not moving.all():
                    keep = moving.nonzero().squeeze(1)
                    if not len(keep):
                        break
                    active, w, origin, last = active[keep], w[keep], origin[keep], last[keep]
                    start = start[keep]
                    first, second = first[keep], second[keep]
        return found
