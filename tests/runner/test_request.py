from __future__ import annotations

import pytest

from faultlines.runner.request import Request


def test_what_is_not_asked_for_is_left_to_the_cluster() -> None:
    plain = {"time": 240, "cpus_per_task": 2, "array_parallelism": 64, "signal_delay_s": 90}
    assert Request().submitit() == plain
    asked = Request(partition="long", gpus=1, mem_gb=1.5).submitit()
    assert asked == plain | {"partition": "long", "gpus_per_node": 1, "mem": "1.5GB"}


def test_nothing_else_can_be_asked_for() -> None:
    for wrong in ({"minutes": 0}, {"gpus": -1}, {"mem_gb": 0}, {"nodes": 2}):
        with pytest.raises(ValueError):
            Request(**wrong)
