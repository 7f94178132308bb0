"""A device that is not the CPU, written in Python in torch's place for backends of one's own.

A tensor of the device `wooden` has a storage without bytes; a table gives the memory of the CPU that stands for it.
Every operation that torch would hand to the device's kernels comes to `compute`, which looks the memory up, lets
the CPU compute, and gives back tensors of the device. As on a card, it raises where tensors of two devices meet, where
a generator is of another device than what it fills, and where a value is read without a copy to the CPU (`numpy`).
Draws without a generator come from a stream of the device's own.

What it cannot show: the numbers of CUDA's kernels (rounding, TF32, order of sums), operations that a card lacks or
computes in its own way, streams and what is not yet there when the next line runs, memory of the card, speed. The
tests marked `gpu` are for these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

NAME = "wooden"
# these are what moves values between devices, and indices may lie on the CPU, as a card allows
MOVES = {"aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize", "aten::_to_copy"}
INDEXING = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
# torch's names for what a backend of one's own computes itself
OWN = {
    torch.ops.aten.convolution_overrideable.default: torch.ops.aten.convolution.default,
    torch.ops.aten._efficientzerotensor.default: lambda size, dtype=None, **_: torch.zeros(size, dtype=dtype),
    torch.ops.aten.convolution_backward_overrideable.default: lambda grad, x, weight, *rest: (
        torch.ops.aten.convolution_backward.default(grad, x, weight, [weight.shape[0]], *rest)
    ),
}

_place = torch.ops.aten.set_.source_Storage_storage_offset
_memory: dict[int, tuple[StorageWeakRef, torch.UntypedStorage]] = {}
_generators: WeakValueDictionary[int, Any] = WeakValueDictionary()  # those of the device
_stream = torch.Generator()
_watchers: list[Callable[[Any], None]] = []
_library: torch.library.Library | None = None
_own: torch.library.Library | None = None


class Module(backend_registration._DummyBackendModule):
    """What torch asks of a device by the functions of `torch.cuda`."""

    def manual_seed_all(self, seed: int) -> None:
        _stream.manual_seed(seed + 1)  # another stream than the CPU's

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return _stream.get_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        _stream.set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def device(self, device: Any) -> nullcontext[None]:
        return nullcontext()

    def synchronize(self, device: Any = None) -> None:
        pass


def memory_of(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Return the memory that stands for a storage, as long as torch believes it to be."""
    _, memory = _memory[storage._cdata]
    if memory.nbytes() < storage.nbytes():
        memory.resize_(storage.nbytes())
    return memory


def unwrap(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the CPU on the memory of one of the device."""
    found = torch.empty(0, dtype=x.dtype)
    return found.set_(memory_of(x.untyped_storage()), x.storage_offset(), x.shape, x.stride())


def place(x: torch.Tensor, storage: torch.UntypedStorage, like: torch.Tensor) -> torch.Tensor:
    """Let a tensor of the device be a view of a storage, by the kernel for tensors without bytes."""
    return _place._op_dk(
        torch._C.DispatchKey.Meta, x, storage, like.storage_offset(), like.shape, like.stride()
    )


def wrap(x: torch.Tensor, storages: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    """Return a tensor of the device for one of the CPU; on the storage of an argument where it shares its memory."""
    found = torch._C._acc.create_empty_tensor((0,), x.dtype)
    memory = x.untyped_storage()
    storage = storages.get(memory._cdata)
    if storage is None:
        storage = found.untyped_storage()
        if len(_memory) % 1024 == 0:
            for key in [key for key, (reference, _) in _memory.items() if reference.expired()]:
                del _memory[key]
        _memory[storage._cdata] = StorageWeakRef(storage), memory
    return place(found, storage, x)


def mixed(op: Any, tensors: list[torch.Tensor]) -> str:
    """Return what an operation would read from another device, in words; empty for nothing."""
    name = op._schema.name
    if name in MOVES:
        return ""
    strangers = [x for x in tensors if x.device.type != NAME and x.dim() > 0]
    if name in INDEXING:
        strangers = [
            x for x in strangers if x.dtype not in (torch.int64, torch.int32, torch.bool, torch.uint8)
        ]
    return ", ".join(f"{tuple(x.shape)} on {x.device}" for x in strangers)


def as_tensor(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else None)


@contextmanager
def watched(see: Callable[[Any], None]) -> Iterator[None]:
    """Call `see` with every operation that the device computes meanwhile."""
    _watchers.append(see)
    try:
        yield
    finally:
        _watchers.remove(see)


def compute(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute one operation of the device on the CPU.

    Raises:
        RuntimeError: If a tensor, or a generator, is of another device.
    """
    for see in _watchers:
        see(op)
    if op is _place:
        return op._op_dk(torch._C.DispatchKey.Meta, *args, **kwargs)
    leaves, tree = pytree.tree_flatten((args, kwargs))
    if found := mixed(op, [x for x in leaves if isinstance(x, torch.Tensor)]):
        raise RuntimeError(f"{op} expects all tensors on the device {NAME}, but found {found}")
    given: list[tuple[torch.Tensor, torch.Tensor]] = []
    storages: dict[int, torch.UntypedStorage] = {}
    for n, x in enumerate(leaves):
        if isinstance(x, torch.Tensor) and x.device.type == NAME:
            leaves[n] = inside = unwrap(x)
            given.append((x, inside))
            storages[inside.untyped_storage()._cdata] = x.untyped_storage()
        elif isinstance(x, torch.device) and x.type == NAME:
            leaves[n] = torch.device("cpu")
        elif isinstance(x, torch._C.Generator) and x._cdata not in _generators:
            raise RuntimeError(f"{op} expects a generator of the device {NAME}, but found one on {x.device}")
    inner_args, inner_kwargs = pytree.tree_unflatten(leaves, tree)
    # a number that C++ had made a tensor arrives as a number
    inner_args = [
        as_tensor(x) if isinstance(x, bool | int | float) and str(argument.type) == "Tensor" else x
        for x, argument in zip(inner_args, op._schema.arguments, strict=False)
    ]
    draws = "generator" in [argument.name for argument in op._schema.arguments]
    if draws and not any(isinstance(x, torch._C.Generator) for x in leaves):
        inner_kwargs["generator"] = _stream
    if op._schema.name in MOVES:
        found = moved(op, args, inner_args, inner_kwargs)
    else:
        found = OWN.get(op, op)(*inner_args, **inner_kwargs)
    known = {id(inside): outside for outside, inside in given}
    for outside, inside in given:  # an operation that writes may have given another shape
        if outside.shape != inside.shape or outside.stride() != inside.stride():
            place(outside, outside.untyped_storage(), inside)

    def back(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return known[id(x)] if id(x) in known else wrap(x, storages)

    if op._schema.name in MOVES and found is not None:
        return found
    return pytree.tree_map(back, found)


def moved(op: Any, args: Any, inner_args: Any, inner_kwargs: Any) -> torch.Tensor:
    """Copy from one device to another, or within one."""
    names = ("aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize")
    if op._schema.name not in names:
        raise NotImplementedError(f"{op} between devices")
    target = 0 if op._schema.name == "aten::copy_" else 1
    inner_args[target].copy_(inner_args[1 - target])
    return args[target]


class _Kind(type(torch._C.Generator)):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_Kind):
    """A generator that may be of the device; it draws there what one of the CPU draws from its seed."""

    def __new__(cls, device: Any = "cpu") -> torch._C.Generator:
        device = torch.device(device)
        if device.type != NAME:
            return torch._C.Generator(device)
        found = super().__new__(cls, "cpu")
        found.place = device
        _generators[found._cdata] = found
        return found

    @property
    def device(self) -> torch.device:
        return self.place


class Guard(TorchFunctionMode):
    """Refuses a generator of the device that fills a tensor of another, as a card's would be refused."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        strange = type(kwargs.get("generator")) is Generator and isinstance(found, torch.Tensor)
        if strange and found.device.type != NAME:
            raise RuntimeError(f"{func} expects a generator of {found.device}, but found one on {NAME}")
        return found


def storages_too() -> None:
    """Let `deepcopy` and `torch.save`, which take a tensor's storage, find the memory."""

    def of_device(name: str, own: Callable[[torch.UntypedStorage], Any]) -> None:
        theirs = getattr(torch.UntypedStorage, name)

        def method(self: torch.UntypedStorage) -> Any:
            return own(memory_of(self)) if self.device.type == NAME else theirs(self)

        setattr(torch.UntypedStorage, name, method)

    def clone(memory: torch.UntypedStorage) -> torch.UntypedStorage:
        flat = torch.empty(0, dtype=torch.uint8).set_(memory.clone(), 0, (memory.nbytes(),))
        return wrap(flat, {}).untyped_storage()

    for name, own in {"clone": clone, "cpu": lambda m: m.clone(), "data_ptr": lambda m: m.data_ptr()}.items():
        of_device(name, own)


def register() -> None:
    """Make torch know the device; once a process, and for its rest."""
    global _library, _own
    if _library is not None:
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    _library = torch.library.Library("_", "IMPL")
    _library.fallback(compute, "PrivateUse1")
    _own = torch.library.Library("aten", "IMPL")
    for op in OWN:
        _own.impl(op._schema.name.removeprefix("aten::"), partial(compute, op), "PrivateUse1")
    torch.Generator = Generator
    storages_too()
