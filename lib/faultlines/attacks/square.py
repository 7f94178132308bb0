"""The Square attack: random search by squares, with queries only (Andriushchenko et al. 2020, arXiv 1912.00049)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.ball import Ball
from faultlines.attacks.checks import check_call, check_count, check_eps, or_seeded
from faultlines.attacks.loop import AttackResult
from faultlines.attacks.losses import margin
from faultlines.attacks.norms import L2, Linf, Norm, as_norm
from faultlines.attacks.square_proposals import Proposals, SquaresL2, SquaresLinf
from faultlines.attacks.targets import check_logits

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10000, after which the share of changed pixels halves."""


class Square:
    r"""Lowers the margin by changes in random squares that are kept where they help.

    The share $p$ of pixels in a square begins at `p_init` and halves along the paper's schedule. For the maximum norm a
    square takes $\pm \epsilon$ in each channel, from a start of vertical stripes; for the Euclidean norm the mass
    of one window moves to another. A sample is left alone once fooled.

    The model is taken to answer the same question alike: a change of the maximum norm that alters nothing, or that
    was refused at this very point, costs a query of the budget as in the paper but no forward pass.

    Args:
        eps: Radius of the ball in pixels (0 to 1).
        norm: `"linf"` or `"l2"`.
        queries: Budget of each restart, the start not counted.
        p_init: Share of the pixels that the first squares change.
        rescale: Whether the schedule, written for 10000 queries, is stretched to the budget. AutoAttack does not.
        restarts: Searches from different starts.

    Raises:
        ValueError: If a value is out of range or the norm is another one.

    Example:
        >>> from faultlines.models import ViT
        >>> model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=1, heads=2).eval()
        >>> x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> result = Square(eps=0.1, queries=20)(model, x, y)
        >>> bool((result.x_adv - x).abs().max() <= 0.1 + 1e-6), result.gradients.tolist()
        (True, [0, 0, 0, 0])
    """

    def __init__(
        self,
        *,
        eps: float,
        norm: str | Norm = "linf",
        queries: int = 5000,
        p_init: float = 0.8,
        rescale: bool = False,
        restarts: int = 1,
    ) -> None:
        self.eps = check_eps(eps)
        self.norm = as_norm(norm)
        if not isinstance(self.norm, (Linf, L2)):
            raise ValueError(f"norm={norm!r} must be 'linf' or 'l2'")
        self.queries = check_count(queries, "queries")
        if not 0 < p_init <= 1:
            raise ValueError(f"p_init={p_init!r} must be above 0 and at most 1")
        self.p_init = p_init
        self.rescale = rescale
        self.restarts = check_count(restarts, "restarts")

    def share(self, query: int) -> float:
        """Return the share of pixels that the square of a query changes.

        Example:
            >>> [Square(eps=0.1).share(query) for query in (0, 10, 11, 51)]
            [0.8, 0.8, 0.4, 0.2]
        """
        at = int(query / self.queries * 10000) if self.rescale else query
        return self.p_init / 2 ** sum(at > mark for mark in HALVINGS)

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        x: Float[Tensor, "batch channel height width"],
        y: Int64[Tensor, " batch"],
        *,
        generator: torch.Generator | None = None,
    ) -> AttackResult:
        """Attack a batch of images without any gradient.

        Args:
            model: Maps images in [0, 1] to logits `[batch, classes]`.
            x: Clean images in [0, 1].
            y: True classes.
            generator: Source of all draws; None takes a fresh one seeded with 0.

        Returns:
            The point of largest margin found, inside ball and box, a misclassified one if there was any; `loss` is
            its margin and `gradients` is 0.

        Raises:
            ValueError: If images, labels or logits are not as stated.
        """
        check_call(model, x, y)
        if x.ndim != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}; it must be [batch, channel, height, width]")
        generator = or_seeded(generator)
        with torch.no_grad():
            logits = model(x)
            check_logits(logits, y)
            best, loss, fooled = x.clone(), margin(logits, y), logits.argmax(dim=1) != y
            for _ in range(self.restarts if self.eps > 0 else 0):
                active = (~fooled).nonzero().squeeze(1)
                if not len(active):
                    break
                ball = Ball(x[active], self.eps, self.norm)
                proposals = (SquaresLinf if isinstance(self.norm, Linf) else SquaresL2)(ball, generator)
                point, value, hit = self._search(model, y[active], proposals)
                better = hit | (value > loss[active])
                kept = active[better]
                best[kept], loss[kept], fooled[kept] = point[better], value[better], hit[better]
        gradients = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return AttackResult(best, fooled, loss, gradients)

    def _search(
        self, model: Callable[[Tensor], Tensor], y: Tensor, proposals: Proposals
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Search once; return points, margins and whether they fool the model."""
        z = proposals.start()
        logits = model(z)
        loss, fooled = margin(logits, y), logits.argmax(dim=1) != y
        active = (~fooled).nonzero().squeeze(1)
        proposals.keep(active)
        points, current, value, labels = z, z[active], loss[active], y[active]
        for query in range(self.queries):
            if not len(active):
                break
            asked, candidate = proposals.propose(current, self.share(query))
            if not len(asked):
                continue
            logits = model(candidate)
            new = margin(logits, labels[asked])
            hit = logits.argmax(dim=1) != labels[asked]
            better = hit | (new > value[asked])
            kept = asked[better]
            if not len(kept):
                continue
            current[kept], value[kept] = candidate[better], new[better]
            proposals.accept(kept)
            if hit.any():
                points[active], loss[active] = current, value
                fooled[active[asked[hit]]] = True
                keep = torch.ones(len(active), dtype=torch.bool, device=y.device)
                keep[asked[hit]] = False
                keep = keep.nonzero().squeeze(1)
                active, current, value, labels = active[keep], current[keep], value[keep], labels[keep]
                proposals.keep(keep)
        points[active], loss[active] = current, value
        return points, loss, fooled
