"""How the providers of a request are ordered: ready strategies, and the base class of your own."""

from __future__ import annotations

from orchestrator.strategies.adaptive import Adaptive
from orchestrator.strategies.affinity import Affinity
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.best_available import BestAvailable
from orchestrator.strategies.compose import Filtered, Shadow, TieBreak, Tiers
from orchestrator.strategies.first_available import FirstAvailable
from orchestrator.strategies.least_busy import LeastBusy
from orchestrator.strategies.least_latency import LeastLatency
from orchestrator.strategies.lowest_cost import LowestCost
from orchestrator.strategies.peak_ewma import PeakEwma
from orchestrator.strategies.prequal import Prequal
from orchestrator.strategies.random_choice import RandomChoice
from orchestrator.strategies.registry import resolve
from orchestrator.strategies.round_robin import RoundRobin
from orchestrator.strategies.weighted import Weighted

__all__ = [
    "Adaptive",
    "Affinity",
    "BestAvailable",
    "Filtered",
    "FirstAvailable",
    "LeastBusy",
    "LeastLatency",
    "LowestCost",
    "PeakEwma",
    "Prequal",
    "RandomChoice",
    "RoundRobin",
    "RoutingStrategy",
    "Shadow",
    "TieBreak",
    "Tiers",
    "Weighted",
    "resolve",
]
