"""The states of a breaker and how it passes from one to the next: synchronous, without a timer, a task or an await.

::

    closed ──trip──► open ──break over──► half-open ──probes succeed──► ramp ──ramp over──► closed
                      ▲                       │                          │
                      └──── a probe fails ────┴───────────trip───────────┘

A trip is: failures in a row, the failure or slow ratio of the window, or refused credentials. By hand: ``isolate()``
from any state, ``reset()`` back to closed. What time alone brings about is made up for at the next look. An open one
may be asked for a probe before its break is over, as the last resort: such a probe ends the break or changes nothing.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import ParamSpec, TypeVar

from orchestrator.core.clock import Random, new_random
from orchestrator.core.config import BreakerPolicy
from orchestrator.core.errors import CircuitOpenError, Verdict
from orchestrator.core.events import BreakerChanged, BreakerState
from orchestrator.resilience.breaks import Breaks, time_left
from orchestrator.resilience.permit import Counts, Permit
from orchestrator.resilience.window import Window

__all__ = ["Circuit", "quietly"]

_SUCCESS = Verdict.SUCCESS  # of the enum it costs as much as a call, each time
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


class Circuit(ABC):
    """The state machine. ``acquire()`` before a call, ``release()`` after it, on one thread."""

    name: str

    def __init__(
        self, policy: BreakerPolicy, random: Random | None, clock: Callable[[], float],
        on_change: Callable[[BreakerChanged], None] | None,
    ) -> None:
        self.policy = policy
        self._clock = clock
        self._on_change = on_change
        self._window = Window(policy.window)
        self._generation = 0
        self._failures_in_row = 0
        self._breaks = Breaks(new_random() if random is None else random)
        self._closed_at = 0.0
        self._reason: str | None = None
        self._refused = False  # the key: why it opened
        self._until: float  # clock time at which the break, or the ramp, is over
        self._probes: dict[Permit, None] = {}  # under way, the oldest first
        self._passed: int  # probes that succeeded
        self._news: deque[Callable[[], object]] = deque()
        self._publishing = False
        self._set_phase("closed" if policy.enabled else "disabled")

    # ------------------------------------------------------------------ one call

    def acquire(self, at: float | None = None, last_resort: bool = False) -> Permit:  # noqa: FBT001, FBT002
        """A permit for one call now; :class:`CircuitOpenError` when none is given.

        ``at``: the clock's time, if just read. ``last_resort``: also while open, where ``last_resort_wait`` is over.
        """
        if self._admits:
            return Permit(self._generation, self._clock() if at is None else at)
        return self._acquire_slowly(last_resort=last_resort)

    def release(  # by name its arguments would cost as much as all that is done with them
        self, permit: Permit, verdict: Verdict, at: float | None = None, duration: float | None = None,
        retry_after: float | None = None,
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
        if self._steady and verdict is _SUCCESS and permit.generation == self._generation:
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
    def reason(self) -> str | None:
        """Why it is in this state, in the words of the last :class:`BreakerChanged`; None when it never changed."""
        self.phase  # noqa: B018  # makes up for the time that has passed
        return self._reason

    @property
    def credentials_refused(self) -> bool:
        """Whether it is open, or half-open, because the key was refused: a new one is worth a ``reset()``."""
        return self._refused

    @property
    def probes(self) -> int:
        """How many probes are under way."""
        return len(self._probes)

    @property
    def generation(self) -> int:
        """Grows by one with every change of state, but not at the end of the ramp."""
        return self._generation

    @property
    def share(self) -> float:
        """Share of its traffic the provider should get: 1, but while ramping ``max(0.1, elapsed / ramp)``."""
        if self.phase != "ramp":
            return 1.0
        return max(LEAST_SHARE, 1.0 - (self._until - self._clock()) / self.policy.ramp)

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
        return self._look(self._wait)

    def last_resort_wait(self) -> float:
        """The same for ``acquire(last_resort=True)``; never longer.

        An open breaker gives a last-resort probe from ``break_base / 10`` seconds after it opened, or opened again.
        Not while isolated or after refused credentials: such an answer does not change by itself within seconds.
        """
        return self._look(self._last_resort_wait)

    def _look(self, wait: Callable[[float], float]) -> float:
        if self._admits:
            return 0.0
        at = self._clock()
        self._settle(at)
        self._publish()
        return wait(at)

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
        self._breaks.forget()
        self._enter("closed" if self.policy.enabled else "disabled", "reset", at)
        self._publish()

    # ------------------------------------------------------------------ admission

    def _acquire_slowly(self, *, last_resort: bool) -> Permit:
        at = self._clock()
        self._settle(at)
        wait = self._last_resort_wait(at) if last_resort else self._wait(at)
        if wait:
            self._publish()
            raise self._refusal(self._phase, wait)
        if self._phase == "open":
            self._breaks.resumes_until = self._until  # if that is still to come
            self._enter("half-open", "last resort" if self._wait(at) else "break over", at)
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
            return time_left(self._until, at)
        if not self._probes:
            return 0.0
        wait = time_left(self._probe_deadline(), at)
        if len(self._probes) + self._passed < self.policy.probes:
            # Within a break that goes on if they fail, probes are sent one after the other.
            wait = min(wait, time_left(self._breaks.resumes_until, at))
        return wait

    def _last_resort_wait(self, at: float) -> float:
        wait = self._wait(at)
        return min(wait, time_left(self._breaks.last_resort_at, at)) if self._phase == "open" else wait

    def _probe_deadline(self) -> float:
        return next(iter(self._probes)).started + self.policy.probe_timeout

    def _settle(self, at: float) -> None:
        """Make up for what time alone has brought about."""
        if self._phase == "ramp":
            if not time_left(self._until, at):
                self._enter("closed", "ramp over", at, anew=False)
        elif self._probes and not time_left(self._probe_deadline(), at):
            self._trip("probe timed out", at, since=self._probe_deadline())

    # ------------------------------------------------------------------ judgement

    def _judge(self, permit: Permit, verdict: Verdict, at: float, retry_after: float | None, duration: float) -> None:
        self._settle(at)
        if permit.generation != self._generation:
            # Of an earlier state: it must not open, lengthen or close what has been decided since.
            self._window.add_late(at)
        elif verdict is Verdict.NEUTRAL:
            self._undecided(permit, at)
        elif permit.probe or verdict is not Verdict.LIMITED:
            slow = self._is_slow(duration)
            self._window.add(at, failed=verdict is not Verdict.SUCCESS, slow=slow)
            if permit.probe:
                self._judge_probe(permit, verdict, at, retry_after, slow=slow)
            else:
                self._judge_call(verdict, at, retry_after, slow=slow)
        self._publish()

    def _undecided(self, permit: Permit, at: float) -> None:
        self._probes.pop(permit, None)
        # Of a break cut short: it was the only one, and nobody is better informed than before it.
        if self._phase == "half-open" and not self._passed and time_left(self._breaks.resumes_until, at):
            self._trip("probe undecided", at)

    def _judge_probe(
        self, permit: Permit, verdict: Verdict, at: float, retry_after: float | None = None, *, slow: bool
    ) -> None:
        del self._probes[permit]
        if verdict is not Verdict.SUCCESS:
            reason = _PROBE_REASONS.get(verdict, "probe failed")
            self._trip(reason, at, retry_after, refused=verdict is Verdict.CREDENTIALS)
        elif slow:
            self._trip("probe was slow", at)
        else:
            self._passed += 1
            if self._passed >= self.policy.probes:
                self._close("probe succeeded", at)

    def _judge_call(self, verdict: Verdict, at: float, retry_after: float | None, *, slow: bool) -> None:
        failed = verdict is not Verdict.SUCCESS
        # Who turns this one away, but has just answered others, is full: a break would take its places from who waits.
        if verdict is not Verdict.OVERLOADED or not self._window.answers:
            self._count_in_row(self._failures_in_row + 1 if failed else 0)
        if self._phase == "disabled":
            return
        if verdict is Verdict.CREDENTIALS:
            reason: str | None = "credentials refused"
        elif failed and self._phase == "half-open":
            reason = "probe failed"  # a stream that had opened well
        else:
            reason = self._pattern(failed=failed, slow=slow) if failed or slow else None
        if reason is not None:
            self._trip(reason, at, retry_after, refused=verdict is Verdict.CREDENTIALS)

    def _pattern(self, *, failed: bool, slow: bool) -> str | None:
        """What the call just counted completes; a ratio is looked at only when it has got worse."""
        policy, window, calls = self.policy, self._window, self._window.calls
        if failed and self._failures_in_row >= policy.consecutive_failures:
            return f"{self._failures_in_row} failures in a row"
        if calls < policy.min_calls:
            return None
        if failed and (ratio := window.failures / calls) >= policy.failure_ratio:
            return f"failure ratio {ratio:.2f} of {calls} calls"
        if slow and window.slow / calls >= policy.slow_ratio:
            return f"slow calls, {window.slow} of {calls}"
        return None

    def _is_slow(self, duration: float) -> bool:
        limit = self.policy.slow_call
        return limit is not None and duration > limit

    @abstractmethod
    def _count_in_row(self, failures: int) -> None:
        """So many failures in a row now."""

    # ------------------------------------------------------------------ transitions

    def _trip(
        self, reason: str, at: float, retry_after: float | None = None, *, since: float | None = None,
        refused: bool = False,
    ) -> None:
        """Open for a break that is twice as long as the last one, unless there were healthy windows in between."""
        if self._phase in ("closed", "ramp"):
            self._breaks.decay(int((at - self._closed_at) // self.policy.window))
        until = self._breaks.begin(self.policy, at if since is None else since, retry_after, refused=refused)
        self._enter("open", reason, at, until=until, refused=refused)

    def _close(self, reason: str, at: float) -> None:
        self._closed_at = at
        if self.policy.ramp > 0:
            self._enter("ramp", reason, at, until=at + self.policy.ramp)
        else:
            self._enter("closed", reason, at)

    def _enter(
        self, phase: BreakerState, reason: str, at: float, *, until: float = inf, anew: bool = True,
        refused: bool = False,
    ) -> None:
        old = self._phase
        self._until = until
        if phase != "half-open":  # the probe is still about the same key
            self._refused = refused
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
        self._reason = reason
        self._follow()
        if self._on_change is not None:
            retry_after = time_left(until, at) if phase == "open" and until < inf else None
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
