"""What this machine has: the first thing to look at when something does not run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata

from faultlines.notebook.project import Project
from faultlines.notebook.provenance import processor


def examine(project: Project) -> list[tuple[str, str, bool]]:
    """Return rows of (what, finding, whether it is in order)."""
    rows = [
        ("Python", f"{platform.python_version()} at {sys.executable}", sys.version_info >= (3, 11)),
        ("checkout", str(project.root), True),
        ("library", str(project.library), project.library.is_relative_to(project.root)),
    ]
    rows += [_torch(), _torchvision(), _device(), _threads(), _jupyter_book()]
    free = shutil.disk_usage(project.root).free / 2**30
    rows.append(("disk", f"{free:.0f} GiB free", free > 2))
    return rows + _data_sets()


def _torch() -> tuple[str, str, bool]:
    import torch

    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return "torch", torch.__version__, release >= (2, 11)


def _torchvision() -> tuple[str, str, bool]:
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return "torchvision", "not installed; needed only to download data sets", True
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        return "torchvision", f"{version} does not import beside this torch: {error}", False
    return "torchvision", version, True


def _device() -> tuple[str, str, bool]:
    import torch

    if not torch.cuda.is_available():
        return "device", f"CPU, {processor()}", True
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return "device", ", ".join(names), True


def _threads() -> tuple[str, str, bool]:
    import torch

    return "threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors", True


def _jupyter_book() -> tuple[str, str, bool]:
    try:
        version = metadata.version("jupyter-book")
    except metadata.PackageNotFoundError:
        return "jupyter-book", "not installed; needed for `faultlines book`", False
    return "jupyter-book", version, version.startswith("1.")


def _data_sets() -> list[tuple[str, str, bool]]:
    from faultlines.data import available
    from faultlines.data.catalogue import folder_sets

    found = {
        entry.name: str(entry.path or "embedded") if entry.source else "not here" for entry in available()
    }
    found |= {entry.name: str(entry.path or "not here") for entry in folder_sets()}
    return [(f"data set {name}", where, True) for name, where in found.items()]
