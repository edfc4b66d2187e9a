"""How the providers of a request are ordered: five ready strategies, and the base class of your own."""

from __future__ import annotations

from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.first_available import FirstAvailable
from orchestrator.strategies.least_latency import LeastLatency
from orchestrator.strategies.random_choice import RandomChoice
from orchestrator.strategies.registry import resolve
from orchestrator.strategies.round_robin import RoundRobin
from orchestrator.strategies.weighted import Weighted

__all__ = [
    "FirstAvailable",
    "LeastLatency",
    "RandomChoice",
    "RoundRobin",
    "RoutingStrategy",
    "Weighted",
    "resolve",
]
