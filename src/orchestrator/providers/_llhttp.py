"""The parser of the fast engine: httptools, the binding of llhttp that uvicorn uses, too."""

from __future__ import annotations

import httptools

from orchestrator.providers._engine import ProtocolError, RawHeaders
from orchestrator.providers._parser import Sink

__all__ = ["LlhttpParser"]


class LlhttpParser:
    """See :class:`orchestrator.providers._parser.Parser`."""

    __slots__ = ("_headers", "_parser", "_sink", "on_body", "on_message_complete")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._headers: RawHeaders = []
        self.on_body = sink.on_body
        self.on_message_complete = sink.on_message_complete
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes | memoryview) -> None:
        """What has come; :class:`ProtocolError` when that is no HTTP."""
        try:
            self._parser.feed_data(data)
            return
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            problem = str(exc) or type(exc).__name__
        raise ProtocolError(f"no HTTP: {problem}")  # not in the except clause: the other one's frames hold the data

    def on_message_begin(self) -> None:
        self._headers = []
        self._sink.on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status, headers = self._parser.get_status_code(), self._headers
        self._headers = []  # for trailers, which nobody looks at
        if status >= 200:  # else such as 103 Early Hints: the response is still to come
            self._sink.on_head(status, headers, reusable=self._parser.should_keep_alive())
