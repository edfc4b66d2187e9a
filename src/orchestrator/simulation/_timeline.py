"""The chart of a report that follows the run: requests answered, p95, what befell the providers, breakers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
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
_NAME = 17  # characters of a provider's name that have room
_MOST = 90  # points of a line: more would be noise


def timeline(lines: Sequence[Line], scenario: Mapping[str, Any]) -> Markup:
    """Above, the episodes by provider; then the panels, all with the same time below."""
    duration = scenario["duration_s"]
    x = Linear(0.0, duration, _LEFT, _RIGHT)
    befallen: dict[str, list[tuple[float, float, str]]] = {}
    for episode in scenario["episodes"]:
        span = (episode["from_s"], episode["until_s"], episode["kind"].replace("_", " "))
        befallen.setdefault(episode["provider"], []).append(span)
    parts: list[str] = []
    for row, (provider, spans) in enumerate(befallen.items()):
        parts += _episodes(x, _TOP + row * _ROW, provider, spans)
    answered = {line.number: buckets(_of(line, "answered"), duration) for line in lines}
    slow = {line.number: _of(line, "p95") for line in lines}
    alike = len(lines) > 1 and len({tuple(rates) for rates in answered.values()}) == 1
    same = " (the same under all strategies)" if alike else ""
    panels = [(f"answered per second, by the time of the call{same}", answered, False)]
    if any(value is not None for values in slow.values() for value in values):
        panels.append(("p95 of those answers, s (logarithmic)", slow, True))
    first = _TOP + len(befallen) * _ROW + _BETWEEN
    bottom = first + len(panels) * (_PANEL + _BETWEEN) - _BETWEEN
    parts += _bands(x, scenario, first, bottom)
    for place, (label, values, log) in enumerate(panels):
        top = first + place * (_PANEL + _BETWEEN)
        parts.append(_panel(lines, values, x, top, label, log=log))
    parts.append(x_axis(x, bottom, first, "seconds from the beginning of the run"))
    for part, told in enumerate(_parts(lines, answered, slow, duration)):
        width = duration / len(answered[lines[0].number])
        inside = tooltip(told)
        parts.append(rectangle(x(part * width), first, x((part + 1) * width), bottom, inside, class_="column"))
    return drawing(_WIDTH, bottom + _AXIS, "Answers per second and p95 latency over the run, by strategy", *parts)


def _of(line: Line, name: str) -> list[Any]:
    return list((line.cell.get("timeline") or {}).get(name) or ())


def _fitted(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[:_NAME - 1]}…"


def buckets(counts: Sequence[float], duration: float) -> list[float]:
    """Counts of equal parts of the run, put together to at most ``_MOST`` groups, as rates per second."""
    parts, groups = len(counts), min(len(counts), _MOST)
    # Groups may differ by one part: each has the rate of the parts it holds.
    bounds = [n * parts // groups for n in range(groups + 1)] if groups else []
    return [
        sum(counts[begin:end]) * parts / ((end - begin) * duration) for begin, end in pairwise(bounds)
    ]


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


def _parts(
    lines: Sequence[Line], answered: Mapping[int, Sequence[float]], slow: Mapping[int, Sequence[float | None]],
    duration: float,
) -> Iterator[str]:
    """What every strategy did in each part of the run; the pointer finds it there."""
    number = len(answered[lines[0].number]) if lines else 0
    width = duration / (number or 1)
    for part in range(number):
        said = [f"{short(part * width)}–{short((part + 1) * width)} s"]
        for line in lines:
            rates, p95 = answered[line.number], slow[line.number]
            if part < len(rates):
                seconds = p95[part * len(p95) // number] if p95 else None
                also = "" if seconds is None else f", p95 {short(seconds)} s"
                said.append(f"{line.name}: {short(rates[part])}/s{also}")
        yield "\n".join(said)


def _episodes(x: Linear, top: float, name: str, spans: Sequence[tuple[float, float, str]]) -> Iterator[str]:
    """A row of bars, each with its kind where there is room, and the provider's name before them."""
    yield element("text", _fitted(name), x=_LEFT - 8, y=top + 12, text_anchor="end")
    for begin, end, word in spans:
        left, right = x(min(begin, x.high)), x(min(end, x.high))
        told = tooltip(f"{name}: {word}, {begin:g}–{end:g} s")
        yield rectangle(left, top + 1, right, top + _ROW - 2, told, class_="span episode")
        if right - left > 7 * len(word) + 6:
            yield element("text", word, class_="inside", x=(left + right) / 2, y=top + 12, text_anchor="middle")


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
    for row, provider in enumerate(sorted(spans, key=scenario["providers"].index)):
        top = row * _ROW
        parts.append(rectangle(x.start, top + 1, x.end, top + _ROW - 2, class_="span closed"))
        parts.append(element("text", _fitted(provider), x=_LEFT - 8, y=top + 12, text_anchor="end"))
        parts.append(join(_states(x, top, provider, spans[provider])))
    return drawing(_WIDTH, len(spans) * _ROW + 2, f"Breaker states under {line.name}", *parts)


def _states(x: Linear, top: float, provider: str, spans: Sequence[tuple[float, float, str]]) -> Iterator[str]:
    for begin, end, state in spans:
        told = tooltip(f"{provider}: breaker {state}, {begin:.1f}–{end:.1f} s")
        # What lasts a moment is drawn a pixel wide: that it happened matters more than how long.
        yield rectangle(x(begin), top + 1, max(x(end), x(begin) + 1), top + _ROW - 2, told, class_=f"span {state}")
