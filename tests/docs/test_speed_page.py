"""The page about speed shows what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "speed.json").read_text())
PAGE = (ROOT / "docs" / "speed.md").read_text()


def test_the_page_shows_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    assert import_module("speed_page").tables(RESULTS) in PAGE


def test_the_page_shows_the_budget(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    stored = json.loads((ROOT / "benchmarks" / "speed_budget.json").read_text())
    assert import_module("speed_page").budget_table(stored["budget"]) in PAGE


@pytest.fixture
def instant_server():
    with subprocess.Popen(
        [sys.executable, ROOT / "benchmarks" / "speed_server.py", "--pieces", "20"], stdout=subprocess.PIPE
    ) as server:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        server.kill()


@pytest.mark.real_time
async def test_the_instant_server_is_understood_to_the_last_piece(monkeypatch, instant_server):
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "rivals")
    subject = import_module("speed_subjects").SUBJECTS["orchestrator"](instant_server)
    await subject.open()
    assert await subject.answer() == "answer"
    assert [piece async for piece in subject.pieces()] == ["x"] * 20
    await subject.close()
