"""The strategy laboratory: the real router over modelled providers and traffic, on a clock that jumps.

``simulate(Scenario.load("my.toml"), "least-latency").summary()`` tells what a strategy would have brought.
"""

from orchestrator.simulation.engine import MakeRouter, RouterLike, StrategyLike, own_router, simulate
from orchestrator.simulation.model import ProviderModel, TrafficModel
from orchestrator.simulation.run import Run
from orchestrator.simulation.scenario import RouterModel, Scenario, ScenarioError
from orchestrator.simulation.summary import Summary, summary
from orchestrator.simulation.traffic import Job
from orchestrator.simulation.world import ModelledProvider, World

__all__ = [
    "Job",
    "MakeRouter",
    "ModelledProvider",
    "ProviderModel",
    "RouterLike",
    "RouterModel",
    "Run",
    "Scenario",
    "ScenarioError",
    "StrategyLike",
    "Summary",
    "TrafficModel",
    "World",
    "own_router",
    "simulate",
    "summary",
]
