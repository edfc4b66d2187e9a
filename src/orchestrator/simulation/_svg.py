"""Markup that escapes what it is given, scales, axes and paths: what the charts are drawn with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import ceil, floor, isfinite, log10
from typing import NamedTuple

__all__ = [
    "Linear", "Log", "Markup", "Scale", "element", "join", "number", "path", "rectangle", "short", "spanning",
    "tooltip", "x_axis", "y_axis",
]

_EMPTY = frozenset({"br", "circle", "col", "input", "line", "meta", "path", "rect"})
_SPREAD = 20.0  # from the smallest to the largest value: beyond, a linear axis hides the small ones
_STEPS = (1.0, 2.0, 5.0, 10.0)


class Markup(str):
    """Text that is markup already; every other text is escaped."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """One element. ``class_`` and ``stroke_width`` become ``class`` and ``stroke-width``; None is left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items() if value is not None
    )
    if name in _EMPTY and not children:
        return Markup(f"<{name}{shown}/>")
    return Markup(f"<{name}{shown}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """All of them, in order."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def _attribute(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """A coordinate, to a hundredth; raises ``ValueError`` for what is not finite, which no browser could draw."""
    if not isfinite(value):
        raise ValueError(f"{value} is no coordinate")
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0: no negative zero


def short(value: float) -> str:
    """A figure, to three digits at most, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - floor(log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Linear(NamedTuple):
    """Values from ``low`` to ``high`` on coordinates from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values, at most so many and one more."""
        raw = (self.high - self.low) / most
        power = 10.0 ** floor(log10(raw))
        step = next(power * each for each in _STEPS if power * each >= raw * (1 - 1e-9))
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


class Log(NamedTuple):
    """The same in proportion to the logarithm; ``low`` is above 0."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The coordinate."""
        return self.start + log10(value / self.low) / log10(self.high / self.low) * (self.end - self.start)

    def ticks(self, most: int = 8) -> list[float]:
        """1, 2 and 5 of every power of ten, or fewer of them."""
        powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [float(f"{step}e{power}") for power in powers for step in steps]
            ticks = [tick for tick in ticks if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]
            if len(ticks) <= most:
                break
        return ticks if len(ticks) > 1 else Linear(self.low, self.high, self.start, self.end).ticks(4)


Scale = Linear | Log


def spanning(values: Sequence[float], start: float, end: float, *, log: bool | None = None) -> Scale:
    """A scale that holds all values: from 0, or a logarithmic one where they differ much (or ``log`` says so)."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    wants = high > low * _SPREAD if log is None else log
    if wants and low > 0:
        return Log(low / 1.1, high * 1.1, start, end)
    return Linear(0.0, high * 1.08 or 1.0, start, end)


def path(points: Iterable[tuple[float, float] | None]) -> str:
    """The ``d`` of a line through the points, interrupted at each None; a lone point becomes a short stroke."""
    parts: list[str] = []
    run: list[str] = []
    for point in [*points, None]:
        if point is not None:
            run.append(f"{number(point[0])} {number(point[1])}")
        elif run:
            parts.append(f"M{run[0]}L{'L'.join(run[1:]) or run[0]}")
            run = []
    return "".join(parts)


def rectangle(x: float, y: float, right: float, bottom: float, *children: str, class_: str = "") -> Markup:
    """From the upper left to the lower right corner."""
    return element(
        "rect", *children, class_=class_ or None, x=x, y=y, width=max(0.0, right - x), height=max(0.0, bottom - y)
    )


def tooltip(text: str) -> Markup:
    """What the browser shows when the pointer rests on the element that holds it."""
    return element("title", text)


def x_axis(scale: Scale, y: float, top: float, label: str, shown: Callable[[float], str] = short) -> Markup:
    """A horizontal axis at ``y`` with grid lines up to ``top``."""
    parts: list[str] = []
    for tick in scale.ticks():
        at = scale(tick)
        parts.append(element("line", class_="grid", x1=at, x2=at, y1=top, y2=y))
        parts.append(element("text", shown(tick), x=at, y=y + 16, text_anchor="middle"))
    middle = (scale.start + scale.end) / 2
    parts.append(element("line", class_="axis", x1=scale.start, x2=scale.end, y1=y, y2=y))
    parts.append(element("text", label, class_="label", x=middle, y=y + 33, text_anchor="middle"))
    return element("g", *parts)


def y_axis(scale: Scale, x: float, right: float, label: str, shown: Callable[[float], str] = short) -> Markup:
    """A vertical axis at ``x`` with grid lines to ``right``; ``label`` stands above it."""
    parts: list[str] = []
    for tick in scale.ticks(5):
        at = scale(tick)
        parts.append(element("line", class_="grid", x1=x, x2=right, y1=at, y2=at))
        parts.append(element("text", shown(tick), x=x - 6, y=at + 4, text_anchor="end"))
    parts.append(element("text", label, class_="label", x=x - 46, y=scale.end - 8))
    return element("g", *parts)
