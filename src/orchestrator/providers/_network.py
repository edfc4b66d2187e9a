"""The bytes of httpcore's connections on plain asyncio, without what anyio adds to each read and write."""

from __future__ import annotations

import asyncio
import builtins
import select
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpcore

from orchestrator.providers._dial import dial

__all__ = ["Network", "readability"]

_HIGH = 256 * 1024  # bytes that wait for a reader before the server is made to wait
_ENOUGH = 64 * 1024  # bytes that are sent without waiting for more


class Network(httpcore.AsyncNetworkBackend):
    """What one connection needs of the network; ``abort`` closes whatever it has opened."""

    def __init__(self) -> None:
        self._stream: _Stream | None = None
        self._aborted = False

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002  # nobody gives any
    ) -> httpcore.AsyncNetworkStream:
        """Connect within ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {} if local_address is None else {"local_addr": (local_address, 0)}
        async with _connecting(timeout):
            self._stream = await dial(lambda: _Stream(loop), host, port, **options)
        if self._aborted:
            self._stream.abort()
        return self._stream

    @property
    def is_sending(self) -> bool:
        """Whether some of a request was not taken yet, though its answer may be there: it would begin the next one."""
        return self._stream is not None and self._stream.is_sending

    def abort(self) -> None:
        """Close now, or as soon as there is a connection; idempotent."""
        self._aborted = True
        if self._stream is not None:
            self._stream.abort()


class _Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection; what is written is sent when the next read begins, as one piece."""

    _transport: asyncio.Transport
    _is_readable: Callable[[int], object]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._unsent: list[bytes] = []
        self._buffer = bytearray()
        self._has_ended = False
        self._failure: Exception | None = None
        self._paused = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come, waited for if need be; nothing at the end."""
        self._send()
        while not self._buffer:
            if self._failure is not None:
                raise httpcore.ReadError(str(self._failure)) from self._failure
            if self._has_ended:
                return b""
            await self._wait(timeout)
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        if self._paused and len(self._buffer) < _HIGH:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def _wait(self, limit: float | None) -> None:
        self._waiter = self._loop.create_future()
        try:
            if limit is None:
                await self._waiter
            else:
                async with asyncio.timeout(limit):
                    await self._waiter
        except builtins.TimeoutError as exc:
            raise httpcore.ReadTimeout("no bytes in time") from exc
        finally:
            self._waiter = None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  # nothing waits here
        """Send ``buffer``, together with what is written next."""
        if self._has_ended:
            raise httpcore.WriteError(str(self._failure or "the connection was closed"))
        self._unsent.append(buffer)
        if len(buffer) >= _ENOUGH:
            self._send()

    @property
    def is_sending(self) -> bool:
        """Whether bytes that were written are still here."""
        return bool(self._unsent or self._transport.get_write_buffer_size())

    def _send(self) -> None:
        if self._unsent:
            self._transport.write(b"".join(self._unsent))
            self._unsent.clear()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """The same connection, encrypted, within ``timeout`` seconds."""
        encrypted = None
        try:
            async with _connecting(timeout):
                encrypted = await self._loop.start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        finally:
            if encrypted is None:
                self.abort()
        if encrypted is None:
            raise httpcore.ConnectError("the connection was lost")
        self._transport = encrypted
        return self

    async def aclose(self) -> None:
        """Close now; nothing in it waits, so nothing can interrupt it."""
        self.abort()

    def abort(self) -> None:
        """Close now; whoever waits gets an error."""
        self._transport.abort()

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401  # httpcore's own signature
        """``is_readable``, as httpcore asks it before a connection is used again, and what asyncio knows."""
        if info == "is_readable":
            # Asked of idle ones only; and once it is closed, its number may be another's.
            return bool(self._buffer) or self._has_ended or bool(self._is_readable(0))
        return self._transport.get_extra_info(info)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not hasattr(self, "_is_readable"):  # TLS calls it again
            self._is_readable = readability(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > _HIGH and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._has_ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = True
        self._failure = exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@asynccontextmanager
async def _connecting(limit: float | None) -> AsyncGenerator[None, None]:
    try:
        async with asyncio.timeout(limit):
            yield
    except builtins.TimeoutError as exc:  # ours, or the kernel's
        raise httpcore.ConnectTimeout(f"no connection within {limit} s" if limit else str(exc)) from exc
    except OSError as exc:  # of TLS, too
        raise httpcore.ConnectError(str(exc)) from exc


def readability(transport: asyncio.Transport) -> Callable[[int], object]:
    """Called with 0 tells whether the server has sent something, or closed, even if asyncio has not seen it yet."""
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(select, "poll"):
        return lambda _: transport.is_closing()
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return poll.poll
