"""From what the user wrote to a strategy object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.strategies.adaptive import Adaptive
from orchestrator.strategies.affinity import Affinity
from orchestrator.strategies.base import RoutingStrategy
from orchestrator.strategies.best_available import BestAvailable
from orchestrator.strategies.first_available import FirstAvailable
from orchestrator.strategies.least_busy import LeastBusy
from orchestrator.strategies.least_latency import LeastLatency
from orchestrator.strategies.lowest_cost import LowestCost
from orchestrator.strategies.peak_ewma import PeakEwma
from orchestrator.strategies.prequal import Prequal
from orchestrator.strategies.random_choice import RandomChoice
from orchestrator.strategies.round_robin import RoundRobin
from orchestrator.strategies.weighted import Weighted

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["BUILT_IN", "ENTRY_POINTS", "resolve"]

ENTRY_POINTS = "orchestrator.strategies"
BUILT_IN: dict[str, type[RoutingStrategy]] = {
    strategy.name: strategy for strategy in (
        RoundRobin, Weighted, RandomChoice, FirstAvailable, LeastLatency, LeastBusy, PeakEwma, Prequal, LowestCost,
        BestAvailable, Affinity, Adaptive,
    )
}


def resolve(strategy: str | RoutingStrategy | type[RoutingStrategy]) -> RoutingStrategy:
    """The strategy of that name, or the object itself; a class is instantiated without arguments.

    A name that is not built in is looked for among the entry points of the group ``orchestrator.strategies``.
    Raises ``ValueError`` for an unknown name and ``TypeError`` for anything that is no strategy.
    """
    if isinstance(strategy, str):
        known = BUILT_IN.get(strategy)
        return known() if known is not None else _registered(strategy)
    return _instance(strategy, "strategy")


def _registered(name: str) -> RoutingStrategy:
    points = _entry_points()
    if name not in points.names:
        from difflib import get_close_matches

        names = sorted({*BUILT_IN, *points.names})
        near = get_close_matches(name.lower().replace("_", "-"), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown strategy {name!r}.{hint} Known: {', '.join(names)}")
    return _instance(points[name].load(), f"entry point {name!r} of {ENTRY_POINTS!r}")


def _entry_points() -> EntryPoints:
    from importlib.metadata import entry_points  # reads every installed package's metadata: only when it is needed

    return entry_points(group=ENTRY_POINTS)


def _instance(value: object, what: str) -> RoutingStrategy:
    if isinstance(value, type) and issubclass(value, RoutingStrategy):
        return value()
    if isinstance(value, RoutingStrategy):
        return value
    shown = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    hint = ". The providers come second, or by name: providers=[...]" if isinstance(value, list | tuple) else ""
    raise TypeError(
        f"{what} is {shown}; expected a name ({', '.join(BUILT_IN)}) or a subclass or an instance of RoutingStrategy"
        f"{hint}"
    )
