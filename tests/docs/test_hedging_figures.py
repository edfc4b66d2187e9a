"""The figures of the page on hedging are those of the file under benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_says_what_was_measured():
    results = json.loads((ROOT / "benchmarks" / "results" / "hedging.json").read_text())["round-robin"]
    page = (ROOT / "docs" / "policies" / "hedging.md").read_text()
    rows = [row for row in page.splitlines() if row.startswith("|") and row.count(" s |") == 3]
    assert len(rows) == len(results) == 3
    for row, told in zip(rows, results.values(), strict=True):
        for name in ("p50", "p99", "p99.9"):
            assert f" {told[name]:.2f} s |" in row
        assert (f"+{told['extra_calls_percent']:.2f} %" in row) == (told["extra_calls_percent"] > 0)
