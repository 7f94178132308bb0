"""The machine that something was measured on, in words."""

from __future__ import annotations

import os
import platform


def machine() -> str:
    """Return cores, system and Python."""
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
