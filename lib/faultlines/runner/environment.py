"""What the kernels of a job find in their environment."""

from __future__ import annotations

import os

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def quieten() -> None:
    """Keep out of the notebook what is said to a person at a terminal."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar redrawn a thousand times is no output to keep
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
