"""Images a second: `fit` on tensors, against the loop that most code has, a DataLoader over single images.

The network is the tiny ViT of the CIFAR-10 runs (32 x 32 pixels, patch 8, width 64, one block), batch 128, random crop
and flip. The peer's data set holds uint8 images, and torchvision augments and converts one image at a time, in the
process itself or in two workers; its step is AdamW and cross-entropy as anyone writes them. What else was tried is
measured beside it: images held as uint8 and converted a batch at a time, ten seeds trained at once, bfloat16
autocast, and torch.compile with the time it takes to compile.

    python -m benchmarks.dataloader
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from benchmarks._timing import interleaved, ratio
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from faultlines.models import ViT
from faultlines.training import CropFlip, CrossEntropy, fit, fit_ensemble, seeded

IMAGES, BATCH, EPOCHS, ROUNDS, LR = 1280, 128, 2, 5, 2e-3
SEEN = IMAGES * EPOCHS


def vit() -> ViT:
    return ViT(image_size=32, patch_size=8, channels=3, classes=10, dim=64, depth=1, heads=4)


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return x, torch.randint(10, (IMAGES,), generator=generator)


class Images(Dataset):
    """uint8 images, augmented one by one."""

    def __init__(self) -> None:
        from torchvision.transforms import v2

        self.x, self.y = images()
        self.transform = v2.Compose([
            v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.x[index]), int(self.y[index])


def plain_loop(workers: int) -> None:
    loader = DataLoader(
        Images(), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    model = seeded(vit, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def by_fit() -> None:
    x, y = images()
    fit(seeded(vit, 0), x.float() / 255, y, epochs=EPOCHS, batch_size=BATCH, lr=LR, augment=CropFlip())


def at_once(members: int) -> None:
    x, y = images()
    fit_ensemble(
        vit, x.float() / 255, y, seeds=range(members), arms={"": CrossEntropy()}, vectorize="always", epochs=EPOCHS,
        batch_size=BATCH, lr=LR, augment=CropFlip(),
    )  # fmt: skip


def tensor_loop(
    step: Callable[[torch.nn.Module], Callable[[Tensor], Tensor]], *, as_bytes: bool = False
) -> None:
    """Our loop by hand, so that one thing at a time can be changed in it."""
    x, y = images()
    x = x if as_bytes else x.float() / 255
    model, augment, generator = seeded(vit, 0), CropFlip(), torch.Generator().manual_seed(0)
    forward = step(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    for _ in range(EPOCHS):
        for index in torch.randperm(IMAGES, generator=generator).split(BATCH):
            batch = augment(x[index], generator)
            batch = batch.float() / 255 if as_bytes else batch
            optimizer.zero_grad()
            F.cross_entropy(forward(batch), y[index]).backward()
            optimizer.step()


def autocast(model: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x).float()

    return forward


def run() -> list[dict]:
    """Return rows; `ratio` is our time over the peer's for the same images, so 0.5 is twice the images a second."""
    cases: dict[str, Callable[[], None]] = {
        "fit": by_fit,
        "plain, no worker": lambda: plain_loop(0),
        "plain, two workers": lambda: plain_loop(2),
        "tensors": lambda: tensor_loop(lambda model: model),
        "tensors as uint8": lambda: tensor_loop(lambda model: model, as_bytes=True),
        "tensors in bfloat16": lambda: tensor_loop(autocast),
        "ten at once": lambda: at_once(10),
    }
    times = interleaved(cases, ROUNDS, clock=time.perf_counter)
    compiled, compile_s = _compiled()
    times["compiled"] = compiled
    tens = [seconds / 10 for seconds in times["ten at once"]]
    note = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores"
    return [
        _row("fit / DataLoader in the process", times["fit"], times["plain, no worker"], 0.5, note),
        _row("fit / DataLoader with two workers", times["fit"], times["plain, two workers"], 0.5, note),
        _row("a member of ten at once / DataLoader", tens, times["plain, no worker"], 0.5, "per network"),
        _row("uint8 held / float32 held", times["tensors as uint8"], times["tensors"], None, "tried"),
        _row("bfloat16 autocast / float32", times["tensors in bfloat16"], times["tensors"], None, "tried"),
        _row(
            "torch.compile / eager",
            compiled,
            times["tensors"],
            None,
            f"tried; compiling took {compile_s:.0f} s",
        ),
    ]


def _compiled() -> tuple[list[float], float]:
    try:
        start = time.perf_counter()
        tensor_loop(torch.compile)
        first = time.perf_counter() - start
    except Exception:  # no C++ compiler, or a Python that torch.compile does not know
        return [float("nan")] * ROUNDS, float("nan")
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        tensor_loop(torch.compile)
        times.append(time.perf_counter() - start)
    return times, first - min(times)


def _row(name: str, ours: list[float], peer: list[float], target: float | None, note: str) -> dict:
    measured = ratio(ours, peer)
    rate = SEEN / sorted(ours)[len(ours) // 2]
    return {
        "name": name,
        "ours_s": sorted(ours)[len(ours) // 2],
        "peer_s": sorted(peer)[len(peer) // 2],
        "ratio": measured,
        "target": target,
        "ok": None if target is None else measured <= target,
        "note": f"{rate:,.0f} images/s; {note}",
    }


if __name__ == "__main__":
    for result in run():
        print(f"{result['name']:<40} x{result['ratio']:.2f}  {result['note']}", flush=True)
