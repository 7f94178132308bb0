"""A Slurm cluster of one node on loopback, for tests and benchmarks; its daemons are started as root."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel", "srun", "scontrol")

CONFIGURATION = """\
ClusterName=faultlines
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 Features=loopback State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why the cluster cannot run here, or nothing."""
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        return f"Slurm is not installed here ({', '.join(absent)}): Debian's slurm-wlm and munge"
    return "" if os.geteuid() == 0 else "slurmctld and slurmd are started as root here, and this is not root"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class SlurmCluster:
    """The cluster; `start` returns once the node takes jobs, `stop` ends the three daemons by process id."""

    def __init__(self, folder: Path, cpus: int = 2) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(parents=True)
        (folder / "munge").chmod(0o700)
        key = folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        ports = {"controller_port": free_port(), "node_port": free_port()}
        host = socket.gethostname().partition(".")[0]
        self.conf.write_text(CONFIGURATION.format(host=host, folder=folder, cpus=cpus, **ports))

    def start(self) -> None:
        """Start the daemons, and wait until the node takes jobs."""
        munge = self.folder / "munge"
        options = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        subprocess.run(
            ["munged", "--force", *(f"--{option}={munge / name}" for option, name in options.items())],
            check=True,
            capture_output=True,
        )
        os.environ["SLURM_CONF"] = str(self.conf)
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon, "-f", str(self.conf)], check=True, capture_output=True)
        end = time.monotonic() + 30
        while "idle" not in self.ask("sinfo", "--noheader", "--format", "%t"):
            if time.monotonic() > end:
                logs = [(self.folder / f"{name}.log").read_text()[-2000:] for name in ("slurmctld", "slurmd")]
                raise RuntimeError("the node takes no jobs after 30 s:\n" + "\n".join(logs))
            time.sleep(0.3)

    def ask(self, *words: str) -> str:
        """Return what a command prints, whatever its status."""
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.stdout

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        self.ask("scancel", "--user", "root")
        end = time.monotonic() + 15
        while self.ask("squeue", "--noheader").strip() and time.monotonic() < end:
            time.sleep(0.3)
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            try:
                pid = int((self.folder / name).read_text())
                os.kill(pid, signal.SIGTERM)
                while time.monotonic() < end + 10:
                    os.kill(pid, 0)
                    time.sleep(0.1)
                os.kill(pid, signal.SIGKILL)
            except (OSError, ValueError):
                continue
        os.environ.pop("SLURM_CONF", None)
