"""One training step of eX2L in steps of ERM: with the closed form of Grad-CAM, and with double backward.

eX2L trains two whole networks, so its floor is the step of two networks that share nothing: two forward and two
backward passes over the images. Whatever is above that floor is the price of maps and penalty. Batches of 64 images
of 64 x 64 pixels; one thread; everything is timed in turn, round after round, and ratios are medians over rounds.

    python -m benchmarks.ex2l
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from benchmarks._timing import interleaved, row, show
from torch import nn

from faultlines.data.spurious import spurious_benchmark
from faultlines.models import SmallCNN
from faultlines.training import ERM, EX2L, GroupObjective, MaskOracle, seeded
from faultlines.training.group_batches import as_batch
from faultlines.training.objectives.group_objective import Clock, GroupRun
from faultlines.training.optimizer import Settings, build_optimizer

BATCH, ROUNDS, CLOSED, DOUBLE = 64, 25, 2.3, 3.2


def small_cnn(classes: int) -> nn.Module:
    return SmallCNN(classes=classes)


def resnet18(classes: int) -> nn.Module:
    from faultlines.models import ResNet

    return ResNet(classes=classes)


def stepper(make: Callable[[int], nn.Module], objective: GroupObjective) -> Callable[[], None]:
    """Return a function that does one training step, forward to optimizer."""
    data = spurious_benchmark("m2m_hard", n_train=BATCH // 8, n_validation=1, n_test=1).train
    batch, groups = as_batch(data, torch.device("cpu"))
    run = GroupRun(make, batch, groups, 4, 4, 0, lambda objective, share: make(4))
    model = seeded(lambda: make(4), 0)
    loss_of = objective.start(run)
    optimizer = build_optimizer(nn.ModuleDict({"model": model, "loss": loss_of}), Settings(epochs=1))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, batch, Clock(9, 10))[0].backward()
        optimizer.step()

    return step


def measure(make: Callable[[int], nn.Module], rounds: int) -> Iterator[dict]:
    """Yield one row a comparison."""
    options = {"stop": "none", "center": True}
    cases = {
        "ERM": ERM(),
        "two networks, no maps": None,
        "eX2L, closed form": EX2L(method="closed", **options),
        "eX2L, double backward": EX2L(method="autograd", **options),
        "eX2L, confounder detached": EX2L(method="closed", stop="confounder", center=True),
        "eX2L, constant map": EX2L(control="constant", center=True),
        "mask oracle": MaskOracle(),
    }
    steps = {name: stepper(make, objective) for name, objective in cases.items() if objective}
    other = stepper(make, ERM("c"))
    steps["two networks, no maps"] = lambda: (steps["ERM"](), other())
    times = interleaved(steps, rounds)
    targets = {"eX2L, closed form": CLOSED, "eX2L, double backward": DOUBLE}
    for name in cases:
        if name == "ERM":
            continue
        yield row(
            f"{make.__name__}: {name} / ERM",
            times[name],
            times["ERM"],
            target=targets.get(name),
            note="floor" if cases[name] is None else "",
        )


def run() -> list[dict]:
    """Return all rows."""
    torch.set_num_threads(1)
    return [*measure(small_cnn, ROUNDS)]


if __name__ == "__main__":
    show(run())
