"""The closed-form empirical NTK against `vmap(jacrev)`, and its memory against the width.

Both compute the kernel of one two-layer network at the same weights in double precision; the peer is the general way
of `torch.func`, a Jacobian per sample and a product. Memory is the peak resident set of a
child process that accumulates the kernel at a width and at one sixteen times as large.

    python -m benchmarks.ntk
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import torch

from faultlines.estimators.ntk import empirical_ntk, finite_relu_ntk
from faultlines.models import TwoLayerReLU
from faultlines.models.linearized import unit_rows

N, DIM, WIDTH, ROUNDS = 500, 64, 1024, 5
WIDTHS = (2**14, 2**18)

CHILD = """
import re, torch
from pathlib import Path
from faultlines.estimators.ntk.two_layer import kernels_by_width
x = torch.randn({n}, {dim}, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
list(kernels_by_width(x, widths=[{width}], generator=torch.Generator().manual_seed(0)))
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def seconds(case) -> float:
    start = time.perf_counter()
    case()
    return time.perf_counter() - start


def peak_memory(width: int) -> float:
    """Return the peak resident set in MiB of a process that accumulates a kernel of this width.

    Not `ru_maxrss`, which a child inherits from its parent.
    """
    code = CHILD.format(n=N, dim=DIM, width=width)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return int(out) / 1024


def run() -> list[dict]:
    """Return one row a comparison: name, ours_s, peer_s, ratio (ours / peer), target and ok."""
    x = unit_rows(torch.randn(N, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    net = TwoLayerReLU(DIM, WIDTH, generator=torch.Generator().manual_seed(1))
    weight = net.weight.detach()
    cases = {
        "ours": lambda: finite_relu_ntk(x, weight=weight),
        "peer": lambda: empirical_ntk(net, x),
    }
    worst = float((cases["ours"]() - cases["peer"]()).abs().max())
    if worst > 1e-12:
        raise AssertionError(f"the kernels differ by {worst:.1e}; a faster wrong answer is no gain")
    times = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            times[name].append(seconds(case))
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["peer"], strict=True))
    small, large = (peak_memory(width) for width in WIDTHS)
    return [
        {
            "name": "finite NTK / vmap(jacrev)",
            "ours_s": statistics.median(times["ours"]),
            "peer_s": statistics.median(times["peer"]),
            "ratio": ratio,
            "target": 1 / 50,
            "ok": ratio <= 1 / 50,
        },
        {
            "name": f"memory at m = {WIDTHS[1]} / {WIDTHS[0]}, MiB",
            "ours_s": large,
            "peer_s": small,
            "ratio": large / small,
            "target": 1.05,
            "ok": large / small <= 1.05,
        },
    ]


if __name__ == "__main__":
    for row in run():
        print(
            "{name:36} {ours_s:9.4f} {peer_s:9.4f}   ratio {ratio:.4f} (target {target}) {ok}".format(**row)
        )
