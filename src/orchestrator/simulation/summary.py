"""A run in figures: what a caller would want to know before choosing a strategy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, isnan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.simulation.run import Run

__all__ = ["Quantiles", "Summary", "quantile", "summary"]

_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds below which that percentage of the answers lie; None without answers."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """Of unsorted seconds; nan stands for none."""
        ordered = sorted(value for value in values if not isnan(value))
        return cls(*(quantile(ordered, q) for q in (0.5, 0.95, 0.99)))


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the requests begun after the warm-up.

    ``in_time``: percent of all requests answered within the scenario's ``slo_s`` (without one: as ``answered``).
    Latencies are those of answers, from the caller's call. ``errors`` and ``share`` (of the answers, by provider) are
    percent. ``calls`` went over the wire. ``cost_per_1000`` answers is in USD and holds failed, hedged and cancelled
    attempts.
    """

    scenario: str
    strategy: str
    seed: int
    requests: int
    answered: float
    in_time: float
    errors: dict[str, float]
    latency: Quantiles
    first_token: Quantiles
    calls: int
    attempts_per_request: float
    cost_per_1000: float | None
    share: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON and tables."""
        return asdict(self)

    def as_json(self) -> str:
        """The same seed gives the same bytes."""
        return json.dumps(self.as_dict(), indent=2)


def quantile(ordered: Sequence[float], q: float) -> float | None:
    """The nearest rank of sorted values."""
    return round(ordered[max(0, ceil(q * len(ordered)) - 1)], _DIGITS) if ordered else None


def summary(run: Run, *, since: float | None = None, until: float | None = None) -> Summary:
    """The figures of all requests begun from ``since`` (default: the end of the warm-up) to before ``until``."""
    rows, since = run.requests, run.warm_up_s if since is None else since
    chosen = [n for n, at in enumerate(rows.begun) if at >= since and (until is None or at < until)]
    answered = [n for n in chosen if rows.outcome[n] == 0]
    in_time = [n for n in answered if run.slo_s is None or rows.latency[n] <= run.slo_s]
    total, calls = len(chosen) or 1, sum(rows.attempts[n] for n in chosen)
    failures = [rows.outcomes[rows.outcome[n]] for n in chosen if rows.outcome[n] != 0]
    winners = [rows.provider[n] for n in answered]
    return Summary(
        scenario=run.scenario, strategy=run.strategy, seed=run.seed, requests=len(chosen),
        answered=_percent(len(answered), total), in_time=_percent(len(in_time), total),
        errors={name: _percent(failures.count(name), total) for name in sorted(set(failures))},
        latency=Quantiles.of([rows.latency[n] for n in answered]),
        first_token=Quantiles.of([rows.first_token[n] for n in answered]),
        calls=calls, attempts_per_request=round(calls / total, _DIGITS),
        cost_per_1000=round(1000 * sum(rows.cost[n] for n in chosen) / len(answered), _DIGITS) if answered else None,
        share={
            name: _percent(winners.count(index), len(answered) or 1) for index, name in enumerate(run.providers)
        },
    )


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, _DIGITS)
