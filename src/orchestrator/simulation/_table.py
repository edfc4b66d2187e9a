"""The table of a report: its columns, and the cells as text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

__all__ = [
    "GROUPS", "Cell", "Column", "best", "columns", "ordered", "overview", "percent", "ranking", "ratio", "rows",
    "strategy_kind", "verdict",
]

Cell = Mapping[str, Any]
_ABSENT = "–"
_NEAR = 0.1  # points of errors within which latencies may be compared
_FEW = 2  # winners that are named
GROUPS = {  # of regret: against whom
    "oracle": "regret, %", "state": "regret to known states, %", "average": "regret to average luck, %",
}


class Column(NamedTuple):
    """One figure of a cell. ``group`` stands over neighbours that share it; ``better`` says which end is good."""

    group: str
    title: str
    value: Callable[[Cell], float | None]
    shown: Callable[[float], str]
    better: Literal["low", "high"] | None = None

    def text(self, cell: Cell) -> str:
        """The figure as it is shown, a dash where there is none."""
        value = self.value(cell)
        return _ABSENT if value is None else self.shown(value)


def columns(scenario: Mapping[str, Any]) -> tuple[Column, ...]:
    """Those the scenario has figures for: in time only with a ``slo_s``, regret only where it was measured."""
    cells = list(scenario["cells"].values())
    found = [_ANSWERED]
    if scenario.get("slo_s") is not None:
        found.append(Column("", f"in ≤ {scenario['slo_s']:g} s %", _get("in_time"), percent, "high"))
    found += _FIGURES
    found += [column for column in _REGRET if any(column.value(cell) is not None for cell in cells)]
    return tuple(found)


def rows(scenario: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row per strategy: its name, then a text per column."""
    shown = columns(scenario)
    return [(name, *(column.text(cell) for column in shown)) for name, cell in scenario["cells"].items()]


def ordered(document: Mapping[str, Any], scenario: Mapping[str, Any]) -> list[str]:
    """The strategies of a scenario, in the document's order."""
    told = document.get("strategies", {})
    names = list(scenario["cells"])
    return sorted(names, key=lambda name: told.get(name, {}).get("order", len(told)))


def strategy_kind(document: Mapping[str, Any], name: str) -> str:
    """``own``, ``rival`` or ``oracle``."""
    return str(document.get("strategies", {}).get(name, {}).get("kind", "own"))


def best(column: Column, cells: Mapping[str, Cell]) -> set[str]:
    """The strategies whose figure is shown as the best one; none where all are the same."""
    values = {name: value for name, cell in cells.items() if (value := column.value(cell)) is not None}
    if column.better is None or len(values) < 2:
        return set()
    wanted = column.shown((min if column.better == "low" else max)(values.values()))
    found = {name for name, value in values.items() if column.shown(value) == wanted}
    return set() if len(found) == len(cells) else found


def overview(scenario: Mapping[str, Any], fair: Collection[str]) -> tuple[dict[str, str], set[str]]:
    """By strategy, p99 and what it failed; and which of ``fair`` are best: least p99 of those that fail the least."""
    cells = scenario["cells"]
    failed = {name: _failed(cell) for name, cell in cells.items()}
    shown = {}
    for name, cell in cells.items():
        errors = f", {percent(failed[name])} % errors" if failed[name] >= _NEAR / 2 else ""
        shown[name] = _P99.text(cell) + errors
    least = min((failed[name] for name in cells if name in fair), default=0.0)
    return shown, best(_P99, {name: cells[name] for name in cells if name in fair and failed[name] <= least + _NEAR})


def ranking(cells: Mapping[str, Cell]) -> list[str]:
    """Those that failed the least first (within 0.1 points alike), then by p99."""
    least = min((_failed(cell) for cell in cells.values()), default=0.0)

    def place(name: str) -> tuple[float, bool, float]:
        failed, p99 = _failed(cells[name]), _P99.value(cells[name])
        return 0.0 if failed <= least + _NEAR else failed, p99 is None, p99 or 0.0

    return sorted(cells, key=place)


def verdict(scenario: Mapping[str, Any], fair: Collection[str]) -> str:
    """Who did best by the figures that matter first, as a sentence; empty where there is nothing to choose."""
    cells = {name: scenario["cells"][name] for name in fair}
    least = min(map(_failed, cells.values()), default=0.0)
    near = {name: cell for name, cell in cells.items() if _failed(cell) <= least + _NEAR}
    told = [
        _best_of("fewest errors", Column("", "", _failed, lambda value: f"{percent(value)} %", "low"), cells),
        _best_of("least p99 latency", _P99._replace(shown=lambda value: f"{_seconds(value)} s"), near),
        _best_of("cheapest", _COST._replace(shown="${:.3f} per 1 000 answers".format), near),
    ]
    sentence = "; ".join(filter(None, told))
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _best_of(what: str, column: Column, cells: Mapping[str, Cell]) -> str:
    winners = best(column, cells)
    if not 0 < len(winners) <= _FEW:
        return ""
    names = [name for name in cells if name in winners]
    return f"{what}: {' and '.join(names)} ({column.text(cells[names[0]])})"


def _get(*steps: str) -> Callable[[Cell], float | None]:
    def value(cell: Cell) -> float | None:
        found: Any = cell
        for step in steps:
            found = (found or {}).get(step)
        return found if isinstance(found, int | float) else None
    return value


def _failed(cell: Cell) -> float:
    return float(sum(cell["errors"].values()))


def percent(value: float) -> str:
    """Two digits; neither all nor none is shown for what is only nearly so."""
    if 0 < value < 0.005:
        return "<0.01"
    return ">99.99" if 99.995 <= value < 100 else f"{value:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def ratio(value: float) -> str:
    """0.126 as ``+13``, percent."""
    return f"{round(value * 100) + 0:+d}"


_P99 = Column("latency, s", "p99", _get("latency", "p99"), _seconds, "low")
_COST = Column("", "$ per 1 000 answers", _get("cost_per_1000"), "{:.3f}".format, "low")
_ANSWERED = Column("", "answered %", _get("answered"), percent, "high")
_FIGURES = [
    Column("", "errors %", _failed, percent, "low"),
    *(Column("latency, s", q, _get("latency", q), _seconds, "low") for q in ("p50", "p95", "p99")),
    *(Column("first token, s", q, _get("first_token", q), _seconds, "low") for q in ("p50", "p95", "p99")),
    Column("", "attempts per request", _get("attempts_per_request"), "{:.3f}".format, "low"),
    _COST,
]
_REGRET = [
    Column(group, title, _get("regret", kind, figure), ratio, "low")
    for kind, group in GROUPS.items()
    for figure, title in (("first_token_p99", "first token p99"), ("latency_p99", "latency p99"), ("cost", "cost"))
]
