"""An event loop whose clock jumps: an hour of waiting takes milliseconds, and always the same."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from math import ulp
from typing import Any

__all__ = ["DeadlockError", "VirtualTimeLoop"]

_REAL_WAIT = 5.0  # seconds given to real sockets and threads, which no clock can hurry
_RESOLUTION = 1e-9  # seconds: a timer due within this is due now


class DeadlockError(RuntimeError):
    """Nothing is ready, no timer is set and no socket or thread is at work: the program would wait for ever."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """``asyncio.Runner(loop_factory=VirtualTimeLoop)``: ``loop.time()`` starts at 0 and jumps to the next timer.

    Calls in the loop's executor work too: the clock stands still until they are done. So do sockets with both ends in
    this loop. The clock does not wait for a peer in another thread or process while a timer is set.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._threads = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock by hand; timers that came due run in the next turn."""
        self._now += seconds
        # asyncio runs what is due before time() + resolution. In half a year's seconds 1e-9 is lost by rounding, and
        # a timer due exactly now would never run.
        self._clock_resolution = max(_RESOLUTION, ulp(self._now))

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., Any], *args: object
    ) -> asyncio.Future[Any]:
        """As in asyncio; the clock stands still until the thread is done."""
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002  # no clock to obey
        """As in asyncio; the threads are at work until they are joined."""
        self._threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._threads -= 1

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1

    @property
    def waits_for_thread(self) -> bool:
        """Whether a call in an executor is under way."""
        return self._threads > 0


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._loop.waits_for_thread:
            return super().select(_REAL_WAIT)
        if timeout is not None:
            self._loop.advance(timeout)
            return []
        # Only the loop's own wake-up pipe is registered: nobody is left who could wake it.
        events = super().select(_REAL_WAIT) if len(self.get_map()) > 1 else []
        if not events:
            raise DeadlockError("nothing is ready, no timer is set: every task waits for another")
        return events
