"""``orchestrator demo``: nobody notices the outage, and everything about it is seen."""

from __future__ import annotations

import asyncio
import io
import signal

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator import ConnectionFailedError, ProviderConfig, ServerError
from orchestrator.cli import _demo
from orchestrator.cli._app import app
from orchestrator.cli._board import SLOTS, Board
from orchestrator.cli._demo import Demo, Plan, Stage
from orchestrator.cli._views import LiveView, PlainView
from orchestrator.core.clock import now
from orchestrator.core.events import RequestEnded
from orchestrator.strategies.registry import BUILT_IN
from support import Echo


class Switch(Echo):
    """Answers after a while, unless it is off."""

    def __init__(self, name, latency):
        super().__init__(ProviderConfig(name=name))
        self.latency = latency
        self.off = False
        self.closed = False

    async def generate(self, prompt, params=None):
        if not self.off:
            await asyncio.sleep(self.latency)
        if self.off:
            raise ConnectionFailedError("refused")
        return await super().generate(prompt, params)

    async def aclose(self):
        self.closed = True


class Seen:
    """A view that remembers what it was shown."""

    every = 0.1

    def __init__(self):
        self.frames = []

    def show(self, board, providers, at):
        states = {provider.name: provider.breaker for provider in providers}
        self.frames.append((board.elapsed(at), states, board.shares(at)))


def stage():
    providers = [Switch("alpha", 0.12), Switch("beta", 0.15), Switch("gamma", 0.19)]
    return Stage(
        providers, lambda: setattr(providers[0], "off", True), lambda: setattr(providers[0], "off", False)
    )


async def played(plan, view=None):
    demo = Demo(plan, view or Seen())
    await demo.run(stage())
    return demo.board


@pytest.mark.parametrize("strategy", sorted(BUILT_IN))
async def test_every_request_is_answered_although_a_provider_is_killed(strategy):
    board = await played(Plan(strategy=strategy, seed=1))
    assert (board.requests, board.answered, board.errors) == (600, 600, 0)
    assert board.failovers > 0
    assert board.longest_gap(now()) < 1


async def test_the_breaker_opens_traffic_moves_and_comes_back_within_the_run():
    seen = Seen()
    await played(Plan(seed=1), seen)

    def shares(since, until):
        return [shares["alpha"] for at, _, shares in seen.frames if since <= at < until]

    states = list(dict.fromkeys(states["alpha"] for _, states, _ in seen.frames))
    assert states == ["closed", "open", "ramp"] or states == ["closed", "open", "half-open", "ramp"]
    assert seen.frames[-1][1]["alpha"] == "closed"
    assert min(shares(3, 7)) > 0.3
    assert max(shares(10, 16)) == 0
    assert min(shares(26, 30)) > 0.3


async def test_what_is_worth_telling_is_told_in_order():
    board = await played(Plan(seed=1))
    said = " / ".join(note.text for note in board.notes)
    expected = [
        "alpha is killed", "alpha: ConnectionFailedError", "its breaker opens", "one request probes it",
        "stays open for another", "alpha is up again", "its traffic is ramped up", "its breaker is closed",
    ]
    places = [said.find(text) for text in expected]
    assert -1 not in places
    assert places == sorted(places)
    assert said.count("ConnectionFailedError") == 1
    assert [note.at for note in board.notes] == sorted(note.at for note in board.notes)


@pytest.mark.parametrize("length", [4, 12, 60])
async def test_the_story_fits_into_a_run_of_any_length(length):
    board = await played(Plan(seconds=length, seed=1))
    assert board.notes[-1].text == "alpha: ramp over, its breaker is closed"
    assert board.errors == 0


async def test_the_same_seed_tells_the_same_story():
    first, second = [await played(Plan(seconds=10, strategy="random", seed=7)) for _ in range(2)]
    stories = [[(round(note.at, 6), note.text) for note in board.notes] for board in (first, second)]
    assert stories[0] == stories[1]
    assert first.summary() == second.summary()
    assert first.charts == second.charts


async def test_a_cancelled_run_leaves_nothing_behind_but_its_board():
    cast, demo = stage(), Demo(Plan(), Seen())
    run = asyncio.create_task(demo.run(cast))
    await asyncio.sleep(5.05)
    run.cancel()
    await asyncio.wait({run})
    assert run.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert all(provider.closed for provider in cast.providers)
    assert demo.board.errors == 0
    assert demo.board.summary().startswith("102 requests")


async def test_a_view_that_cannot_write_any_more_ends_the_run():
    class Closed(Seen):
        def show(self, board, providers, at):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await played(Plan(), Closed())
    assert asyncio.all_tasks() == {asyncio.current_task()}


# ------------------------------------------------------------------ the board


async def test_the_longest_gap_grows_until_an_answer_comes():
    board = Board(["a"], started=now(), length=10)
    await asyncio.sleep(2)
    assert board.longest_gap(now()) == 2
    board(RequestEnded(now(), 1, "answer", 1.0, ()))
    await asyncio.sleep(1)
    assert board.longest_gap(now()) == 2
    await asyncio.sleep(2)
    assert board.longest_gap(now()) == 3


async def test_a_request_that_failed_is_an_error_and_a_note_and_a_cancelled_one_is_neither():
    board = Board(["a"], started=now(), length=10)
    board(RequestEnded(now(), 1, "error", 1.0, (), error=ServerError("broken", provider="a")))
    board(RequestEnded(now(), 2, "cancelled", 1.0, ()))
    assert (board.errors, [note.text for note in board.notes]) == (1, ["a request failed: a: broken"])


# ------------------------------------------------------------------ the views


async def test_plain_text_has_a_line_per_second_and_one_per_note():
    out = io.StringIO()
    board = await played(Plan(seconds=10, seed=1), PlainView(out, Plan(seconds=10)))
    title, *lines = out.getvalue().splitlines()
    notes = [line for line in lines if " * " in line]
    assert "alpha (OpenAI format)" in title
    assert [line.split(" * ")[1] for line in notes] == [note.text for note in board.notes]
    assert [line.split()[0] for line in lines if line not in notes] == [f"{second}.0" for second in range(1, 11)]


async def drawn(width, height):
    plan = Plan(seconds=10, seed=1)
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=width, height=height)
    frames = []

    class Framed(LiveView):
        every = 0.4

        def show(self, board, providers, at):
            with console.capture() as capture:
                console.print(*self._parts(board, providers, at), sep="\n")
            frames.append(capture.get().splitlines())

    await played(plan, Framed(console, plan))
    return frames


async def test_the_table_fits_the_terminal_and_never_changes_its_width():
    frames = await drawn(100, 30)
    rules = {line for frame in frames for line in frame if "───" in line}
    assert len(rules) == 1
    assert max(len(line) for frame in frames for line in frame) <= 100
    assert max(len(frame) for frame in frames) <= 29
    row = next(line for line in frames[-1] if line.startswith(" alpha"))
    assert row.split()[:3] == ["alpha", "up", "closed"]
    assert len(row.split()[-1]) == SLOTS
    assert "·" in row.split()[-1]


async def test_the_chart_grows_with_the_run():
    charts = [line.split()[-1] for frame in await drawn(100, 30) for line in frame if line.startswith(" beta")]
    lengths = [0 if chart == "%" else len(chart) for chart in charts]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (0, SLOTS)
    assert len(set(lengths)) == SLOTS + 1


async def test_an_outage_is_seen_in_the_table():
    rows = [line.split() for frame in await drawn(100, 30) for line in frame if line.startswith(" alpha")]
    assert any(row[1:3] == ["down", "open"] and row[4] == "s" for row in rows)
    assert ["up", "ramp"] in [row[1:3] for row in rows]


async def test_a_small_terminal_gets_no_chart_and_fewer_notes():
    frames = await drawn(80, 20)
    assert max(len(line) for frame in frames for line in frame) <= 80
    assert not any("traffic" in line and "requests" in line for line in frames[-1])
    assert len(frames[-1]) <= 20


def test_the_live_view_leaves_the_last_table_on_the_screen():
    out = io.StringIO()
    plan = Plan(seconds=10)
    with LiveView(Console(file=out, force_terminal=True, width=100, height=30), plan) as view:
        view.show(Board(["alpha"], started=0, length=10), [], 1.0)
    assert "1.0 of 10 s" in out.getvalue()
    assert out.getvalue().endswith("\x1b[?25h\n")  # the cursor is back, and a line is free


# ------------------------------------------------------------------ the command


def test_a_real_run_over_http_ends_with_a_summary_and_no_error():
    result = CliRunner().invoke(app, ["demo", "--plain", "--seconds", "1", "--seed", "1"])
    assert result.exit_code == 0
    assert "alpha is killed" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("20 requests · 20 answered · 0 errors · ")


def test_ctrl_c_ends_with_the_summary_and_130(monkeypatch):
    async def interrupted(demo):
        asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
        await demo.run(stage())

    monkeypatch.setattr(_demo, "run_simulated", interrupted)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 130
    assert " · 0 errors · " in result.stdout.splitlines()[-1]


def test_a_run_with_errors_exits_with_1(monkeypatch):
    async def failed(demo):
        demo.board = Board(["a"], started=now(), length=1)
        demo.board.errors = 1

    monkeypatch.setattr(_demo, "run_simulated", failed)
    assert CliRunner().invoke(app, ["demo"]).exit_code == 1


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--rate", "0"], ["--strategy", "fastest"]])
def test_options_that_make_no_sense_are_refused(arguments):
    assert CliRunner().invoke(app, ["demo", *arguments]).exit_code == 2
