"""The page about mutation testing shows what was measured, and that is enough."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "mutation.json").read_text())


def test_the_page_shows_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    tables = importlib.import_module("mutation").tables(RESULTS)
    assert tables in (ROOT / "docs" / "mutation.md").read_text()


def test_nine_of_ten_mutants_are_killed_and_each_survivor_has_a_reason():
    assert RESULTS["total"]["percent"] >= 90
    assert [row for row in RESULTS["survivors"] if not row["reason"]] == []
