"""Download with torchvision, which knows the addresses and the checksums."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

from faultlines.data.catalogue import KnownSet

PATIENCE = 30  # seconds without a byte after which a network counts as absent


def download(known: KnownSet, root: Path) -> None:
    """Fetch a data set into torchvision's layout under `root`; all of it or nothing.

    Args:
        known: A data set of form `"idx"` or `"cifar"`.
        root: The data folder; made when it does not exist.

    Raises:
        ImportError: If torchvision does not import.
        OSError: If the network or the disk fails.
        RuntimeError: If torchvision finds a wrong checksum.
    """
    # a torchvision that does not fit its torch fails with RuntimeError at import
    try:
        from torchvision import datasets
        from torchvision.datasets.utils import download_and_extract_archive
    except Exception as error:
        raise ImportError(f"torchvision does not import ({error})") from error

    source = getattr(datasets, known.torchvision)
    root.mkdir(parents=True, exist_ok=True)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        # beside, then renamed: a broken-off download never stands where a whole one is looked for
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as partial:
            if known.form == "idx":
                source(partial, download=True)
            else:  # not its constructor, which would unpickle the batches
                download_and_extract_archive(
                    source.url, partial, filename=source.filename, md5=source.tgz_md5
                )
            target = root / known.folder
            target.mkdir(parents=True, exist_ok=True)
            for path in (Path(partial) / known.folder).iterdir():
                path.replace(target / path.name)
    finally:
        socket.setdefaulttimeout(patience)
