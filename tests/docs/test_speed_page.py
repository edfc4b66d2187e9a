"""The page about speed shows what was measured."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "speed.md").read_text()


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "rivals")


def test_the_page_shows_the_results_of_every_version_of_python():
    page = import_module("speed_page")
    stored = page.stored()
    assert page.BASE in stored
    assert [version for version, results in stored.items() if page.tables(results) not in PAGE] == []


def test_the_page_shows_which_goals_are_reached():
    page = import_module("speed_page")
    assert page.goal_table(page.stored()) in PAGE


def test_a_goal_is_judged_by_the_figures_of_the_run():
    goals, page = import_module("speed_goals"), import_module("speed_page")
    rows = {"orchestrator": {"wall": 9e-6, "cpu": 11e-6}, "langchain": {"wall_ratio": 40.0, "cpu_ratio": 20.0}}
    cost, beside = goals.GOALS[:2]
    told = [
        page.judged(goal, goal.figure({"table": {"instant": rows}}, kind))
        for goal in (cost, beside) for kind in ("wall", "cpu")
    ]
    assert told == ["9.00 reached", "11.0 **missed**", "0.025 reached", "0.050 **missed**"]
    assert page.judged(beside, beside.figure({"table": {"instant": {}}}, "wall")) == "–"


def test_more_calls_in_a_second_than_the_goal_reach_it():
    goals = import_module("speed_goals")
    goal = goals.Goal("calls/s of a rival's", 2, goals.rate_of("http64", "rival", "fast_ratio"), at_least=True)
    tables = ({"http64": {"rival": {"wall_fast_ratio": times}}} for times in (1.9, 2.0))
    assert [goal.reached(goal.figure({"table": table}, "wall")) for table in tables] == [False, True]


def test_growth_is_from_the_cheapest_number_to_the_largest():
    goals = import_module("speed_goals")
    row = {"1": {"cpu": 3.0}, "1000": {"cpu": 4.0}, "64": {"cpu": 2.0}}
    assert goals.growth(row, "cpu") == 2.0
    assert goals.growth({"1": {"cpu": 3.0}}, "cpu") is None


def test_who_is_left_out_has_a_row_of_dashes_and_a_reason():
    page = import_module("speed_page")
    results = page.stored()[page.BASE] | {"left_out": {"tensorzero": "not installed"}}
    for rows in results["table"].values():
        rows.pop("tensorzero", None)
    text = page.tables(results)
    assert "TensorZero, embedded is left out: not installed." in text
    assert f"| TensorZero, embedded |{' – |' * len(page.COLUMNS)}" in text


def test_every_subject_has_a_way_to_be_used_and_a_name():
    known = import_module("speed_subjects").SUBJECTS
    names = import_module("speed_page").NAMES
    subjects = import_module("speed").SUBJECTS
    assert {subject.partition("+")[0] for subject in subjects} == set(known)
    assert set(subjects) <= set(names)


@pytest.mark.real_time
async def test_a_job_that_would_not_be_done_in_time_is_given_up():
    worker = import_module("speed_worker")
    held = [asyncio.ensure_future(asyncio.sleep(60)) for _ in range(2)]
    long_ago = 0.0
    with pytest.raises(TimeoutError, match="1 of 2 had begun"):
        await worker.all_begun(lambda: 1, held, long_ago, limit=15)
    await worker.all_begun(lambda: 2, held, long_ago, limit=15)
    await worker.let_go(held)
    assert all(task.cancelled() for task in held)


def test_the_page_shows_the_budget():
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
async def test_the_instant_server_is_understood_to_the_last_piece(instant_server):
    subject = import_module("speed_subjects").SUBJECTS["orchestrator"](instant_server)
    await subject.open()
    assert await subject.answer() == "answer"
    assert [piece async for piece in subject.pieces()] == ["x"] * 20
    await subject.close()
