from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks._slurm import SlurmCluster, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A running cluster, or a skipped test that says why there is none."""
    if why := missing():
        pytest.skip(why)
    found = SlurmCluster(tmp_path_factory.mktemp("slurm"))
    try:
        found.start()
        yield found
    finally:
        found.stop()
