"""A call and a piece of a stream cost what is stored: counted, not timed, so it fails on no slow or busy machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STORED = json.loads((BENCHMARKS / "speed_budget.json").read_text())
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
HOW = (
    "The hot path costs more, or less, than what is stored. If that is right, store it with the reason:\n"
    '    python benchmarks/speed_budget.py --update "REASON" --python OTHER_PYTHON\n'
)


@pytest.fixture
def budget(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("speed_budget")


@pytest.mark.skipif(VERSION not in STORED["budget"], reason=f"no budget is stored for Python {VERSION}")
def test_a_call_and_a_piece_cost_what_is_stored(budget):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    counted = subprocess.run(  # in a process of its own: a tracer of coverage's would count too
        [sys.executable, BENCHMARKS / "speed_budget.py", "--json"], capture_output=True, text=True, check=True,
        env=environment,
    ).stdout
    worse = budget.differences(STORED["budget"][VERSION], json.loads(counted)[VERSION])
    assert worse == [], "\n".join([HOW, *worse])


def test_one_call_more_is_a_difference_and_a_trifle_of_instructions_is_none(budget):
    stored = {"call": {"calls": 70, "instructions": 1300}}
    assert budget.differences(stored, {"call": {"calls": 70, "instructions": 1303}}) == []
    assert budget.differences(stored, {"call": {"calls": 71, "instructions": 1300}}) == ["call: calls 70 -> 71"]
    assert budget.differences(stored, {"call": {"calls": 70, "instructions": 1310}}) != []
    assert budget.differences(stored, {}) != []


def test_every_change_of_the_budget_has_its_reason():
    assert STORED["changes"]
    assert [change for change in STORED["changes"] if not change["why"] or not change["what"]] == []
