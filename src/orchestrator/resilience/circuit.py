"""The states of a breaker and how it passes from one to the next: synchronous, without a timer, a task or an await.

::

    closed ──trip──► open ──break over──► half-open ──probes succeed──► ramp ──ramp over──► closed
                      ▲                       │                          │
                      └──── a probe fails ────┴───────────trip───────────┘

A trip is: failures in a row, the failure or slow ratio of the window, or refused credentials. By hand: ``isolate()``
from any state, ``reset()`` back to closed. What time alone brings about is made up for at the next look.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import NamedTuple, ParamSpec, TypeVar

from orchestrator.core.clock import Random, new_random
from orchestrator.core.config import BreakerPolicy
from orchestrator.core.errors import CircuitOpenError, Verdict
from orchestrator.core.events import BreakerChanged, BreakerState
from orchestrator.resilience.deadline import EPSILON
from orchestrator.resilience.window import Window

__all__ = ["MAX_RETRY_AFTER", "Circuit", "Counts", "Permit", "quietly"]

MAX_RETRY_AFTER = 300.0  # seconds a Retry-After may lengthen a break to
LEAST_SHARE = 0.1  # of its traffic a provider gets as soon as it is back (Envoy's slow start)

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger("orchestrator")


def quietly(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Call what others wrote (a listener, a storage); its failure is logged and changes nothing."""
    try:
        return function(*args, **kwargs)
    except Exception:  # noqa: BLE001  # the boundary to foreign code
        _log.exception("%r failed; the breaker goes on", function)
        return None


class Permit:
    """The right to make one call, begun at ``started`` (clock seconds); goes back to the breaker exactly once.

    The ``generation`` changes with every transition: the end of a call with an old one is counted, never judged.
    """

    __slots__ = ("generation", "probe", "released", "started")

    def __init__(self, generation: int, started: float) -> None:
        self.generation = generation
        self.started = started
        self.probe = False
        self.released = False


class Counts(NamedTuple):
    """Calls that ended within the window and in the present state; ``late`` ones began before it."""

    calls: int
    failures: int
    slow: int
    late: int


class Circuit(ABC):
    """The state machine. ``acquire()`` before a call, ``release()`` after it, on one thread."""

    name: str

    def __init__(
        self, policy: BreakerPolicy, random: Random | None, clock: Callable[[], float],
        on_change: Callable[[BreakerChanged], None] | None,
    ) -> None:
        self.policy = policy
        self._random = new_random() if random is None else random
        self._clock = clock
        self._on_change = on_change
        self._window = Window(policy.window)
        self._generation = 0
        self._failures_in_row = 0
        self._breaks = 0  # the exponent of the next break
        self._closed_at = 0.0
        self._until = inf  # clock time at which the break, or the ramp, is over
        self._probes: dict[Permit, None] = {}  # under way, the oldest first
        self._passed = 0  # probes that succeeded
        self._news: deque[Callable[[], object]] = deque()
        self._publishing = False
        self._set_phase("closed" if policy.enabled else "disabled")

    # ------------------------------------------------------------------ one call

    def acquire(self, at: float | None = None) -> Permit:
        """A permit for one call now; :class:`CircuitOpenError` when none is given.

        ``at``: the clock's time, where the caller has just read it.
        """
        if self._admits:
            return Permit(self._generation, self._clock() if at is None else at)
        return self._acquire_slowly()

    def release(
        self, permit: Permit, verdict: Verdict, *, retry_after: float | None = None, duration: float | None = None,
        at: float | None = None,
    ) -> None:
        """Give a permit back with what became of its call; a second time does nothing. Never raises.

        ``retry_after``: seconds the provider asked for; lengthens the break that this call brings about.
        ``duration``: seconds to judge its speed by, where that is not the time since ``acquire``. ``at``: as above.
        """
        if permit.released:
            return
        permit.released = True
        if at is None:
            at = self._clock()
        if self._steady and verdict is Verdict.SUCCESS and permit.generation == self._generation:
            self._window.add(at)
            if self._failures_in_row:
                self._count_in_row(0)
        else:
            self._judge(permit, verdict, at, retry_after, at - permit.started if duration is None else duration)

    def opened(self, permit: Permit) -> None:
        """The first piece of a streamed answer is there: a probe has succeeded, however long the rest may take.

        What follows is judged by ``release`` as that of any other call. Nothing to do for a permit that is no probe.
        """
        if not permit.probe or permit.released:
            return
        at = self._clock()
        self._settle(at)
        if permit.generation == self._generation:
            slow = self._is_slow(at - permit.started)
            self._judge_probe(permit, Verdict.SUCCESS, at, slow=slow)
            permit.probe = False
            if not slow:
                permit.generation = self._generation
        self._publish()

    # ------------------------------------------------------------------ the state

    @property
    def phase(self) -> BreakerState:
        """The state now. An open one stays so until a call asks after the break."""
        if not self._admits:
            self._settle(self._clock())
            self._publish()
        return self._phase

    @property
    def generation(self) -> int:
        """Grows by one with every change of state, but not at the end of the ramp."""
        return self._generation

    @property
    def share(self) -> float:
        """Share of its traffic the provider should get: 1, but while ramping ``max(0.1, elapsed / ramp)``."""
        if self.phase != "ramp":
            return 1.0
        left = self._until - self._clock()
        return max(LEAST_SHARE, 1.0 - left / self.policy.ramp)

    @property
    def counts(self) -> Counts:
        """What ended lately, and how."""
        window = self._window
        window.roll(self._clock())
        return Counts(window.calls, window.failures, window.slow, window.late)

    def wait_time(self) -> float:
        """Seconds until a call may be admitted; 0: it would be now; ``inf``: not before ``reset()``.

        While all probes are under way: until the oldest has taken too long.
        """
        if self._admits:
            return 0.0
        at = self._clock()
        self._settle(at)
        self._publish()
        return self._wait(at)

    def isolate(self) -> None:
        """Admit nothing until ``reset()``, whatever happens."""
        at = self._clock()
        self._settle(at)
        if self._phase != "isolated":
            self._enter("isolated", "isolated", at)
        self._publish()

    def reset(self) -> None:
        """Close, and forget everything: the window, the breaks, the calls under way."""
        at = self._clock()
        self._settle(at)
        self._breaks = 0
        self._enter("closed" if self.policy.enabled else "disabled", "reset", at)
        self._publish()

    # ------------------------------------------------------------------ admission

    def _acquire_slowly(self) -> Permit:
        at = self._clock()
        self._settle(at)
        wait = self._wait(at)
        if wait:
            self._publish()
            raise self._refusal(self._phase, wait)
        if self._phase == "open":
            self._enter("half-open", "break over", at)
        permit = Permit(self._generation, at)
        if self._phase == "half-open":
            permit.probe = True
            self._probes[permit] = None
        self._publish()
        return permit

    @abstractmethod
    def _refusal(self, phase: BreakerState, wait: float) -> CircuitOpenError:
        """The error for a call that is not admitted."""

    def _wait(self, at: float) -> float:
        if self._phase == "isolated":
            return inf
        if self._phase == "open":
            return _left(self._until, at)
        if self._phase == "half-open" and len(self._probes) + self._passed >= self.policy.probes:
            return _left(self._probe_deadline(), at)
        return 0.0

    def _probe_deadline(self) -> float:
        return next(iter(self._probes)).started + self.policy.probe_timeout

    def _settle(self, at: float) -> None:
        """Make up for what time alone has brought about."""
        if self._phase == "ramp":
            if not _left(self._until, at):
                self._enter("closed", "ramp over", at, anew=False)
        elif self._probes and not _left(self._probe_deadline(), at):
            self._trip("probe timed out", at, since=self._probe_deadline())

    # ------------------------------------------------------------------ judgement

    def _judge(
        self, permit: Permit, verdict: Verdict, at: float, retry_after: float | None, duration: float
    ) -> None:
        self._settle(at)
        if permit.generation != self._generation:
            # Of an earlier state: it must not open, lengthen or close what has been decided since.
            self._window.add_late(at)
        elif verdict is Verdict.NEUTRAL:
            self._probes.pop(permit, None)
        elif permit.probe or verdict is not Verdict.LIMITED:
            slow = self._is_slow(duration)
            self._window.add(at, failed=verdict is not Verdict.SUCCESS, slow=slow)
            if permit.probe:
                self._judge_probe(permit, verdict, at, retry_after, slow=slow)
            else:
                self._judge_call(verdict, at, retry_after, slow=slow)
        self._publish()

    def _judge_probe(
        self, permit: Permit, verdict: Verdict, at: float, retry_after: float | None = None, *, slow: bool
    ) -> None:
        del self._probes[permit]
        if verdict is not Verdict.SUCCESS:
            self._trip(_PROBE_REASONS.get(verdict, "probe failed"), at, retry_after)
        elif slow:
            self._trip("probe was slow", at)
        else:
            self._passed += 1
            if self._passed >= self.policy.probes:
                self._close("probe succeeded", at)

    def _judge_call(self, verdict: Verdict, at: float, retry_after: float | None, *, slow: bool) -> None:
        failed = verdict is not Verdict.SUCCESS
        self._count_in_row(self._failures_in_row + 1 if failed else 0)
        if self._phase == "disabled":
            return
        if verdict is Verdict.CREDENTIALS:
            reason: str | None = "credentials refused"
        elif failed and self._phase == "half-open":
            reason = "probe failed"  # a stream that had opened well
        else:
            reason = self._pattern(failed=failed, slow=slow)
        if reason is not None:
            self._trip(reason, at, retry_after)

    def _pattern(self, *, failed: bool, slow: bool) -> str | None:
        """What the call just counted completes; a ratio is looked at only when it has got worse."""
        policy, window = self.policy, self._window
        if failed and self._failures_in_row >= policy.consecutive_failures:
            return f"{self._failures_in_row} failures in a row"
        if window.calls < policy.min_calls:
            return None
        if failed and window.failures / window.calls >= policy.failure_ratio:
            return f"failure ratio {window.failures / window.calls:.2f} of {window.calls} calls"
        if slow and window.slow / window.calls >= policy.slow_ratio:
            return f"slow calls, {window.slow} of {window.calls}"
        return None

    def _is_slow(self, duration: float) -> bool:
        limit = self.policy.slow_call
        return limit is not None and duration > limit

    def _count_in_row(self, failures: int) -> None:
        self._failures_in_row = failures

    # ------------------------------------------------------------------ transitions

    def _trip(self, reason: str, at: float, retry_after: float | None = None, *, since: float | None = None) -> None:
        """Open for a break that is twice as long as the last one, unless there were healthy windows in between."""
        policy = self.policy
        if self._phase in ("closed", "ramp"):
            self._breaks = max(0, self._breaks - int((at - self._closed_at) // policy.window))
        length = min(policy.break_base * 2.0**self._breaks, policy.break_max)
        if length < policy.break_max:
            self._breaks += 1
        length *= 1.0 + self._random.uniform(0.0, policy.break_jitter)
        if retry_after is not None:
            length = max(length, min(retry_after, MAX_RETRY_AFTER))  # in this order NaN changes nothing
        self._enter("open", reason, at, until=(at if since is None else since) + length)

    def _close(self, reason: str, at: float) -> None:
        self._closed_at = at
        if self.policy.ramp > 0:
            self._enter("ramp", reason, at, until=at + self.policy.ramp)
        else:
            self._enter("closed", reason, at)

    def _enter(self, phase: BreakerState, reason: str, at: float, *, until: float = inf, anew: bool = True) -> None:
        old = self._phase
        self._until = until
        if anew:  # what was begun before says nothing about what is now
            self._generation += 1
            self._window.clear()
            self._probes.clear()
            self._passed = 0
            if self._failures_in_row and phase != "open":
                self._count_in_row(0)
        self._set_phase(phase)
        if phase == old:
            return
        self._follow()
        if self._on_change is not None:
            retry_after = _left(until, at) if phase == "open" and until < inf else None
            self._news.append(partial(self._on_change, BreakerChanged(at, self.name, old, phase, reason, retry_after)))

    def _set_phase(self, phase: BreakerState) -> None:
        self._phase: BreakerState = phase
        self._admits = phase in ("closed", "disabled")  # and time cannot change that
        self._steady = self._admits and self.policy.slow_call is None  # a success means nothing but a count

    @abstractmethod
    def _follow(self) -> None:
        """The phase has just changed."""

    def _publish(self) -> None:
        """Tell what has changed, in order, even if a listener brings about the next change."""
        if self._publishing:
            return
        self._publishing = True
        try:
            while self._news:
                quietly(self._news.popleft())
        finally:
            self._publishing = False


_PROBE_REASONS = {Verdict.LIMITED: "probe was rate-limited", Verdict.CREDENTIALS: "credentials refused"}


def _left(until: float, at: float) -> float:
    """Seconds left; what an event loop's timer may be early by counts as nothing."""
    left = until - at
    return left if left > EPSILON else 0.0
