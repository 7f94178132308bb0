"""The exact softmax Jacobian norm against the dense eigenvalue solver.

python -m benchmarks.softmax
"""

from __future__ import annotations

import statistics
import time

import torch
from benchmarks._timing import faster, one_thread, show

from faultlines.estimators.softmax import softmax_jacobian_norm

N = 197  # tokens of a ViT-B/16 at 224 pixels
FULL_ROWS = 8 * 12 * N  # every row of every map of one layer, batch 8, 12 heads
DENSE_BYTES = 2**27  # what the dense matrices may take
ROUNDS = 3
TARGET = 100.0
TOLERANCE = 1e-12


def rows(count: int) -> torch.Tensor:
    """Distributions at temperatures from nearly uniform to nearly one-hot, `[count, N]` float64."""
    generator = torch.Generator().manual_seed(0)
    temperature = torch.logspace(-1.5, 1.5, count, dtype=torch.float64)[:, None]
    return (temperature * torch.randn(count, N, generator=generator, dtype=torch.float64)).softmax(-1)


def eigvalsh(p: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigvalsh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])[:, -1]


def timed(call: object, *arguments: object) -> tuple[float, torch.Tensor]:
    start = time.process_time()  # the machine may be shared; one thread, so this is the work done
    result = call(*arguments)
    return time.process_time() - start, result


def run() -> list[dict]:
    count = FULL_ROWS
    while count * N * N * 8 > DENSE_BYTES:
        count //= 2
    p, everything = rows(count), rows(FULL_ROWS)
    with one_thread():
        softmax_jacobian_norm(p)  # warm up
        ours, full, peer, error = [], [], [], 0.0
        for _ in range(ROUNDS):
            seconds, exact = timed(softmax_jacobian_norm, p)
            ours.append(seconds)
            seconds, dense = timed(eigvalsh, p)
            peer.append(seconds)
            full.append(timed(softmax_jacobian_norm, everything)[0])
            error = max(error, float((exact - dense).abs().max()))
    whole = statistics.median(full)
    return [
        faster(
            "softmax_jacobian_norm / torch.linalg.eigvalsh",
            ours,
            peer,
            least=TARGET,
            words=f">= {TARGET:g}x faster, error <= {TOLERANCE:g}",
            also=error <= TOLERANCE,
            note=f"float64 [{count}, {N}] on one thread, the part of [{FULL_ROWS}, {N}] whose dense matrices "
            f"fit in {DENSE_BYTES / 2**20:.0f} MiB; largest difference {error:.1e}; all {FULL_ROWS} rows take ours "
            f"{whole:.2f} s",
        )
    ]


if __name__ == "__main__":
    show(run())
