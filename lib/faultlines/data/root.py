"""Where data sets live on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Return the data folder: the argument, else `FAULTLINES_DATA`, else the user's cache folder.

    Args:
        root: The folder, when the caller names one.

    Returns:
        The folder, which need not exist.
    """
    if root is not None:
        return Path(root).expanduser()
    if named := os.environ.get("FAULTLINES_DATA"):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "faultlines"
