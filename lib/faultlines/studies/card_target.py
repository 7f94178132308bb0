"""What a report card is asked about: someone's mechanism or classifier, found by name and refused where it cannot be.

Everything here is said in one line and before anything is trained.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from faultlines.data.dataset import Dataset
from faultlines.models.inference import logits_of
from faultlines.models.recorder import record_attention
from faultlines.models.transformer_blocks import MECHANISMS
from faultlines.models.weight_files import one_line, read_state


@dataclass(frozen=True)
class Target:
    """What a card is about.

    Attributes:
        name: As it was asked for.
        kind: `"mechanism"` or `"classifier"`.
        make: Of a mechanism a factory `(heads, head_dim)`, of a classifier a function without arguments.
        source: Hash of the file it is from, or the name.
    """

    name: str
    kind: Literal["mechanism", "classifier"]
    make: Callable[..., Any]
    source: str


def find_target(words: str) -> Target:
    """Return what a card is asked for.

    Args:
        words: `path/file.py:Name`, `package.module:Name`, or the name of a mechanism that `ViT` knows, also followed by
            `" normalised"`. `Name` is a mechanism (a class or a function that takes `(q, k, v)`, a module of such a
            class, or a factory of one called on `(heads, head_dim)`), or a function without arguments that makes a
            classifier of images.

    Raises:
        ValueError: If nothing is there, it cannot be imported, or it is neither; one line.
    """
    if words.removesuffix(" normalised") in MECHANISMS:
        options = {"normalise": True} if words.endswith(" normalised") else {}
        known = MECHANISMS[words.removesuffix(" normalised")]
        return Target(words, "mechanism", lambda *sizes: known(*sizes, layer=0, **options), words)
    place, colon, name = words.rpartition(":")
    if not colon or not name.isidentifier():
        raise ValueError(
            f"target={words!r} is neither file.py:Name, package.module:Name nor one of {sorted(MECHANISMS)}"
        )
    module = _import(place)
    if not hasattr(module, name):
        raise ValueError(f"target={words!r}: {place} has no {name}")
    found, file = getattr(module, name), getattr(module, "__file__", None)
    source = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else place
    needed = _needed(found)
    if isinstance(found, type) and issubclass(found, nn.Module):
        needed_in_use = 3 if hasattr(found, "explicit") else _needed(found.forward) - 1
        if needed_in_use == 3:
            return Target(words, "mechanism", _of_class(found, needed), f"{source}:{name}")
        if needed_in_use == 1 and needed == 0:
            return Target(words, "classifier", found, f"{source}:{name}")
    elif isinstance(found, nn.Module):
        mechanism = hasattr(found, "explicit") or _needed(found.forward) == 3
        make = (lambda *sizes: found) if mechanism else (lambda: found)
        return Target(words, "mechanism" if mechanism else "classifier", make, f"{source}:{name}")
    elif callable(found) and needed == 3:
        return Target(words, "mechanism", lambda *sizes: found, f"{source}:{name}")
    elif callable(found) and needed == 2:
        return Target(words, "mechanism", found, f"{source}:{name}")
    elif callable(found) and needed == 0:
        made = called(found, words)
        if isinstance(made, nn.Module) and (hasattr(made, "explicit") or _needed(made.forward) == 3):
            return Target(words, "mechanism", lambda *sizes: found(), f"{source}:{name}")
        if isinstance(made, nn.Module):
            return Target(words, "classifier", found, f"{source}:{name}")
    raise ValueError(
        f"target={words!r} is neither a mechanism, called on (q, k, v), nor a function without arguments that makes "
        "a module that maps images to logits"
    )


def known_mechanisms() -> list[str]:
    """Return the names of all mechanisms that `find_target` knows, softmax first."""
    found = []
    for name, make in MECHANISMS.items():
        found.append(name)
        if "normalise" in inspect.signature(make).parameters:
            found.append(f"{name} normalised")
    return sorted(found, key=lambda name: name != "softmax")


def _import(place: str) -> Any:
    path = Path(place)
    try:
        if place.endswith(".py"):
            if not path.is_file():
                raise ValueError(f"{place} is no file")
            spec = importlib.util.spec_from_file_location(f"_card_{path.stem}", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # as a dataclass in it needs
            sys.path.insert(0, str(path.resolve().parent))
            try:
                spec.loader.exec_module(module)
            finally:
                sys.path.remove(str(path.resolve().parent))
            return module
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(place)
        finally:
            sys.path.remove(str(Path.cwd()))
    except Exception as error:  # whatever a file of someone else's raises
        raise ValueError(
            f"target: {place} cannot be imported: {type(error).__name__}: {one_line(error)}"
        ) from error


def _needed(call: Any) -> int:
    """Return how many arguments a call needs."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return -1
    return sum(p.default is p.empty and p.kind in kinds for p in parameters)


def _of_class(found: type[nn.Module], needed: int) -> Callable[..., nn.Module]:
    return (lambda *sizes: found(*sizes)) if needed == 2 else (lambda *sizes: found())


def called(make: Callable[..., Any], name: str, *given: Any) -> Any:
    """Call what someone else wrote.

    Raises:
        ValueError: If it raises anything; one line, with the name of the target.
    """
    try:
        return make(*given)
    except Exception as error:  # whatever code of someone else's raises
        raise ValueError(f"target={name!r} failed with {type(error).__name__}: {one_line(error)}") from error


def check_mechanism_target(target: Target, heads: int, width: int, tokens: int) -> None:
    """Refuse, before anything is trained, a mechanism that no probe could look at.

    Args:
        target: A mechanism.
        heads: Heads of a layer.
        width: Width of a query.
        tokens: Queries and keys.

    Raises:
        ValueError: If it cannot be made or called, returns another shape or type, NaN, another output the second
            time, one without a gradient, or has no second derivative; one line.
    """
    torch.manual_seed(0)
    made = called(target.make, target.name, heads, width)
    made = made.eval() if isinstance(made, nn.Module) else made
    q, k, v = (torch.randn(2, heads, tokens, width).requires_grad_() for _ in range(3))
    explicit = getattr(made, "explicit", made)
    # of the fused kernels of torch only the plain one has second derivatives, and the probes ask for it too
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        output = _first(called(explicit, target.name, q, k, v))
        again = _first(called(explicit, target.name, q, k, v))
        where = f"target={target.name!r}, called on q, k and v of shape {tuple(q.shape)},"
        if not isinstance(output, Tensor):
            raise ValueError(f"{where} returns a {type(output).__name__}; a tensor of that shape is needed")
        # values of differential attention's pairs are joined: half the heads, twice the width
        if output.numel() != v.numel() or output.ndim != 4 or output.shape[2] != tokens:
            raise ValueError(
                f"{where} returns shape {tuple(output.shape)}; [batch, head, query, value_dim] is needed"
            )
        _check_values(output, again, where)
        weights = _weights(output)
        gradients = _gradients(output, (q, k, v), where, weights)
        if all(g is None for g in gradients):
            raise ValueError(f"{where} has no gradient to any of them (detach, no_grad or argmax?)")
        other = _first(called(explicit, target.name, q.flip(2), k.roll(1, 2), v))
        if gradients[0] is None and gradients[1] is None and not torch.equal(other, output):
            raise ValueError(
                f"{where} follows q and k without a gradient to either (detach, no_grad or argmax?)"
            )
        try:
            total = cast(Tensor, sum(g.square().sum() for g in gradients if g is not None))
            total.backward()  # through all of it: a slope that is constant in q, k and v still has one in the weights
        except RuntimeError as error:
            raise ValueError(f"{where} has no second derivative: {one_line(error)}") from error


def check_classifier(model: nn.Module, name: str, x: Tensor, y: Tensor, classes: int) -> list[str]:
    """Refuse a classifier that no attack can look at; return warnings about one that it may be wrong to.

    Args:
        model: In evaluation mode.
        name: For the message.
        x: Images of the data set.
        y: Their classes.
        classes: How many there are.

    Raises:
        ValueError: If it does not take the images, returns no logits of so many classes, NaN, another output the
            second time, or one without a gradient to the image; one line.
    """
    x = x[:64].clone().requires_grad_()
    where = f"target={name!r} on {len(x)} images of shape {tuple(x.shape[1:])}"
    with torch.enable_grad():
        output = called(lambda: logits_of(model(x)), name)
        if output.ndim != 2 or output.shape[0] != len(x):
            raise ValueError(
                f"{where} returns shape {tuple(output.shape)}; logits [{len(x)}, {classes}] are needed"
            )
        if output.shape[1] != classes:
            raise ValueError(f"{where} returns {output.shape[1]} logits; the data set has {classes} classes")
        _check_values(output, called(lambda: logits_of(model(x)), name), where)
        if not output.is_floating_point() or not output.requires_grad:
            raise ValueError(
                f"{where} has no gradient to the image (detach, no_grad or argmax?): no attack can see it"
            )
        (gradient,) = _gradients(output, (x,), where, _weights(output))
        if gradient is None or not bool((gradient != 0).any()):
            raise ValueError(f"{where} has no gradient to the image: no attack can see it")
    said = []
    sums = output.detach().sum(dim=1)
    if bool((output >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        said.append(
            "the outputs are probabilities: leave the softmax out, for it hides gradients from attacks"
        )
    right = (output.argmax(dim=1) == y[: len(x)]).double().mean().item()
    if right < 1.5 / classes:
        said.append(
            f"only {right:.0%} of the images are right: does the model normalise images in [0, 1] itself, and are its "
            "weights loaded?"
        )
    return said


def _first(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) and found else found


def _check_values(output: Tensor, again: Tensor, where: str) -> None:
    if not bool(output.isfinite().all()):
        raise ValueError(f"{where} returns values that are not finite")
    if not torch.equal(output, again):
        raise ValueError(
            f"{where} returns another output the second time, in evaluation mode: it must not draw"
        )


def _weights(output: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).reshape(output.shape).requires_grad_()


def _gradients(
    output: Tensor, inputs: tuple[Tensor, ...], where: str, weights: Tensor
) -> tuple[Tensor | None, ...]:
    if not output.requires_grad:
        return (None,) * len(inputs)
    found = torch.autograd.grad((output * weights).sum(), inputs, create_graph=True, allow_unused=True)
    if not all(bool(g.isfinite().all()) for g in found if g is not None):
        raise ValueError(f"{where} has a gradient that is not finite")
    return found


def load_weights(model: nn.Module, path: str) -> None:
    """Load a state dict or safetensors into a classifier.

    Raises:
        ValueError: If the file is refused or does not fit; one line.
    """
    try:
        model.load_state_dict(read_state(Path(path)))
    except RuntimeError as error:
        raise ValueError(f"weights={path!r} does not fit: {one_line(error)}") from error


def check_target(
    target: Target, data: Dataset, weights: str, heads: int, width: int, tokens: int
) -> list[str]:
    """Refuse a bad target, whatever it is; return warnings.

    Args:
        target: See `find_target`.
        data: The data set that a classifier is looked at on.
        weights: File of a classifier's weights, or nothing.
        heads: Heads of a layer, for a mechanism.
        width: Width of a query.
        tokens: Queries and keys.

    Raises:
        ValueError: See `check_mechanism_target`, `made_classifier` and `check_classifier`; one line.
    """
    if target.kind == "mechanism":
        if weights:
            raise ValueError(f"weights={weights!r} are for a classifier; a mechanism is trained here")
        check_mechanism_target(target, heads, width, tokens)
        return []
    return check_classifier(
        made_classifier(target, weights), target.name, data.x_test, data.y_test, len(data.classes)
    )


@contextmanager
def maps_of_timm(model: nn.Module) -> Iterator[None]:
    """Make the attention layers of timm's transformers hand their maps to the recorder, inside the block.

    These have a flag `fused_attn` and a dropout `attn_drop`, which the map goes through. What `torch.nn` has of
    attention is recorded without this; see `faultlines.models.recorder`.
    """
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if isinstance(getattr(layer, "attn_drop", None), nn.Module) and hasattr(layer, "fused_attn")
    ]
    before = [layer.fused_attn for layer in layers]

    def hand_on(_: nn.Module, given: tuple[Tensor, ...], maps: Tensor) -> None:
        if maps.ndim == 4:
            record_attention(maps)

    hooks = [layer.attn_drop.register_forward_hook(hand_on) for layer in layers]
    try:
        for layer in layers:
            layer.fused_attn = False
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, fused in zip(layers, before, strict=True):
            layer.fused_attn = fused


def made_classifier(target: Target, weights: str = "") -> nn.Module:
    """Return a classifier with its weights, in evaluation mode.

    Raises:
        ValueError: If it cannot be made, or the file is refused or does not fit; one line.
    """
    model = called(target.make, target.name)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"target={target.name!r} makes a {type(model).__name__}; a torch.nn.Module is needed"
        )
    if weights:
        load_weights(model, weights)
    return model.eval()
