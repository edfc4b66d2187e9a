"""Connecting: the addresses of a host one after another, each with a head start, until one of them answers (RFC 8305).

asyncio can do that itself, but leaves a socket open when it is cancelled meanwhile. ``Turns`` spread many that begin at
once.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any, TypeVar

__all__ = ["Turns", "dial"]

HEAD_START = 0.25  # seconds; what RFC 8305 recommends

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Turns:
    """Lets ``most()`` begin in one turn of the event loop, and the others in the turns that follow, in their order."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._begun = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Return when it is this one's turn."""
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._next)
        if self._begun < self._most():
            self._begun += 1
            return
        waiter = loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _next(self) -> None:
        self._begun, most = 0, self._most()
        while self._waiting and self._begun < most:
            waiter = self._waiting.popleft()
            if not waiter.done():  # it was cancelled
                waiter.set_result(None)
                self._begun += 1
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next)


async def dial(make: Callable[[], P], host: str, port: int, **options: Any) -> P:  # noqa: ANN401  # asyncio's own
    """The protocol that ``make`` made, connected; ``OSError`` when no address answers. ``options``: asyncio's."""
    loop = asyncio.get_running_loop()
    addresses = [host] if _is_address(host) else await _addresses(host, port)
    if len(addresses) == 1:
        return (await loop.create_connection(make, addresses[0], port, **options))[1]
    attempts: set[asyncio.Task[tuple[asyncio.Transport, P]]] = set()
    failures: dict[str, OSError] = {}
    try:
        for number, address in enumerate(addresses, start=1):
            attempts.add(loop.create_task(loop.create_connection(make, address, port, **options)))
            while attempts:
                patience = HEAD_START if number < len(addresses) else None
                done, _ = await asyncio.wait(attempts, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    attempts.discard(attempt)
                    try:
                        return attempt.result()[1]
                    except OSError as exc:
                        failures[str(exc)] = exc
                if number < len(addresses):  # one has failed, or had its head start
                    break
    finally:
        for attempt in attempts:
            attempt.add_done_callback(_hang_up)
            attempt.cancel()
    if len(failures) == 1:
        raise failures.popitem()[1]
    raise OSError(f"no address of the host can be reached: {'; '.join(failures)}")


def _hang_up(attempt: asyncio.Task[tuple[asyncio.Transport, Any]]) -> None:
    with suppress(OSError, asyncio.CancelledError):
        attempt.result()[0].abort()


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, as its resolver orders them, IPv6 and IPv4 by turns."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    first = found[0][0]
    families = ([one for one in found if one[0] == first], [one for one in found if one[0] != first])
    ordered = [one[4][0] for one in chain.from_iterable(zip_longest(*families)) if one is not None]
    return list(dict.fromkeys(str(address) for address in ordered))
