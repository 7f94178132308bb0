"""What the Square attack proposes: squares of one colour (maximum norm) or moved mass (Euclidean norm)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.attacks.ball import Ball

MEMORY = 2**28
"""Bytes that remembering refused squares may take; beyond that they are asked about again."""


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
        self._side, self._refused = 0, None

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
