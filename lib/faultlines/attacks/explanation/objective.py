"""The plug of the loop: raise a criterion of the map while the prediction stays."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from faultlines.attacks.attack import Victim
from faultlines.attacks.explanation.criteria import Criterion
from faultlines.attacks.explanation.surrogate import Model, count_relu, softplus_surrogate, wrapped_forward
from faultlines.models.inference import logits_of

Explain = Callable[[Model, Tensor, Tensor], Tensor]


class ChangedExplanation:
    """Raise a criterion of the map; reached where the prediction is still that of the clean sample.

    What is ascended is the criterion's loss, on the surrogate if there is one; the value by which the loop picks the
    worst point is minus the criterion's score, on the model as it is, minus the penalty.

    Args:
        victim: The model.
        explain: Maps model, samples and classes to maps, differentiably.
        criterion: What to do to the map.
        x: Clean samples.
        y: The classes explained.
        reject: Whether points of another prediction count for nothing.
        penalty: Weight of the squared change of the class probabilities.
        beta: Sharpness of the softplus that stands in for ReLU in the gradient; None for no surrogate.
        climbs: Whether the search follows a gradient, which the map then has to have.

    Raises:
        ValueError: If logits or maps are not as stated or not finite, or the map is piecewise constant (or carries no
            graph) and no surrogate is asked for, or none can be had.
    """

    def __init__(
        self,
        victim: Victim,
        explain: Explain,
        criterion: Criterion,
        x: Float[Tensor, "batch ..."],
        y: Int64[Tensor, " batch"],
        *,
        reject: bool,
        penalty: float,
        beta: float | None,
        climbs: bool,
    ) -> None:
        self.victim, self.explain, self.criterion, self.x, self.y = victim, explain, criterion, x, y
        self.reject, self.penalty = reject, penalty
        with torch.no_grad():
            logits = victim(x)
        # logits that differ in their last digits have one probability: the class is theirs to tell
        self.probabilities, self.predicted = logits.softmax(dim=1), logits.argmax(dim=1)
        relu = count_relu(victim.model, x[:2].clone())
        self.beta = beta if relu else None
        z = x.detach().requires_grad_()
        _, maps = observe(victim.model, explain, z, y)
        if not maps.isfinite().all():
            bad = (~maps.flatten(1).isfinite().all(dim=1)).nonzero().flatten()[:5].tolist()
            raise ValueError(f"explain returned maps that are not finite for samples {bad}")
        if climbs:
            self._check_derivative(z, maps, relu, replaced=beta is not None)
        self.clean = maps.detach()
        self.reference = criterion.reference(self.clean)
        self.visits = torch.zeros(len(x), device=x.device)
        self.stays = torch.zeros_like(self.visits)

    @property
    def surrogate(self) -> str | None:
        """What stands in for the model in the gradient."""
        return None if self.beta is None else f"softplus(beta={self.beta:g}) for ReLU"

    def kept(self, logits: Tensor, index: Tensor) -> Bool[Tensor, " active"]:
        """Return whether the prediction is the clean one."""
        return logits.argmax(dim=1) == self.predicted[index]

    def observe(self, model: Model, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and maps at `z`, which the victim has to account for."""
        logits, maps = observe(model, self.explain, z, y)
        return self.victim.take(logits), self.victim.take(maps, "explain returned maps")

    def __call__(
        self, z: Float[Tensor, "active ..."], index: Int64[Tensor, " active"]
    ) -> tuple[Float[Tensor, " active"], Bool[Tensor, " active"]]:
        """Return the value of each point, with the gradient of the loss, and whether the point may be taken."""
        allowed = torch.ones(len(z), dtype=torch.bool, device=z.device)
        if z is self.x:
            return -self.criterion.score(self.clean, self.reference), allowed
        reference, climbs = self.reference[index], torch.is_grad_enabled()
        logits, maps = self.observe(self.victim.model, z if self.beta is None else z.detach(), self.y[index])
        kept = self.kept(logits, index)
        self.visits[index] += 1
        self.stays[index] += kept
        value = -self.criterion.score(maps.detach(), reference)
        if self.penalty:
            value = value - self.penalty * self._change(logits.detach(), index)
        if self.reject:
            allowed = kept
        if not climbs:
            return value, allowed
        if self.beta is not None:
            with softplus_surrogate(self.victim.model, self.beta) as smooth:
                logits, maps = self.observe(smooth, z, self.y[index])
        loss = self.criterion.loss(maps, reference)
        if self.penalty:
            loss = loss - self.penalty * self._change(logits, index)
        return value + (loss - loss.detach()), allowed

    def _change(self, logits: Tensor, index: Tensor) -> Float[Tensor, " active"]:
        return (logits.softmax(dim=1) - self.probabilities[index]).square().sum(dim=1)

    def _check_derivative(self, z: Tensor, maps: Tensor, relu: int, *, replaced: bool) -> None:
        """Check that the maps depend on `z` in a way that an attack can follow."""
        if not maps.requires_grad:
            if self._input_gradient(z).requires_grad:
                raise ValueError(
                    "explain returned maps that carry no graph; let it differentiate with create_graph=True"
                )
            return
        if (relu and replaced) or not maps.any():
            return
        flat = not derivative(maps, z).any()
        if not relu:
            if flat and self._changes(maps):
                raise ValueError(
                    "the explanation changes from point to point and has no slope to follow anywhere: model is "
                    "piecewise linear by an operation that surrogate_beta does not replace (clamp, maximum, where, "
                    "prelu, abs); write it with relu, and give surrogate_beta (10 to 100, say)"
                )
            return
        if flat:
            raise ValueError(
                "surrogate_beta=None, and the explanation is piecewise constant: the input gradient of a ReLU network "
                "has no slope to follow; give surrogate_beta (10 to 100, say) to attack through softplus"
            )
        gradient = self._input_gradient(z)
        if not gradient.requires_grad or not derivative(gradient, z).any():
            warnings.warn(
                "surrogate_beta=None, and the model's input gradient is piecewise constant (ReLU): the attack follows "
                "only what else the explanation depends on, and is weaker than one through softplus",
                stacklevel=5,
            )

    def _changes(self, maps: Tensor) -> bool:
        """Return whether any map is another one nearby, by more than rounding; that of a linear model is not."""
        noise = torch.randn(self.x.shape, generator=torch.Generator().manual_seed(0), dtype=self.x.dtype)
        _, moved = observe(self.victim.model, self.explain, self.x + 0.1 * noise.to(self.x.device), self.y)
        moved, maps = moved.detach(), maps.detach()
        return not torch.allclose(moved, maps, rtol=1e-3, atol=1e-6 * float(maps.abs().max()))

    def _input_gradient(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            logits = self.victim(z).gather(1, self.y[:, None])
            if not logits.requires_grad:
                return torch.zeros_like(z)
            return torch.autograd.grad(
                logits.sum(), z, create_graph=True, allow_unused=True, materialize_grads=True
            )[0]


def derivative(maps: Tensor, z: Tensor) -> Tensor:
    """Return the derivative with respect to `z` of a fixed random combination of the maps' pixels."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(maps.shape, generator=generator, dtype=maps.dtype).to(maps.device)
    with torch.enable_grad():
        return torch.autograd.grad((maps * weights).sum(), z, allow_unused=True, materialize_grads=True)[0]


def observe(
    model: Model, explain: Explain, z: Float[Tensor, "batch ..."], y: Int64[Tensor, " batch"]
) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch ..."]]:
    """Return logits and maps at `z`; both can be differentiated where `z` requires a gradient.

    An explanation that asks the model at `z` itself has made the forward pass already; where it asks elsewhere only
    (noisy or scaled copies), one is added.

    Args:
        model: Maps samples to logits.
        explain: Maps model, samples and classes to maps.
        z: The points.
        y: The classes explained.

    Raises:
        ValueError: If the maps are not floating, one a sample.
    """
    seen: list[Tensor] = []

    def wrap(forward: Callable) -> Callable:
        def watched(*args: Any, **kwargs: Any) -> Any:
            here = not seen and bool(args) and _same(args[0], z)
            out = forward(args[0].clone(), *args[1:], **kwargs) if here else forward(*args, **kwargs)
            if here:
                seen.append(logits_of(out))
            return out

        return watched

    with torch.enable_grad(), wrapped_forward(model, wrap) as watched:
        asked = z if z.requires_grad else z.detach().requires_grad_()
        maps = explain(watched, asked, y)
    if not isinstance(maps, Tensor) or not maps.is_floating_point() or maps.ndim < 2 or len(maps) != len(z):
        what = f"shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"explain returned {what}; it must return floating maps [{len(z)}, height, width]")
    logits = seen[0] if seen else logits_of(model(z.clone()))
    return logits, maps


def _same(a: Any, b: Tensor) -> bool:
    """Whether two tensors are one piece of memory read alike."""
    return (
        isinstance(a, Tensor)
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
        and a.data_ptr() == b.data_ptr()
    )
