"""The figures of the README are those of the files under benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def results(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text())


def test_the_table_says_what_was_measured():
    overhead, strategies = results("overhead.json"), results("strategy_check.json")["results"]
    cost = overhead["microseconds"]
    imports = overhead["import"]["orchestrator"]
    expected = [
        f"{cost['route, round-robin, 3 providers'] - cost['bare await']:.1f} µs",
        f"{cost['route, least-latency, 3 providers'] - cost['bare await']:.1f} µs",
        f"{cost['route, round-robin, 100 providers'] - cost['bare await']:.1f} µs",
        f"{cost['per piece, stream'] - cost['per piece, the provider alone']:.1f} µs",
        f"{imports['seconds']:.2f} s, {imports['rss_mb']:.0f} MB",
        *(f"{strategies['black hole'][name]['errors_percent']:.2f} %" for name in ("round-robin", "least-latency")),
        *(f"{strategies['slow provider'][name]['p99']:.1f} s" for name in ("round-robin", "least-latency")),
    ]
    rows = [row for row in (ROOT / "README.md").read_text().splitlines() if row.endswith(".json` |")]
    assert len(rows) == len(expected)
    assert [row for row, figure in zip(rows, expected, strict=True) if figure not in row] == []
