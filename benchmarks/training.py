"""The ensemble against its members in turn, and `fit` against a loop written by hand.

The network is the digits ViT of the chapters (8 x 8 pixels, patch 2, width 32, 2 blocks, 4 heads, batch
128). The pool is what vectorising has to be compared with on a machine of two cores: two processes of one thread,
each training half of the members in turn; it is warm before it is timed. Everything is timed in turn, round after
round, and the median is reported.

    python -m benchmarks.training
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Iterator

import torch
from benchmarks._timing import interleaved, row, show
from sklearn.datasets import load_digits
from torch.nn import functional as F

from faultlines.models import ViT
from faultlines.training import CrossEntropy, JaSMin, Objective, fit, fit_ensemble, seeded
from faultlines.training.optimizer import decays

EPOCHS, ROUNDS, BATCH, LR = 1, 3, 128, 2e-3
IMAGES = 4 * BATCH  # a step costs what it costs; four of them leave time for more rounds


def vit() -> ViT:
    return ViT(image_size=8, patch_size=2, channels=1, classes=10, dim=32, depth=2, heads=4)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images[:IMAGES] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    return x, torch.tensor(labels[:IMAGES])


def train(seeds: range, objective: Objective, vectorize: str) -> None:
    x, y = digits()
    fit_ensemble(
        vit,
        x,
        y,
        seeds=seeds,
        arms={"": objective},
        vectorize=vectorize,
        epochs=EPOCHS,
        batch_size=BATCH,
        lr=LR,
    )


def by_hand() -> None:
    """The floor: forward, backward, clip and torch's step, nothing recorded and nothing checked."""
    x, y = digits()
    model = seeded(vit, 0)
    marks = decays(model)
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if marks[name]], "weight_decay": 0.05},
        {"params": [p for name, p in named if not marks[name]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    generator = torch.Generator().manual_seed(0)
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def by_fit() -> None:
    x, y = digits()
    fit(seeded(vit, 0), x, y, epochs=EPOCHS, batch_size=BATCH, lr=LR)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _half(job: tuple[range, Objective]) -> None:
    train(job[0], job[1], "never")


def rows() -> Iterator[dict]:
    """Yield one row a comparison; `ratio` is ours over the peer's, smaller is better."""
    note = f"{torch.get_num_threads()} threads"
    times = interleaved({"ours": by_fit, "peer": by_hand}, 5 * ROUNDS, clock=time.perf_counter)
    yield row("fit / loop by hand", times["ours"], times["peer"], target=1.10, note=note)
    with multiprocessing.get_context("spawn").Pool(2, initializer=_one_thread) as pool:
        for objective in (CrossEntropy(), JaSMin(0.03)):
            for members in (5, 10):
                seeds = range(members)
                halves = [(seeds[::2], objective), (seeds[1::2], objective)]
                cases = {
                    "at once": lambda s=seeds, o=objective: train(s, o, "always"),
                    "in turn": lambda s=seeds, o=objective: train(s, o, "never"),
                    "pool": lambda h=halves: pool.map(_half, h, chunksize=1),
                }
                times = interleaved(cases, ROUNDS, clock=time.perf_counter)
                label = f"{members} x {type(objective).__name__}"
                name = f"at once / in turn: {label}"
                yield row(name, times["at once"], times["in turn"], target=1.0, note=note)
                pooled = "two processes of one thread each"
                yield row(f"at once / pool: {label}", times["at once"], times["pool"], note=pooled)


def run() -> list[dict]:
    """Return all rows."""
    return list(rows())


if __name__ == "__main__":
    show(rows())
