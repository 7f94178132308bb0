"""Grad-CAM as a function of the weights: maps that a training objective can differentiate, at one scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from faultlines.estimators.attribution.gradients import Images, Target, check_images, check_target
from faultlines.estimators.forward import (
    check_steady,
    derivatives,
    original,
    uncompiled,
    warn_of_nan,
    without_draws,
)
from faultlines.models.attention import at_least_float
from faultlines.models.inference import frozen, logits_of, one_precision

Normalization = Literal["none", "minmax", "l1", "l2"]


EPS = 1e-8  # a map of smaller size is no map


def normalize_map(
    maps: Float[Tensor, "batch height width"], kind: Normalization = "none", *, eps: float = EPS
) -> Float[Tensor, "batch height width"]:
    """Bring every map to one scale.

    `"minmax"` takes the least entry to 0 and the largest to 1; `"l1"` and `"l2"` divide by the norm. A map
    whose range, or norm, is at most `eps` becomes zero, and so does its gradient: dividing by a vanishing
    norm would give NaN, or a gradient as large as one over it.

    Raises:
        ValueError: If the kind is unknown, or the maps are not a batch of them.

    Example:
        >>> normalize_map(torch.tensor([[[1.0, 3.0]], [[0.0, 0.0]]]), "minmax").tolist()
        [[[0.0, 1.0]], [[0.0, 0.0]]]
    """
    if kind not in get_args(Normalization):
        raise ValueError(f"normalize={kind!r} is not one of {get_args(Normalization)}")
    if maps.ndim != 3:
        raise ValueError(f"maps have shape {tuple(maps.shape)}; they must be [batch, height, width]")
    if kind == "none":
        return maps
    dtype, maps = maps.dtype, at_least_float(maps)
    if kind == "minmax":
        maps = maps - maps.amin(dim=(1, 2), keepdim=True)
        size = maps.amax(dim=(1, 2), keepdim=True)
    else:
        alive = (maps != 0).any(dim=2, keepdim=True).any(dim=1, keepdim=True)
        safe = torch.where(alive, maps, 1.0)  # a norm has no gradient at zero: it is not asked for one there
        size = torch.linalg.vector_norm(safe, ord=int(kind[1]), dim=(1, 2), keepdim=True) * alive
    gone = size <= eps  # and not NaN, which is no map either, but not nothing
    return torch.where(gone, 0.0, maps / torch.where(gone, 1.0, size)).to(dtype)


Method = Literal["auto", "closed", "autograd"]
Maps = Float[Tensor, "batch height width"]


def grad_cam(
    model: nn.Module,
    x: Images,
    target: Target,
    *,
    layer: str | nn.Module | None = None,
    relu: bool = True,
    center: bool = False,
    normalize: Normalization = "none",
    method: Method = "auto",
    create_graph: bool = False,
) -> Maps:
    r"""Grad-CAM of one class a sample (Selvaraju et al. 2017), at the resolution of a layer.

    With $A \in \mathbb{R}^{K \times h \times w}$ the output of the layer and $s_t$ the logit of class $t$,

    $$M = \mathrm{ReLU}\Bigl(\sum_k \alpha_k A_k\Bigr), \qquad
      \alpha_k = \frac{1}{hw} \sum_{ij} \frac{\partial s_t}{\partial A_{k,ij}}.$$

    Args:
        model: A convolutional network; its mode is left as it is. In training mode with layers for which that matters
            it is refused, but with `create_graph`: an objective looks at a network while it trains.
        x: Images.
        target: The class of each image, or one for all.
        layer: The layer whose output is mapped, by name or itself; by default `model.features` where a linear head
            averages over it, and otherwise the last `nn.Conv2d` that runs.
        relu: Whether to cut negative evidence off.
        center: Whether to take the logit less the mean logit; see `logits_and_maps`.
        normalize: `"none"`, `"minmax"`, `"l1"` or `"l2"`; see `normalize_map`.
        method: `"closed"`, `"autograd"`, or the first where it can be had.
        create_graph: Whether the maps can be differentiated; without it little more is kept in memory than the layer
            and what comes behind it.

    Returns:
        One map an image.

    Raises:
        ValueError: If an argument is not as stated, the model draws random numbers in evaluation mode, too, or it has
            no convolution to default to.
    """
    with derivatives(create_graph, x, target) as (x, target):
        check_images(x)
        target = check_target(target, x)
        if not create_graph:
            check_steady(model)
        model = original(model)
        if layer is None and not pools_linearly(model):
            with one_precision(model, x):
                layer = last_convolution(model, x)
        options: dict[str, Any] = {"layer": layer, "relu": relu, "center": center, "normalize": normalize}
        if not create_graph:
            x = x.detach()
        alone = nullcontext() if create_graph else frozen(model)
        with alone, one_precision(model, x), nullcontext() if create_graph else without_draws(x):
            return logits_and_maps(model, x, target, method=method, create_graph=create_graph, **options)[1]


def logits_and_maps(
    model: nn.Module,
    x: Float[Tensor, "batch channel rows columns"],
    target: int | Int[Tensor, " batch"],
    *,
    layer: str | nn.Module | None = None,
    relu: bool = True,
    center: bool = False,
    normalize: Normalization = "none",
    method: Method = "auto",
    create_graph: bool = False,
) -> tuple[Float[Tensor, "batch classes"], Maps]:
    """Return logits and Grad-CAM maps of one forward pass.

    A network that averages `model.features(x)` over positions and puts a linear `model.head` behind needs no
    second derivative: there the weights of the map *are* the head's row, over the number of positions. Every
    other network, and every other layer, goes through `autograd.grad`.

    Args:
        model: Maps images to logits.
        x: Images.
        target: Class of every sample, or one for all.
        layer: The layer whose output is mapped, by name or itself; by default what `model.features` returns. Where
            it returns a tuple or a mapping, the first feature maps in it; where it runs more than once, its last run.
        relu: Whether to cut negative evidence off.
        center: Whether to take the logit less the mean logit, as softmax does not see the difference: a
            network could otherwise hide evidence for a class as evidence against all others.
        normalize: `"none"`, `"minmax"`, `"l1"` or `"l2"`; see `normalize_map`.
        method: `"closed"`, `"autograd"`, or the first where it can be had.
        create_graph: Whether gradients reach the weights through the maps; otherwise maps are detached.

    Returns:
        Logits, always with their graph, and maps.

    Raises:
        ValueError: If the target, the method, the normalisation or the layer does not fit.

    Example:
        >>> from torch.nn import functional as F
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        ...     def features(self, x):
        ...         return self.body(x).relu()
        ...     def forward(self, x):
        ...         return self.head(self.features(x).mean((2, 3)))
        >>> net, x = Net(), torch.rand(5, 3, 8, 8)
        >>> closed = grad_cam(net, x, 1, relu=False)
        >>> closed.shape, torch.allclose(closed, grad_cam(net, x, 1, relu=False, method="autograd"), atol=1e-6)
        (torch.Size([5, 6, 6]), True)
        >>> share = net(x)[:, 1] - net.head.bias[1]  # the map shares the logit out over positions
        >>> torch.allclose(closed.sum((1, 2)), share, atol=1e-6)
        True
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is not one of {get_args(Method)}")
    network: Any = original(model)
    possible = layer is None and pools_linearly(network)
    if method == "closed" and not possible:
        raise ValueError(
            "method='closed' needs layer=None and a model with features(x) and a linear head; "
            f"layer is {layer!r} and the model {type(network).__name__}"
        )
    with torch.enable_grad():
        if possible and method != "autograd":
            features = network.features(x)
            logits = network.head(features.mean(dim=(2, 3)))
            maps = cam_of_head(features, network.head.weight, _targets(target, logits), center=center)
        else:
            with _captured(network, layer) as captured, uncompiled():
                logits = logits_of(network(x))
            if not captured:
                raise ValueError(f"layer={layer!r} was not run in the forward pass")
            maps = cam_of_graph(
                captured[-1], logits, _targets(target, logits), center=center, create_graph=create_graph
            )
    if not create_graph:
        maps = maps.detach()
    return logits, normalize_map(maps.relu() if relu else maps, normalize)


def pools_linearly(model: nn.Module) -> bool:
    """Return whether the model declares itself as `head(features(x).mean((2, 3)))`, the head linear.

    A network that has more weights than those of a module `features` and of the head does something between them,
    as Swin Transformers do: it declares nothing by these names.
    """
    features, head = getattr(model, "features", None), getattr(model, "head", None)
    if not callable(features) or not isinstance(head, nn.Linear):
        return False
    if not isinstance(features, nn.Module):
        return True
    return {id(p) for p in model.parameters()} == {
        id(p) for part in (features, head) for p in part.parameters()
    }


def last_convolution(model: nn.Module, x: Images) -> nn.Module:
    """Return the convolution that runs last: of an auxiliary head, which runs in training only, it is not.

    Raises:
        ValueError: If none runs.
    """
    ran: list[nn.Module] = []
    convolutions = [part for part in getattr(model, "modules", list)() if isinstance(part, nn.Conv2d)]
    handles = [part.register_forward_pre_hook(lambda conv, _: ran.append(conv)) for part in convolutions]
    try:
        with torch.no_grad(), frozen(model), uncompiled():
            model(x if model.training else x[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise ValueError(f"layer=None needs a model with an nn.Conv2d; {type(model).__name__} runs none")
    return ran[-1]


def cam_of_head(
    features: Float[Tensor, "batch k height width"],
    weight: Float[Tensor, "classes k"],
    target: Int[Tensor, " batch"],
    *,
    center: bool = False,
) -> Maps:
    """Closed form behind global average pooling and a linear layer, before the ReLU."""
    if center:
        weight = weight - weight.mean(dim=0)
    return _combine(features, weight[target] / features[0, 0].numel())


def cam_of_graph(
    features: Float[Tensor, "batch k height width"],
    logits: Float[Tensor, "batch classes"],
    target: Int[Tensor, " batch"],
    *,
    center: bool = False,
    create_graph: bool = False,
) -> Maps:
    """By differentiating the logits in the features, before the ReLU.

    Raises:
        ValueError: If the features are no maps.
    """
    if features.ndim != 4:
        raise ValueError(f"the layer returns shape {tuple(features.shape)}; Grad-CAM needs [batch, k, h, w]")
    score = logits.gather(1, target[:, None]).sum()
    if center:
        score = score - logits.mean(dim=1).sum()
    slope = None
    if score.requires_grad:
        (slope,) = torch.autograd.grad(
            score, features, create_graph=create_graph, retain_graph=True, allow_unused=True
        )
    if slope is None:
        raise ValueError("the logits do not depend on the layer, so that it has no Grad-CAM map")
    if not create_graph:
        warn_of_nan(slope)
    return _combine(features, slope.mean(dim=(2, 3)))


def _combine(features: Tensor, weight: Tensor) -> Tensor:
    # as a batch of products: einsum would copy the features into another order, forward and backward
    return torch.bmm(weight[:, None], features.flatten(2)).unflatten(2, features.shape[2:])[:, 0]


def _targets(target: int | Tensor, logits: Tensor) -> Tensor:
    batch, classes = logits.shape
    target = torch.as_tensor(target, device=logits.device)
    if target.ndim not in (0, 1) or (target.ndim and len(target) != batch) or target.is_floating_point():
        raise ValueError(
            f"target has shape {tuple(target.shape)} and dtype {target.dtype}; "
            f"it must be one class or [{batch}] of them"
        )
    if int(target.min()) < 0 or int(target.max()) >= classes:
        raise ValueError(
            f"target holds classes from {int(target.min())} to {int(target.max())}; allowed are 0 to {classes - 1}"
        )
    return target.long().expand(batch)


@contextmanager
def _captured(model: Any, layer: str | nn.Module | None) -> Iterator[list[Tensor]]:
    """Collect what a layer returns; the network goes on with a copy, which it may change in place."""
    captured: list[Tensor] = []

    def keep(module: object, inputs: object, output: Any) -> Any:
        return _replace_maps(output, captured)

    if layer is None:
        if not pools_linearly(model):
            raise ValueError(
                f"layer=None needs a model with features(x) and a linear head, not {type(model).__name__}"
            )
        layer = model.features
    if not isinstance(layer, (str, nn.Module)):  # a method runs no hook: shadow it for one pass
        method: Any = layer
        vars(model)["features"] = lambda x: keep(model, x, method(x))
        try:
            yield captured
        finally:
            del vars(model)["features"]
        return
    if isinstance(layer, str):
        names, layer = dict(model.named_modules()), layer.removeprefix("_orig_mod.")  # of a compiled network
        if layer not in names or not layer:
            raise ValueError(f"layer={layer!r} is not one of {', '.join(name for name in names if name)}")
        layer = names[layer]
    handle = original(cast(nn.Module, layer)).register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


def _replace_maps(output: Any, captured: list[Tensor]) -> Any:
    """Append the first feature maps in what a layer returned, and return the same with a copy in their place."""
    if isinstance(output, Tensor):
        if not output.requires_grad:  # a frozen network on images: nothing else would ask for a graph
            output = output.detach().requires_grad_()
        captured.append(output)
        return output.clone()
    parts = list(output.items()) if isinstance(output, Mapping) else list(enumerate(output))
    places = [key for key, part in parts if isinstance(part, Tensor) and part.ndim == 4]
    if not places:
        raise ValueError(
            f"the layer returns a {type(output).__name__} without maps; Grad-CAM needs [batch, k, h, w]"
        )
    new = copy(output) if isinstance(output, Mapping) else list(output)
    new[places[0]] = _replace_maps(new[places[0]], captured)  # type: ignore[index]
    if isinstance(output, tuple):
        return type(output)(*new) if hasattr(output, "_fields") else tuple(new)
    return new
