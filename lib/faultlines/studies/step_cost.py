"""What a training step costs under one objective and under another, measured so that a busy machine does not decide."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor, nn, optim

from faultlines.training.objectives.cross_entropy import CrossEntropy
from faultlines.training.objectives.objective import Objective
from faultlines.training.seeding import seeded


def step_seconds(
    make_model: Callable[[], nn.Module],
    x: Float[Tensor, "n ..."],
    y: Int64[Tensor, " n"],
    objectives: Mapping[str, Objective | None],
    *,
    repeats: int = 30,
    steps: int = 4,
) -> dict[str, Float[np.ndarray, " repeat"]]:
    """Return processor seconds of one plain SGD step on the batch `(x, y)` under each objective, repeat by repeat.

    In every repeat all objectives take their turn, so that ratios within a repeat meet the same machine; take the
    median of those. Of an accelerator this is the time of the host. No file is kept and no setting of the
    environment changed.

    Args:
        make_model: Makes a network; each objective trains one of its own from the same initial weights.
        x: A batch.
        y: Its labels.
        objectives: By name; None is cross-entropy.
        repeats: Turns; one more goes before them and is not counted.
        steps: Steps in a turn.

    Raises:
        ValueError: If there is no objective, or a number is below 1.

    Example:
        >>> import torch
        >>> found = step_seconds(lambda: nn.Linear(4, 2), torch.rand(8, 4), torch.zeros(8).long(), {"plain": None},
        ...                      repeats=3)
        >>> found["plain"].shape, bool((found["plain"] > 0).all())
        ((3,), True)
    """
    if not objectives or repeats < 1 or steps < 1:
        raise ValueError(
            f"objectives={list(objectives)}, repeats={repeats}, steps={steps}: need at least one of each"
        )
    arms = {}
    for name, objective in objectives.items():
        model = seeded(make_model, 0).to(x.device).train()
        arms[name] = (model, optim.SGD(model.parameters(), lr=1e-3), objective or CrossEntropy())
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats + 1):
        for name, (model, optimizer, objective) in arms.items():
            start = time.process_time()
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                objective(model, x, y)[0].backward()
                optimizer.step()
            seconds[name].append((time.process_time() - start) / steps)
    return {name: np.array(values[1:]) for name, values in seconds.items()}
