"""The connections of one engine: those in use, and the idle ones by origin. Taking and giving back are O(1)."""

from __future__ import annotations

import asyncio
import builtins
import ssl
from collections import defaultdict, deque
from typing import Any

from orchestrator.providers._dial import Turns, dial
from orchestrator.providers._engine import ConnectTimeout, ProtocolError
from orchestrator.providers._exchange import Connection, Exchange, Origin
from orchestrator.providers._parser import NewParser

__all__ = ["DIALS", "KEEP_ALIVE", "MOST_IDLE", "Connections"]

# Of one provider, as httpx has it.
KEEP_ALIVE = 5.0  # seconds without use
MOST_IDLE = 100

DIALS = 16  # that may begin in one turn of the event loop, or as many as it has connections to look after anyway


class Connections:
    """Each carries one exchange at a time; the one that was used last is used next."""

    def __init__(self, tls: ssl.SSLContext, new_parser: NewParser) -> None:
        self.closed = False
        self.idle_count = 0
        self.in_use: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._new_parser = new_parser
        self._turns = Turns(lambda: max(DIALS, len(self.in_use)))
        # By origin; the one that was used last is at the end.
        self._idle: defaultdict[Origin, deque[Connection]] = defaultdict(deque)

    async def exchange(
        self, origin: Origin, request: tuple[bytes, ...], *, connect: float | None, read: float | None
    ) -> Exchange:
        """Send the parts of a request, and return once the headers of the response are there.

        ``connect`` and ``read`` (one silence) in seconds.
        """
        connection = self._take(origin) or await self._connected(origin, connect)
        self.in_use.add(connection)
        exchange = None
        try:
            if self.closed:
                raise ProtocolError("the engine was closed")
            status, headers = await connection.ask(request, read)
            exchange = Exchange(connection, status, headers, self._end)
        finally:
            if exchange is None:
                self._drop(connection)
        return exchange

    def _take(self, origin: Origin) -> Connection | None:
        """The idle one that was used last, if one is good."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            self.idle_count -= 1
            if connection.is_usable(self._loop.time()):
                return connection
            connection.abort()
        return None

    async def _connected(self, origin: Origin, limit: float | None) -> Connection:
        # A thousand at once would each wait for the first steps of all, and their limits with them. Those that wait
        # for their turn may find that a connection has come free, which is sooner still.
        await self._turns.take()
        return self._take(origin) or await self._dial(origin, limit)

    async def _dial(self, origin: Origin, limit: float | None) -> Connection:
        tls: dict[str, Any] = {"ssl": self._tls, "server_hostname": origin.host} if origin.secure else {}
        try:
            async with asyncio.timeout(limit):
                return await dial(
                    lambda: Connection(self._loop, origin, self._new_parser), origin.host, origin.port, **tls
                )
        except builtins.TimeoutError as exc:  # ours, or the kernel's
            raise ConnectTimeout(f"no connection within {limit} s" if limit else str(exc)) from exc

    def _drop(self, connection: Connection) -> None:
        """Close it: nobody knows what would come next on it."""
        self.in_use.discard(connection)
        connection.abort()

    def _end(self, connection: Connection) -> None:
        """The end of an exchange: the connection is kept for another one, or closed."""
        if self.closed or not connection.end():
            self._drop(connection)
            return
        self.in_use.discard(connection)
        at = self._loop.time()
        idle = self._idle[connection.origin]
        while idle and (idle[0].expires <= at or self.idle_count >= MOST_IDLE):
            idle.popleft().abort()
            self.idle_count -= 1
        if self.idle_count >= MOST_IDLE:  # of other origins
            connection.abort()
            return
        connection.expires = at + KEEP_ALIVE
        idle.append(connection)
        self.idle_count += 1

    def close(self) -> None:
        """Close them all; those that are still to come are not kept."""
        self.closed = True
        for connections in (*self._idle.values(), self.in_use):
            for connection in connections:
                connection.abort()
        self._idle.clear()
        self.in_use.clear()
        self.idle_count = 0

    @property
    def idle(self) -> list[Connection]:
        """Those that carry nothing now."""
        return [connection for connections in self._idle.values() for connection in connections]
