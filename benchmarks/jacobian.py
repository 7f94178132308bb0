"""The Jacobian norm by bidiagonalisation against the full Jacobian and its singular values.

The target is meant for maps with many outputs on a 28 x 28 ViT: pixels to last-layer tokens, and an attention
block at its input. Ten logits need only ten backward passes; that row is shown too, without a target.

    python -m benchmarks.jacobian
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from benchmarks._timing import faster, one_thread, show

from faultlines.estimators.lipschitz import jacobian_norm
from faultlines.models import ViT

BATCH, ROUNDS, TARGET, TOLERANCE = 16, 3, 20.0, 1e-3
CHUNKS = (16, 128, 1024)  # backward passes at a time; the peer gets the best of these


def dense_norm(f: Callable, x: torch.Tensor, chunk: int) -> torch.Tensor:
    """The peer: all rows of all Jacobians by vectorised backward passes over the batch, then singular values."""
    out, pullback = torch.func.vjp(f, x)
    outputs = out[0].numel()
    unit = (
        torch.eye(outputs, dtype=x.dtype)
        .reshape(outputs, 1, *out.shape[1:])
        .expand(-1, len(x), *out.shape[1:])
    )
    (jacobian,) = torch.func.vmap(pullback, chunk_size=chunk)(unit)
    with torch.no_grad():
        return torch.linalg.svdvals(jacobian.flatten(2).transpose(0, 1))[:, 0]


def cases() -> list[tuple[str, Callable, torch.Tensor, bool]]:
    torch.manual_seed(0)
    model = ViT(
        image_size=28, patch_size=7, channels=1, classes=10, dim=48, depth=4, heads=4, qk_gain=3
    ).eval()
    model.requires_grad_(False)
    x = torch.rand(BATCH, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    last = model.blocks[-1]
    entering = last.norm1(model.blocks[:-1](model.tokens(x)))
    return [
        ("pixels to last-layer tokens [784 -> 816]", lambda x: model.blocks(model.tokens(x)), x, True),
        ("last attention block at its input [816 -> 816]", last.attention, entering, True),
        ("pixels to logits [784 -> 10]", model, x, False),
    ]


def timed(call: Callable, *arguments: object) -> tuple[float, torch.Tensor]:
    start = time.process_time()
    result = call(*arguments)
    return time.process_time() - start, result


def compare(name: str, f: Callable, x: torch.Tensor, judged: bool) -> dict:
    chunk = min(CHUNKS, key=lambda c: timed(dense_norm, f, x[:4], c)[0])
    jacobian_norm(f, x, tol=TOLERANCE)  # warm up
    ours, peer, error = [], [], 0.0
    for _ in range(ROUNDS):
        seconds, norm = timed(lambda: jacobian_norm(f, x, tol=TOLERANCE))
        ours.append(seconds)
        seconds, exact = timed(dense_norm, f, x, chunk)
        peer.append(seconds)
        error = max(error, float(((exact - norm).abs() / exact).max()))
    return faster(
        f"jacobian_norm / full Jacobian + SVD, {name}",
        ours,
        peer,
        least=TARGET if judged else None,
        words=f">= {TARGET:g}x faster, relative error <= {TOLERANCE:g}" if judged else "none",
        also=error <= TOLERANCE,
        note=f"float32, batch {BATCH}, one thread, random weights (queries and keys x 3), "
        f"relative error {error:.1e}; the peer does {chunk} backward passes at a time, the fastest of {CHUNKS}",
    )


def run() -> list[dict]:
    with one_thread():
        return [compare(*case) for case in cases()]


if __name__ == "__main__":
    show(run())
