"""Energy that the machine spent, where it tells: the packages' counters of Linux's power capping framework.

The counters are the whole machine's: what else ran at the same time is in them. Virtual machines and containers
mostly hide them, and some kernels show them to root only.
"""

from __future__ import annotations

import re
from pathlib import Path

COUNTERS = Path("/sys/class/powercap")


def read_counters(folder: Path = COUNTERS) -> dict[str, tuple[int, int]]:
    """Return every processor package's energy counter in microjoules and the value at which it starts again."""
    found = {}
    for zone in sorted(folder.glob("intel-rapl:*")):
        if not re.fullmatch(r"intel-rapl:\d+", zone.name):  # parts of a package are in it already
            continue
        try:
            count = int((zone / "energy_uj").read_text())
            found[zone.name] = (count, int((zone / "max_energy_range_uj").read_text()))
        except (OSError, ValueError):
            continue
    return found


def spent(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    """Return the joules between two readings, or None where the machine did not tell.

    A counter that started again is counted as having done so once; at some hundred watts that takes minutes to hours.

    Example:
        >>> spent({"intel-rapl:0": (900, 1000)}, {"intel-rapl:0": (100, 1000)})
        0.0002
        >>> spent({}, {}) is None
        True
    """
    both = before.keys() & after.keys()
    if not both:
        return None
    total = 0
    for zone in both:
        (start, _), (end, wraps_at) = before[zone], after[zone]
        total += end - start if end >= start else end - start + wraps_at
    return total / 1e6
