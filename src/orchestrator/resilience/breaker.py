"""The circuit breaker of one provider: aiobreaker's vocabulary (states, listeners, storage) over ``Circuit``.

Every defect of aiobreaker 1.2.0 that is known is corrected; ``docs/policies/breaker.md`` lists them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from math import inf
from types import TracebackType
from typing import NoReturn, ParamSpec, Self, TypeVar, cast, overload

from aiobreaker import CircuitBreaker, CircuitBreakerError, CircuitBreakerListener, CircuitBreakerState
from aiobreaker.state import CircuitBreakerBaseState
from aiobreaker.storage.base import CircuitBreakerStorage

from orchestrator.core.clock import Random, now, wall_clock
from orchestrator.core.config import BreakerPolicy
from orchestrator.core.errors import CircuitOpenError, OrchestratorError, Verdict
from orchestrator.core.events import BreakerChanged, BreakerState
from orchestrator.resilience.breaks import MAX_RETRY_AFTER
from orchestrator.resilience.circuit import Circuit, quietly
from orchestrator.resilience.permit import Permit

__all__ = ["BreakerOpenError", "Permit", "ProviderBreaker"]

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])

_CLOSED, _OPEN, _HALF_OPEN = CircuitBreakerState.CLOSED, CircuitBreakerState.OPEN, CircuitBreakerState.HALF_OPEN
_STATES = {
    "closed": _CLOSED, "ramp": _CLOSED, "disabled": _CLOSED, "open": _OPEN, "isolated": _OPEN, "half-open": _HALF_OPEN,
}
_REFUSALS: dict[BreakerState, str] = {
    "open": "the circuit is open",
    "half-open": "the circuit is half-open, its probes are under way",
    "isolated": "isolated by hand",
}
_DECADES = 1e9  # seconds: what no date can be computed for


# In this order of bases: the next __init__ after our errors' must be Exception's, not aiobreaker's.
class BreakerOpenError(CircuitBreakerError, CircuitOpenError):  # type: ignore[misc]  # aiobreaker has no types
    """Not sent: the breaker is open. Also aiobreaker's error, so code that catches that one still does."""

    def __init__(
        self, message: str = "", *, provider: str | None = None, retry_after: float | None = None,
        clock: Callable[[], float] = now,
    ) -> None:
        CircuitOpenError.__init__(self, message, provider=provider, retry_after=retry_after)
        self._clock = clock
        self._until = inf if retry_after is None else clock() + retry_after

    @property
    def time_remaining(self) -> timedelta:
        """Until a call may be admitted; the largest value when no clock can tell."""
        return _span(max(0.0, self._until - self._clock()))

    @property
    def reopen_time(self) -> datetime:
        """The same as a time of day (UTC), to be shown."""
        return _date(self.time_remaining)

    async def sleep_until_open(self) -> None:
        """Sleep for ``time_remaining``."""
        await asyncio.sleep(self._until - self._clock())


class _Call:
    """One guarded call: gives its permit back whichever way it ends.

    ``opened_after``: seconds to the first item of a stream; ``upstream``: whether the provider's code is running.
    """

    __slots__ = ("_end", "opened_after", "permit", "upstream")

    def __init__(self, permit: Permit, end: Callable[[_Call, BaseException | None], None]) -> None:
        self.permit = permit
        self.opened_after: float | None = None
        self.upstream = True
        self._end = end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(self, error)


class ProviderBreaker(Circuit, CircuitBreaker):  # type: ignore[misc]  # aiobreaker has no types
    """A circuit breaker; one per provider, used on the event loop's thread.

    ``acquire``/``release`` is what the router uses; ``call_async``, ``stream`` and the decorator guard a whole call:
    the error of the call always reaches the caller, cancellation says nothing about the provider, and
    :class:`BreakerOpenError` is only for calls that were not made. ``exclude``: exception classes, or predicates, for
    errors that say nothing about the provider. ``on_change`` and aiobreaker ``listeners`` are told of every transition
    after it; one that raises changes nothing. A ``state_storage`` is written on transitions, and the state another
    breaker has written there is followed; aiobreaker's storages block.
    """

    _state: CircuitBreakerBaseState

    def __init__(
        self, policy: BreakerPolicy = BreakerPolicy(), *, name: str = "", random: Random | None = None,  # noqa: B008  # frozen
        clock: Callable[[], float] = now, on_change: Callable[[BreakerChanged], None] | None = None,
        listeners: Iterable[CircuitBreakerListener] = (),
        exclude: Iterable[type[BaseException] | Callable[[BaseException], bool]] = (),
        state_storage: CircuitBreakerStorage | None = None,
    ) -> None:
        Circuit.__init__(self, policy, random, clock, on_change)
        CircuitBreaker.__init__(self, exclude=exclude, listeners=listeners, state_storage=state_storage, name=name)
        self._shared = state_storage is not None
        self._admits = self._admits and not self._shared

    # ------------------------------------------------------------------ whole calls

    async def call_async(self, func: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await ``func(*args, **kwargs)`` if a call is admitted; :class:`BreakerOpenError` if not."""
        if self in getattr(func, "_guarded_by", ()):
            return await func(*args, **kwargs)
        with self._begin(func, *args, **kwargs) as call:
            result: object = func(*args, **kwargs)
            if inspect.isawaitable(result):
                return cast("T", await result)
            call.upstream = False
            raise TypeError(f"{func!r} returned {type(result).__name__}, not an awaitable; {_HINT}")

    async def stream(self, agen: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The items of an async generator, guarded from the first ``anext``.

        The first item means success for a probe, and its time is what speed is judged by. An error is a failure. A
        consumer that stops is neutral before the first item and a success after it.
        """
        async with aclosing(agen):
            with self._begin(agen) as call:
                async for item in agen:
                    if call.opened_after is None:
                        call.opened_after = self._clock() - call.permit.started
                        self.opened(call.permit)
                    call.upstream = False
                    yield item
                    call.upstream = True

    @overload
    def __call__(self, func: F, *, ignore_on_call: bool = True) -> F: ...
    @overload
    def __call__(self, *, ignore_on_call: bool = True) -> Callable[[F], F]: ...
    def __call__(self, func: F | None = None, *, ignore_on_call: bool = True) -> F | Callable[[F], F]:
        """Decorate an async function or async generator function, also a partial, a bound method or an object.

        ``ignore_on_call``: ``call_async`` of this breaker does not guard the decorated function a second time.
        """
        if func is None:
            return cast("Callable[[F], F]", partial(self, ignore_on_call=ignore_on_call))
        if _is(inspect.isasyncgenfunction, func):
            guarded = self._guard_stream(cast("Callable[..., AsyncGenerator[object, None]]", func))
        elif _is(inspect.iscoroutinefunction, func):
            guarded = self._guard_call(cast("Callable[..., Awaitable[object]]", func))
        else:
            raise TypeError(f"{func!r} is neither an async function nor an async generator function; {_HINT}")
        if ignore_on_call:
            guarded._guarded_by = (*getattr(func, "_guarded_by", ()), self)  # type: ignore[attr-defined]  # noqa: SLF001
        return cast("F", guarded)

    def call(self, func: Callable[..., object], *_: object, **__: object) -> NoReturn:
        """Refused: a coroutine function would count as a success before it ran, a blocking one would stop the loop."""
        raise TypeError(f"{func!r} cannot be called in a blocking way; {_HINT}")

    def is_system_error(self, exception: BaseException) -> bool:
        """Whether an error says something about the provider."""
        for exclusion in self._excluded_exceptions:
            if isinstance(exclusion, type):
                if isinstance(exception, exclusion):
                    return False
            elif quietly(exclusion, exception):
                return False
        if isinstance(exception, OrchestratorError):
            return exception.verdict is not Verdict.NEUTRAL
        return isinstance(exception, Exception)

    def _guard_call(self, func: Callable[..., Awaitable[object]]) -> Callable[..., object]:
        @wraps(func)
        async def guarded(*args: object, **kwargs: object) -> object:
            with self._begin(func, *args, **kwargs):
                return await func(*args, **kwargs)

        return guarded

    def _guard_stream(self, func: Callable[..., AsyncGenerator[object, None]]) -> Callable[..., object]:
        @wraps(func)
        async def guarded(*args: object, **kwargs: object) -> AsyncGenerator[object, None]:
            async with aclosing(self.stream(func(*args, **kwargs))) as items:
                async for item in items:
                    yield item

        return guarded

    def _begin(self, func: object, *args: object, **kwargs: object) -> _Call:
        permit = self.acquire()
        for listener in self._listeners:
            quietly(listener.before_call, self, func, *args, **kwargs)
        return _Call(permit, self._end)

    def _end(self, call: _Call, error: BaseException | None) -> None:
        verdict = Verdict.SUCCESS if error is None else self._verdict(call, error)
        retry_after = error.retry_after if isinstance(error, OrchestratorError) else None
        self.release(call.permit, verdict, retry_after=retry_after, duration=call.opened_after)
        for listener in self._listeners:
            if verdict is Verdict.SUCCESS:
                quietly(listener.success, self)
            elif verdict is not Verdict.NEUTRAL:
                quietly(listener.failure, self, error)

    def _verdict(self, call: _Call, error: BaseException) -> Verdict:
        if not call.upstream or not isinstance(error, Exception):  # the consumer has stopped, or was cancelled
            return Verdict.NEUTRAL if call.opened_after is None else Verdict.SUCCESS
        if not self.is_system_error(error):
            return Verdict.NEUTRAL
        return error.verdict if isinstance(error, OrchestratorError) else Verdict.FAILURE

    # ------------------------------------------------------------------ aiobreaker's vocabulary

    @property
    def current_state(self) -> CircuitBreakerState:
        """Closed (also while ramping or disabled), open (also when isolated) or half-open."""
        return _STATES[self.phase]

    @property
    def state(self) -> CircuitBreakerBaseState:
        """The state object of aiobreaker; assigning a state does what the verb of that name does."""
        self.phase  # noqa: B018  # makes up for the time that has passed
        return self._state

    @state.setter
    def state(self, state: CircuitBreakerState) -> None:
        {_OPEN: self.open, _HALF_OPEN: self.half_open, _CLOSED: self.close}[state]()

    def open(self) -> None:
        """Open for one break; to keep it open see ``isolate``. Nothing happens when isolated, disabled or open."""
        if self.phase in ("closed", "ramp", "half-open"):
            self._breaks.resumes_until = -inf
            self._trip("opened by hand", self._clock())
            self._publish()

    def half_open(self) -> None:
        """Let probes through now. Nothing happens when isolated, disabled or half-open."""
        if self.phase in ("closed", "ramp", "open"):
            self._breaks.resumes_until = -inf
            self._enter("half-open", "half-opened by hand", self._clock())
            self._publish()

    def close(self) -> None:
        """The same as ``reset``."""
        self.reset()

    @property
    def fail_counter(self) -> int:
        """Failures in a row; those that opened it are shown until the break is over."""
        return self._failures_in_row

    @property
    def answers(self) -> int:
        """Calls that did not fail within the last tenth of the window, or up to two."""
        self._window.roll(self._clock())
        return self._window.answers

    @property
    def fail_max(self) -> int:
        """``policy.consecutive_failures``."""
        return self.policy.consecutive_failures

    @fail_max.setter
    def fail_max(self, number: int) -> None:
        self.policy = self.policy.model_copy(update={"consecutive_failures": number})

    @property
    def timeout_duration(self) -> timedelta:
        """``policy.break_base``; assigning makes every break that long (and jittered), zero included."""
        return _span(self.policy.break_base)

    @timeout_duration.setter
    def timeout_duration(self, timeout: timedelta) -> None:
        seconds = timeout.total_seconds()
        self.policy = self.policy.model_copy(update={"break_base": seconds, "break_max": seconds})

    @property
    def time_until_open(self) -> timedelta | None:
        """What is left of the break; None when there is none, the largest value when isolated."""
        wait = self.wait_time()
        return _span(wait) if wait and _STATES[self._phase] is _OPEN else None

    @property
    def opens_at(self) -> datetime | None:
        """The same as a time of day (UTC), to be shown."""
        left = self.time_until_open
        return None if left is None else _date(left)

    async def sleep_until_open(self) -> None:
        """Return when a call may be admitted; that may be never when isolated."""
        while wait := self.wait_time():  # noqa: ASYNC110  # what it waits for is time, which may be moved meanwhile
            await asyncio.sleep(min(wait, MAX_RETRY_AFTER))

    # ------------------------------------------------------------------ in step with aiobreaker's state and storage

    def _refusal(self, phase: BreakerState, wait: float) -> BreakerOpenError:
        retry_after = None if wait == inf else wait
        why = f"{_REFUSALS[phase]}: {self._reason}" if phase == "open" else _REFUSALS[phase]
        return BreakerOpenError(why, provider=self.name, retry_after=retry_after, clock=self._clock)

    def _follow(self) -> None:
        self._admits = self._admits and not self._shared
        state = _STATES[self._phase]
        old = self._state
        if state is old.state:
            return
        # Storage and state object first, then the listeners: who is told must see what he is told.
        self._state = self._create_new_state(state)
        quietly(self._store, state)
        for listener in self._listeners:
            self._news.append(partial(listener.state_change, self, old, self._state))

    def _store(self, state: CircuitBreakerState) -> None:
        if state is _OPEN:  # in aiobreaker's form: UTC without saying so
            self._state_storage.opened_at = datetime.fromtimestamp(wall_clock(), UTC).replace(tzinfo=None)
        self._state_storage.state = state

    def _count_in_row(self, failures: int) -> None:
        self._failures_in_row = failures
        storage = self._state_storage
        quietly(storage.increment_counter if failures else storage.reset_counter)

    def _settle(self, at: float) -> None:
        if self._shared and self._phase not in ("isolated", "disabled"):
            self._follow_storage(at)
        super()._settle(at)

    def _follow_storage(self, at: float) -> None:
        """Take over what another breaker found out; its break counts from now on, as clocks are not shared."""
        theirs = quietly(getattr, self._state_storage, "state")
        ours = self._phase
        if theirs is _CLOSED and ours in ("open", "half-open"):
            self._close("closed by another breaker", at)
        elif (theirs is _OPEN and ours != "open") or (theirs is _HALF_OPEN and ours in ("closed", "ramp")):
            self._trip("opened by another breaker", at)


_HINT = "call_async takes an async function, stream an async generator, the decorator both"


def _is(kind: Callable[[object], bool], func: object) -> bool:
    """Whether a callable is of a kind that ``inspect`` tells of functions; partials and objects included."""
    while isinstance(func, partial):
        func = func.func
    return kind(func) or kind(getattr(type(func), "__call__", None))  # noqa: B004  # its code is wanted


def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds) if seconds < _DECADES else timedelta.max


def _date(left: timedelta) -> datetime:
    if left is timedelta.max:
        return datetime.max.replace(tzinfo=UTC)
    return datetime.fromtimestamp(wall_clock(), UTC) + left
