"""A run: the real router under modelled traffic, repeatable, with its columns, its timeline and its figures."""

from __future__ import annotations

import os
import subprocess
import sys
from math import isnan

import pytest

from orchestrator import Router
from orchestrator.simulation import Scenario, own_router, simulate, summary
from orchestrator.strategies import RoundRobin, RoutingStrategy
from unit.simulation.worlds import scenario

TROUBLE = """
name = "trouble"
duration_s = 120
warm_up_s = 10
slo_s = 5

[traffic]
rate_rps = 4
streamed = 0.5
deadline_s = 30

[traffic.sessions]
number = 5
think_s = 5

[[providers]]
name = "bad"
first_token = { median_s = 0.5, sigma = 0.4, tail_share = 0.02, tail_alpha = 1.5 }
token_rate = { median_tps = 80, sigma = 0.2 }
capacity = 4
rpm = 200
error_share = 0.05
cut_share = 0.02
prices = { input = 1, output = 4 }

[[providers.episodes]]
kind = "black_hole"
from_s = 30
until_s = 50

[[providers.episodes]]
kind = "outage"
from_s = 80
until_s = 90
interrupts = true

[[providers]]
name = "good"
copies = 2
first_token = { median_s = 0.5, sigma = 0.4 }
token_rate = { median_tps = 80, sigma = 0.2 }
capacity = 16
prices = { input = 1, output = 4 }
"""


def all_are(column, value):
    return len(column) > 0 and list(column) == [pytest.approx(value)] * len(column)


def test_two_processes_with_other_hashes_give_the_same_bytes():
    code = (
        "from orchestrator.simulation import Scenario, simulate\n"
        f"run = simulate(Scenario.parse({TROUBLE!r}), 'least-latency')\n"
        "print(run.summary().as_json(), run.requests.latency.tobytes().hex(), run.timeline)"
    )
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE)
        for seed in ("1", "4242")
    ]
    one, other = (process.communicate()[0] for process in processes)
    assert one == other
    assert b'"requests": 5' in one


def test_another_seed_is_another_run():
    runs = [simulate(Scenario.parse(TROUBLE), seed=seed).summary().as_json() for seed in (1, 2)]
    assert runs[0] != runs[1]


def test_strategies_meet_the_same_requests_and_the_same_luck():
    calm = scenario({"first_token": {"median_s": 1, "sigma": 0.5}}, {"first_token": {"median_s": 1, "sigma": 0.5}})
    one, other = (simulate(calm, strategy) for strategy in ("round-robin", "random"))
    assert one.requests.begun == other.requests.begun
    same = [n for n in range(len(one.requests)) if one.requests.provider[n] == other.requests.provider[n]]
    assert 10 < len(same) < len(one.requests)
    assert all(one.requests.latency[n] == pytest.approx(other.requests.latency[n]) for n in same)


@pytest.mark.parametrize("streamed", [0.0, 1.0])
def test_a_row_tells_what_the_caller_saw(streamed):
    run = simulate(scenario(
        {"prices": {"output": 10}}, traffic={"rate_rps": 1, "streamed": streamed, "completion_tokens": {"median": 200}}
    ))
    rows = run.requests
    assert len(rows) > 30
    assert all_are(rows.first_token, 1.0)
    assert all_are(rows.latency, 3.0)
    assert all_are(rows.cost, 200 * 10 / 1e6)
    assert all_are(rows.attempts, 1)
    assert all_are(rows.streamed, streamed)
    assert set(rows.outcome) == set(rows.provider) == {0}


@pytest.mark.parametrize("streamed", [0.0, 1.0])
def test_the_first_token_counts_from_the_call_failed_attempts_included(streamed):
    dead = {"episodes": [{"kind": "black_hole", "from_s": 0, "until_s": 60, "status": 401, "fails_in_s": 0.5}]}
    run = simulate(
        scenario(dead, {}, traffic={"rate_rps": 1, "streamed": streamed}, router={"breaker": {"enabled": False}}),
        "first-available",
    )
    assert all_are(run.requests.first_token, 1.5)
    assert all_are(run.requests.attempts, 2)


def test_errors_are_counted_by_class_and_have_no_first_token():
    silent = {"episodes": [{"kind": "silence", "from_s": 0, "until_s": 60}]}
    run = simulate(scenario(silent, traffic={"rate_rps": 1, "deadline_s": 5}, router={"breaker": {"enabled": False}}))
    figures = run.summary()
    assert figures.errors == {"TimeoutError": 100.0}
    assert (figures.answered, figures.latency.p99, figures.cost_per_1000) == (0.0, None, None)
    assert all(isnan(first) for first in run.requests.first_token)
    assert all_are(run.requests.latency, 5.0)


def test_figures_leave_the_warm_up_out_and_may_be_those_of_a_time():
    down = {"episodes": [{"kind": "outage", "from_s": 0, "until_s": 20}]}
    run = simulate(scenario(down, warm_up_s=30, router={"breaker": {"enabled": False}, "retry": {"max_retries": 0}}))
    assert run.summary().answered == 100.0
    assert summary(run, since=0, until=20).answered == 0.0
    assert run.summary().requests == sum(at >= 30 for at in run.requests.begun)


def test_in_time_is_within_the_bound_of_the_scenario():
    run = simulate(scenario({"first_token": {"median_s": 1, "sigma": 0.5}}, slo_s=3.0, duration_s=500))
    within = sum(latency <= 3.0 for latency in run.requests.latency) / len(run.requests)
    assert run.summary().in_time == pytest.approx(100 * within, abs=1e-5)
    assert 10 < run.summary().in_time < run.summary().answered == 100.0


def test_conversations_go_on_after_their_answers_and_fill_the_prompt_cache():
    run = simulate(scenario(
        {"prompt_cache": {"keeps_s": 300}, "prices": {"input": 1, "cached_input": 0}}, duration_s=300,
        traffic={"sessions": {"number": 3, "turns": 4, "think_s": 5}},
    ))
    rows = run.requests
    turns = [rows.session.count(session) for session in set(rows.session)]
    assert max(turns) == 4
    assert len(rows) > 40
    paid = [cost * 1e6 / tokens for cost, tokens in zip(rows.cost, rows.prompt_tokens, strict=True)]
    assert sum(share < 0.5 for share in paid) / len(paid) == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize("exact", [True, False])
def test_the_timeline_shows_episodes_breakers_and_load(exact):
    run = simulate(Scenario.parse(TROUBLE), exact_breakers=exact)
    assert [(span.provider, span.kind, span.from_s) for span in run.timeline.episodes] == [
        ("bad", "black_hole", 30), ("bad", "outage", 80)
    ]
    opened = next(change for change in run.timeline.breakers if change.new == "open")
    assert opened.provider == "bad"
    assert 30 < opened.at < 35
    assert len(run.timeline.samples) == 201
    assert max(sample.busy[0] for sample in run.timeline.samples) == 4
    assert bool(opened.reason) is exact


def test_exact_breakers_change_nothing_else():
    runs = [simulate(Scenario.parse(TROUBLE), exact_breakers=exact) for exact in (True, False)]
    assert runs[0].summary() == runs[1].summary()


def test_a_strategy_is_a_name_an_object_or_what_makes_one():
    calm = scenario({}, {})
    runs = [simulate(calm, strategy) for strategy in ("round-robin", RoundRobin(), RoundRobin, lambda: RoundRobin())]
    assert len({run.summary().requests for run in runs}) == 1
    assert [run.strategy for run in runs[:3]] == ["round-robin"] * 3
    assert simulate(calm, RoundRobin, name="mine").strategy == "mine"


def test_another_router_may_be_driven():
    asked = []

    class Only(RoutingStrategy):
        name = "only"

        def order(self, candidates, request):
            asked.append(request.prompt.prompt_tokens)
            return [view for view in candidates if view.name == "p1"]

    def make(world, strategy, *, listeners=()):
        assert strategy == "theirs"
        return Router(Only(), world.providers, listeners=listeners)

    run = simulate(scenario({}, {}), "theirs", router=make)
    assert run.summary().share == {"p0": 0.0, "p1": 100.0}
    assert asked == list(run.requests.prompt_tokens)


def test_a_router_that_raises_anything_else_ends_the_run():
    class Broken:
        async def complete(self, prompt, /, *, timeout=None, priority=0):
            raise KeyError("a mistake")

        async def aclose(self):
            pass

    with pytest.raises(KeyError, match="a mistake"):
        simulate(scenario(), router=lambda world, strategy, *, listeners=(): Broken())


async def test_it_runs_within_a_running_loop_too():
    inside = simulate(scenario()).summary()
    assert inside.answered == 100.0


def test_progress_is_told():
    told = []
    simulate(scenario(), progress=told.append)
    assert (told[0], told[-1]) == (0.0, 1.0)
    assert told == sorted(told)


def test_the_router_has_the_policies_of_the_scenario_and_the_seed_of_the_world():
    made = []

    def make(world, strategy, *, listeners=()):
        made.append(own_router(world, strategy, listeners=listeners))
        return made[0]

    simulate(scenario(router={"timeouts": {"total": 7}}), router=make)
    assert made[0]._timeouts.total == 7
