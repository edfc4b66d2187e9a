"""Nobody beats the oracle where requests do not touch each other, and it wastes nothing elsewhere."""

from __future__ import annotations

from math import isnan

import pytest

from orchestrator.simulation import simulate
from orchestrator.simulation.oracle import OBJECTIVES, Oracle, oracle, regret
from orchestrator.simulation.world import World
from orchestrator.strategies.registry import BUILT_IN
from unit.simulation.worlds import scenario

UNLIKE = (
    {"first_token": {"median_s": 0.3, "sigma": 0.5}, "token_rate": {"median_tps": 40}, "error_share": 0.1},
    {"first_token": {"median_s": 0.6, "sigma": 0.5, "tail_share": 0.05}, "prices": {"input": 1, "output": 2}},
    {"first_token": {"median_s": 1.0, "sigma": 0.3}, "prices": {"input": 0.1, "output": 0.1}, "error_share": 0.02},
)
OPEN = scenario(*UNLIKE, duration_s=20, traffic={"rate_rps": 10, "streamed": 0.5}, slo_s=6)


def played(world, objective="first_token", foresight="luck"):
    return simulate(world, router=oracle(objective, foresight), name="oracle")


@pytest.fixture(scope="module")
def best():
    return {objective: played(OPEN, objective) for objective in OBJECTIVES}


@pytest.mark.parametrize("strategy", BUILT_IN)
def test_no_strategy_beats_it_in_any_request_where_requests_do_not_touch_each_other(strategy, best):
    run = simulate(OPEN, strategy)
    rows = run.requests
    assert len(rows) > 100
    for objective in ("first_token", "latency"):
        pairs = list(zip(getattr(rows, objective), getattr(best[objective].requests, objective), strict=True))
        assert not any(isnan(least) for _, least in pairs)
        assert all(isnan(theirs) or theirs >= least - 1e-9 for theirs, least in pairs)
        assert any(theirs > least for theirs, least in pairs)
    in_time = [n for n in range(len(rows)) if rows.outcome[n] == 0 and rows.latency[n] <= OPEN.slo_s]
    assert all(rows.cost[n] >= best["cost"].requests.cost[n] - 1e-12 for n in in_time)
    theirs, least = run.summary().first_token, best["first_token"].summary().first_token
    assert all(regret(getattr(theirs, p), getattr(least, p)) >= 0 for p in ("p50", "p95", "p99"))


def test_the_cheapest_that_is_late_is_not_taken():
    dear, late = {"prices": {"output": 9}}, {"first_token": {"median_s": 8.0}, "prices": {"output": 1}}
    figures = played(scenario(dear, late, slo_s=7), "cost").summary()
    assert figures.share["p0"] > 90
    assert figures.in_time > 90


def test_it_goes_round_every_kind_of_trouble():
    trouble = [
        {"kind": "black_hole", "from_s": 5, "until_s": 15}, {"kind": "silence", "from_s": 20, "until_s": 30},
        {"kind": "outage", "from_s": 35, "until_s": 40, "interrupts": True},
    ]
    fast = {"episodes": trouble, "first_token": {"median_s": 0.1}}
    world = scenario(fast, {}, traffic={"rate_rps": 5, "streamed": 0.5})
    run = played(world)
    assert set(run.requests.outcome) == {0}
    assert set(run.requests.attempts) == {1}
    assert run.summary().share["p0"] > 20


def test_a_request_waits_for_its_place_and_finds_it_free():
    world = scenario({"capacity": 2, "queue": 0}, {"capacity": 1, "queue": 0}, traffic={"rate_rps": 1.2})
    run = played(world, "latency")
    assert set(run.requests.outcome) == {0}
    assert set(run.requests.attempts) == {1}
    assert max(run.requests.latency) > 4


def test_a_request_waits_for_its_quota_and_never_meets_a_429():
    world = scenario({"rpm": 30}, {"tpm": 20_000}, traffic={"rate_rps": 1.0})
    run = played(world)
    assert set(run.requests.outcome) == {0}
    assert set(run.requests.attempts) == {1}


def test_what_nobody_can_answer_in_time_is_refused_at_once():
    run = played(scenario({"first_token": {"median_s": 50.0}}, traffic={"rate_rps": 1, "deadline_s": 5}))
    assert run.summary().errors == {"CapacityError": 100}
    assert max(run.requests.latency) == 0


def test_a_warm_prompt_is_known_to_be_faster_and_cheaper():
    cache = {"prompt_cache": {"first_token_factor": 0.1}, "prices": {"input": 3, "cached_input": 0.3}}
    sessions = {"sessions": {"number": 5, "turns": 10, "prefix_tokens": 4000, "think_s": 2}}
    world = scenario({**cache}, {**cache}, traffic=sessions)
    best, spread = played(world, "cost").summary(), simulate(world, "round-robin").summary()
    assert best.cost_per_1000 < 0.8 * spread.cost_per_1000


def test_without_the_length_of_the_answer_the_cheapest_gets_all_that_an_average_one_would_allow():
    dear = {"token_rate": {"median_tps": 100}, "prices": {"output": 9}}
    cheap = {"token_rate": {"median_tps": 20}, "prices": {"output": 1}}
    answers = {"median": 200, "sigma": 0.8}
    world = scenario(dear, cheap, slo_s=20, traffic={"rate_rps": 1, "completion_tokens": answers})
    state, average = (played(world, "cost", foresight).summary() for foresight in ("state", "average"))
    assert 3 * average.share["p0"] < state.share["p0"]  # which gets the long ones
    assert average.cost_per_1000 < state.cost_per_1000
    assert average.in_time < state.in_time


def test_without_the_luck_of_the_call_it_still_knows_the_state_of_the_providers():
    brown_out = {"kind": "brown_out", "from_s": 0, "until_s": 60, "slower": 5}
    slow = {"episodes": [brown_out], "first_token": {"median_s": 0.5}}
    even = {"first_token": {"median_s": 1.0, "sigma": 0.5}}
    world = scenario(slow, even, even, traffic={"rate_rps": 5})
    lucky, state = played(world).summary(), played(world, foresight="state").summary()
    assert state.share["p0"] == 0
    assert lucky.first_token.p95 < state.first_token.p95
    assert state.answered == 100


def test_the_deadline_ends_a_call_that_was_unluckier_than_expected():
    long = {"first_token": {"median_s": 1.0, "sigma": 1.5}, "capacity": 4}
    run = played(scenario(long, traffic={"rate_rps": 2, "deadline_s": 4, "streamed": 0.5}), foresight="state")
    assert "TimeoutError" in run.requests.outcomes
    assert max(run.requests.latency) <= 4 + 1e-6


def test_an_unluckily_failed_call_is_made_again():
    world = scenario({"error_share": 0.5}, {"first_token": {"median_s": 9.0}}, traffic={"rate_rps": 2, "streamed": 0.5})
    run = played(world, foresight="state")
    assert run.summary().answered > 99
    assert max(run.requests.attempts) > 1


def test_a_prompt_too_long_for_a_window_goes_elsewhere():
    small = {"context_window": 50, "first_token": {"median_s": 0.1}}
    assert played(scenario(small, {})).summary().share["p1"] == 100


def test_every_objective_is_known_and_no_other():
    world = World(scenario({}))
    assert [Oracle(world, objective) for objective in OBJECTIVES]
    with pytest.raises(ValueError, match="unknown objective 'speed'"):
        Oracle(world, "speed")


def test_regret():
    assert regret(1.15, 1.0) == pytest.approx(0.15)
    assert regret(0.5, 1.0) == -0.5
    assert regret(None, 1.0) is regret(1.0, None) is regret(1.0, 0.0) is None
