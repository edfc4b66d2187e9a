"""The rules of the models of rivals in benchmarks/rivals, and the command that compares all strategies."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import Completion, ProviderConfig, Usage
from orchestrator.core.errors import (
    AuthenticationError,
    InvalidRequestError,
    OrchestratorError,
    RateLimitError,
    ServerError,
    TimeoutError,
)
from orchestrator.providers import BaseProvider
from orchestrator.simulation import simulate
from unit.simulation.worlds import scenario

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def rivals():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("rivals.strategies")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def suite(rivals):
    return importlib.import_module("strategies")


class Scripted(BaseProvider):
    """Takes ``seconds``, then fails with ``error`` if there is one."""

    def __init__(self, name, error=None, seconds=0.01, tokens=10, **config):
        super().__init__(ProviderConfig(name=name, **config))
        self.error, self.seconds, self.tokens, self.log = error, seconds, tokens, []

    async def complete(self, request):
        self.log.append(self.name)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return Completion("ok", usage=Usage(10, self.tokens))


def world_of(*providers):
    router = SimpleNamespace(timeouts=None)
    return SimpleNamespace(providers=providers, seed=1, scenario=SimpleNamespace(router=router))


async def order(router, requests=1, pause=0.0):
    """Who was called for each request; an X at the end when it failed."""
    found = []
    for number in range(requests):
        log = []
        for provider in router.providers:
            provider.log = log
        try:
            await router.complete(f"{number}")
        except OrchestratorError:
            log.append("X")
        found.append("".join(log))
        await asyncio.sleep(pause)
    return found


def litellm(rivals, *providers, pick="LeastBusy"):
    return rivals.LiteLLM(world_of(*providers), getattr(rivals, pick))


@pytest.mark.parametrize(("error", "expected"), [
    (RateLimitError("", status_code=429), ["ab", "b", "b"]),  # cooled at once
    (ServerError("", status_code=500), ["aaaX", "aab", "b"]),  # more than half of at least five
    (TimeoutError(""), ["aaaX", "aab", "b"]),
    (AuthenticationError("", status_code=401), ["ab", "b", "b"]),
    (InvalidRequestError("", status_code=400), ["aX", "aX", "aX"]),
])
async def test_what_litellm_retries_and_cools(rivals, error, expected):
    assert await order(litellm(rivals, Scripted("a", error), Scripted("b")), 3) == expected


async def test_a_cooldown_of_litellm_ends_by_the_clock_alone(rivals):
    limited = RateLimitError("", status_code=429)
    assert await order(litellm(rivals, Scripted("a", limited), Scripted("b")), 3, pause=4) == ["ab", "b", "ab"]


async def test_retry_after_is_how_long_litellm_cools(rivals):
    limited = RateLimitError("", status_code=429, retry_after=30)
    assert await order(litellm(rivals, Scripted("a", limited), Scripted("b")), 4, pause=10) == ["ab", "b", "b", "ab"]


async def test_litellm_gives_up_when_none_is_healthy(rivals):
    limited = RateLimitError("", status_code=429)
    assert await order(litellm(rivals, Scripted("a", limited), Scripted("b", limited)), 2) == ["abX", "X"]


async def test_litellms_minute_is_forgotten_60_s_after_its_first_count(rivals):
    router = litellm(rivals, Scripted("a", ServerError("", status_code=500)), Scripted("b"))
    assert await order(router, 2, pause=61) == ["aaaX", "aaaX"]


async def test_least_busy_of_litellm_counts_calls_in_flight(rivals):
    router = litellm(rivals, Scripted("a", seconds=5), Scripted("b", seconds=5))
    await asyncio.gather(*(router.complete(str(n)) for n in range(4)))
    assert [p.log for p in router.providers] == [["a"] * 2, ["b"] * 2]


async def test_latency_based_of_litellm_keeps_to_the_fastest_and_never_looks_again(rivals):
    slow, fast = Scripted("a", seconds=2), Scripted("b", seconds=1)
    router = litellm(rivals, slow, fast, pick="LatencyBased")
    await order(router, 12)
    slow.seconds, fast.seconds = 0.1, 1.5
    assert set(await order(router, 20)) == {"b"}


async def test_latency_based_of_litellm_takes_a_failing_provider_for_a_fast_one(rivals):
    router = litellm(rivals, Scripted("a", ServerError("", status_code=500)), Scripted("b"), pick="LatencyBased")
    found = await order(router, 3)
    assert found.count("b") < 3
    assert sum(names.count("a") for names in found) == 5  # until it is cooled


async def test_usage_based_of_litellm_gives_to_whom_has_answered_the_fewest_tokens(rivals):
    router = litellm(rivals, Scripted("a", tokens=990), Scripted("b"), pick="UsageBased")
    found = await order(router, 30)
    assert found.count("a") == 1


async def test_usage_based_of_litellm_keeps_the_limits_it_is_told(rivals):
    router = litellm(rivals, Scripted("a", rpm_limit=5), Scripted("b", tokens=990), pick="UsageBased")
    assert (await order(router, 12)).count("a") == 4


async def test_simple_shuffle_of_litellm_goes_by_weight(rivals):
    router = litellm(rivals, Scripted("a", weight=3), Scripted("b"), pick="SimpleShuffle")
    assert (await order(router, 400)).count("a") == pytest.approx(300, abs=30)


async def test_best_available_of_the_seed_goes_round_the_list_after_any_error(rivals):
    failing, other = Scripted("a", InvalidRequestError("", status_code=400)), Scripted("b")
    router = rivals.BestAvailable(world_of(failing, other))
    assert await order(router, 2) == ["ab", "b"]  # whoever was never measured counts as infinitely slow


async def test_best_available_of_the_seed_never_tries_whom_it_does_not_know(rivals):
    router = rivals.BestAvailable(world_of(Scripted("a", seconds=50), Scripted("b", seconds=0.1)))
    assert await order(router, 20) == ["a"] * 20


async def test_health_of_the_seed_counts_recent_errors_against_all_requests_ever(rivals):
    health = rivals.Health()
    for _ in range(100):
        health.succeeded(1.0)
    for _ in range(40):
        health.failed()
    assert health.rank()[0] == 0  # 40 of 140, although the last 40 in a row failed
    for _ in range(3):
        health.failed()
    assert health.rank()[0] == 1


def test_every_rival_plays_a_whole_scenario(rivals):
    trouble = {"error_share": 0.2, "cut_share": 0.05, "capacity": 3, "queue": 1, "rpm": 40}
    world = scenario(trouble, {}, traffic={"rate_rps": 2, "streamed": 0.5})
    for name, (router, about) in rivals.RIVALS.items():
        figures = simulate(world, router=router, name=name).summary()
        assert figures.answered > 50
        assert "model" in about


TOML = """
name = "small"
duration_s = 30
slo_s = 5
[traffic]
rate_rps = 3
streamed = 0.5
[[providers]]
name = "alpha"
first_token = { median_s = 0.5, sigma = 0.4 }
token_rate = { median_tps = 80 }
[[providers.episodes]]
kind = "black_hole"
from_s = 12
until_s = 18
status = 401
[[providers]]
name = "beta"
first_token = { median_s = 0.7, sigma = 0.4 }
token_rate = { median_tps = 80 }
"""


def test_a_cell_holds_what_the_report_needs_and_twice_the_same(suite, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    names = ["round-robin", "litellm simple-shuffle", "oracle first_token", "state oracle first_token"]
    one, other = ({name: suite.played(path, name, None, quick=False) for name in names} for _ in range(2))
    assert suite.written(one) == suite.written(other)
    cells = {name: cell for name, (_, cell) in one.items()}
    suite.add_regrets(cells)
    assert cells["oracle first_token"]["regret"]["oracle"]["first_token_p99"] == 0
    assert cells["round-robin"]["regret"]["oracle"]["first_token_p95"] > 0
    assert cells["round-robin"]["regret"]["oracle"]["latency_p99"] is None  # that oracle was not asked
    told, cell = one["litellm simple-shuffle"]
    assert len(cell["latency_cdf"]) == len(suite.QUANTILES)
    assert cell["latency_cdf"] == sorted(cell["latency_cdf"])
    assert sum(cell["timeline"]["answered"]) + sum(n for _, n in cell["timeline"]["failed"]) == cell["requests"]
    assert told["episodes"] == [{"provider": "alpha", "kind": "black_hole", "from_s": 12, "until_s": 18}]
    assert cell["breakers"][0][1:] == ["alpha", "closed", "open"]
    assert json.loads(suite.written(one)) == json.loads(json.dumps(one))


def test_a_shortened_scenario_is_the_same_in_less_time(suite):
    every = suite.loaded(BENCHMARKS / "scenarios" / "everything.toml", quick=True)
    assert (every.duration_s, every.warm_up_s) == (150, 10)
    assert every.providers[0].episodes[1].period_s == pytest.approx(20 / 6)
    assert every.traffic.bursts[0].every_s == 40
    assert every.providers[2].diurnal.period_s == 150


def test_the_best_by_latency_is_sought_among_all_requests_the_failed_ones_taking_for_ever(suite):
    def cell(failed, p99):
        return {"failed": failed, "of_all": {"latency": p99, "first_token": p99}, "cost_per_1000": failed}

    found = suite.best({
        "round-robin": cell(0.05, 3.0), "random": cell(0.0, 4.0), "weighted": cell(9.0, None),
        "litellm least-busy": cell(5.0, None), "oracle cost": cell(0, 0),
    })
    assert found["own"] == {"errors": ["random", 0.0], "p99": ["round-robin", 3.0],
                            "first_token_p99": ["round-robin", 3.0], "cost": ["random", 0.0]}
    assert found["rival"] == {"errors": ["litellm least-busy", 5.0], "p99": None, "first_token_p99": None,
                              "cost": None}


@pytest.mark.parametrize(("answered", "p99"), [(100, 99.0), (99, 99.0), (98, None)])
def test_a_failed_request_takes_for_ever(suite, answered, p99):
    assert suite.of_all((float(n) for n in range(1, answered + 1)), 100) == p99
