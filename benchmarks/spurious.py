"""Rendering 10,000 images of 64 x 64 against ten seconds of one core.

The floor is what any renderer of noisy images does besides drawing: normal noise for each value, added and cut to
[0, 1]. Times are CPU seconds, which another process on the machine changes little.

    python -m benchmarks.spurious
"""

from __future__ import annotations

import statistics
import time

import torch

from faultlines.data import render_groups

IMAGES, SIZE, LIMIT, ROUNDS = 10_000, 64, 10.0, 3


def run() -> list[dict]:
    """Return one row a way to show the background: name, ours_s, floor_s, ratio (ours / floor), target and ok."""
    torch.set_num_threads(1)
    y, c = torch.arange(IMAGES) % 4, torch.arange(IMAGES) // 4 % 6
    ground = torch.full((64, 3, SIZE, SIZE), 0.5)

    def floor() -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(0, IMAGES, len(ground)):
            (ground + 0.03 * torch.randn(ground.shape, generator=generator)).clamp_(0, 1)

    cases = {
        "render, background everywhere": lambda: render_groups(y, c, size=SIZE),
        "render, background in a patch": lambda: render_groups(y, c, size=SIZE, patch=16),
        "floor": floor,
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    render_groups(y[:64], c[:64], size=SIZE)
    for turn in range(ROUNDS):
        for name in sorted(cases, reverse=bool(turn % 2)):
            start = time.process_time()
            cases[name]()
            times[name].append(time.process_time() - start)
    middle = {name: statistics.median(values) for name, values in times.items()}
    return [
        {
            "name": name,
            "ours_s": seconds,
            "floor_s": middle["floor"],
            "ratio": seconds / middle["floor"],
            "target": f"{LIMIT:.0f} s",
            "ok": seconds <= LIMIT,
            "note": f"{IMAGES:,} images of {SIZE} x {SIZE}, CPU seconds",
        }
        for name, seconds in middle.items()
        if name != "floor"
    ]


if __name__ == "__main__":
    for row in run():
        print("{name:30} {ours_s:6.2f} s  floor {floor_s:5.2f} s  target {target}  {ok}".format(**row))
