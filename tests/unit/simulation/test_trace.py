"""Recorded timings stand in for drawn ones."""

from __future__ import annotations

import json

import pytest

from orchestrator.simulation import Scenario, ScenarioError, World, simulate
from unit.simulation.worlds import FAST, job

SCENARIO = {"name": "traced", "duration_s": 50, "traffic": {"rate_rps": 1}}


def world(tmp_path, records, *names):
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    providers = [{"name": name, **FAST} for name in names or ("alpha",)]
    return World(Scenario.model_validate({**SCENARIO, "trace": file, "providers": providers}))


def record(at, first=0.2, duration=2.2, tokens=100, **fields):
    return {"at": at, "provider": "alpha", "first_token": first, "duration": duration, "completion_tokens": tokens,
            **fields}


def service(world, at, tokens=100, index=0, number=1):
    nature = world.providers[index].nature
    return nature.service(nature.luck(job(number)), at, tokens)


def test_a_call_is_served_as_the_records_around_its_time(tmp_path):
    records = [record(1000 + n, first=0.2 if n < 50 else 0.8) for n in range(100)]
    traced = world(tmp_path, records)
    assert service(traced, 10)[:2] == (pytest.approx(0.2), pytest.approx(2.2))
    assert service(traced, 80).first_token == pytest.approx(0.8)
    assert service(traced, 99 + 10).first_token == pytest.approx(0.2)  # it begins again


def test_long_answers_take_longer_at_the_recorded_rate(tmp_path):
    assert service(world(tmp_path, [record(0)]), 0, tokens=200).total == pytest.approx(0.2 + 4.0)


def test_chance_picks_among_the_neighbours(tmp_path):
    traced = world(tmp_path, [record(n, first=n / 100) for n in range(100)])
    drawn = {service(traced, 50, number=n).first_token for n in range(200)}
    assert len(drawn) > 10
    assert all(0.4 < first < 0.6 for first in drawn)


def test_without_a_first_token_the_model_tells_it_and_who_is_not_in_the_trace_is_drawn(tmp_path):
    traced = world(tmp_path, [record(0, first=None, duration=4.0)], "alpha", "beta")
    assert service(traced, 0)[:2] == (pytest.approx(1.0), pytest.approx(5.0))
    assert service(traced, 0, index=1)[:2] == (pytest.approx(1.0), pytest.approx(2.0))


def test_recorded_failures_fail(tmp_path):
    traced = world(tmp_path, [record(n, ok=n % 4 != 0) for n in range(400)])
    run = simulate(traced.scenario)
    assert run.summary().attempts_per_request > 1.1


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "line 1: not JSON"), ('\n{"at": 1}', "line 2: provider: Field required"), ("", "no records"),
     ('{"at": 1, "provider": "a", "duration": -1}', "line 1: duration: ")],
)
def test_a_bad_line_is_named(tmp_path, text, said):
    file = tmp_path / "bad.jsonl"
    file.write_text(text)
    scenario = {**SCENARIO, "trace": file, "providers": [{"name": "alpha", **FAST}]}
    with pytest.raises(ScenarioError, match=said):
        World(Scenario.model_validate(scenario))


def test_the_path_is_relative_to_the_scenario(tmp_path):
    (tmp_path / "trace.jsonl").write_text(json.dumps(record(0)))
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "x"\nduration_s = 9\ntrace = "trace.jsonl"\n[traffic]\nrate_rps = 1\n[[providers]]\nname = "alpha"\n'
        "first_token = { median_s = 1 }\ntoken_rate = { median_tps = 9 }\n"
    )
    assert service(World(Scenario.load(file)), 0).first_token == pytest.approx(0.2)
