"""The seam between a provider's HTTP client and whoever moves the bytes: what an engine gets, and what it gives."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import lru_cache
from itertools import compress, repeat
from operator import contains
from typing import Protocol, TypeVar, overload

from orchestrator.providers._secret import SecretBytes, SecretHeaders

__all__ = [
    "ConnectTimeout",
    "Engine",
    "Headers",
    "HeadersToSend",
    "ProtocolError",
    "RawResponse",
    "ReadTimeout",
]

RawHeaders = list[tuple[bytes, bytes]]
T = TypeVar("T")


class ConnectTimeout(builtins.TimeoutError):
    """No connection in time."""


class ReadTimeout(builtins.TimeoutError):
    """No bytes in time."""


class ProtocolError(ConnectionError):
    """What came is no HTTP response, or not the whole of one."""


class Headers(Mapping[str, str]):
    """The headers of a response by name in lower case; several of one name are joined by ``", "``.

    A value is decoded when it is looked at: most responses are asked for two or three of a dozen or two.
    """

    __slots__ = ("_known", "raw")

    def __init__(self, raw: RawHeaders) -> None:
        self.raw = raw
        self._known = {name.lower(): value for name, value in raw}
        if len(self._known) < len(raw):  # most often because of a few cookies
            self._join()

    def __getitem__(self, name: str) -> str:
        return self._known[_key(name)].decode("latin-1")

    @overload
    def get(self, name: str, default: None = None, /) -> str | None: ...

    @overload
    def get(self, name: str, default: str | T, /) -> str | T: ...

    def get(self, name: str, default: str | T | None = None, /) -> str | T | None:
        """As any mapping's, but without an exception for what is missing."""
        value = self._known.get(_key(name))
        return default if value is None else value.decode("latin-1")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _key(name) in self._known

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"<{len(self.raw)} headers>"

    def with_part(self, part: bytes) -> dict[str, str]:
        """Those whose names, in lower case, have ``part`` in them; one search tells where there are none."""
        known = self._known
        if part not in b" ".join(known):
            return {}
        names = compress(known, map(contains, known, repeat(part)))
        return {name.decode("latin-1"): known[name].decode("latin-1") for name in names}

    def _join(self) -> None:
        known: dict[bytes, bytes] = {}
        several: dict[bytes, list[bytes]] = {}
        for name, value in self.raw:
            key = name.lower()
            if key in known:
                several.setdefault(key, [known[key]]).append(value)
            else:
                known[key] = value
        for key, values in several.items():
            known[key] = b", ".join(values)
        self._known = known


@lru_cache(maxsize=256)  # it is a few names that all responses are asked for
def _key(name: str) -> bytes:
    return name.lower().encode("latin-1", "replace")


class HeadersToSend(SecretHeaders):
    """The headers of a request, encoded once however often they are sent."""

    __slots__ = ("block", "raw")

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        encoded = ((name.encode("ascii"), text.encode("ascii")) for name, text in headers.items())
        self.raw = [(SecretBytes(name), SecretBytes(text)) for name, text in encoded]
        self.block = SecretBytes(b"".join([b"%b: %b\r\n" % pair for pair in self.raw]))


class RawResponse(Protocol):
    """A response whose headers are there; the body comes as an asynchronous iterator of its chunks."""

    status: int
    headers: Headers
    is_decoded: bool
    """The body is read already, and what ``content-encoding`` names is undone: a hook of the user's client did it."""

    @property
    def whole(self) -> bytes | None:
        """The body, where all of it has come and none of it was taken; whoever takes it so leaves the iterator."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Give the connection back, or close it when the body was not read to its end; idempotent."""


class Engine(Protocol):
    """Moves the bytes of requests and responses on one event loop; knows no status, no format and no limit of a body.

    What it raises is an ``httpx.HTTPError``, ``httpx.InvalidURL``, ``RuntimeError`` or ``OSError``, the last of which
    are the three of this module and those of the network.
    """

    async def open(
        self, method: str, url: str, headers: HeadersToSend, body: bytes | None, *, connect: float | None,
        read: float | None,
    ) -> RawResponse:
        """Send, and return once the headers are there; ``connect`` and ``read`` (one silence) in seconds."""

    async def aclose(self) -> None:
        """Close every connection."""
