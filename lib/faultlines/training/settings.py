"""The settings of a training run, checked before any compute."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from faultlines.models.inference import MADE_IN_INFERENCE, logits_of
from faultlines.training.seeding import own_draws

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "constant", "onecycle"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hyper-parameters of one run.

    Args:
        epochs: Passes over the data.
        batch_size: Samples a step; the last batch of an epoch holds what is left.
        lr: Peak learning rate.
        optimizer: `"adamw"` (Loshchilov and Hutter 2019) or `"sgd"` with momentum.
        weight_decay: Decoupled for AdamW, added to the gradient for SGD; see `decays` for what it acts on.
        momentum: SGD's momentum; AdamW's first beta is 0.9 and its second 0.999, fixed.
        warmup: Share of all steps in which the learning rate rises, in [0, 1).
        schedule: `"cosine"` to zero, `"constant"`, or `"onecycle"` (rises from 1/25 and falls to nothing,
            both along a cosine).
        grad_clip: Largest norm of the whole gradient, or None.
        stop_at_loss: End before `epochs` once the cross-entropy of the training set is at most this; see
            `training_loss`. None trains all epochs.
        stop_every: Steps between two looks at that loss; None looks after every epoch.

    Raises:
        ValueError: If a value is out of range, named with what is allowed.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 2e-3
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.05
    momentum: float = 0.9
    warmup: float = 0.1
    schedule: Schedule = "cosine"
    grad_clip: float | None = 1.0
    stop_at_loss: float | None = None
    stop_every: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain_number(getattr(self, field.name)))
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be an integer of at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr={self.lr!r} must be a positive number")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay={self.weight_decay!r} must be a number of at least 0")
        for name in ("momentum", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must lie in [0, 1)")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip={self.grad_clip!r} must be positive, or None")
        if self.stop_at_loss is not None and not (math.isfinite(self.stop_at_loss) and self.stop_at_loss > 0):
            raise ValueError(f"stop_at_loss={self.stop_at_loss!r} must be a positive number, or None")
        if self.stop_every is not None:
            if (
                isinstance(self.stop_every, bool)
                or not isinstance(self.stop_every, int)
                or self.stop_every < 1
            ):
                raise ValueError(f"stop_every={self.stop_every!r} must be an integer of at least 1, or None")
            if self.stop_at_loss is None:
                raise ValueError(f"stop_every={self.stop_every!r} needs stop_at_loss, which is None")
        for name, allowed in (("optimizer", get_args(Optimizer)), ("schedule", get_args(Schedule))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {allowed}")


def plain_number(value: Any) -> Any:
    """Return a number of numpy's as one of Python's, and anything else as it is.

    Example:
        >>> import numpy as np
        >>> plain_number(np.int64(3)), plain_number(np.float32(0.5)), plain_number("sgd")
        (3, 0.5, 'sgd')
    """
    if isinstance(value, bool | int | float):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def prepared(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int | None = None, name: str = ""
) -> tuple[Tensor, Tensor]:
    """Return data as the model takes them, and refuse those that it cannot be trained on.

    Inputs get the model's precision and labels int64. One sample goes through the model for its class count; the
    model's training mode and buffers stay as they are.

    Args:
        model: The classifier, on the device of `x`.
        x: Inputs.
        y: Labels.
        batch_size: Samples a step, which may not exceed the number of samples.
        name: What the data are, as a prefix of the message: `"validation "`, say.

    Raises:
        TypeError: If the data are no tensors.
        ValueError: If lengths, dtypes, labels or the batch size do not fit.
    """
    for part, values in (("x", x), ("y", y)):
        if not isinstance(values, Tensor):
            raise TypeError(
                f"{name}{part} is of type {type(values).__name__}; torch.as_tensor({part}) makes it a tensor"
            )
    if not x.is_floating_point():
        raise ValueError(f"{name}x has dtype {x.dtype}; it must be floating point, images in [0, 1]")
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"{name}y has shape {tuple(y.shape)} and dtype {y.dtype}; it must be [n] and int64")
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"{name}x has {len(x)} samples and {name}y {len(y)}; they must be equal and not 0")
    if batch_size is not None and batch_size > len(x):
        raise ValueError(f"batch_size={batch_size} exceeds the number of samples, {len(x)}")
    if any(weight.is_inference() for weight in model.parameters()):
        raise ValueError(f"the model's weights {MADE_IN_INFERENCE}")
    x, y = x.to(precision(model)), y.to(torch.int64)
    with evaluating(model), torch.no_grad():
        logits = logits_of(model(x[:1]))
    if logits.ndim != 2:
        raise ValueError(f"the model returns shape {tuple(logits.shape)}; it must return [batch, classes]")
    low, high, classes = int(y.min()), int(y.max()), logits.shape[1]
    if low < 0 or high >= classes:
        raise ValueError(
            f"{name}y holds labels from {low} to {high}; the model's classes are 0 to {classes - 1}"
        )
    if batch_size is not None:
        check_single(model, x[:1], len(x), batch_size)
    return x, y


def precision(model: nn.Module) -> torch.dtype:
    """Return the dtype of a model's weights, of the first that is floating point."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and every module of it back into its own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_single(model: nn.Module, one: Tensor, n: int, batch_size: int) -> None:
    """Refuse a last batch of one sample where batch normalisation would have no statistics of it.

    Args:
        model: The network.
        one: Inputs, a single one.
        n: Samples in all.
        batch_size: Samples a batch.

    Raises:
        ValueError: If that is so.
    """
    normalises = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if not normalises or 1 not in (batch_size, n % batch_size):
        return
    trial = copy.deepcopy(model).train()
    try:
        with own_draws(0, one.device), torch.no_grad():
            trial(one)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"batch_size={batch_size} leaves a batch of one of {n} samples, of which batch normalisation has no "
            "statistics; take another batch size, or leave a sample out"
        ) from None
