from __future__ import annotations

import json

from faultlines.book.measured import speed_page
from faultlines.notebook.project import Project

ROW = {
    "name": "ours / theirs",
    "ours_s": 1.0,
    "peer_s": 4.0,
    "ratio": 0.25,
    "target": 0.5,
    "ok": True,
    "note": "",
}
FOUND = {
    "pgd": {
        "title": "PGD against its floor", "measured": "2026-01-02T03:04:05+00:00", "machine": "2 cores, Linux",
        "rows": [ROW, ROW | {"target": ">= 20x faster", "ratio": 8.123, "ok": False, "note": "1,000 maps"}],
    }
}  # fmt: skip


def test_the_page_shows_every_row_with_its_target(checkout: Project) -> None:
    assert "Nothing was measured yet" in speed_page(checkout)
    path = checkout.root / "results" / "benchmarks.json"
    path.parent.mkdir()
    path.write_text(json.dumps(FOUND))
    text = speed_page(checkout)
    assert "**PGD against its floor** (`benchmarks.pgd`, 2026-01-02, 2 cores, Linux)" in text
    assert "* - ours / theirs\n  - 0.25\n  - 0.5\n  - yes\n  - 1 s" in text
    # a missed target is shown as missed, and no cell opens with >, which would be a quotation
    assert "  - 8.12\n  - ≥ 20x faster\n  - **no**\n  - 1,000 maps" in text
