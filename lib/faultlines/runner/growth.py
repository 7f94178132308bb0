"""How the cost of a chapter grows with its parameters: what `growth.yml` says, and its expressions computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from faultlines.notebook.errors import UsageError
from faultlines.notebook.parameters import HELPERS, evaluate
from faultlines.notebook.project import Project

REST = "all else"


class Part(BaseModel):
    """A part of a chapter's computing.

    Attributes:
        claims: Patterns of the claims that are charged with it.
        calls: How many small operations it makes, up to a factor; an expression of the parameters.
        work: How many multiplications, up to a factor.
    """

    model_config = ConfigDict(extra="forbid")

    claims: list[str]
    calls: str = "0"
    work: str = "0"


class Growth(BaseModel):
    """How a chapter's costs grow.

    Attributes:
        parts: Its parts by name; a claim belongs to the first that names it.
        memory: Numbers of four bytes that are held at once, on top of what a run of any size holds.
        kept: Numbers in the trainings that lie on disk until the run is done.
    """

    model_config = ConfigDict(extra="forbid")

    parts: dict[str, Part]
    memory: str
    kept: str = "0"

    def part_of(self, claim: str) -> str:
        """Return the part that a claim is charged with."""
        for name, part in self.parts.items():
            if any(fnmatchcase(claim, pattern) for pattern in part.claims):
                return name
        return REST


class Device(BaseModel):
    """What a run is forecast for.

    Attributes:
        calls: How many times faster than a measured core it makes calls.
        work: How many times faster it multiplies.
        watts: What it draws.
        basis: Where these come from.
    """

    model_config = ConfigDict(extra="forbid")

    calls: FiniteFloat
    work: FiniteFloat
    watts: FiniteFloat
    basis: str


class GrowthFile(BaseModel):
    """`growth.yml`."""

    model_config = ConfigDict(extra="forbid")

    devices: dict[str, Device]
    chapters: dict[str, Growth]

    @classmethod
    def load(cls, project: Project) -> GrowthFile:
        """Read `growth.yml`.

        Raises:
            UsageError: If it is not there, or does not have the form of this class.
        """
        try:
            return cls.model_validate(yaml.safe_load((project.root / "growth.yml").read_text("utf-8")))
        except OSError:
            raise UsageError(f"there is no growth.yml in {project.root}: it says how costs grow") from None
        except (yaml.YAMLError, ValidationError, ValueError) as error:
            raise UsageError(f"growth.yml cannot be read: {' '.join(str(error).split())}") from None


def vit(image: Sequence[int], patch: int, dim: int, depth: int) -> float:
    """Return the multiplications of a transformer's forward pass on one image.

    Example:
        >>> vit((1, 8, 8), 2, 32, 1) == 17 * (12 * 32**2 + 2 * 17 * 32 + 4 * 32)
        True
    """
    channels, side, _ = image
    tokens = (side // patch) ** 2 + 1
    return tokens * (depth * (12 * dim**2 + 2 * tokens * dim) + channels * patch**2 * dim)


def numbers(name: str) -> float:
    """Return how many numbers the images of a data set are.

    Example:
        >>> numbers("digits") == 1797 * 64
        True
    """
    return sum(HELPERS["images_of"](name)) * math.prod(HELPERS["image_shape"](name))


def passes(epochs: float, losses: float | Sequence[float], classes: int = 10) -> float:
    """Return passes over the images until a training loss is come to: the share of the way down from chance.

    How long a training really takes is known only when it has been tried; this makes an easier goal cheaper.

    Args:
        epochs: The most passes.
        losses: The goal, or several, of which the mean share counts.
        classes: Number of classes.

    Example:
        >>> passes(10, 0.0), passes(10, [0.0, 100.0])
        (10.0, 5.0)
    """
    goals = [losses] if isinstance(losses, (int, float)) else losses
    shares = [max(0.0, 1 - goal / math.log(classes)) for goal in goals]
    return max(1.0, epochs * sum(shares) / len(shares))


FUNCTIONS: dict[str, Any] = {f.__name__: f for f in (vit, passes, numbers)}


def computed(expression: str, parameters: Mapping[str, Any]) -> float:
    """Return the value of an expression of parameters; it may call what stands here and what `must` rules may.

    Raises:
        UsageError: If it names what is none, or cannot be computed.
    """
    try:
        return float(evaluate(expression, parameters, HELPERS | FUNCTIONS))
    except (NameError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UsageError(f"growth.yml: {expression!r} cannot be computed ({error})") from None


def counts(part: Part, parameters: Mapping[str, Any]) -> tuple[float, float]:
    """Return the calls and the multiplications of a part."""
    return computed(part.calls, parameters), computed(part.work, parameters)
