"""The parser of the httpx engine: h11, which httpx itself reads with."""

from __future__ import annotations

import h11

from orchestrator.providers._engine import ProtocolError
from orchestrator.providers._parser import MOST_WITHOUT_BODY, Sink

__all__ = ["H11Parser"]

# h11 answers for both sides of a connection, and reads a response only where a request has been sent. Which one says
# nothing about how the response is to be read, but for HEAD and CONNECT; ours goes its own way.
_REQUEST = h11.Request(method=b"GET", target=b"/", headers=[(b"host", b"-")])
_END = h11.EndOfMessage()
_SIZED = {b"content-length", b"transfer-encoding"}
_BODILESS = {204, 304}


class H11Parser:
    """See :class:`orchestrator.providers._parser.Parser`."""

    __slots__ = ("_connection", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_WITHOUT_BODY)

    def feed(self, data: bytes | memoryview) -> None:
        """What has come; :class:`ProtocolError` when that is no HTTP."""
        connection = self._connection
        if connection.our_state is h11.IDLE:
            connection.send(_REQUEST)
            connection.send(_END)
        connection.receive_data(data)  # type: ignore[arg-type]  # it adds to a bytearray
        try:
            while self._told(connection.next_event()):
                pass
            return
        except h11.RemoteProtocolError as exc:
            problem = str(exc)
        raise ProtocolError(f"no HTTP: {problem}")  # not in the except clause: the other one's frames hold the data

    def _told(self, event: object) -> bool:
        """Whether there may be more to read."""
        sink = self._sink
        if isinstance(event, h11.Data):
            sink.on_body(bytes(event.data))
        elif isinstance(event, h11.Response):
            headers, status = list(event.headers), event.status_code
            ends = status in _BODILESS or any(name in _SIZED for name, _ in headers)
            sink.on_head(status, headers, reusable=ends and self._connection.our_state is h11.DONE)
        elif isinstance(event, h11.EndOfMessage):
            sink.on_message_complete()
            more, _ = self._connection.trailing_data
            if more:
                sink.on_message_begin()
            elif self._connection.our_state is h11.DONE:
                self._connection.start_next_cycle()
            return False
        elif isinstance(event, h11.InformationalResponse):  # such as 103 Early Hints: the response is still to come
            if event.status_code == 101:
                raise ProtocolError("no HTTP: the server changes to another protocol")
        else:
            return False  # NEED_DATA
        return True
