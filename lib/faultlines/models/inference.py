"""Anyone's model as a classifier of images: its logits, its weights left alone, its layers that roll dice named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

DROPPING = ("StochasticDepth", "DropPath", "DropBlock")  # of torchvision and timm, known by their names


MADE_IN_INFERENCE = (
    "were made under torch.inference_mode(), which autograd does not take; make the model outside of it"
)


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a model returned.

    Args:
        output: A tensor; an object or a mapping with `logits` (as of transformers, or of a network with auxiliary
            heads); a mapping with one tensor; or a sequence, whose first item is looked at.

    Raises:
        ValueError: If there are none.

    Example:
        >>> import torch
        >>> z = torch.zeros(2, 3)
        >>> all(logits_of(output) is z for output in (z, (z, None), {"logits": z, "loss": z[0]}, [{"out": z}]))
        True
    """
    found = output
    if not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
        if found is None and isinstance(output, Mapping):
            tensors = [value for value in output.values() if isinstance(value, Tensor)]
            found = output.get("logits", tensors[0] if len(tensors) == 1 else None)
        if found is None and isinstance(output, (tuple, list)) and output:
            found = logits_of(output[0])
    if not isinstance(found, Tensor):
        raise ValueError(
            f"model returned {type(output).__name__}, in which no logits are to be found; it must return a tensor, "
            "a tuple that begins with one, or something with .logits or ['logits']"
        )
    return found


def predictions(output: Any) -> Tensor:
    """Return the predicted class of each sample in what a model returned.

    Raises:
        ValueError: If there are no logits in it, or any is NaN, which is no prediction: `argmax` would take it for one.

    Example:
        >>> import torch
        >>> predictions((torch.tensor([[0.0, 2.0], [1.0, 0.0]]), None))
        tensor([1, 0])
    """
    logits = logits_of(output)
    if broken := int(logits.isnan().flatten(1).any(dim=1).sum()):
        raise ValueError(
            f"model answers NaN to {broken} of {len(logits)} samples, which is neither right nor wrong"
        )
    return logits.argmax(dim=1)


@contextmanager
def frozen(model: Callable[..., Any]) -> Iterator[None]:
    """Lend a module that records nothing for its weights, and that a forward pass does not change.

    Parameters that ask for gradients are replaced by stand-ins of the same storage that do not: who differentiates
    with respect to the input alone would otherwise keep every layer's input alive. Buffers of layers in train mode
    (running statistics, the vectors of spectral normalisation) are replaced by copies, and so is what was made in
    inference mode, which autograd does not take. Parameters and buffers themselves are not touched, and are back in
    their places when the block ends, also by an exception. A callable that is no module is left as it is.

    Args:
        model: What will be differentiated with respect to its input.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 2)
        >>> with frozen(model):
        ...     print(model.weight.requires_grad, model(torch.rand(1, 3)).requires_grad)
        False False
        >>> model.weight.requires_grad
        True
    """
    layers = list(model.modules()) if isinstance(model, nn.Module) else []
    held: list[tuple[dict[str, Any], str, Any]] = [
        (layer._parameters, name, parameter)
        for layer in layers
        for name, parameter in layer._parameters.items()
        if parameter is not None and not is_lazy(parameter)
        if parameter.requires_grad or parameter.is_inference()
    ]
    moving: list[tuple[dict[str, Any], str, Any]] = [
        (layer._buffers, name, buffer)
        for layer in layers
        for name, buffer in layer._buffers.items()
        if buffer is not None and not is_lazy(buffer) and (layer.training or buffer.is_inference())
    ]
    try:
        for place, name, parameter in held:
            value = parameter.clone() if parameter.is_inference() else parameter.detach()
            place[name] = nn.Parameter(value, requires_grad=False)
        copies = {id(buffer): buffer.detach().clone() for _, _, buffer in moving}
        for place, name, buffer in moving:
            place[name] = copies[id(buffer)]
        yield
    finally:
        for place, name, parameter in held:
            place[name] = parameter
        for place, name, buffer in moving:
            place[name] = buffer


@contextmanager
def one_precision(model: Callable[..., Any], x: Tensor) -> Iterator[None]:
    """Say in one line why inputs and weights do not meet, where torch ends in a layer's own words.

    They have two precisions, or the weights were made in inference mode, which autograd does not take.

    Args:
        model: What is run inside the block.
        x: Its inputs.

    Raises:
        ValueError: If torch refuses them and either is so.
    """
    try:
        yield
    except RuntimeError as error:
        if "Inference tensors cannot be saved for backward" in str(error):
            raise ValueError(f"the model's weights {MADE_IN_INFERENCE}") from error
        weights = model.parameters() if isinstance(model, nn.Module) else ()
        kinds = sorted({str(weight.dtype) for weight in weights if weight.is_floating_point()})
        if not kinds or str(x.dtype) in kinds:
            raise
        raise ValueError(
            f"x has dtype {x.dtype}, the model's weights {', '.join(kinds)}; x.to({kinds[0]}) makes them one"
        ) from error


def unsteady_layers(model: Callable[..., Any]) -> list[str]:
    """Return the kinds of layers by which a model answers a sample otherwise at another call or in another batch.

    They are in train mode: dropout of every sort, stochastic depth, randomised leaky ReLU; batch normalisation, and
    normalisations whose statistics or vectors move. Dropout as a function cannot be seen.

    Args:
        model: A module; of another callable nothing is known.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))
        >>> unsteady_layers(model.train()), unsteady_layers(model.eval())
        (['BatchNorm1d', 'Dropout'], [])
    """
    if not isinstance(model, nn.Module):
        return []
    return sorted({_kind(layer) for layer in model.modules() if layer.training and _unsteady(layer)})


def _unsteady(layer: nn.Module) -> bool:
    name = type(layer).__name__
    return (
        isinstance(layer, (_BatchNorm, _SpectralNorm))
        or (isinstance(layer, _InstanceNorm) and layer.track_running_stats)
        or (isinstance(layer, _DropoutNd) and layer.p > 0)
        or (isinstance(layer, (nn.MultiheadAttention, nn.RNNBase)) and layer.dropout > 0)
        or (isinstance(layer, nn.RReLU) and layer.lower < layer.upper)
        or (
            name.startswith(DROPPING) and bool(getattr(layer, "p", None) or getattr(layer, "drop_prob", None))
        )
        or _spectral(layer)
    )


def _spectral(layer: nn.Module) -> bool:
    return any(isinstance(hook, SpectralNorm) for hook in layer._forward_pre_hooks.values())


def _kind(layer: nn.Module) -> str:
    return "SpectralNorm" if _spectral(layer) else type(layer).__name__.lstrip("_")
