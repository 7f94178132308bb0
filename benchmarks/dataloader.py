"""Images a second: `fit` on tensors, against the loop that most code has, a DataLoader over single images.

The network is the tiny ViT of the CIFAR-10 runs (32 x 32 pixels, patch 8, width 64, one block), batch 128, random crop
and flip. The peer's data set holds uint8 images, and torchvision augments and converts one image at a time, in the
process itself or in two workers; its step is AdamW and cross-entropy as anyone writes them, and its network computes
every token of the last block, as vision transformers do. What else was tried is
measured beside it, one thing at a time in a loop of ours written by hand: every token in the last block, images held as
uint8 and converted a batch at a time, bfloat16 autocast, torch.compile (with the time it takes to compile) alone and
with autocast, and ten seeds trained at once.

    OMP_NUM_THREADS=2 python -m benchmarks.dataloader
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable

import torch
from benchmarks._timing import interleaved, row, show, threads
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from faultlines.models import ViT
from faultlines.training import CropFlip, CrossEntropy, fit, fit_ensemble, seeded

IMAGES, BATCH, EPOCHS, ROUNDS, LR, MEMBERS = 1280, 128, 2, 7, 2e-3, 10
SEEN = IMAGES * EPOCHS
THREADS = os.cpu_count() or 1  # a user's loop has the whole machine, and so has ours


def vit() -> ViT:
    return ViT(image_size=32, patch_size=8, channels=3, classes=10, dim=64, depth=1, heads=4)


def all_tokens() -> ViT:
    """The same function; a hook has to see every token, so the last block computes them all."""
    model = vit()
    model.blocks[-1].register_forward_hook(lambda *_: None)
    return model


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


def plain_loop(workers: int, make: Callable[[], nn.Module] = all_tokens) -> None:
    loader = DataLoader(
        Images(), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    model = seeded(make, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def by_fit() -> None:
    x, y = images()
    fit(seeded(vit, 0), x.float() / 255, y, epochs=EPOCHS, batch_size=BATCH, lr=LR, augment=CropFlip())


def at_once() -> None:
    x, y = images()
    fit_ensemble(
        vit, x.float() / 255, y, seeds=range(MEMBERS), arms={"": CrossEntropy()}, vectorize="always", epochs=EPOCHS,
        batch_size=BATCH, lr=LR, augment=CropFlip(),
    )  # fmt: skip


def tensor_loop(
    make: Callable[[], nn.Module] = vit, *, as_bytes: bool = False, bfloat16: bool = False, compiled: bool = False
) -> None:  # fmt: skip
    """Our loop by hand, so that one thing at a time can be changed in it."""
    x, y = images()
    x = x if as_bytes else x.float() / 255
    model, augment, generator = seeded(make, 0), CropFlip(), torch.Generator().manual_seed(0)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    for _ in range(EPOCHS):
        for index in torch.randperm(IMAGES, generator=generator).split(BATCH):
            batch = augment(x[index], generator)
            batch = batch.float() / 255 if as_bytes else batch
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16) if bfloat16 else contextlib.nullcontext():
                logits = forward(batch)
            F.cross_entropy(logits.float(), y[index]).backward()
            optimizer.step()


def compiled_cases() -> tuple[dict[str, Callable[[], None]], str]:
    """Return the compiled loops, and in words how long compiling took; none where it does not run."""
    cases = {
        "compiled": lambda: tensor_loop(compiled=True),
        "compiled bfloat16": lambda: tensor_loop(compiled=True, bfloat16=True),
    }
    start = time.perf_counter()
    try:
        for case in cases.values():
            case()
    except Exception as error:  # no C++ compiler, or a Python that torch.compile does not know
        return {}, f"did not run: {type(error).__name__}"
    return cases, f"compiling took {(time.perf_counter() - start) / len(cases):.0f} s each time"


def run() -> list[dict]:
    """Return rows; `ratio` is our time over the peer's for the same images, so 0.5 is twice the images a second."""
    with threads(THREADS):
        return _measured()


def _measured() -> list[dict]:
    compiled, compiling = compiled_cases()
    cases: dict[str, Callable[[], None]] = {
        "fit": by_fit,
        "plain": lambda: plain_loop(0),
        "plain, our network": lambda: plain_loop(0, vit),
        "two workers": lambda: plain_loop(2),
        "loop": tensor_loop,
        "all tokens": lambda: tensor_loop(all_tokens),
        "uint8": lambda: tensor_loop(as_bytes=True),
        "bfloat16": lambda: tensor_loop(bfloat16=True),
        "at once": at_once,
        **compiled,
    }
    times = interleaved(cases, ROUNDS, clock=time.perf_counter)
    times["member"] = [seconds / MEMBERS for seconds in times["at once"]]
    table = [
        ("fit / DataLoader in the process", "fit", "plain", 0.5, ""),
        ("fit / DataLoader with two workers", "fit", "two workers", 0.5, ""),
        ("fit / DataLoader around our network", "fit", "plain, our network", None, "the data's share of it"),
        (f"a member of {MEMBERS} trained at once / fit", "member", "fit", None, "tried"),
        (
            "every token in the last block / the class token alone",
            "all tokens",
            "loop",
            None,
            "what was before",
        ),
        ("images held as uint8 / as float32", "uint8", "loop", None, "tried"),
        ("bfloat16 autocast / float32", "bfloat16", "loop", None, "tried"),
        ("torch.compile / eager", "compiled", "loop", None, f"tried; {compiling}"),
        ("torch.compile and bfloat16 / eager", "compiled bfloat16", "loop", None, f"tried; {compiling}"),
    ]
    return [
        _row(name, times[ours], times[peer], target, note)
        for name, ours, peer, target, note in table
        if ours in times
    ]


def _row(name: str, ours: list[float], peer: list[float], target: float | None, note: str) -> dict:
    rate = f"{SEEN / statistics.median(ours):,.0f} images/s on {THREADS} threads"
    return row(name, ours, peer, target=target, note=f"{rate}; {note}" if note else rate)


if __name__ == "__main__":
    show(run())
