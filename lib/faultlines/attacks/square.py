"""The Square attack: random search by squares, with queries only (Andriushchenko et al. 2020, arXiv 1912.00049)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.attack import Attack, Victim, check_closed_form, check_count
from faultlines.attacks.losses import margin
from faultlines.attacks.norms import Ball, Linf, Norm
from faultlines.attacks.results import AttackResult

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10000, after which the share of changed pixels halves."""

MEMORY = 2**28
"""Bytes that remembering refused squares may take; beyond that they are asked about again."""


class Square(Attack[AttackResult]):
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
        super().__init__(eps=eps, norm=norm)
        check_closed_form(self.norm)
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

    def search(self, victim: Victim, x: Tensor, y: Tensor, generator: torch.Generator) -> AttackResult:
        """Return the points of largest margin found, misclassified ones if there were any; `gradients` is 0.

        Raises:
            ValueError: If `x` holds no images.
        """
        check_images(x)
        with torch.no_grad():
            logits = victim(x)
            best, loss, fooled = x.clone(), margin(logits, y), logits.argmax(dim=1) != y
            for _ in range(self.restarts if self.eps > 0 else 0):
                active = (~fooled).nonzero().squeeze(1)
                if not len(active):
                    break
                ball = Ball(x[active], self.eps, self.norm)
                proposals = (SquaresLinf if isinstance(self.norm, Linf) else SquaresL2)(ball, generator)
                point, value, hit = self._search_once(victim, y[active], proposals)
                better = hit | (value > loss[active])
                kept = active[better]
                best[kept], loss[kept], fooled[kept] = point[better], value[better], hit[better]
        gradients = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return AttackResult(best, fooled, loss, gradients)

    def _search_once(self, victim: Victim, y: Tensor, proposals: Proposals) -> tuple[Tensor, Tensor, Tensor]:
        """Search once; return points, margins and whether they fool the model."""
        z = proposals.start()
        logits = victim(z)
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
            logits = victim(candidate)
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


def check_images(x: Tensor) -> None:
    """Check that squares can be laid on the samples.

    Raises:
        ValueError: If they are no images.
    """
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; Square takes images [batch, channel, height, width]")


class Proposals(Protocol):
    """The random search's plug. Square and colours are drawn once a query, for all samples alike."""

    def start(self) -> Float[Tensor, "batch c h w"]:
        """Return the first points."""
        ...

    def propose(
        self, z: Float[Tensor, "batch c h w"], share: float
    ) -> tuple[Int64[Tensor, " asked"], Float[Tensor, "asked c h w"]]:
        """Return which samples there is something to ask about, and their candidates."""
        ...

    def accept(self, index: Tensor) -> None:
        """Learn which candidates became the point of their sample."""
        ...

    def keep(self, index: Tensor) -> None:
        """Keep these samples only."""
        ...


class _Drawn:
    def __init__(self, ball: Ball, generator: torch.Generator) -> None:
        self.ball, self.generator = ball, generator

    def integer(self, high: int) -> int:
        """Draw from 0 to `high`, both included."""
        return int(torch.randint(high + 1, (), generator=self.generator, device=self.generator.device))

    def signs(self, *shape: int) -> Tensor:
        device = self.generator.device
        drawn = torch.randint(2, shape, generator=self.generator, device=device)
        return (2 * drawn - 1).to(self.ball.centre)

    def keep(self, index: Tensor) -> None:
        self.ball = self.ball.at(index)


class SquaresLinf(_Drawn):
    r"""Squares that take $x \pm \epsilon$ in each channel (arXiv 1912.00049, alg. 2)."""

    def __init__(self, ball: Ball, generator: torch.Generator) -> None:
        super().__init__(ball, generator)
        self._side = 0
        self._refused: Tensor | None = None

    def start(self) -> Tensor:
        """Return stripes one pixel wide, of random sign in each channel."""
        x = self.ball.centre
        return self.ball.project(x + self.ball.eps * self.signs(len(x), x.shape[1], 1, x.shape[3]))

    def propose(self, z: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Colour one square; samples that know the answer are not asked."""
        x = self.ball.centre
        n, channels, height, width = x.shape
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        top, left = self.integer(height - side), self.integer(width - side)
        colour = self.signs(channels, 1, 1)
        rows, columns = slice(top, top + side), slice(left, left + side)
        square = (x[:, :, rows, columns] + self.ball.eps * colour).clamp_(0, 1)
        known = (square == z[:, :, rows, columns]).flatten(1).all(dim=1)
        if side != self._side:
            self._side, shape = side, (n, 2**channels, height, width)
            small = math.prod(shape) <= MEMORY
            self._refused = torch.zeros(shape, dtype=torch.bool, device=x.device) if small else None
        if self._refused is not None:
            code = sum(2**i for i, sign in enumerate(colour.flatten().tolist()) if sign > 0)
            known |= self._refused[:, code, top, left]
            self._refused[:, code, top, left] = True
        asked = (~known).nonzero().squeeze(1)
        candidate = z[asked]
        candidate[:, :, rows, columns] = square[asked]
        return asked, candidate

    def accept(self, index: Tensor) -> None:
        """Forget what was refused: it was refused at another point."""
        if self._refused is not None:
            self._refused[index] = False

    def keep(self, index: Tensor) -> None:
        """Keep these samples only."""
        super().keep(index)
        if self._refused is not None:
            self._refused = self._refused[index]


class SquaresL2(_Drawn):
    r"""Windows whose perturbation is refilled with the mass of another one (arXiv 1912.00049, alg. 3).

    All candidates lie on the sphere of radius $\epsilon$, before the box cuts them.
    """

    def start(self) -> Tensor:
        """Return a grid of five by five windows of random sign."""
        x = self.ball.centre
        n, channels, height, width = x.shape
        side = max(min(height, width) // 5, 1)
        delta = torch.zeros_like(x)
        for top in range((height % side) // 2, height - side + 1, side):
            for left in range((width % side) // 2, width - side + 1, side):
                shape = self._bump(side).to(x) * self.signs(n, channels, 1, 1)
                delta[:, :, top : top + side, left : left + side] = shape
        return self.ball.project(x + self.ball.eps * self.ball.norm.steepest(delta))

    def propose(self, z: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Move the mass of one window into another, with a fresh bump upon it."""
        x, eps = self.ball.centre, self.ball.eps
        n, channels, height, width = x.shape
        side = max(round(math.sqrt(share * height * width)), 3)
        side = min(side + (side % 2 == 0), height, width)
        delta = z - x
        to, off = (
            (slice(top, top + side), slice(left, left + side))
            for top, left in ((self.integer(height - side), self.integer(width - side)) for _ in range(2))
        )
        window, before = delta[:, :, to[0], to[1]], _mass(delta)
        fresh = self._bump(side).to(x) * self.signs(n, channels, 1, 1) + _unit(window)
        window.zero_()
        delta[:, :, off[0], off[1]] = 0
        after = _mass(delta)
        # what the two windows held, channel by channel, and what the box had cut off the sphere
        unused = (eps**2 - before.sum(dim=1, keepdim=True)).clamp_(min=0)
        available = before - after + unused / channels
        window.copy_(_unit(fresh) * available.clamp_(min=0).sqrt_())
        length = _mass(delta).sum(dim=1, keepdim=True).sqrt_().clamp_(min=1e-12)
        return torch.arange(n, device=x.device), delta.mul_(eps / length).add_(x).clamp_(0, 1)

    def accept(self, index: Tensor) -> None:
        """Learn nothing."""
        del index

    def _bump(self, side: int) -> Tensor:
        bump = two_bumps(side)
        return bump.T if self.integer(1) else bump


@lru_cache
def two_bumps(side: int) -> Float[Tensor, "side side"]:
    r"""Return a square of two pyramids, the upper one positive and the lower negative, of unit length.

    Each pyramid is a sum of nested rectangles of weight $1 / k^2$, thinnest for $k = 1$ (arXiv 1912.00049, eq. 2).

    Example:
        >>> bump = two_bumps(4)
        >>> float(bump.norm()), bool((bump[:2] > 0).all()), bool((bump[2:] < 0).all())
        (1.0, True, True)
    """
    upper = _pyramid(side // 2, side)
    lower = _pyramid(side - side // 2, side)
    both = torch.cat([upper, -lower])
    return both / both.norm()


def _pyramid(height: int, width: int) -> Tensor:
    pyramid = torch.zeros(height, width, dtype=torch.float64)
    if not height:
        return pyramid
    row, column = height // 2, width // 2
    for k in range(max(height // 2, width // 2) + 1):
        pyramid[max(row - k, 0) : row + k + 1, max(column - k, 0) : column + k + 1] += 1 / (k + 1) ** 2
    return pyramid / pyramid.norm()


def _unit(window: Tensor) -> Tensor:
    """Scale each channel of each sample to unit length."""
    return window / (1e-12 + _mass(window).sqrt())


def _mass(delta: Tensor) -> Tensor:
    """Return the squared length of each channel of each sample."""
    return delta.square().sum(dim=(2, 3), keepdim=True)
