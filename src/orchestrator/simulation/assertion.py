"""What a run is asked to keep: "p99 <= 8 s", "errors <= 0.1 %"."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from orchestrator.simulation.summary import Summary

__all__ = ["Assertion"]

_FORM = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=|<|>|≤|≥)\s*([0-9]+(?:\.[0-9]+)?)\s*(\S*)\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": float.__le__, ">=": float.__ge__, "<": float.__lt__, ">": float.__gt__,
}
_ASCII = {"≤": "<=", "≥": ">="}
_SECONDS, _PERCENT, _NONE, _DOLLARS = {"s": 1.0, "ms": 0.001}, {"%": 1.0}, {"": 1.0}, {"USD": 1.0}
_UNITS = {
    "p50": _SECONDS, "p95": _SECONDS, "p99": _SECONDS,
    "first_token_p50": _SECONDS, "first_token_p95": _SECONDS, "first_token_p99": _SECONDS,
    "errors": _PERCENT, "answered": _PERCENT, "in_time": _PERCENT, "attempts": _NONE, "cost": _DOLLARS,
}


class Assertion(NamedTuple):
    """A bound of one figure. ``bound`` is in seconds, percent, calls per request, or USD per 1 000 answers."""

    text: str
    metric: str
    operator: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Assertion:
        """``METRIC OPERATOR NUMBER UNIT``; raises ``ValueError`` that says what would do."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no assertion; write METRIC <= NUMBER UNIT, such as 'p99 <= 8 s'")
        metric, operator, number, unit = found.groups()
        if metric not in _UNITS:
            raise ValueError(f"{text!r}: unknown metric {metric!r}. Known: {', '.join(_UNITS)}")
        units = _UNITS[metric]
        if unit not in units:
            wanted = " or ".join(filter(None, units)) or "no unit"
            raise ValueError(f"{text!r}: {metric} takes {wanted}" + (f", not {unit!r}" if unit else ""))
        return cls(text.strip(), metric, _ASCII.get(operator, operator), float(number) * units[unit])

    def broken_by(self, figures: Summary) -> str | None:
        """What the run has instead, as a text; None where it keeps the bound. Without answers nothing is kept."""
        value = self.value(figures)
        if value is None:
            return "no answers"
        return None if _COMPARE[self.operator](value, self.bound) else self._shown(value)

    def value(self, figures: Summary) -> float | None:
        """The figure it speaks of."""
        named: dict[str, float | None] = {
            "answered": figures.answered, "in_time": figures.in_time, "errors": sum(figures.errors.values()),
            "attempts": figures.attempts_per_request, "cost": figures.cost_per_1000,
        }
        if not figures.requests:
            return None
        if self.metric in named:
            value = named[self.metric]
        else:
            quantiles = figures.first_token if self.metric.startswith("first_token") else figures.latency
            value = getattr(quantiles, self.metric[-3:])
        return None if value is None else round(float(value), 6)

    def _shown(self, value: float) -> str:
        unit = next(iter(_UNITS[self.metric]))
        return f"{value:.6g} {unit}".rstrip()
