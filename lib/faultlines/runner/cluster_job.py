"""The function that Slurm's jobs call; apart, because submitit pickles it by the name of its module."""

from __future__ import annotations

import os
from typing import Any

from faultlines.runner.environment import THREADS, quieten
from faultlines.runner.job import execute
from faultlines.runner.submission import Job


class ClusterJob:
    """Executes one `Job`, given as JSON; put back into the queue when its time is over."""

    def __call__(self, text: str) -> bool:
        """Execute; return whether every cell ran. A chapter that raises is a failed chapter, not a failed job."""
        granted = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        os.environ.update(dict.fromkeys(THREADS, granted))
        quieten()
        return execute(Job.model_validate_json(text))

    def checkpoint(self, text: str) -> Any:
        """Return what submitit is to submit again: the same job, whose trainings are on disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, text)
