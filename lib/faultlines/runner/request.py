"""What a job asks a cluster for."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Request(BaseModel):
    """What each job asks the cluster for.

    Attributes:
        partition: Partition; the cluster's default where None.
        minutes: Time limit. A job that meets it is put back into the queue, and goes on from its trainings.
        requeues: How often that may happen to one job.
        gpus: GPUs a job.
        cpus: Processors a job.
        at_once: Most jobs that run at the same time.
        warning_s: Seconds before the time limit at which the job is told.
        mem_gb: Memory a job; the cluster's default where None.
    """

    model_config = ConfigDict(extra="forbid")

    partition: str | None = None
    minutes: int = Field(240, ge=1)
    requeues: int = Field(3, ge=0)
    gpus: int = Field(0, ge=0)
    cpus: int = Field(2, ge=1)
    at_once: int = Field(64, ge=1)
    warning_s: int = Field(90, ge=1)
    mem_gb: float | None = Field(None, gt=0)

    def submitit(self) -> dict[str, Any]:
        """Return it in submitit's words, without what is left to the cluster."""
        return {
            "time": self.minutes, "cpus_per_task": self.cpus,
            "array_parallelism": self.at_once, "signal_delay_s": self.warning_s,
            **({"partition": self.partition} if self.partition else {}),
            **({"gpus_per_node": self.gpus} if self.gpus else {}),
            **({"mem": f"{self.mem_gb:g}GB"} if self.mem_gb else {}),
        }  # fmt: skip
