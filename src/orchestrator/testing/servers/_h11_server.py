"""The service over real HTTP/1.1 on loopback: asyncio moves the bytes, h11 reads and frames them."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import aclosing
from typing import cast

import h11

from orchestrator.core.clock import now
from orchestrator.testing._exchange import HangUp, RecordedRequest, Reply, parse_json
from orchestrator.testing.servers._service import Service

__all__ = ["Listener"]

_HOST = "127.0.0.1"
_BACKLOG = 1024
_LINGER = struct.pack("ii", 1, 0)  # no time to linger: closing sends RST


class Listener:
    """Listens on one port of loopback, and keeps the port while it refuses connections."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._connections: set[_Connection] = set()
        self._accepts = True
        self._server: asyncio.Server | None = None
        self._starting: asyncio.Task[None] | None = None
        self._socket = _bound(0)
        self.port: int = self._socket.getsockname()[1]

    def accept(self) -> None:
        """Take connections; from now on the kernel queues them."""
        self._accepts = True
        if self._server is None and self._starting is None:
            self._socket.listen(_BACKLOG)
            self._starting = asyncio.get_running_loop().create_task(self._start())

    def refuse(self) -> None:
        """Refuse connections."""
        self._accepts = False
        if self._server is not None:
            self._stop(self._server)

    async def aclose(self) -> None:
        """Break all connections and wait until nothing is left of them."""
        if self._starting is not None:
            await self._starting
        self.refuse()
        self._socket.close()
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.wait_closed()

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=self._socket, backlog=_BACKLOG)
        self._starting = None
        if not self._accepts:  # refuse() was called meanwhile
            self._stop(self._server)

    def _stop(self, server: asyncio.Server) -> None:
        server.close()
        self._server = None
        self._socket = _bound(self.port)  # bound but not listening: the kernel refuses, and nobody else gets the port

    def _connection(self) -> _Connection:
        return _Connection(self._service, self._connections)


class _Connection(asyncio.Protocol):
    """One connection of a client: requests one after another, each answered by a task of its own."""

    _transport: asyncio.Transport

    def __init__(self, service: Service, siblings: set[_Connection]) -> None:
        self._parser = h11.Connection(h11.SERVER)
        self._service = service
        self._siblings = siblings
        self._head: h11.Request | None = None
        self._body: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._siblings.add(self)
        self._service.open[self] = None

    def connection_lost(self, _: Exception | None) -> None:
        self._service.open.pop(self, None)
        self._siblings.discard(self)
        self._lost.set()
        self._may_write.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._parser.receive_data(data)
        if self._task is None:
            self._read()

    def abort(self) -> None:
        """Reset the connection now."""
        if not self._transport.is_closing():
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection and the task of its last request are gone."""
        await self._lost.wait()
        if self._task is not None:
            await asyncio.wait((self._task,))

    def _read(self) -> None:
        while True:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError:
                self._transport.abort()
                return
            if isinstance(event, h11.Request):
                self._head, self._body = event, []
            elif isinstance(event, h11.Data):
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage) and self._head is not None:
                self._task = asyncio.get_running_loop().create_task(self._answer(self._head))
                self._task.add_done_callback(self._answered)
                return
            else:
                return  # more data is needed, or none will come

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if isinstance(error, HangUp) and not error.reset:
            self._transport.write(error.after)
            self._transport.close()
        elif isinstance(error, HangUp):
            self.abort()
        elif error is not None:
            self.abort()
            context = {"message": "a simulated server failed", "exception": error, "protocol": self}
            task.get_loop().call_exception_handler(context)
        elif self._parser.our_state is h11.DONE and self._parser.their_state is h11.DONE:
            self._parser.start_next_cycle()
            self._read()
        else:
            self._transport.close()

    async def _answer(self, head: h11.Request) -> None:
        body = b"".join(self._body)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        path = head.target.decode("latin-1").partition("?")[0]
        request = RecordedRequest(head.method.decode(), path, headers, body, parse_json(body), now())
        await self._send(await self._service.handle(request))

    async def _send(self, reply: Reply) -> None:
        send = self._parser.send
        headers = {"content-type": reply.content_type, **reply.headers}
        if isinstance(reply.body, bytes):
            headers.setdefault("content-length", str(len(reply.body)))
        head = send(h11.Response(status_code=reply.status, headers=list(headers.items()))) or b""
        if isinstance(reply.body, bytes):
            parts = [head, send(h11.Data(data=reply.body)), send(h11.EndOfMessage())]
            self._transport.write(b"".join(part for part in parts if part))
            return
        self._transport.write(head)
        async with aclosing(reply.body) as pieces:
            async for piece in pieces:
                self._transport.write(send(h11.Data(data=piece.data)) or b"")
                if not self._may_write.is_set():
                    await self._may_write.wait()
        self._transport.write(send(h11.EndOfMessage()) or b"")


def _bound(port: int) -> socket.socket:
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it a stream takes 40 ms more.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((_HOST, port))
    return sock
