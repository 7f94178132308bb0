"""What Slurm's queue holds."""

from __future__ import annotations

import getpass
import subprocess


def in_queue() -> set[str] | None:
    """Return the ids of this user's jobs that wait or run, `12_3` for element 3 of array 12.

    Returns:
        The ids, or None where the controller did not answer, which says nothing of the jobs.
    """
    try:
        listed = subprocess.run(
            ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return set(listed.stdout.split())
