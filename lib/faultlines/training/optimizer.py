"""What a training run is told, checked before any compute: its settings, the optimizer they mean, the device."""

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


START, END = 1 / 25, 1e-4 / 25  # of the one-cycle policy, torch's defaults
BETAS, EPS = (0.9, 0.999), 1e-8
POSITIONS = {"cls", "position", "cls_token", "pos_embed", "class_embedding", "position_embedding"}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


def decays(model: nn.Module) -> dict[str, bool]:
    """Return, for every parameter by name, whether weight decay acts on it.

    It acts on weight matrices and kernels; biases, gains of norms, the class token and positions are left
    alone.

    Example:
        >>> from faultlines.models import ViT
        >>> model = ViT(image_size=4, patch_size=2, channels=1, classes=3, dim=4, depth=1, heads=1)
        >>> [name for name, decayed in decays(model).items() if decayed][:3]
        ['patch.weight', 'blocks.0.attention.qkv.weight', 'blocks.0.attention.out.weight']
    """
    norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    return {
        name: p.ndim > 1 and id(p) not in norms and POSITIONS.isdisjoint(name.split("."))
        for name, p in model.named_parameters()
    }


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Return torch's optimizer over two groups, the decayed parameters and the others.

    The fused step is one kernel for all parameters; on a small model the loop over parameters would otherwise
    cost as much as a tenth of the step.
    """
    decayed = decays(model)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if decayed[name]], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in trained if not decayed[name]], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") for _, p in trained)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=BETAS, eps=EPS, fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    r"""Return the learning rate of step `step` of `steps`, counted from 0.

    With $w$ warm-up steps the rate rises linearly as $(t + 1) / w$, then stays (`"constant"`) or falls as
    $\frac12 (1 + \cos \pi \frac{t - w}{T - w})$ (`"cosine"`, Loshchilov and Hutter 2017). `"onecycle"` is the
    policy of Smith and Topin (2018) as torch's `OneCycleLR` has it, without its cycle of momenta.

    Example:
        >>> s = Settings(epochs=1, lr=1.0, warmup=0.5)
        >>> [round(learning_rate(t, 8, s), 3) for t in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if settings.schedule == "onecycle":
        peak = settings.warmup * steps - 1
        if step <= peak:
            return settings.lr * _cosine(START, 1.0, step / peak if peak else 1.0)
        peak = max(peak, 0.0)
        return settings.lr * _cosine(1.0, END, (step - peak) / max(steps - 1 - peak, 1))
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * _cosine(1.0, 0.0, (step - warmup) / (steps - warmup))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return a device by name; `"auto"` is the first GPU that this process may see, else the CPU.

    The devices that `CUDA_VISIBLE_DEVICES` leaves are numbered from 0.

    Args:
        name: `"auto"`, or any device that torch knows: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`, the name of a backend
            of one's own.

    Raises:
        ValueError: If torch does not know the name, or the device is not there.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"device={name!r} is not 'auto', and no device that torch knows: 'cpu', 'cuda', 'cuda:1', ..."
        ) from None
    if device.type == "meta":
        raise ValueError("device='meta' holds no values, and nothing can be computed there")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    try:
        torch.empty(0, device=device)  # a backend is asked itself whether it is there
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ValueError(f"device={name!r} is not there: {str(error).splitlines()[0]}") from None
    return device
