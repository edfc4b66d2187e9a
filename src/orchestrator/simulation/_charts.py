"""The charts of a report that compare strategies as a whole: latency distribution, cost against latency, shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.simulation._svg import (
    Linear,
    Log,
    Markup,
    element,
    path,
    rectangle,
    short,
    spanning,
    tooltip,
    x_axis,
    y_axis,
)

__all__ = ["COLOURS", "Line", "distribution", "drawing", "frontier", "frontier_of", "shares"]

COLOURS = 10
_WIDTH, _HEIGHT = 540.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 526.0, 26.0, 296.0
_ALIKE = 1.0  # points of answered requests within which strategies compete on cost and latency
_SAME = 1.02  # of the least cost: below, there is nothing to choose
_ROW = 24.0
_WIDE = 1000.0  # so wide an image is scrolled on a small screen, not shrunk
_BAR_LEFT = 190.0


class Line(NamedTuple):
    """One strategy as all charts of a scenario draw it; ``number`` is what its switch is called."""

    name: str
    number: int
    kind: str
    cell: Mapping[str, Any]

    @property
    def classes(self) -> str:
        """``k``: what the switch hides; ``c``: colour; the kind decides how a line is dashed."""
        again = self.number >= COLOURS and self.kind == "own"
        return f"k{self.number} c{self.number % COLOURS} {'second' if again else self.kind}"


def drawing(width: float, height: float, label: str, *children: str) -> Markup:
    """An image as wide as the page lets it be, but legible, with its name for those who do not see it."""
    return element(
        "svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label,
        style=f"max-width:{width:g}px", class_="wide" if width > _WIDE else None,
    )


def distribution(lines: Sequence[Line], quantiles: Sequence[float], slo: float | None) -> Markup | None:
    """Percent of all requests answered within so many seconds; None without any answer."""
    curves = {line.number: _curve(line, quantiles) for line in lines}
    # The fastest answers of all would take half of a logarithmic axis, and nobody waits for them.
    seconds = [max(x, 1e-3) for curve in curves.values() for x, y in curve if y >= 2]
    if not seconds:
        return None
    x = Log(min(seconds) / 1.1, max(seconds) * 1.1, _LEFT, _RIGHT)
    y = Linear(0, 100, _BOTTOM, _TOP)
    parts = [x_axis(x, _BOTTOM, _TOP, "seconds from the call to the whole answer (logarithmic)"),
             y_axis(y, _LEFT, _RIGHT, "% of all requests answered by then")]
    if slo is not None and x.low < slo < x.high:
        parts += [
            element("line", class_="slo", x1=x(slo), x2=x(slo), y1=_TOP, y2=_BOTTOM),
            element("text", f"{slo:g} s", class_="slo", x=x(slo) - 4, y=_BOTTOM - 6, text_anchor="end"),
        ]
    for line in lines:
        points = [(x(max(s, x.low)), y(percent)) for s, percent in curves[line.number]]
        if points:
            parts.append(element("path", tooltip(_told(line)), class_=f"line {line.classes}", d=path(points)))
    return drawing(_WIDTH, _HEIGHT, "Latency distribution by strategy; the table has its percentiles", *parts)


def _curve(line: Line, quantiles: Sequence[float]) -> list[tuple[float, float]]:
    answered = line.cell["answered"]
    pairs = zip(line.cell.get("latency_cdf") or (), quantiles, strict=False)
    return [(float(seconds), quantile * answered) for seconds, quantile in pairs if seconds is not None]


def _told(line: Line) -> str:
    cell = line.cell
    p50, p95, p99 = (cell["latency"][q] for q in ("p50", "p95", "p99"))
    if p50 is None:
        return f"{line.name}: no answers"
    cost = cell["cost_per_1000"]
    spent = "" if cost is None else f", ${short(cost)} per 1 000 answers"
    latency = f"p50 {short(p50)} s, p95 {short(p95)} s, p99 {short(p99)} s"
    return f"{line.name}: {latency}, {cell['answered']:g} % answered{spent}"


def frontier(lines: Sequence[Line]) -> Markup | None:
    """Cost against p99, a point per strategy; None where the cost is about the same under all."""
    points = {line.number: (line.cell["cost_per_1000"], line.cell["latency"]["p99"]) for line in lines}
    shown = [line for line in lines if None not in points[line.number]]
    costs = [points[line.number][0] for line in shown]
    if max(costs, default=0.0) <= min(costs, default=0.0) * _SAME:
        return None
    x = spanning(costs, _LEFT, _RIGHT)
    y = spanning([points[line.number][1] for line in shown], _BOTTOM, _TOP)
    far = {True: " (logarithmic)", False: ""}
    parts = [x_axis(x, _BOTTOM, _TOP, f"US$ per 1 000 answers{far[isinstance(x, Log)]}"),
             y_axis(y, _LEFT, _RIGHT, f"p99 latency, s{far[isinstance(y, Log)]}")]
    most = max(line.cell["answered"] for line in shown)
    fair = [line for line in shown if line.cell["answered"] >= most - _ALIKE]
    edge = frontier_of([points[line.number] for line in fair if line.kind != "oracle"])
    parts.append(element("path", tooltip("nobody is both cheaper and faster"), class_="edge",
                         d=path((x(cost), y(p99)) for cost, p99 in edge)))
    taken = [(x(cost) - 6, x(cost) + 6, y(p99) + 4) for cost, p99 in (points[line.number] for line in shown)]
    for line in sorted(shown, key=lambda line: points[line.number][::-1]):
        cost, p99 = points[line.number]
        parts.append(_point(line, x(cost), y(p99), taken, fair=line in fair))
    return drawing(_WIDTH, _HEIGHT, "Cost against p99 latency by strategy; the table has the figures", *parts)


def frontier_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of pairs of which less is better, those no other one is at least as good as in both; sorted by the first."""
    found: list[tuple[float, float]] = []
    for cost, latency in sorted(set(points)):
        if not found or latency < found[-1][1]:
            found.append((cost, latency))
    return found


def _point(line: Line, x: float, y: float, taken: list[tuple[float, float, float]], *, fair: bool) -> Markup:
    """The point and, where there is room beside it, its name; ``taken`` are the places of the names so far."""
    mark = element("circle", tooltip(_told(line)), class_="point" if fair else "point hollow", cx=x, cy=y, r=5)
    width = 6.6 * len(line.name)
    for begin, base in ((x + 9, y + 4), (x - 9 - width, y + 4), (x - width / 2, y - 9), (x - width / 2, y + 18)):
        free = all(begin > right or begin + width < left or abs(base - other) > 12 for left, right, other in taken)
        if free and begin > _LEFT and begin + width < _RIGHT + 10:
            taken.append((begin, begin + width, base))
            anchor = "start" if begin > x else "end" if begin + width < x else "middle"
            at = {"start": begin, "middle": x, "end": begin + width}[anchor]
            return element("g", mark, element("text", line.name, x=at, y=base, text_anchor=anchor), class_=line.classes)
    return element("g", mark, class_=line.classes)


def shares(line: Line, providers: Sequence[str]) -> Markup:
    """One bar: who gave the answers, and how many requests got none."""
    scale = Linear(0, 100, 0, 700)
    parts: list[str] = []
    begin = 0.0
    answered = line.cell["answered"]
    for index, provider in enumerate(providers):
        share = (line.cell["share"].get(provider) or 0.0) * answered / 100
        if share <= 0:
            continue
        parts += _segment(scale, begin, share, f"{provider}: {share:.1f} % of the requests", f"p{index % COLOURS}")
        begin += share
    if answered < 100:
        parts += _segment(scale, begin, 100 - answered, f"no answer: {100 - answered:.2f} % of the requests", "none")
    told = ", ".join(f"{name} {share:.1f} %" for name, share in line.cell["share"].items())
    return drawing(700, _ROW, f"Share of answers of {line.name}: {told}", *parts)


def _segment(scale: Linear, begin: float, share: float, told: str, class_: str) -> list[str]:
    left, right = scale(begin), scale(min(100.0, begin + share))
    parts: list[str] = [rectangle(left, 2, right, _ROW - 2, tooltip(told), class_=f"share {class_}")]
    if right - left > 34:
        middle = (left + right) / 2
        parts.append(element("text", f"{share:.0f} %", class_="inside", x=middle, y=_ROW / 2 + 4, text_anchor="middle"))
    return parts
