"""A bearer token shared by all calls of one provider: fetched once for all, renewed early, dropped when refused."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from orchestrator.core.clock import now, wall_clock
from orchestrator.core.errors import ConnectionFailedError, TimeoutError
from orchestrator.providers._errors import wrap_foreign
from orchestrator.providers._secret import Secret

__all__ = ["Token", "TokenHolder", "lifetime_until"]

EARLY = 60.0  # seconds before the expiry at which a token is renewed
PAUSE = 5.0  # seconds from one attempt to renew a token that is still good to the next
LIMIT = 30.0  # seconds for one fetch: it serves all callers, so none of their deadlines ends it


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it was received; ``lifetime`` in seconds from then."""

    value: str = field(repr=False)
    lifetime: float


class TokenHolder:
    """Holds the current token; ``fetch`` gets a new one, at most one at a time, however many callers wait for it.

    A token is renewed in the background during its last minute (of a short one: the last half), so that no caller waits
    and a failure to renew it harms nobody while it is still good. The fetch belongs to no caller: a cancelled one
    leaves it running for the others. A failed fetch fails all who wait for it, and the next call tries afresh.
    """

    __slots__ = ("_expires_at", "_fetch", "_provider", "_renew_at", "_task", "_value")

    def __init__(self, fetch: Callable[[], Awaitable[Token]], *, provider: str) -> None:
        self._fetch = fetch
        self._provider = provider
        self._value: Secret | None = None
        self._renew_at = 0.0
        self._expires_at = 0.0
        self._task: asyncio.Task[Secret] | None = None

    async def get(self) -> Secret:
        """The current token, or a new one."""
        if self._value is not None:
            at = now()
            if at < self._renew_at:
                return self._value
            if at < self._expires_at:
                self._renewal()
                return self._value
        return await self._outcome(self._renewal())

    def drop(self, value: str) -> None:
        """Forget the token ``value``, which was refused; a newer one stays."""
        if self._value == value:
            self._value = None

    async def aclose(self) -> None:
        """End a fetch under way; who waits for it gets :class:`ConnectionFailedError`."""
        task = self._task
        if task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait((task,))

    def _renewal(self) -> asyncio.Task[Secret]:
        loop = asyncio.get_running_loop()
        task = self._task
        # A provider may be used from several event loops, and a task of another one cannot be waited for here.
        if task is None or task.done() or task.get_loop() is not loop:
            self._renew_at = min(loop.time() + PAUSE, self._expires_at)
            task = self._task = loop.create_task(self._renew())
            task.add_done_callback(_seen)
        return task

    async def _renew(self) -> Secret:
        try:
            async with asyncio.timeout(LIMIT) as limit:
                token = await self._fetch()
        except builtins.TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"no token within {LIMIT:g} s", provider=self._provider) from None
        received = now()
        self._value = value = Secret(token.value)
        self._expires_at = received + token.lifetime
        self._renew_at = self._expires_at - min(EARLY, token.lifetime / 2)
        return value

    async def _outcome(self, task: asyncio.Task[Secret]) -> Secret:
        await asyncio.wait((task,))  # not `await task`, which would pass this caller's cancellation on to the fetch
        if task.cancelled():
            raise ConnectionFailedError("closed before a token was received", provider=self._provider)
        error = task.exception()
        if isinstance(error, Exception):
            # A copy for each waiter, as the router writes the attempts of its request into what it raises.
            raise copy(wrap_foreign(error, provider=self._provider)) from error
        return task.result()


def _seen(task: asyncio.Task[Secret]) -> None:
    # Everybody who waited may have been cancelled by now, and an error nobody asked for would be logged.
    if not task.cancelled():
        task.exception()


def lifetime_until(expires_at: float, date: str | None) -> float:
    """Seconds until ``expires_at``, Unix time in seconds or (from 10**11 on) milliseconds.

    Counted from ``date``, the response's own Date header, if it has one: our clock may be wrong, and the same clock
    wrote both.
    """
    if not 0 <= expires_at < 1e15:  # nor is NaN: what is no time serves those who wait for the token, and nobody after
        return 0.0
    seconds = expires_at if expires_at < 1e11 else expires_at / 1000.0
    try:
        received = wall_clock() if date is None else parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        received = wall_clock()
    return seconds - received
