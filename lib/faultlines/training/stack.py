"""The parameters of S equal networks as one matrix, and optimizers over its rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from faultlines.training.optimizer import BETAS, EPS, decays
from faultlines.training.settings import Optimizer


class Stack:
    """S modules of one architecture, their trainable parameters in one `[member, parameter]` matrix.

    One matrix, because a step of AdamW over it is a handful of kernels whatever the number of members and of
    parameter tensors.

    Args:
        models: Modules of equal architecture, without buffers that training changes.

    Attributes:
        skeleton: The architecture on the meta device, for `torch.func.functional_call`.
        flat: The matrix.
        fixed: What is not trained, stacked: buffers and frozen parameters.
        decayed: For each column, whether weight decay acts on it.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        first = models[0]
        self.skeleton = copy.deepcopy(first).to("meta")
        named = [dict(model.named_parameters()) for model in models]
        self._shapes = {name: p.shape for name, p in named[0].items() if p.requires_grad}
        self.flat: Float[Tensor, "member parameter"] = torch.stack(
            [torch.cat([p[name].detach().flatten() for name in self._shapes]) for p in named]
        )
        named = [{**p, **dict(model.named_buffers())} for p, model in zip(named, models, strict=True)]
        self.fixed = {
            name: torch.stack([p[name].detach() for p in named])
            for name in named[0]
            if name not in self._shapes
        }
        marks = decays(first)
        self.decayed: Bool[Tensor, " parameter"] = torch.cat(
            [torch.full((shape.numel(),), marks[name]) for name, shape in self._shapes.items()]
        ).to(self.flat.device)

    def parameters(self) -> dict[str, Tensor]:
        """Return the trained parameters by name, each `[member, ...]`, as views of the matrix."""
        pieces = self.flat.split([shape.numel() for shape in self._shapes.values()], dim=1)
        return {
            name: piece.unflatten(1, shape) if len(shape) else piece.squeeze(1)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def flatten(self, gradients: dict[str, Tensor]) -> Float[Tensor, "member parameter"]:
        """Return gradients by name as one matrix."""
        return torch.cat([gradients[name].flatten(1) for name in self._shapes], dim=1)

    def unstack(self, models: Sequence[nn.Module]) -> None:
        """Write every member's parameters into its module."""
        with torch.no_grad():
            for name, values in self.parameters().items():
                for model, value in zip(models, values, strict=True):
                    model.get_parameter(name).copy_(value)


class RowOptimizer:
    """AdamW or SGD over the rows of a matrix, each row with a learning rate and a weight decay of its own.

    The updates are torch's own (`torch.optim.AdamW`, `torch.optim.SGD`), written over one matrix, since
    torch's take one learning rate a parameter tensor.

    Args:
        kind: `"adamw"` or `"sgd"`.
        decay: Weight decay of every entry.
        momentum: Of SGD.
    """

    def __init__(self, kind: Optimizer, decay: Float[Tensor, "member parameter"], momentum: float) -> None:
        self.kind, self.decay, self.momentum = kind, decay, momentum
        self._steps = 0
        self._first = torch.zeros_like(decay)
        self._second = torch.zeros_like(decay) if kind == "adamw" else None

    def step(
        self,
        flat: Float[Tensor, "member parameter"],
        gradient: Float[Tensor, "member parameter"],
        lr: Float[Tensor, "member 1"],
    ) -> None:
        """Update `flat` in place; `gradient` may be overwritten."""
        self._steps += 1
        if self.kind == "sgd":
            self._first.mul_(self.momentum).add_(gradient.add_(self.decay * flat))
            flat.sub_(lr * self._first)
            return
        flat.mul_(1 - lr * self.decay)
        self._first.lerp_(gradient, 1 - BETAS[0])
        self._second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = self._second.sqrt().div_((1 - BETAS[1] ** self._steps) ** 0.5).add_(EPS)
        flat.sub_((self._first / root).mul_(lr / (1 - BETAS[0] ** self._steps)))


def clip_rows(gradient: Float[Tensor, "member parameter"], largest: float) -> None:
    """Scale in place the rows whose norm exceeds `largest`, as `clip_grad_norm_` does for one network."""
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0))
