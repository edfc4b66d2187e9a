"""Limits in time without a timer or a task per call: one sweep cancels whatever has passed its limit.

``asyncio.timeout`` makes and cancels a timer for each use, about as much work as the rest of a routed call. Here a
guard is an entry in a table; a single timer per loop stands at the nearest limit and moves on when it fires.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, CancelledError, Task, TimerHandle, current_task
from collections.abc import Callable
from math import inf
from typing import Any

__all__ = ["EPSILON", "Guard", "Watch"]

EPSILON = 1e-6  # seconds: a timer may run this early, as the loop rounds times
CLEAN_UP = 2.0  # seconds a cancelled task gets to clean up before it is cancelled once more


class Guard:
    """A limit on what a task awaits now; without a task, ``lapse`` is called when the limit passes.

    ``limit``, of the loop time, tells when that is, for who would have to ``move`` it all the time: then ``when`` need
    only be when it is asked at the latest.
    """

    __slots__ = ("_before", "expired", "lapse", "limit", "task", "when")

    def __init__(self, when: float, task: Task[Any] | None) -> None:
        self.when = when
        self.lapse: Callable[[], None] | None = None
        self.limit: Callable[[float], float] | None = None
        self.expired = 0  # how often its limit has passed, as it does every two seconds then
        self.task = task
        self._before = 0 if task is None else task.cancelling()

    def take(self, task: Task[Any] | None) -> None:
        """Guard another task from now on (a stream may be read by several, one after the other)."""
        self.task = task
        self._before = 0 if task is None else task.cancelling()

    def expire(self) -> None:
        """The limit has passed."""
        self.expired += 1
        if self.task is not None:
            self.task.cancel()
        elif self.lapse is not None:
            self.lapse()

    def settle(self) -> bool:
        """After the guarded await ended: whether the sweep, and nobody else, cancelled it. It begins anew then."""
        if not self.expired or self.task is None:
            return False
        for _ in range(self.expired):
            self.task.uncancel()
        self.expired = 0
        # The rule of asyncio.timeout: a cancellation from outside that came too must go on.
        return self.task.cancelling() <= self._before

    def cancellation(self, exc: BaseException) -> CancelledError | None:
        """After ``settle``: what must go on because somebody else cancelled the task, whatever ``exc`` made of that.

        None if the guarded code raised ``CancelledError`` of its own accord: it awaited what another one had cancelled.
        """
        cancelling = self.task.cancelling() if self.task is not None else 1
        if isinstance(exc, CancelledError):
            return exc if cancelling else None
        return CancelledError() if self.task is not None and cancelling > self._before else None


class Watch:
    """All guards of one event loop. ``arm`` before an await, ``disarm`` after it, whatever happened."""

    __slots__ = ("_guards", "_loop", "_next", "_timer")

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._guards: dict[Guard, None] = {}  # no set: guards of one instant fire in the order they were armed in
        self._next = inf
        self._timer: TimerHandle | None = None

    def arm(self, when: float) -> Guard:
        """Cancel the current task at loop time ``when`` unless disarmed before."""
        guard = Guard(when, current_task(self._loop))  # without the loop it looks for the one that runs
        self._guards[guard] = None
        if when < self._next:
            self._schedule(when)
        return guard

    def disarm(self, guard: Guard) -> None:
        """Forget the guard; once more does no harm."""
        self._guards.pop(guard, None)

    def move(self, guard: Guard, when: float) -> None:
        """Arm a guard, or set another limit for an armed one."""
        guard.when = when
        self._guards[guard] = None
        if when < self._next:
            self._schedule(when)

    def _schedule(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = when
        self._timer = self._loop.call_at(when, self._sweep)

    def _sweep(self) -> None:
        now = self._loop.time() + EPSILON
        due = [guard for guard in self._guards if guard.when <= now]
        for guard in due:
            if guard.limit is not None:
                guard.when = guard.limit(now)
        late = [guard for guard in due if guard.when <= now]
        for guard in late:
            if guard.task is None:
                del self._guards[guard]
            else:
                guard.when = now + CLEAN_UP
        self._next = inf
        self._timer = None
        nearest = min((guard.when for guard in self._guards), default=inf)
        if nearest < inf:
            self._schedule(nearest)
        for guard in late:
            guard.expire()

    def __len__(self) -> int:
        return len(self._guards)
