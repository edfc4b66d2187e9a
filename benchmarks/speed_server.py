"""A server that answers at once, in a process of its own: OpenAI's format, every byte prepared, nothing parsed.

    python benchmarks/speed_server.py [--pieces 1000]      # prints its port

``/v1/chat/completions`` answers with one JSON text or, where the request says so, a stream of ``pieces``, each in a
chunk of its own, all written at once. Below ``/paced`` a stream brings one piece per ``PACE`` seconds, without end;
below ``/held`` it brings one piece and then nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
from typing import Any, ClassVar

PACE = 0.5  # seconds from one piece of a paced stream to its next
STEPS = 50  # paced streams are spread evenly over so many instants of a pace
MODEL = "gpt-instant"

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\nx-request-id: instant\r\n"
_CREATED = 1_790_000_000


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _answer() -> bytes:
    body = _dump({
        "id": "chatcmpl-1", "object": "chat.completion", "created": _CREATED, "model": MODEL,
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": "answer"}, "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    })
    return _HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(body) + body


def _event(payload: bytes) -> bytes:
    data = b"data: " + payload + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    return _event(_dump({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": _CREATED, "model": MODEL,
        "choices": choices, **more,
    }))


def _delta(delta: dict[str, str], finish: str | None = None) -> bytes:
    return _chunk([{"index": 0, "delta": delta, "finish_reason": finish}])


ANSWER = _answer()
FIRST = (
    _HEAD % b"text/event-stream" + b"transfer-encoding: chunked\r\n\r\n" + _delta({"role": "assistant", "content": ""})
)
PIECE = _delta({"content": "x"})
LAST = (
    _delta({}, "stop") + _chunk([], usage={"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10})
    + _event(b"[DONE]") + b"0\r\n\r\n"
)


class Instant(asyncio.Protocol):
    """One connection; every request is answered with bytes that were there before it came."""

    whole = b""  # a stream from its first byte to its last
    paced: ClassVar[list[set[Instant]]] = [set() for _ in range(STEPS)]
    joined = 0
    began = 0.0

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._received = b""
        self._step: set[Instant] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._step is not None:
            self._step.discard(self)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        while True:
            head, separator, rest = received.partition(b"\r\n\r\n")
            length = _length(head) if separator else 0
            if not separator or len(rest) < length:
                break
            self._reply(head, rest[:length])
            received = rest[length:]
        self._received = received

    def _reply(self, head: bytes, body: bytes) -> None:
        if b'"stream":true' not in body and b'"stream": true' not in body:
            self._transport.write(ANSWER)
        elif b" /held/" in head:
            self._transport.write(FIRST + PIECE)
        elif b" /paced/" in head:
            self._transport.write(FIRST + PIECE)
            self._step = self.paced[Instant.joined % STEPS]
            self._step.add(self)
            Instant.joined += 1
        else:
            self._transport.write(self.whole)

    @classmethod
    def tick(cls, number: int) -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(cls.began + (number + 1) * PACE / STEPS, cls.tick, number + 1)
        for one in cls.paced[number % STEPS]:
            one._transport.write(PIECE)


def _length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(b"content-length:")
    return int(lower[at + 15:].partition(b"\r")[0]) if at >= 0 else 0


async def main(pieces: int) -> None:
    loop = asyncio.get_running_loop()
    Instant.whole = FIRST + PIECE * pieces + LAST
    server = await loop.create_server(Instant, "127.0.0.1", 0, backlog=2048)
    Instant.began = loop.time()
    Instant.tick(0)
    gc.freeze()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", type=int, default=1000)
    asyncio.run(main(parser.parse_args().pieces))
