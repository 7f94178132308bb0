"""What all attacks share: the checks of what they are given, the call, and the account of what the model answered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faultlines.attacks.norms import L2, Linf, Norm, as_norm
from faultlines.models.inference import frozen, logits_of, one_precision, unsteady_layers
from faultlines.models.pixel_normalization import check_tensor

Model = Callable[..., Any]
"""Maps images to logits, in one of the forms that `faultlines.models.logits_of` takes."""

Found = TypeVar("Found")


class Attack(Generic[Found]):
    """An attack inside a ball; subclasses give the search. Hyper-parameters are attributes that no call changes.

    Args:
        eps: Radius of the ball in pixels (0 to 1); 0 only checks the clean samples.
        norm: `"linf"`, `"l2"` or a `Norm`.

    Raises:
        ValueError: If `eps` is negative or a name is unknown.
    """

    def __init__(self, *, eps: float, norm: str | Norm = "linf") -> None:
        self.eps = check_number(eps, "eps")
        self.norm = as_norm(norm)

    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "batch ..."],
        y: Int[Tensor, " batch"],
        *,
        generator: torch.Generator | None = None,
    ) -> Found:
        """Attack a batch.

        Neither the model (mode, parameters, buffers, gradients) nor `x` and `y` are changed.

        Args:
            model: Maps `[batch, *]` in [0, 1] to logits `[batch, classes]`; normalisation is its own. The logits may
                come in a tuple, in a mapping or as `.logits`; see `faultlines.models.logits_of`.
            x: Clean samples in [0, 1].
            y: True classes, or the classes wanted for a targeted attack.
            generator: Source of all draws, which may live on another device than `x`. None takes a fresh one
                seeded with 0, so that a call repeats.

        Returns:
            What was found for each sample. A sample is robust only if the model is right at the clean point and at
            every point visited.

        Raises:
            ValueError: If samples, labels or logits are not as stated; if the model answers NaN or infinity at any
                point visited, which is neither right nor wrong, or has gradients of NaN there; or if an attack by
                gradients meets a model without one.

        Warns:
            UserWarning: If the model answers one sample in several ways (train mode, dropout), or if gradients are
                zero, so that the attack had no direction.
        """
        return self._run(model, x, y, generator)

    def _run(
        self, model: Model, x: Tensor, y: Tensor, generator: torch.Generator | None, **options: Any
    ) -> Found:
        """Check, search, and report; called by `__call__` alone, so that warnings blame the user's line."""
        check_batch(x, y)
        kinds = unsteady_layers(model)
        if kinds:
            warnings.warn(f"model is in train mode with {', '.join(kinds)}: {UNSTEADY}", stacklevel=3)
        with prepared(model, x) as clean:
            labels = (y.clone() if y.is_inference() else y).long()
            victim = Victim(model, labels, self.check_output)
            found = self.search(victim, clean, labels, or_seeded(generator), **options)
        victim.check_finite()
        if victim.unsteady and not kinds:
            victim.remarks.append(f"model {victim.unsteady}: {UNSTEADY}")
        for remark in (*victim.remarks, self.advice(*victim.without_slope())):
            if remark:
                warnings.warn(remark, stacklevel=3)
        return found

    def search(self, victim: Victim, x: Tensor, y: Tensor, generator: torch.Generator) -> Found:
        """Return what is found around clean samples that have been checked."""
        raise NotImplementedError(f"{type(self).__name__} gives no search")

    def check_output(self, output: Tensor, y: Int[Tensor, " batch"]) -> None:
        """Check what the model returned first, for the samples of labels `y`; logits, unless a subclass knows better.

        Raises:
            ValueError: If the output is not as the attack asks.
        """
        check_logits(output, y)

    def advice(self, flat: int, walked: int) -> str:
        """Return what to say of `flat` samples without a direction among the `walked` ones; nothing for ""."""
        if not flat:
            return ""
        return (
            f"the gradient is zero at the first point of {flat} of {walked} samples: this attack has no direction "
            f"there and does not measure their robustness; {self.remedy}"
        )

    @property
    def remedy(self) -> str:
        """What to do where gradients vanish."""
        return "the model is flat there (Square takes no gradient)"

    def __repr__(self) -> str:
        kept = ", ".join(
            f"{name}={getattr(value, 'name', getattr(value, '__name__', value))}"
            for name, value in vars(self).items()
        )
        return f"{type(self).__name__}({kept})"


UNSTEADY = (
    "its output is randomised or depends on the rest of the batch, so this attack does not measure its "
    "robustness; call model.eval() first"
)


class Victim:
    """The model during one attack: maps points to logits, and keeps account of what must not be passed over.

    The first answer is checked at once. Later ones are only counted, since on a GPU every look would wait for the
    device; `check_finite` looks at the end.

    Attributes:
        model: What the caller gave.
        unsteady: How the model was seen to answer otherwise at another call; empty for none.
        remarks: What the caller should be warned of when the search has ended.
    """

    def __init__(self, model: Model, y: Tensor, check: Callable[[Tensor, Tensor], None]) -> None:
        self.model, self.unsteady = model, ""
        self.remarks: list[str] = []
        self._y, self._check, self._seen = y, check, False
        self._broken: dict[str, Tensor] = {}
        self._slopes: tuple[Tensor, Tensor] | None = None

    def __call__(self, z: Float[Tensor, "batch ..."]) -> Tensor:
        """Return the model's logits at a copy of the points: it may write into what it is given.

        Raises:
            ValueError: If the first ones are not as they must be.
        """
        if self._seen:
            return self.take(self.model(self._lent(z)))
        self._seen = True
        state = _random_state(z)
        with one_precision(self.model, z):
            output = logits_of(self.model(self._lent(z)))
        if not torch.equal(state, _random_state(z)):
            self.unsteady = "draws random numbers (dropout as a function, say)"
        elif _moved(self.model):
            self.unsteady = "is in train mode and changes its buffers at every call"
        self._check(output, self._y[: len(z)] if len(z) < len(self._y) else self._y)
        return output

    def _lent(self, z: Tensor) -> Tensor:
        # torch.compile warns of inputs that are no leaves
        compiled = hasattr(self.model, "_orig_mod") or hasattr(self.model, "_torchdynamo_orig_callable")
        return z if compiled else z.clone()

    def take(self, output: Any, what: str = "model returned logits") -> Tensor:
        """Return the tensor in an output, and remember whether it was finite."""
        found = logits_of(output)
        broken = ~found.detach().isfinite().all()
        self._broken[what] = self._broken[what] | broken if what in self._broken else broken
        return found

    def check_finite(self) -> None:
        """Look at all answers together.

        Raises:
            ValueError: If any was not finite.
        """
        for what, broken in self._broken.items():
            if broken:
                raise ValueError(f"{what} that are not finite near the samples: neither right nor wrong")

    def note_slope(self, gradient: Tensor, done: Tensor) -> None:
        """Take account of the gradients of the samples that are not `done`.

        How many have none, of the first gradients; whether any is no number, of all: an attack that takes its sign
        would stand still without a word.
        """
        what = "the model has gradients"
        broken = (gradient.flatten(1).isnan().any(dim=1) & ~done).any()
        self._broken[what] = self._broken[what] | broken if what in self._broken else broken
        if self._slopes is None:
            flat = ~gradient.flatten(1).any(dim=1)
            self._slopes = (flat & ~done).sum(), (~done).sum()

    def without_slope(self) -> tuple[int, int]:
        """Return how many samples had no gradient, and of how many."""
        return (0, 0) if self._slopes is None else (int(self._slopes[0]), int(self._slopes[1]))


def _random_state(z: Tensor) -> Tensor:
    """Return the state of torch's global generators, from which layers draw."""
    return torch.cuda.get_rng_state(z.device) if z.is_cuda else torch.get_rng_state()


def _moved(model: Model) -> bool:
    """Return whether a forward pass wrote into the copies of buffers that `frozen` lends to layers in train mode."""
    layers = model.modules() if isinstance(model, nn.Module) else ()
    return any(
        buffer is not None and buffer._version > 0
        for layer in layers
        if layer.training
        for buffer in layer._buffers.values()
    )


@contextmanager
def prepared(model: Model, x: Tensor) -> Iterator[Tensor]:
    """Lend the samples as a tensor that can be differentiated, with gradients on and the model's weights frozen."""
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        yield x.detach().clone() if x.is_inference() else x.detach()


def or_seeded(generator: torch.Generator | None) -> torch.Generator:
    """Return the caller's generator; without one a fresh one seeded with 0, so that the call repeats."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def check_number(value: float, name: str, *, zero: bool = True) -> float:
    """Return a radius, step size or other size as a float; numpy's and torch's are numbers too.

    Raises:
        ValueError: If it is not a finite number, or negative, or 0 where that is not allowed.
    """
    value = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}={value!r} must be a finite number, at least 0 (pixels run from 0 to 1)")
    if value == 0 and not zero:
        raise ValueError(f"{name}={value!r} must be above 0")
    return float(value)


def check_count(n: int, name: str) -> int:
    """Return a number of steps or restarts.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"{name}={n!r} must be an integer, at least 1")
    return int(n)


def check_restarts(restarts: int, random_start: bool) -> int:
    """Return a number of walks.

    Raises:
        ValueError: If it is not a positive integer, or above 1 where all walks would be the same.
    """
    if check_count(restarts, "restarts") > 1 and not random_start:
        raise ValueError(f"restarts={restarts} would repeat one walk; it must be 1 where random_start=False")
    return int(restarts)


def check_step_size(step_size: float | None, default: float) -> float:
    """Return the length of a step, or the default for None.

    Raises:
        ValueError: If it is not a finite number above 0.
    """
    return default if step_size is None else check_number(step_size, "step_size", zero=False)


def check_closed_form(norm: Norm) -> Norm:
    """Return a norm whose geometry an attack has in closed form.

    Raises:
        ValueError: If it is another one.
    """
    if not isinstance(norm, (Linf, L2)):
        raise ValueError(f"norm={norm!r} must be 'linf' or 'l2', which this attack has in closed form")
    return norm


def check_batch(x: Tensor, y: Tensor) -> None:
    """Check images and labels.

    Raises:
        ValueError: If `x` is no floating-point batch in [0, 1], or `y` no integer label for each sample.
    """
    check_tensor(x, "x")
    check_tensor(y, "y")
    if not x.is_floating_point() or x.ndim < 2:
        raise ValueError(
            f"x has dtype {x.dtype} and shape {tuple(x.shape)}; it must be floating [batch, ...]"
        )
    if x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; the batch must not be empty")
    low, high = x.min().item(), x.max().item()
    if not (low >= 0 and high <= 1):  # false for NaN too
        close = " (by rounding: x.clamp(0, 1) mends it)" if low >= -1e-3 and high <= 1 + 1e-3 else ""
        raise ValueError(f"x runs from {low!r} to {high!r}; pixels must lie in [0, 1]{close}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or y.shape != x.shape[:1]:
        raise ValueError(
            f"y has dtype {y.dtype} and shape {tuple(y.shape)}; it must be integers of shape ({len(x)},)"
        )
    if y.device != x.device:
        raise ValueError(f"y is on {y.device}, x on {x.device}; they must be on one device")
    if y.min() < 0:
        raise ValueError(f"y has the label {int(y.min())}; labels start at 0")


def check_logits(logits: Tensor, y: Tensor) -> None:
    """Check what a model returned for the samples of labels `y`.

    Raises:
        ValueError: If it is not `[batch, classes]` of two classes or more and finite, or a label has no logit.
    """
    if logits.shape in ((len(y),), (len(y), 1)):
        axis = "[:, None]" if logits.ndim == 1 else ""
        raise ValueError(
            f"model returned logits of shape {tuple(logits.shape)}, one a sample, which name no class; return two: "
            f"z = model(x){axis}; torch.cat([torch.zeros_like(z), z], dim=1)"
        )
    if logits.ndim != 2 or len(logits) != len(y):
        raise ValueError(
            f"model returned logits of shape {tuple(logits.shape)}; it must be ({len(y)}, classes)"
        )
    if not logits.isfinite().all():
        raise ValueError("model returned logits that are not finite on the first batch")
    if y.max() >= logits.shape[1]:
        raise ValueError(
            f"y has labels up to {int(y.max())}; {logits.shape[1]} logits allow 0 to {logits.shape[1] - 1}"
        )
