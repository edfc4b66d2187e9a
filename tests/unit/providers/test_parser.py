"""The parsers of both engines: whatever comes, in whatever pieces, both read the same."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.providers._h11 import H11Parser
from orchestrator.providers._llhttp import LlhttpParser

PARSERS = [H11Parser, LlhttpParser]

LINES = st.lists(st.sampled_from([
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.0 200\r\n", b"HTTP/1.1 103 Hint\r\n",
    b"content-length: 2", b"Content-Length: 3\r\n",
    b"content-length: 2\r\n", b"Transfer-Encoding: chunked\r\n", b"transfer-encoding: gzip\r\n",
    b"connection: close\r\n", b"X-a:  b \r\n", b" folded\r\n", b"\r\n", b"\n", b"ok", b"1\r\no\r\n", b"2;x=y\r\nok\r\n",
    b"0\r\n", b"0\r\n\r\n", b"zz\r\n", b"x", b"no colon\r\n", b"bad name: x\r\n", b"content-length: 2, 2\r\n",
    b"a: \0\r\n",
]), max_size=9)
START = b"HTTP/1.1 200 OK\r\n"


class Told:
    def __init__(self):
        self.head, self.body, self.end, self.begun, self.reusable = None, b"", None, 0, None

    def on_head(self, status, headers, *, reusable):
        self.head = status, [(name.lower(), value) for name, value in headers]
        self.reusable = reusable

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.end = "whole"

    def on_message_begin(self):
        self.begun += 1


def read(parser, parts):
    told = Told()
    reader = parser(told)
    try:
        for part in parts:
            if told.end is None:
                reader.feed(part)
    except ConnectionError:
        if told.head is None or told.end is None:  # else it is about what came behind a whole response
            told.end = "error"
    return told.head, told.body, told.end


@pytest.mark.parametrize("parser", PARSERS)
@given(LINES, st.integers(1, 9))
@example([b"content-length: 2\r\n", b"\r\n", b"ok"], 1)
@example([b"Transfer-Encoding: chunked\r\n", b"\r\n", b"2;x=y\r\nok\r\n", b"0\r\n\r\n"], 1)
@example([b"Content-Length: 3\r\n", b"\r\n", b"HTTP/1.1 200 OK\r\n"], 1)
def test_it_reads_the_same_in_whatever_pieces_it_comes(parser, lines, size):
    data = START + b"".join(lines)
    assert read(parser, [data]) == read(parser, [data[at:at + size] for at in range(0, len(data), size)])


@given(LINES)
def test_what_is_whole_to_both_is_the_same_to_both(lines):
    first, second = (read(parser, [START + b"".join(lines)]) for parser in PARSERS)
    if first[2] == second[2] == "whole":
        assert first[1] == second[1]
        assert first[0][0] == second[0][0]


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("data", [
    b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 101 X\r\n\r\n", START + b"content-length: -1\r\n\r\n",
    START + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
    START + b"a b: c\r\n\r\n", START + b"transfer-encoding: chunked\r\n\r\n1\r\nxx\r\n",
])
def test_what_is_no_response_is_an_error(parser, data):
    assert read(parser, [data])[2] == "error"


@pytest.mark.parametrize("parser", PARSERS)
def test_what_came_before_an_error_is_told(parser):
    data = START + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n"
    assert read(parser, [data])[1:] == (b"ok", "error")


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(("head", "reusable"), [
    (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", True),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", True),
    (b"HTTP/1.1 204 No\r\n\r\n", True),
    (b"HTTP/1.1 103 Hint\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", True),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n", False),
    (b"HTTP/1.1 200 OK\r\n\r\n", False),
    (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n", False),
])
def test_it_tells_whether_another_response_may_follow(parser, head, reusable):
    told = Told()
    parser(told).feed(head)
    assert told.reusable is reusable


@pytest.mark.parametrize("parser", PARSERS)
def test_one_response_follows_the_other_and_more_than_asked_for_is_told(parser):
    told = Told()
    reader = parser(told)
    for body in (b"one", b"two"):
        told.head, told.body, told.end, told.begun = None, b"", None, 0
        reader.feed(START + b"content-length: 3\r\n\r\n" + body)
        assert (told.body, told.end) == (body, "whole")
    told.begun = 0
    reader.feed(START + b"content-length: 3\r\n\r\nokmHTTP/1.1 200 OK\r\n")
    assert told.begun >= 1
