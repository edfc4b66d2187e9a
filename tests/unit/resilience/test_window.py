"""How the calls of the last seconds ended."""

from __future__ import annotations

from orchestrator.resilience.window import Window


def counts(window):
    return window.calls, window.failures, window.slow, window.late


def test_a_call_is_forgotten_when_its_tenth_of_the_window_comes_round():
    window = Window(10)
    window.add(0.5)
    assert window.turn == 1
    window.add(1.0)
    assert window.turn == 2
    window.roll(9.9)
    assert window.calls == 2
    window.roll(10.0)
    assert window.calls == 1
    window.add(11.0)
    assert window.calls == 1
    window.clear()
    window.add_late(0.5)
    window.add_late(1.0)
    window.roll(10.0)
    assert window.late == 1


def test_it_turns_every_tenth_of_its_length():
    window = Window(20)
    window.add(3.0)
    assert window.turn == 4


def test_everything_counted_is_forgotten():
    window = Window(10)
    window.add(5.0, failed=True)
    window.add(5.0, slow=True)
    window.add_late(5.0)
    assert counts(window) == (2, 1, 1, 1)
    window.add_late(15.0)
    assert counts(window) == (0, 0, 0, 1)
    window.roll(25.0)
    assert counts(window) == (0, 0, 0, 0)


def test_after_a_long_silence_nothing_is_left():
    window = Window(10)
    for at in range(10):
        window.add(at, failed=True)
    window.roll(1e9)
    assert counts(window) == (0, 0, 0, 0)


def test_a_clock_that_steps_back_counts_as_one_that_stands_still():
    window = Window(10)
    window.add(50.0)
    window.roll(20.0)
    window.add(20.0)
    assert window.calls == 2
    window.roll(60.0)
    assert window.calls == 0
