"""Which pool a client of httpx has: our own one, or, where a proxy lies between, httpcore's with a remedy.

That one does not take back a connection whose exchange was cancelled at an unlucky moment. Its shields stop anyio's
cancellation, not ``Task.cancel()``, which is what a deadline or a caller that leaves comes down to
(encode/httpcore#1093, #1115). A connection assigned to a request that never came, or left in the middle of one, would
otherwise stay in the pool for ever.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from functools import partial

import httpcore
import httpx

from orchestrator.core.clock import now
from orchestrator.providers._pool import Pool, fits

__all__ = ["aclose", "give_pool", "has_own_pool", "watch_connections"]

UNUSED = 1.0  # seconds after which the request a new connection was made for will not come any more

_closing: set[asyncio.Task[None]] = set()


async def aclose(response: httpx.Response) -> None:
    """Close a response to the end, although the task may be cancelled (once more) meanwhile."""
    task = asyncio.ensure_future(response.aclose())
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    await asyncio.shield(task)


def give_pool(client: httpx.AsyncClient, tls: ssl.SSLContext) -> httpx.AsyncClient:
    """The client, with our own pool wherever no proxy lies between; to be called before its first request."""
    for transport in _transports(client):
        pool = getattr(transport, "_pool", None)
        if type(pool) is httpcore.AsyncConnectionPool and getattr(pool, "_proxy", None) is None and fits():
            transport._pool = Pool(tls)  # type: ignore[attr-defined]  # noqa: SLF001  # there is no public way
    return watch_connections(client)


def has_own_pool(client: httpx.AsyncClient) -> bool:
    """Whether all of its connections come from pools of ours."""
    return all(isinstance(getattr(transport, "_pool", None), Pool) for transport in _transports(client))


def watch_connections(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """The client, whose pools from now on drop connections that were lost to a cancellation."""
    for transport in _transports(client):
        pool = getattr(transport, "_pool", None)
        if isinstance(pool, httpcore.AsyncConnectionPool):
            pool.create_connection = partial(_watched, pool.create_connection)  # type: ignore[method-assign]
    return client


def _transports(client: httpx.AsyncClient) -> Iterator[object]:
    # httpx has no public way to them; where a future version has none either, the client is left as it is.
    yield getattr(client, "_transport", None)
    yield from (transport for transport in getattr(client, "_mounts", {}).values() if transport is not None)


def _watched(
    create: Callable[[httpcore.Origin], httpcore.AsyncConnectionInterface], origin: httpcore.Origin
) -> httpcore.AsyncConnectionInterface:
    return _Watched(create(origin))


class _Watched(httpcore.AsyncConnectionInterface):
    """A connection that expires when it was lost."""

    def __init__(self, inner: httpcore.AsyncConnectionInterface) -> None:
        self._inner = inner
        self._lost = False
        self._unused_since: float | None = now()

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        self._unused_since = None
        finished = False
        try:
            response = await self._inner.handle_async_request(request)
            finished = True
        except httpcore.ConnectionNotAvailable:
            finished = True  # refused before anything began
            raise
        finally:
            self._lost = not finished and not (self._inner.is_idle() or self._inner.is_closed())
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    def info(self) -> str:
        return self._inner.info()

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return self._inner.can_handle_request(origin)

    def is_available(self) -> bool:
        return not self._lost and self._inner.is_available()

    def has_expired(self) -> bool:
        unused = self._unused_since is not None and now() - self._unused_since > UNUSED
        return self._lost or unused or self._inner.has_expired()

    def is_idle(self) -> bool:
        return not self._lost and self._inner.is_idle()

    def is_closed(self) -> bool:
        return self._inner.is_closed()
