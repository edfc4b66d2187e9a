"""The modelled world against figures that others have published, or that were measured before with another model.

Linkerd's experiment published 95, 99 and 99.9 % success within 1 s, the percentiles at which its curves rise. Round
robin can give no other share than 1 - 1/11 x 1/2 = 95.45 %. The whole scenario gives 95.43 % (round robin), 99.11 %
(least outstanding) and 99.80 % (peak EWMA); without a timeout, answers within 1 s counted, 95.43, 99.54 and 99.92 %,
where another model gave 95.46, 99.54 and 99.92 %. Here it is shortened.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.simulation import Scenario, simulate
from orchestrator.strategies import RoutingStrategy

SCENARIOS = Path(__file__).parents[2] / "benchmarks" / "scenarios"


class LeastOutstanding(RoutingStrategy):
    """As linkerd's "least loaded": the fewest calls under way, ties at random."""

    def order(self, candidates, request):
        return sorted(self.random.sample(candidates, len(candidates)), key=lambda view: view.in_flight)


def shortened(name, factor):
    """The same in a shorter time, slow for the same share of it."""
    scenario = Scenario.load(SCENARIOS / f"{name}.toml")
    providers = tuple(
        model.model_copy(update={"episodes": tuple(
            episode.model_copy(update={"from_s": episode.from_s / factor, "until_s": episode.until_s / factor})
            for episode in model.episodes
        )})
        for model in scenario.providers
    )
    return scenario.model_copy(update={"duration_s": scenario.duration_s / factor, "providers": providers})


@pytest.mark.parametrize(("strategy", "expected"), [
    ("round-robin", 95.45), (LeastOutstanding, 99.0), ("least-busy", 99.5), ("peak-ewma", 99.9),
])
def test_linkerds_experiment(strategy, expected):
    assert simulate(shortened("linkerd", 8), strategy).summary().in_time == pytest.approx(expected, abs=0.3)


def test_four_providers_under_round_robin():
    scenario = Scenario.load(SCENARIOS / "four-providers.toml")
    assert simulate(scenario).summary().in_time == pytest.approx(75.4, abs=3.0)  # one seed; there it was the mean of 8
