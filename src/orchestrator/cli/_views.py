"""The demo as lines of text, and as a live table."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from types import TracebackType
from typing import Self, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli._board import SLOTS, Board, Note
from orchestrator.cli._demo import Plan
from orchestrator.cli._render import harmless, percent, seconds
from orchestrator.core.events import BreakerState
from orchestrator.core.snapshot import ProviderSnapshot

__all__ = ["LiveView", "PlainView"]

_BARS = "·▁▂▃▄▅▆▇█"
_COLOURS: dict[BreakerState, str] = {"open": "red", "isolated": "red", "half-open": "yellow", "ramp": "yellow"}
_KINDS = {"bad": "red", "good": "green", "plain": ""}
_LINES_AROUND_NOTES = 13
# Columns of fixed width: the table must not jump when a number gets one more digit.
_WORDS = {"provider": 8, "server": 6, "breaker": 11}
_NUMBERS = {"in flight": 9, "requests": 8, "failed": 6, "p50": 6, "p95": 6, "share": 5}
_WIDTH_WITH_CHART = 100


class PlainView:
    """One line per second, and one per note."""

    every = 0.1

    def __init__(self, stream: TextIO, plan: Plan) -> None:
        self._stream = stream
        self._next = 1
        self._told = 0
        self._write(_title(plan))

    def show(self, board: Board, providers: Sequence[ProviderSnapshot], at: float) -> None:
        """Write what is new."""
        notes, self._told = board.notes[self._told:], len(board.notes)
        for note in notes:
            self._write(f"{note.at:5.1f} s  * {harmless(note.text)}")
        if board.elapsed(at) >= self._next:
            second = int(board.elapsed(at))
            self._next = second + 1
            shares = board.shares(at)
            each = "   ".join(f"{p.name} {p.breaker:<9} {percent(shares[p.name])}" for p in providers)
            self._write(
                f"{second:5.1f} s    {each}   {board.answered} answered, {board.errors} errors, "
                f"{board.failovers} failovers"
            )

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


class LiveView:
    """A table that changes in place. Colours mean: red is out, yellow is on its way back."""

    every = 0.2

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._plan = plan

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()
        self._console.print()

    def show(self, board: Board, providers: Sequence[ProviderSnapshot], at: float) -> None:
        """Draw it anew."""
        self._live.update(Group(*self._parts(board, providers, at)), refresh=True)

    def _parts(
        self, board: Board, providers: Sequence[ProviderSnapshot], at: float
    ) -> Sequence[RenderableType]:
        elapsed = min(board.elapsed(at), self._plan.seconds)
        progress = Table.grid(padding=(0, 1))
        progress.add_row(
            f" {elapsed:4.1f} of {self._plan.seconds:g} s",
            ProgressBar(
                self._plan.seconds, elapsed, width=40, complete_style="cyan", finished_style="cyan"
            ),
        )
        totals = Text.assemble(
            f" {board.answered} answered · ", (f"{board.errors} errors", "red" if board.errors else ""),
            f" · {board.failovers} failovers · longest time without an answer {seconds(board.longest_gap(at))}",
            f" · {queued} waiting" if (queued := max((p.queued for p in providers), default=0)) else "",
        )
        room = max(3, min(10, self._console.height - _LINES_AROUND_NOTES))
        notes = [_note(note) for note in board.notes[-room:]]
        title = Text(f" {_title(self._plan)}", "bold")
        return title, progress, self._table(board, providers, at), totals, Text(), *notes

    def _table(self, board: Board, providers: Sequence[ProviderSnapshot], at: float) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name, width in _WORDS.items():
            table.add_column(name, width=width, no_wrap=True)
        for name, width in _NUMBERS.items():
            table.add_column(name, width=width, no_wrap=True, justify="right")
        chart = self._console.width >= _WIDTH_WITH_CHART
        if chart:
            table.add_column("traffic", width=SLOTS, no_wrap=True)
        shares = board.shares(at)
        for provider in providers:
            down = provider.name in board.down
            row: list[RenderableType] = [
                Text(provider.name, "bold"), Text("down", "red") if down else Text("up"), _breaker(provider),
                f"{provider.in_flight}", f"{provider.requests}", f"{provider.failures}",
                _latency(provider.latency_p50), _latency(provider.latency_p95), percent(shares[provider.name]),
            ]
            table.add_row(*row, *([_chart(board, provider.name, at)] if chart else []))
        return table


def _title(plan: Plan) -> str:
    return (
        f"{plan.rate:g} requests/s by {plan.strategy} over alpha (OpenAI format), beta (GigaChat), gamma (YandexGPT)"
    )


def _breaker(provider: ProviderSnapshot) -> Text:
    left = f" {provider.retry_after:.1f} s" if provider.breaker == "open" and provider.retry_after else ""
    return Text(provider.breaker + left, _COLOURS.get(provider.breaker, "green"))


def _latency(value: float | None) -> str:
    return "" if value is None else f"{value * 1000:.0f} ms"


def _chart(board: Board, name: str, at: float) -> str:
    """A column per part of the run; the one being filled is left out, or it would always look like a fall."""
    most = max((count for chart in board.charts.values() for count in chart), default=0)
    filled = board.charts[name][: board.slots_done(at)]
    return "".join(_BARS[ceil(count / most * (len(_BARS) - 1))] if most else " " for count in filled)


def _note(note: Note) -> Text:
    return Text(f" {note.at:5.1f} s  {harmless(note.text)}", _KINDS[note.kind], no_wrap=True, overflow="ellipsis")
