"""The chart of a report that follows the run: requests answered, p95, what befell the providers, breakers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from orchestrator.simulation._charts import Line, drawing
from orchestrator.simulation._svg import (
    Linear,
    Markup,
    Scale,
    element,
    join,
    path,
    rectangle,
    short,
    spanning,
    tooltip,
    x_axis,
    y_axis,
)

__all__ = ["STATES", "breaker_spans", "breakers", "buckets", "timeline"]

STATES = ("open", "half-open", "ramp", "isolated", "disabled")
_WIDTH, _LEFT, _RIGHT = 1110.0, 120.0, 1096.0
_TOP, _ROW, _PANEL, _BETWEEN, _AXIS = 6.0, 16.0, 130.0, 32.0, 42.0
_MOST = 90  # points of a line: more would be noise


def timeline(lines: Sequence[Line], scenario: Mapping[str, Any]) -> Markup:
    """Above, the episodes by provider; then the panels, all with the same time below."""
    duration = scenario["duration_s"]
    x = Linear(0.0, duration, _LEFT, _RIGHT)
    befallen = [(provider, list(spans)) for provider, spans in groupby(scenario["episodes"], lambda e: e["provider"])]
    parts: list[str] = []
    for row, (provider, spans) in enumerate(befallen):
        parts += _strip(x, _TOP + row * _ROW, provider, [(e["from_s"], e["until_s"], _words(e["kind"])) for e in spans])
    answered = {line.number: buckets(line.cell["timeline"]["answered"], duration) for line in lines}
    slow = {line.number: list(line.cell["timeline"].get("p95") or ()) for line in lines}
    panels = [("answered per second, by the time of the call", answered, False)]
    if any(value is not None for values in slow.values() for value in values):
        panels.append(("p95 of those answers, s (logarithmic)", slow, True))
    first = _TOP + len(befallen) * _ROW + _BETWEEN
    bottom = first + len(panels) * (_PANEL + _BETWEEN) - _BETWEEN
    parts += _bands(x, scenario, first, bottom)
    for place, (label, values, log) in enumerate(panels):
        top = first + place * (_PANEL + _BETWEEN)
        parts.append(_panel(lines, values, x, top, label, log=log))
    parts.append(x_axis(x, bottom, first, "seconds from the beginning of the run"))
    parts += _columns(lines, answered, slow, x, first, bottom)
    return drawing(_WIDTH, bottom + _AXIS, "Answers per second and p95 latency over the run, by strategy", *parts)


def buckets(counts: Sequence[float], duration: float) -> list[float]:
    """Counts of equal parts of the run, put together to at most ``_MOST``, as a rate per second."""
    if not counts:
        return []
    size = -(-len(counts) // _MOST)
    whole = [counts[n: n + size] for n in range(0, len(counts), size)]
    # The last group may be smaller; its rate is that of the parts it has.
    return [sum(group) / (len(group) * duration / len(counts)) for group in whole]


def _panel(
    lines: Sequence[Line], values: Mapping[int, Sequence[float | None]], x: Linear, top: float, label: str, *, log: bool
) -> Markup:
    known = [value for line in lines for value in values[line.number] if value is not None]
    y = spanning([value for value in known if value > 0] if log else known, top + _PANEL, top, log=log)
    parts: list[str] = [y_axis(y, _LEFT, _RIGHT, label)]
    for line in lines:
        points = _points(values[line.number], x, y)
        if any(points):
            parts.append(element("path", tooltip(line.name), class_=f"line thin {line.classes}", d=path(points)))
    return element("g", *parts)


def _points(values: Sequence[float | None], x: Linear, y: Scale) -> list[tuple[float, float] | None]:
    """In the middle of each part of the run; None where there is no value."""
    width = (x.high - x.low) / (len(values) or 1)
    floor = y.low
    return [
        None if value is None else (x((n + 0.5) * width), y(max(value, floor))) for n, value in enumerate(values)
    ]


def _bands(x: Linear, scenario: Mapping[str, Any], top: float, bottom: float) -> Iterator[str]:
    if scenario["warm_up_s"]:
        told = tooltip(f"warm-up of {scenario['warm_up_s']:g} s, not counted in the figures")
        yield rectangle(x.start, top, x(scenario["warm_up_s"]), bottom, told, class_="warm")
    for episode in scenario["episodes"]:
        begin, end = (x(min(episode[name], x.high)) for name in ("from_s", "until_s"))
        yield rectangle(begin, top, end, bottom, class_="band")


def _columns(
    lines: Sequence[Line], answered: Mapping[int, Sequence[float]], slow: Mapping[int, Sequence[float | None]],
    x: Linear, top: float, bottom: float,
) -> Iterator[str]:
    """Invisible, one per part of the run: the pointer finds there what every strategy did."""
    number = max((len(values) for values in answered.values()), default=0)
    width = (x.high - x.low) / (number or 1)
    for part in range(number):
        said = [f"{short(part * width)}–{short((part + 1) * width)} s"]
        for line in lines:
            rates, p95 = answered[line.number], slow[line.number]
            if part < len(rates):
                seconds = p95[part * len(p95) // number] if p95 else None
                also = "" if seconds is None else f", p95 {short(seconds)} s"
                said.append(f"{line.name}: {short(rates[part])}/s{also}")
        told = tooltip("\n".join(said))
        yield rectangle(x(part * width), top, x((part + 1) * width), bottom, told, class_="column")


def _strip(x: Linear, top: float, name: str, spans: Sequence[tuple[float, float, str]], *, state: str = "") -> Iterator[str]:
    """A row of bars with the name before it; ``state``: the class of all bars, else what each says."""
    yield element("text", name, x=_LEFT - 8, y=top + 12, text_anchor="end")
    for begin, end, word in spans:
        left, right = x(min(begin, x.high)), x(min(end, x.high))
        told = tooltip(f"{name}: {word}, {begin:g}–{end:g} s")
        yield rectangle(left, top + 1, right, top + _ROW - 2, told, class_=f"span {state or 'episode'}")
        if right - left > 7 * len(word) + 6:
            yield element("text", word, class_="inside", x=(left + right) / 2, y=top + 12, text_anchor="middle")


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def breaker_spans(
    changes: Sequence[Sequence[Any]], duration: float
) -> dict[str, list[tuple[float, float, str]]]:
    """By provider, (from, until, state) of every time its breaker was not closed."""
    spans: dict[str, list[tuple[float, float, str]]] = {}
    now: dict[str, tuple[float, str]] = {}
    for at, provider, old, new in sorted(changes, key=lambda change: float(change[0])):
        _end(spans, provider, now.get(provider, (0.0, old)), min(at, duration))
        now[provider] = (min(at, duration), new)
    for provider, state in now.items():
        _end(spans, provider, state, duration)
    return spans


def _end(
    spans: dict[str, list[tuple[float, float, str]]], provider: str, since: tuple[float, str], at: float
) -> None:
    begin, state = since
    if state != "closed" and at > begin:
        spans.setdefault(provider, []).append((begin, at, state))


def breakers(line: Line, scenario: Mapping[str, Any]) -> Markup | None:
    """A strip per provider whose breaker was not closed all the time; None where there is none."""
    duration = scenario["duration_s"]
    x = Linear(0.0, duration, _LEFT, _RIGHT)
    spans = breaker_spans(line.cell.get("breakers") or (), duration)
    if not spans:
        return None
    parts: list[str] = []
    for row, provider in enumerate(name for name in scenario["providers"] if name in spans):
        top = row * _ROW
        parts.append(rectangle(x.start, top + 1, x.end, top + _ROW - 2, class_="span closed"))
        parts.append(element("text", provider, x=_LEFT - 8, y=top + 12, text_anchor="end"))
        parts.append(join(_states(x, top, provider, spans[provider])))
    return drawing(_WIDTH, len(spans) * _ROW + 2, f"Breaker states under {line.name}", *parts)


def _states(x: Linear, top: float, provider: str, spans: Sequence[tuple[float, float, str]]) -> Iterator[str]:
    for begin, end, state in spans:
        told = tooltip(f"{provider}: breaker {state}, {begin:.1f}–{end:.1f} s")
        # What lasts a moment is drawn a pixel wide: that it happened matters more than how long.
        yield rectangle(x(begin), top + 1, max(x(end), x(begin) + 1), top + _ROW - 2, told, class_=f"span {state}")
