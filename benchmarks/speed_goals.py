"""The goals of the speed benchmark, and what of its results each is about.

A goal in seconds was set on another machine, where its rivals had figures of their own; it is repeated as what it then
was of a rival's figure, which carries over: the limit is made of both figures of that machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from speed_server import PACE

OURS, FAST = "orchestrator", "orchestrator-fast"
Figure = Callable[[dict[str, Any], str], float | None]  # from the results, of "wall" or "cpu"; None: not measured


@dataclass(frozen=True)
class Goal:
    title: str
    limit: float
    figure: Figure
    at_least: bool = False

    def reached(self, figure: float) -> bool:
        return figure >= self.limit if self.at_least else figure <= self.limit


def cost(column: str, subject: str, scale: float = 1e6) -> Figure:
    """µs, or another unit, of one call, piece or import."""
    def figure(results: dict[str, Any], kind: str) -> float | None:
        row = results["table"][column].get(subject)
        return row and row[kind] * scale
    return figure


def rate(column: str, subject: str) -> Figure:
    """Calls in a second."""
    def figure(results: dict[str, Any], kind: str) -> float | None:
        row = results["table"][column].get(subject)
        return row and 1 / row[kind]
    return figure


def time_of(column: str, rival: str, ratio: str) -> Figure:
    """Our seconds by the rival's, of the same rounds; ``ratio`` says which of ours: the name of a stored one."""
    def figure(results: dict[str, Any], kind: str) -> float | None:
        theirs = results["table"][column].get(rival, {}).get(f"{kind}_{ratio}")
        return theirs and 1 / theirs
    return figure


def rate_of(column: str, rival: str, ratio: str) -> Figure:
    """Our calls in a second by the rival's, of the same rounds."""
    return lambda results, kind: results["table"][column].get(rival, {}).get(f"{kind}_{ratio}")


def growth(row: dict[str, dict[str, float]], kind: str) -> float | None:
    """How many times the cheapest number of them the largest costs; None where that was not done."""
    return row[max(row, key=int)][kind] / min(cell[kind] for cell in row.values()) if len(row) > 1 else None


def by_callers(subject: str) -> Figure:
    return lambda results, kind: growth(results["callers"]["http"].get(subject, {}), kind)


def by_providers(results: dict[str, Any], kind: str) -> float | None:
    """Of the strategy that grows most."""
    return max((growth(row, kind) or 0.0 for row in results["providers"].values()), default=None)


def stall(results: dict[str, Any], kind: str) -> float | None:
    """ms of the clock above the pace, of the engine that has the longer one."""
    held = (results["held"].get(subject, {}).get("active") for subject in (OURS, FAST))
    gaps = [1e3 * max(0.0, active["gap"] - PACE) for active in held if active]
    return max(gaps) if gaps and kind == "wall" else None


FLAT = 1.25  # times the cheapest
TO_OURS, TO_FAST = "ratio", "fast_ratio"  # as speed.py stores them; the second on the same event loop
GOALS = (
    Goal("A call in the process, µs", 10, cost("instant", OURS)),
    Goal("… of LangChain's", 10 / 374, time_of("instant", "langchain", TO_OURS)),
    Goal("HTTP, one caller, µs", 250, cost("http", FAST)),
    Goal("… of TensorZero's", 250 / 450, time_of("http", "tensorzero", TO_FAST)),
    Goal("HTTP, 64 callers: calls/s, of TensorZero's", 2, rate_of("http64", "tensorzero", TO_FAST), at_least=True),
    Goal("… both on uvloop", 2, rate_of("http64", "tensorzero+uvloop", TO_FAST), at_least=True),
    Goal("HTTP, 64 callers: calls/s, of pyreqwest's", 0.7, rate_of("http64", "pyreqwest", TO_FAST), at_least=True),
    Goal("… both on uvloop", 0.7, rate_of("http64", "pyreqwest+uvloop", TO_FAST), at_least=True),
    Goal("A piece of a stream, µs", 4, cost("piece", FAST)),
    Goal("… of TensorZero's", 4 / 119, time_of("piece", "tensorzero", TO_FAST)),
    Goal("Import, s", 0.2, cost("import", OURS, scale=1)),
    Goal("… of httpx's", 0.2 / 0.12, time_of("import", "httpx", TO_OURS)),
    Goal("Engine httpx, 64 callers: calls/s", 2500, rate("http64", OURS), at_least=True),
    Goal("… of bare httpx's", 2500 / 760, rate_of("http64", "httpx", TO_OURS), at_least=True),
    Goal("A call of 1000 callers, by the cheapest number of them", FLAT, by_callers(FAST)),
    Goal("… engine httpx", FLAT, by_callers(OURS)),
    Goal("A call with 100 providers, by the cheapest number, any strategy", FLAT, by_providers),
    Goal("Longest stall of 1000 streams, ms", 250, stall),
)
