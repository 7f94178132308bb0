"""How time and peak memory grow with size, and the exponent that theory says.

Every size is measured in a process of its own, forked from one that has imported everything. The time is the least of
several calls, in processor time of one thread, which other work on the machine disturbs least; a call of more than a
second is not repeated. The memory is the peak resident set of the first call above what was resident before it, so
that inputs and weights are not counted. Exponents are fitted by least squares of the logarithms over the last four
sizes, since fixed costs hide the growth at small ones; memory over those of them that took at least four MiB, since
less cannot be told from what the allocator keeps. The exponent of theory is that of the cost it names, fitted in the
same way over the same sizes, so that a logarithm counts. A fit more than 0.15 above it is a target missed.

    [SCALING_MINUTES=20] python -m benchmarks.scaling [NAME...]
"""

from __future__ import annotations

import copy
import ctypes
import gc
import hashlib
import importlib
import json
import logging
import math
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from benchmarks._digits import digits_vit
from tests.toy_cells import closing, opening
from torch import nn
from torch.nn import functional as F

from faultlines.attacks import PGD, AutoAttack
from faultlines.attacks.explanation import ExplanationPGD, TopK
from faultlines.book import sphinx_extension
from faultlines.estimators import attention_bound, flip_rate, jacobian_norm, local_lipschitz, loo_influence
from faultlines.estimators.attribution import attribute, integrated_gradients
from faultlines.estimators.curvature import hessian_top
from faultlines.estimators.ntk import relu_ntk
from faultlines.estimators.ntk.two_layer import kernels_by_width
from faultlines.estimators.similarity import kendall_tau, spearman
from faultlines.estimators.softmax import softmax_jacobian_norm
from faultlines.models import Attention, ResNet, ViT
from faultlines.models.linearized import unit_rows
from faultlines.notebook.chapters import Chapter
from faultlines.notebook.code import library_code
from faultlines.notebook.project import Project
from faultlines.notebook.run_spec import RunSpec
from faultlines.notebook.runs import Runs
from faultlines.notebook.store import write_notebook
from faultlines.training import ERM, EX2L, GroupObjective, seeded
from faultlines.training.group_batches import as_batch
from faultlines.training.objectives.group_objective import Clock, GroupRun
from faultlines.training.optimizer import Settings, build_optimizer

SLACK = 0.15
LAST = 4  # sizes that an exponent is fitted over
LEAST_MIB = 4.0
REPEATS, ENOUGH_S = 7, 1.0
LIMIT_S = 900.0  # of wall time, a size
ROOT = Path(__file__).resolve().parents[1]
POINTS = ROOT / "_build" / "scaling.json"
MEASURED = ("models", "attacks", "estimators", "training", "notebook", "runner", "book", "cli")
A_DAY_S = 86400.0
PACKAGES = ("torchvision", "curvlinops", "pyautoattack")  # imported before the first fork

Call = Callable[[], object]
Cost = Callable[[float], float]


# costs that theory names


def flat(n: float) -> float:
    return 1.0


def linear(n: float) -> float:
    return n


def sorting(n: float) -> float:
    return n * math.log(n)


def merging(n: float) -> float:
    return n * math.log(n) ** 2


def square(n: float) -> float:
    return n**2


def cube(n: float) -> float:
    return n**3


@dataclass(frozen=True)
class Case:
    """What grows, and in what.

    Attributes:
        what: What is measured.
        unit: What the sizes count.
        sizes: The sizes, growing.
        make: Returns the call to be timed at a size; what it does itself is not measured.
        time: What the time should grow as, up to a factor.
        memory: What the memory beyond inputs should grow as; None where other processes take it.
        peer: Returns the peer's or the floor's call at a size.
        peer_is: What the peer is.
        peer_at: Sizes of the comparison; the other sizes have none.
        note: The setting, and why the sizes end where they do.
        warm: Whether the smallest size is called once before.
        clock: Seconds so far.
    """

    what: str
    unit: str
    sizes: Sequence[int]
    make: Callable[[int], Call]
    time: Cost
    memory: Cost | None
    peer: Callable[[int], Call] | None = None
    peer_is: str = ""
    peer_at: Sequence[int] = ()
    note: str = ""
    warm: bool = True
    clock: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class Point:
    """A size and what it took; the peer's seconds where it was measured."""

    size: int
    seconds: float
    mib: float
    peer_s: float | None = None


# the fit


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float | None:
    """Return the slope of the logarithm of the costs against that of the sizes, by least squares.

    Args:
        sizes: Growing sizes.
        costs: What each took, above 0.

    Returns:
        The slope over the last four; None where there are fewer than three.
    """
    x, y = ([math.log(value) for value in values[-LAST:]] for values in (sizes, costs))
    if len(x) < 3:
        return None
    middle, mean = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle) * (b - mean) for a, b in zip(x, y, strict=True)) / sum(
        (a - middle) ** 2 for a in x
    )


def rows_of(case: Case, points: Sequence[Point]) -> list[dict]:
    """Return the row of a case's time and, where it has one, that of its memory."""
    rows = [_row(case, "time", case.time, [(p.size, p.seconds) for p in points], points)]
    if case.memory is not None:
        rows.append(_row(case, "memory", case.memory, [(p.size, p.mib) for p in points], points))
    return rows


def _row(
    case: Case, kind: str, theory: Cost, costs: list[tuple[int, float]], points: Sequence[Point]
) -> dict[str, Any]:
    told = [(n, cost) for n, cost in costs[-LAST:] if kind == "time" or cost >= LEAST_MIB]
    fitted = exponent([n for n, _ in told], [cost for _, cost in told])
    said = exponent([n for n, _ in told], [theory(n) for n, _ in told])
    if said is None:  # nothing to fit: the theory over all sizes, for the table
        said = exponent(case.sizes, [theory(n) for n in case.sizes]) or 0.0
    little = kind == "memory" and bool(costs) and all(cost < LEAST_MIB for _, cost in costs)
    compared = [p for p in points if p.peer_s is not None]
    peer = compared[-1] if compared else None
    words = ""
    if kind == "time" and peer is not None and peer.peer_s is not None:
        words = f"{peer.seconds / peer.peer_s:.2f} of {case.peer_is} at {peer.size:,}"
    stopped = "" if len(costs) == len(case.sizes) else f"not measured from {case.sizes[len(costs)]:,} on"
    small = f"under {LEAST_MIB:g} MiB at every size" if little else ""
    return {
        "name": f"{case.what}: {kind}",
        "ours_s": costs[-1][1] if costs and kind == "time" else None,
        "peer_s": peer.peer_s if kind == "time" and peer is not None and peer is points[-1] else None,
        "ratio": fitted,
        "target": said + SLACK,
        "ok": True if little else None if fitted is None else fitted <= said + SLACK,
        "note": "; ".join(part for part in (words, small, stopped, case.note if kind == "time" else "") if part),
        "points": {
            "what": case.what, "kind": kind, "unit": case.unit, "theory": said,
            "size": [n for n, _ in costs], "cost": [cost for _, cost in costs], "peer": words,
        },
    }  # fmt: skip


# one size, in a process of its own


def resident(name: str) -> float:
    """Return a line of this process's status, VmRSS or VmHWM, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"{name}:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else math.nan


def peak_above(call: Call) -> float:
    """Return in MiB how far a call raises the peak of what is resident."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now what is resident
    before = resident("VmRSS")
    call()
    return max(0.0, resident("VmHWM") - before)


def quickest(call: Call, clock: Callable[[], float], spent: Sequence[float] = ()) -> float:
    """Return the least seconds of a call, of those already spent on it and of as many more as are quick."""
    seconds = list(spent)
    while not seconds or (sum(seconds) < ENOUGH_S and len(seconds) < REPEATS):
        start = clock()
        call()
        seconds.append(clock() - start)
    return min(seconds)


def measure(case: Case, size: int) -> Point:
    """Measure one size in this process."""
    torch.set_num_threads(1)
    if case.warm:
        case.make(case.sizes[0])()
    call, seconds = case.make(size), []

    def first() -> None:
        start = case.clock()
        call()
        seconds.append(case.clock() - start)

    mib = peak_above(first)
    least = quickest(call, case.clock, seconds)
    peer_s = None
    if case.peer is not None and size in case.peer_at:
        peer_s = quickest(case.peer(size), case.clock)
    return Point(size, least, mib, peer_s)


def apart(case: Case, size: int) -> Point | None:
    """Measure one size in a process of its own; None where it fails or takes too long."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    folder = tempfile.TemporaryDirectory(prefix="scaling-")

    def child() -> None:
        tempfile.tempdir = folder.name
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        os.dup2(2, 1)  # what a peer prints is no row
        try:
            theirs.send(measure(case, size))
        except Exception:
            theirs.send(traceback.format_exc())

    process = fork.Process(target=child)
    process.start()
    theirs.close()
    found = None
    with suppress(EOFError):
        if ours.poll(LIMIT_S):
            found = ours.recv()
    if found is None:
        process.kill()
    process.join()
    folder.cleanup()
    if not isinstance(found, Point):
        print(f"{case.what} at {size:,}: {found or 'no answer'}", file=sys.stderr, flush=True)
        return None
    return found


# softmax and attention


def _softmax(n: int) -> Call:
    generator = torch.Generator().manual_seed(0)
    p = (3 * torch.randn(1024, n, generator=generator, dtype=torch.float64)).softmax(-1)
    return lambda: softmax_jacobian_norm(p)


def _bound(variant: str) -> Callable[[int], Call]:
    def make(n: int) -> Call:
        torch.manual_seed(0)
        layer = Attention(768, 12, qkv_bias=False).requires_grad_(False)
        x = torch.randn(1, n, 768)
        return lambda: attention_bound(layer, x, variant=variant, compose="sum")  # type: ignore[arg-type]

    return make


SOFTMAX = (
    Case(
        "softmax Jacobian norm", "entries a row", (16, 64, 256, 1024, 4096, 16384), _softmax, linear, flat,
        note="1,024 rows, float64, in blocks of 131,072 entries",
    ),
    Case(
        "attention bound, Theorem 3", "tokens", (16, 64, 256, 512, 1024, 2048), _bound("theorem3"), cube, square,
        note="width 768, 12 heads, float32; the norms of the maps are eigenvalues; 4,096 tokens would take minutes",
    ),
    Case(
        "attention bound, 1/2 and root n", "tokens", (16, 64, 256, 1024, 2048, 4096), _bound("half_sqrt_n"), square,
        square, note="width 768, 12 heads, float32; the variant without norms of maps",
    ),
    Case(
        "attention bound, covariance", "tokens", (16, 64, 128, 256, 512, 1024), _bound("covariance"), cube, square,
        note="width 768, 12 heads, float32",
    ),
    Case(
        "attention bound, row by row", "tokens", (16, 64, 128, 256, 512), _bound("rowwise"), cube, square,
        note="width 768, 12 heads, float32; it holds the differences of all pairs of values",
    ),
)  # fmt: skip


# a vision transformer of 86 million parameters


@cache
def vit_b16() -> nn.Module:
    torch.manual_seed(0)
    size = {"image_size": 224, "patch_size": 16, "channels": 3, "classes": 1000}
    model = ViT(**size, dim=768, depth=12, heads=12, mlp_ratio=4)
    return model.eval().requires_grad_(False)


def _vit(batch: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    return vit_b16(), torch.rand(batch, 3, 224, 224), torch.arange(batch)


def _jacobian_norm(batch: int) -> Call:
    model, x, _ = _vit(batch)
    return lambda: jacobian_norm(model, x, steps=1, tol=0)


def _local_lipschitz(batch: int) -> Call:
    model, x, _ = _vit(batch)
    return lambda: local_lipschitz(model, x, 1.0, directions=1, ascent_steps=1)


def _pgd(batch: int) -> Call:
    model, x, y = _vit(batch)
    attack = PGD(eps=8 / 255, steps=1)
    return lambda: attack(model, x, y)


def passes(forward: int, both: int) -> Callable[[int], Call]:
    """Return a maker of so many forward passes alone, and forward passes with the gradient of the input."""

    def make(batch: int) -> Call:
        model, x, y = _vit(batch)

        def call() -> None:
            with torch.no_grad():
                for _ in range(forward):
                    model(x)
            for _ in range(both):
                z = x.detach().requires_grad_()
                torch.autograd.grad(F.cross_entropy(model(z), y), z)

        return call

    return make


BATCHES = (1, 2, 3, 4, 8)
VIT = "ViT-B/16 at 224 pixels, 86 million parameters, float32"
TRANSFORMER = (
    Case(
        "jacobian_norm on a ViT-B/16", "images", BATCHES, _jacobian_norm, linear, linear, passes(1, 1),
        "its passes", (1,), f"{VIT}; one step of at least twelve, a product with J and one with its transpose, which "
        "need at least a forward pass each besides the gradient", warm=False,
    ),
    Case(
        "local_lipschitz on a ViT-B/16", "images", BATCHES, _local_lipschitz, linear, linear, passes(3, 1),
        "its passes", (1,), f"{VIT}; one direction and one step of ascent", warm=False,
    ),
    Case(
        "PGD on a ViT-B/16", "images", BATCHES, _pgd, linear, linear, passes(2, 1), "its passes", (1,),
        f"{VIT}; one step, the clean point and the result", warm=False,
    ),
)  # fmt: skip


# residual networks at 224 pixels


@cache
def resnet50() -> nn.Module:
    torch.manual_seed(0)
    return ResNet(classes=10, depth=50).eval().requires_grad_(False)


def _resnet(batch: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    return resnet50(), torch.rand(batch, 3, 224, 224), torch.arange(batch) % 10


def _top_k(batch: int) -> Call:
    model, x, y = _resnet(batch)
    explain = lambda model, x, y, **more: attribute(model, x, y, method="gradient", create_graph=True, **more)  # noqa: E731
    attack = ExplanationPGD(explain, TopK(1000), eps=8 / 255, steps=1, surrogate_beta=30.0)
    return lambda: attack(model, x, y)


def _integrated(batch: int) -> Call:
    model, x, y = _resnet(batch)
    return lambda: integrated_gradients(model, x, y, steps=2, chunk=batch)


def _step(objective: GroupObjective) -> Callable[[int], Call]:
    def make(batch: int) -> Call:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(batch) % 4
        data = SimpleNamespace(
            x=torch.rand(batch, 3, 224, 224, generator=generator), y=labels, c=labels.flip(0),
            mask=torch.rand(batch, 224, 224, generator=generator) > 0.5,
        )  # fmt: skip
        whole, groups = as_batch(data, torch.device("cpu"))

        def network(classes: int = 4) -> nn.Module:
            return ResNet(classes=classes, depth=50)

        run = GroupRun(network, whole, groups, 4, 4, 0, lambda objective, share: network())
        model = seeded(network, 0)
        loss_of = objective.start(run)
        optimizer = build_optimizer(nn.ModuleDict({"model": model, "loss": loss_of}), Settings(epochs=1))

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_of(model, whole, Clock(9, 10))[0].backward()
            optimizer.step()

        return step

    return make


RESNET = (
    Case(
        "top-k attack on a ResNet-50", "images", (1, 2, 3, 4, 6), _top_k, linear, linear,
        note="224 pixels, float32, one step through softplus", warm=False,
    ),
    Case(
        "Integrated Gradients on a ResNet-50", "images", (1, 2, 4, 6, 8), _integrated, linear, linear,
        note="224 pixels, float32, two points of the line, a batch at a time", warm=False,
    ),
    Case(
        "eX2L step with ResNet-50", "images", (2, 3, 4, 6, 8),
        _step(EX2L(method="closed", stop="none", center=True)), linear, linear, _step(ERM()), "the ERM step", (4,),
        "224 pixels, float32, closed form; two networks are trained", warm=False,
    ),
)  # fmt: skip


# curvature


def perceptron(parameters: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    wide = round((-74 + math.sqrt(74**2 + 4 * parameters)) / 2)  # w^2 + 74 w and biases
    model = nn.Sequential(
        nn.Linear(64, wide), nn.Tanh(), nn.Linear(wide, wide), nn.Tanh(), nn.Linear(wide, 10)
    )
    return model, torch.rand(64, 64), torch.arange(64) % 10


PRODUCTS = 10


def _hessian(parameters: int) -> Call:
    model, x, y = perceptron(parameters)
    return lambda: hessian_top(model, x, y, steps=PRODUCTS, tol=0)


def _curvlinops(parameters: int) -> Call:
    from curvlinops import HessianLinearOperator

    model, x, y = perceptron(parameters)
    size = sum(p.numel() for p in model.parameters())

    def call() -> None:
        operator = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)], check_deterministic=False
        )
        v = torch.rand(size)
        for _ in range(PRODUCTS):
            operator @ v

    return call


CURVATURE = (
    Case(
        "hessian_top", "parameters", (10**4, 10**5, 10**6, 3 * 10**6, 10**7), _hessian, linear, linear, _curvlinops,
        "as many products by curvlinops", (10**4, 10**5, 10**6, 10**7),
        f"{PRODUCTS} Lanczos steps, 64 samples, a perceptron with tanh, float32",
    ),
)  # fmt: skip


# kernels and influences


def _rows(n: int) -> torch.Tensor:
    return unit_rows(torch.randn(n, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def _relu_ntk(n: int) -> Call:
    x = _rows(n)
    return lambda: relu_ntk(x)


def _loo(n: int) -> Call:
    x = _rows(2 * n)
    kernel, test, y = relu_ntk(x[:n]), relu_ntk(x[n:], x[:n]), x[:n, 0].sign()
    return lambda: loo_influence(kernel, test, y, 0.1)


def _ntk_width(width: int) -> Call:
    x = _rows(256)
    return lambda: list(kernels_by_width(x, widths=[width], generator=torch.Generator().manual_seed(0)))


def _flip_rate(n: int) -> Call:
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(n, n, generator=generator, dtype=torch.float64)
    after = before + torch.randn(n, n, generator=generator, dtype=torch.float64)
    return lambda: flip_rate(before, after)


KERNELS = (
    Case(
        "kernel of infinite width", "rows", (1250, 2500, 5000, 10000, 20000), _relu_ntk, square, square,
        note="64 dimensions, float64, in blocks of 2,048 rows",
    ),
    Case(
        "leave-one-out influence", "training samples", (300, 600, 1200, 2400, 4800), _loo, cube, square,
        note="as many test samples, float64; 20,000 would take a quarter of an hour",
    ),
    Case(
        "kernel of finite width", "hidden units", (2**12, 2**14, 2**16, 2**18, 2**20), _ntk_width, linear, flat,
        note="256 rows of 64 dimensions, float64",
    ),
    Case(
        "flip rates over all pairs", "training samples", (250, 500, 1000, 2000, 4000), _flip_rate, square, square,
        note="as many test samples, float64",
    ),
)  # fmt: skip


# maps


def _maps(compare: Callable[..., torch.Tensor], count: int) -> Callable[[int], Call]:
    def make(pixels: int) -> Call:
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(count, pixels, generator=generator)
        b = a + torch.randn(count, pixels, generator=generator)
        return lambda: compare(a, b)

    return make


PIXELS = tuple(side**2 for side in (14, 28, 56, 112, 224))
MAPS = (
    Case(
        "Kendall's tau", "pixels a map", PIXELS, _maps(kendall_tau, 1000), merging, flat,
        note="1,000 pairs of float32 maps of 14 to 224 pixels a side; in chunks",
    ),
    Case(
        "Spearman's correlation", "pixels a map", PIXELS, _maps(spearman, 250), sorting, linear,
        note="250 pairs of float32 maps of 14 to 224 pixels a side; 1,000 take half a minute at 224",
    ),
)  # fmt: skip


# AutoAttack


def _auto_attack(images: int) -> Call:
    model, x, y = digits_vit(images)
    attack = AutoAttack(eps=0.08)
    return lambda: attack(model, x, y)


def _pyautoattack(images: int) -> Call:
    from pyautoattack import AutoAttack as Peer

    model, x, y = digits_vit(images)
    peer = Peer(copy.deepcopy(model), norm="Linf", eps=0.08, seed=0, device="cpu")
    return lambda: peer.run_standard_evaluation(x, y, batch_size=500)


ENSEMBLE = (
    Case(
        "AutoAttack, whole", "images", (10, 20, 40, 80, 160), _auto_attack, linear, linear, _pyautoattack,
        "pyautoattack", (160,), "digits and a small ViT, not CIFAR-10 and a ResNet-18, of which one image takes "
        "minutes on one core", warm=False,
    ),
)  # fmt: skip


# the runner and the book

TRIVIAL = (
    opening("number: int = 0  # a number [0..100000]", from_reporting="Ledger, say")
    + """
```{code-cell}
ledger = Ledger()
number + 1
```
"""
    + closing("trivial")
)


def children() -> float:
    """Return the processor seconds of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _sweep(jobs: int) -> Call:
    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "chapters").mkdir()
            (root / "chapters" / "trivial.md").write_text(TRIVIAL)
            (root / "runs.yml").write_text("default: {purpose: trivial, budget: seconds}\n")
            (root / "_toc.yml").write_text("format: jb-book\nroot: intro\n")
            axis = f"number=0..{jobs - 1}" if jobs > 1 else "number=0"
            command = [sys.executable, "-m", "faultlines", "run", "trivial", "--sweep", axis]
            _quietly(command, root)

    return call


def _quietly(command: list[str], root: Path) -> None:
    environment = {**os.environ, "FAULTLINES_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    if done.returncode:
        raise RuntimeError(
            f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def book(root: Path, pages: int) -> None:
    """Lay out a book of so many chapters that look executed, as the tests do, with this book's configuration."""
    from tests.conftest import LIBRARY, ROW, TOY, execute_by_hand

    (root / "chapters").mkdir(parents=True)
    names = [f"page{number}" for number in range(pages)]
    for name in names:
        text = TOY.replace("# Toy", f"# {name}").replace("toy", name).replace("eq:sum", f"eq:{name}")
        (root / "chapters" / f"{name}.md").write_text(text)
    (root / "runs.yml").write_text("default: {purpose: embedded data, budget: seconds}\n")
    toc = "".join(f"- file: {page}\n" for page in ("costs", *(f"chapters/{name}" for name in names)))
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: intro\nchapters:\n{toc}")
    (root / "intro.md").write_text("# Front\n")
    (root / "costs.md").write_text("# Costs\n\n```{include} _generated/costs.md\n```\n")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    del config["bibtex_bibfiles"], config["html"]["favicon"]
    config["sphinx"]["config"]["extensions"].remove("sphinxcontrib.bibtex")
    for of_the_book in ("bibtex_reference_style", "html_search_scorer"):
        del config["sphinx"]["config"][of_the_book]
    (root / "_config.yml").write_text(yaml.safe_dump(config))
    project = Project(root, LIBRARY)
    # the library's reference is no page of this book
    (root / "library").mkdir()
    (root / "library" / "index.md").write_text("# Library\n")
    project.build.mkdir()
    (project.build / "reference.stamp").write_text(sphinx_extension._seal(LIBRARY))
    code, runs = library_code(LIBRARY), Runs.load(project)
    modules = {name: code[name] for name in ("faultlines", "faultlines.reporting.ledger")}
    for name, chapter in Chapter.all(project).items():
        task = RunSpec(chapter, "default")
        row = ROW | {"figure": f"{name}-figure"}
        made = execute_by_hand(
            chapter.notebook(), task.parameters(runs), [row], modules=modules, chapter=name
        )
        write_notebook(made, task.working(project))


def _stage(pages: int) -> Call:
    root = Path(tempfile.mkdtemp())  # in a folder that `apart` removes
    book(root / "book", pages)

    def call() -> None:
        config = SimpleNamespace(
            html_theme_options={},
            exclude_patterns=[],
            nb_custom_formats={},
            html_context={},
            html_static_path=[],
        )
        sphinx_extension.Book().prepare(SimpleNamespace(srcdir=str(root / "book")), config)  # type: ignore[arg-type]

    return call


def _render(pages: int) -> Call:
    root = Path(tempfile.mkdtemp())
    book(root / "book", pages)
    program = str(Path(sys.executable).with_name("jupyter-book"))

    def call() -> None:
        _quietly([program, "build", ".", "--all", "-n", "-W", "--keep-going"], root / "book")

    return call


RUNNER = (
    Case(
        "a sweep of trivial jobs", "jobs", (1, 2, 3, 4, 8), _sweep, linear, None,
        note="processor seconds of all processes; a kernel starts for every job, so that 1,000 would take an hour",
        warm=False, clock=children,
    ),
    Case(
        "a book, staged", "pages", (4, 8, 15, 30, 60), _stage, linear, linear,
        note="pages of chapters with one result each, as the build reads them",
    ),
    Case(
        "a book, rendered", "pages", (4, 8, 15, 30, 60), _render, linear, None,
        note="by jupyter-book, everything anew; processor seconds", warm=False, clock=children,
    ),
)  # fmt: skip

CASES = (*SOFTMAX, *TRANSFORMER, *RESNET, *CURVATURE, *KERNELS, *MAPS, *ENSEMBLE, *RUNNER)


def kept_points() -> tuple[dict[str, dict], str]:
    """Return what an interrupted run of the last day measured with the same library, and the digest of that."""
    digest = hashlib.sha256()
    for path in sorted(
        file for room in MEASURED for file in (ROOT / "lib" / "faultlines" / room).rglob("*.py")
    ):
        digest.update(path.read_bytes())
    library = digest.hexdigest()
    if not POINTS.is_file() or time.time() - POINTS.stat().st_mtime > A_DAY_S:
        return {}, library
    saved = json.loads(POINTS.read_text(encoding="utf-8"))
    return (saved["points"] if saved["library"] == library else {}), library


def run(names: Sequence[str] = ()) -> list[dict]:
    """Return the rows of every case, or of those whose name holds one of the words.

    What an interrupted run has measured is taken from `_build`, and not measured again. After
    `SCALING_MINUTES` of wall time, an environment variable, no further size is begun; a later run goes on there.
    """
    end = time.monotonic() + 60 * float(os.environ.get("SCALING_MINUTES", "inf"))
    complete = not names
    kept, measured_with = kept_points()
    for package in PACKAGES:
        with suppress(ImportError):
            importlib.import_module(package)
    torch.set_num_threads(1)
    vit_b16(), resnet50()  # once for all forks
    rows = []
    for case in CASES:
        if names and not any(name in case.what for name in names):
            continue
        points = []
        for size in case.sizes:
            key = f"{case.what}, {size}, {case.note}"
            point = Point(**kept[key]) if key in kept else None
            if point is None and time.monotonic() < end:
                point = apart(case, size)
            if point is None:
                complete = False
                break
            points.append(point)
            kept[key] = asdict(point)
            POINTS.parent.mkdir(exist_ok=True)
            saved = {"library": measured_with, "points": kept}
            POINTS.write_text(json.dumps(saved, indent=1), encoding="utf-8")
            print(case.what, point, file=sys.stderr, flush=True)
        rows += rows_of(case, points)
    if complete:
        POINTS.unlink()
    return rows


def show(rows: Sequence[dict]) -> None:
    """Print rows."""
    for row in rows:
        fitted = "?" if row["ratio"] is None else f"{row['ratio']:.2f}"
        judged = {True: "ok", False: "MISSED", None: ""}[row["ok"]]
        print(f"{row['name']:<45} {fitted:>5}  at most {row['target']:.2f}  {judged:<6}  {row['note']}")


if __name__ == "__main__":
    show(run(sys.argv[1:]))
