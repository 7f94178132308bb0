"""Says before computing whether a kernel fits in memory."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def available_bytes(device: torch.device | str = "cpu") -> int:
    """Return the memory that is free on a device."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_kernel_memory(
    rows: int,
    columns: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    copies: float = 3.0,
    available: int | None = None,
) -> None:
    """Check that a kernel matrix and its temporaries fit.

    Args:
        rows: Rows of the kernel.
        columns: Columns.
        dtype: Precision.
        device: Where.
        copies: How many matrices of this size the computation holds at its peak.
        available: Free bytes; asked of the machine by default.

    Raises:
        ValueError: If they do not fit; it says the size, what is free, and the block of rows that fits.

    Example:
        >>> check_kernel_memory(10**6, 10**6, available=8 * 10**9)
        Traceback (most recent call last):
        ...
        ValueError: a kernel of 1000000 x 1000000 torch.float64 takes 8e+03 GB (2.4e+04 GB with temporaries) and
        8 GB are free on cpu: blocks of 333 rows fit, or a square kernel of n = 18257
    """
    free = available_bytes(device) if available is None else available
    item = torch.empty((), dtype=dtype).element_size()
    need = rows * columns * item
    if need * copies > free:
        block, side = int(free / (copies * columns * item)), int((free / (copies * item)) ** 0.5)
        raise ValueError(
            f"a kernel of {rows} x {columns} {dtype} takes {need / 1e9:.2g} GB ({copies * need / 1e9:.2g} GB with "
            f"temporaries) and {free / 1e9:.2g} GB are free on {device}: blocks of {block} rows fit, or a square "
            f"kernel of n = {side}"
        )
