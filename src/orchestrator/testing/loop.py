"""An event loop whose clock jumps: an hour of waiting takes milliseconds, and always the same."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context, copy_context
from heapq import heapify, heappop, heappush
from typing import Any, Protocol, TypeVarTuple

__all__ = ["DeadlockError", "Sleeper", "VirtualTimeLoop"]

Arguments = TypeVarTuple("Arguments")

_REAL_WAIT = 5.0  # seconds given to real sockets and threads, which no clock can hurry
_RESOLUTION = 1e-9  # seconds: a timer due within this is due now, as in asyncio's other loops
_POLL_EVERY = 256  # turns: while nothing but the loop's own wake-up pipe is registered, most need not ask the system
_FEW = 100  # cancelled timers: as many are let lie
_DEADLOCK = "nothing is ready, no timer is set: every task waits for another"


class Sleeper(Protocol):
    """Whom ``wake_at`` wakes: a future, or whatever else has these three."""

    def done(self) -> bool:
        """Whether it need not be woken any more."""

    def cancelled(self) -> bool:
        """The same, and the clock need not stop for it."""

    def set_result(self, result: None, /) -> None:
        """Its time has come. What this raises ends the loop."""


_Entry = tuple[float, int, asyncio.TimerHandle | Sleeper]  # loop time, order, what is due then


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
        # asyncio's own list compares its timers in Python; tuples are compared in C, and equal times keep their order.
        self._timers: list[_Entry] = []
        self._count = 0
        self._cancelled = 0
        self._polled = _JumpingSelector(self)
        super().__init__(self._polled)
        self.set_debug(self.get_debug())

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock by hand; timers that came due run in the next turn."""
        self._now += seconds

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001  # asyncio's
        """As in asyncio."""
        super().set_debug(enabled)
        # Every future, task and handle asks; asked like this, no frame is made for the answer.
        self.get_debug = bool(enabled).__bool__  # type: ignore[method-assign]

    def call_soon(
        self, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.Handle:
        """As in asyncio."""
        if self.get_debug() or self._closed:  # type: ignore[attr-defined]  # of asyncio.BaseEventLoop
            return super().call_soon(callback, *args, context=context)
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]  # the same
        return handle

    def call_at(
        self, when: float, callback: Callable[[*Arguments], object], *args: *Arguments, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As in asyncio."""
        if when is None:
            raise TypeError("when cannot be None")
        if self._closed:  # type: ignore[attr-defined]  # of asyncio.BaseEventLoop
            self._check_closed()  # type: ignore[attr-defined]  # the same
        kind = asyncio.TimerHandle if self.get_debug() else _Timer
        timer = kind(when, callback, args, self, context)
        self._count += 1
        heappush(self._timers, (when, self._count, timer))
        return timer

    def wake_at(self, when: float, sleeper: Sleeper) -> None:
        """Give the future its result, None, at that time, unless it has one: the cheapest sleep there is."""
        self._count += 1
        heappush(self._timers, (when, self._count, sleeper))

    def sleep_until(self, when: float) -> asyncio.Future[None]:
        """A future that ``wake_at`` will wake."""
        future: asyncio.Future[None] = asyncio.Future(loop=self)
        self._count += 1
        heappush(self._timers, (when, self._count, future))
        return future

    def _timer_handle_cancelled(self, _: asyncio.TimerHandle) -> None:
        # Called by the handle. One that has run is counted too: then there is less to throw away, no harm done.
        self._cancelled += 1
        if self._cancelled > _FEW and self._cancelled * 2 > len(self._timers):
            self._timers[:] = [entry for entry in self._timers if not entry[2].cancelled()]
            heapify(self._timers)
            self._cancelled = 0

    def take_due(self) -> bool:
        """Make ready what is due; whether there was anything."""
        timers, now = self._timers, self._now + _RESOLUTION
        found = False
        while timers and timers[0][0] <= now:
            due = heappop(timers)[2]
            if isinstance(due, asyncio.TimerHandle):
                self._ready.append(due)  # type: ignore[attr-defined]  # of asyncio.BaseEventLoop
            elif not due.done():
                due.set_result(None)
            found = True
        return found

    def jump(self) -> bool:
        """Move the clock to the next timer that is not cancelled, and make it ready; False when there is none."""
        timers = self._timers
        while timers:
            when, _, due = heappop(timers)
            if due.cancelled():
                continue
            if when > self._now:  # noqa: PLR1730  # max() would be a call per timer
                self._now = when
            if isinstance(due, asyncio.TimerHandle):
                self._ready.append(due)  # type: ignore[attr-defined]  # of asyncio.BaseEventLoop
            elif not due.done():
                due.set_result(None)
            if timers and timers[0][0] <= self._now + _RESOLUTION:
                self.take_due()
            return True
        return False

    def _run_once(self) -> None:
        """Turns as asyncio's, without what a loop that has only timers has no use for.

        The first is asyncio's own, which also looks at the wake-up pipe, where threads and signals write.
        """
        super()._run_once()  # type: ignore[misc]  # of asyncio.BaseEventLoop
        if not self.get_debug():
            self._turn_while_alone(self._ready, self._timers, self._polled)  # type: ignore[attr-defined]  # the same

    def _turn_while_alone(self, ready: deque[asyncio.Handle], timers: list[_Entry], polled: _JumpingSelector) -> None:
        for _ in range(_POLL_EVERY):
            if self._stopping or self._threads or not polled.alone:  # type: ignore[attr-defined]  # the same
                return
            if not ready:
                if not self.jump():
                    raise DeadlockError(_DEADLOCK)
            elif timers and timers[0][0] <= self._now + _RESOLUTION:
                self.take_due()
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle._cancelled:  # noqa: SLF001  # as asyncio's own turn does
                    handle._run()  # noqa: SLF001

    def close(self) -> None:
        """As in asyncio; timers that never came due are dropped."""
        super().close()
        self._timers.clear()

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


class _Handle(asyncio.Handle):
    """What asyncio makes of every callback, without a look for debugging's sake at where it was made."""

    __slots__ = ()

    def __init__(
        self, callback: Callable[..., object], args: tuple[object, ...], loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    """The same of a timer."""

    __slots__ = ()

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[object, ...], loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        self._when = when
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = self._scheduled = False
        self._repr = self._source_traceback = None


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop
        self.alone = True  # only the loop's own wake-up pipe is registered

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:  # noqa: ANN401  # as there
        """As in selectors."""
        key = super().register(fileobj, events, data)
        self.alone = len(self.get_map()) <= 1
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:  # noqa: ANN401  # as there
        """As in selectors."""
        key = super().unregister(fileobj)
        self.alone = len(self.get_map()) <= 1
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """``timeout`` is 0 or None: timers are the loop's own business, asyncio knows of none."""
        loop = self._loop
        events = super().select(0)
        if loop.take_due() or events or timeout is not None:
            return events
        if loop.waits_for_thread:
            return super().select(_REAL_WAIT)
        if loop.jump():
            return []
        # Alone, nobody is left who could wake it.
        events = [] if self.alone else super().select(_REAL_WAIT)
        if not events:
            raise DeadlockError(_DEADLOCK)
        return events
