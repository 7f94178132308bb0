from __future__ import annotations

import json

from faultlines.book.measured import cluster_page
from faultlines.notebook.project import Project

FOUND = {
    "measured": "2026-01-02T03:04:05+00:00", "machine": "2 cores", "kernel_s": 1.5, "chapter_s": 20.0, "added_s": 4.0,
    "papermill_s": 3.0, "workers_ratio": 0.55,
    "slurm": {
        "jobs": 16, "submit_s": 2.0, "squeue_s": 0.01, "array_s": 50.0, "core_s_a_job": 6.0, "result_bytes": 10_240,
        "log_bytes_a_job": 10_240.0,
    },
}  # fmt: skip


def test_the_page_extrapolates_what_was_measured(checkout: Project) -> None:
    assert "Nothing was measured yet" in cluster_page(checkout)
    path = checkout.root / "results" / "pipeline.json"
    path.parent.mkdir()
    path.write_text(json.dumps(FOUND))
    text = cluster_page(checkout)
    assert "1.50 s" in text and "10 + 10 KiB" in text
    # 1,000 jobs of 1,806 core seconds, 6 of them lost, on 256 cores
    assert "1,000\n  - 1 h 57 min\n  - 23 s (0.3%)\n  - 20 MiB" in text
    path.write_text(json.dumps(FOUND | {"slurm": {}}))
    assert "Extrapolated" not in cluster_page(checkout)
