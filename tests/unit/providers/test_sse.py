"""Framing of streams: server-sent events and JSON lines, from bytes split anywhere."""

from __future__ import annotations

import pytest

from orchestrator.core.errors import MalformedResponseError
from orchestrator.providers._sse import NDJSONDecoder, SSEDecoder


def data(*chunks: bytes, limit: int = 1000) -> list[str]:
    decoder = SSEDecoder(limit)
    return [told for chunk in chunks for told in decoder.feed(chunk)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_lines_end_in_any_of_the_three_ways(end):
    assert data(b"data: a" + end + end + b"data: b" + end + end) == ["a", "b"]


def test_an_event_is_handed_over_with_its_blank_line_although_a_lf_may_follow_the_cr():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\n\r") == ["a"]
    assert decoder.feed(b"\ndata: b\r\n\r\n") == ["b"]


def test_a_byte_order_mark_is_skipped_even_when_it_is_cut():
    assert data(b"\xef\xbb", b"\xbfdata: a\n\n") == ["a"]
    assert data(b"\n\xef\xbb\xbfdata: a\n\n") == []


def test_comments_and_blank_lines_are_no_events():
    assert data(b": keep-alive\n\n\n:\n: PROCESSING\n\ndata: a\n: in between\n\n") == ["a"]


def test_lines_of_data_are_joined():
    assert data(b"data: {\ndata:  1\ndata:}\n\n") == ["{\n 1\n}"]
    assert data(b"data\ndata\n\n") == ["\n"]


def test_only_one_space_after_the_colon_is_cut():
    assert data(b"data:a\n\ndata:  b\n\ndata: \n\n") == ["a", " b", ""]


def test_the_name_of_an_event_is_skipped_and_one_with_nothing_else_is_none():
    assert data(b"event: a\nevent: error\ndata: x\n\ndata: y\n\nevent: z\n\ndata: w\n\n") == ["x", "y", "w"]


def test_unknown_fields_and_fields_without_a_colon_are_skipped():
    assert data(b"id: 7\nretry: 10\nevent\nnonsense\n{\ndata: a\n\n") == ["a"]


def test_an_event_without_a_blank_line_is_dropped():
    assert data(b"data: a\n\ndata: [DONE]") == ["a"]
    assert data(b"data: a\n\ndata: [DONE]\n") == ["a"]


def test_characters_split_between_chunks_are_whole_again():
    text = "data: привет 🐘\n\n".encode()
    assert data(*(text[i : i + 1] for i in range(len(text)))) == ["привет 🐘"]


def test_bytes_that_are_no_utf_8_are_no_answer():
    with pytest.raises(MalformedResponseError, match="not UTF-8"):
        data(b"data: a\xffb\n\n")


@pytest.mark.parametrize("chunks", [
    [b"data: " + b"x" * 1000 + b"\n\n"], [b"data: "] + [b"x" * 100] * 10, [b"data: " + b"x" * 990, b"xxxxx\n\n"],
], ids=["in one chunk", "never ending", "completed by a chunk"])
def test_a_line_longer_than_the_limit_is_refused(chunks):
    with pytest.raises(MalformedResponseError, match="line of the stream is longer than 1000 bytes"):
        data(*chunks)


def test_a_line_as_long_as_the_limit_is_taken_and_a_chunk_may_hold_many():
    assert [len(text) for text in data(b"data: " + b"x" * 994 + b"\n\n" + b"data: y\n\n" * 500)] == [994] + [1] * 500


def test_an_event_of_many_lines_is_bounded_too():
    with pytest.raises(MalformedResponseError, match="event of the stream is longer than 1000 bytes"):
        data(*[b"data: " + b"x" * 50 + b"\n"] * 100)
    with pytest.raises(MalformedResponseError, match="event"):
        data(*[b"data:\n"] * 1002)


@pytest.mark.parametrize("end", [b"\n", b"\r"], ids=["usual lines", "others"])
def test_a_stream_of_more_events_than_the_limit_is_refused(end):
    decoder = SSEDecoder(events=5)
    for _ in range(5):
        assert decoder.feed(b"data: a" + end + end) == ["a"]
    with pytest.raises(MalformedResponseError, match="more than 5 events"):
        decoder.feed(b"data: a" + end + end)


def byte_by_byte(whole: bytes) -> list[str]:
    return data(*(whole[n : n + 1] for n in range(len(whole))))


@pytest.mark.parametrize("usual", [
    b"data: 1\n\n", b"data: 1\n\ndata: 2\n\n", b"data: \n\n", b"data:  \n\ndata: \n\n", b"data: data: 1\n\n",
    "data: ж\n\ndata: 😀\n\n".encode(), "data: \u2028\u0085\n\n".encode(), b"data: " + b"x" * 992 + b"\n\n",
])
def test_whole_events_of_one_line_are_cut_at_once_into_the_same_events(usual):
    assert SSEDecoder(1000)._at_once(usual) == byte_by_byte(usual) == data(usual)


@pytest.mark.parametrize("odd", [
    b"data: 1\n", b"data: 1", b"data: 1\ndata: 2\n\n", b"data: 1\n\n\n", b"data: 1\n\n: c\n\n", b"data: 1\n\r\n",
    b"x\n\n", b"data: 1\rdata: 2\n\n", b"data:1\n\n", b"data: 1\n\ndata:2\n\n", b"data: 1\n\nevent: x\ndata: 2\n\n",
    b"\n\n", b"data: 1\n\n: \xff\n\n", b"\xef\xbb\xbfdata: 1\n\n", b"data: 1\n\ndata: 2\n: c\n\n", b"",
])
def test_all_else_is_cut_line_by_line(odd):
    assert SSEDecoder(1000)._at_once(odd) is None
    assert data(odd) == byte_by_byte(odd)


def test_an_event_is_cut_at_once_only_where_no_other_has_begun():
    assert data(b"data: a\n", b"data: b\n\n") == ["a\nb"]
    assert data(b"da", b"data: b\n\n", b"data: c\n\n") == ["c"]
    assert data(b"data: a\r", b"data: b\n\n") == ["a\nb"]
    assert data(b"data: a\r\n\r", b"data: b\n\n", b"\n") == ["a", "b"]


def test_a_byte_order_mark_is_none_after_an_event_that_was_cut_at_once():
    assert data(b"data: a\n\n", b"\xef\xbb\xbfdata: b\n\n") == ["a"]


@pytest.mark.parametrize("odd", [
    b": c\n\n", b"data:a\n\n", b"data: a\ndata: b\n\n", b"\n\n", b"id: 1\n\n", b"data: a\n", b"x\n", b"data\n\n",
])
def test_what_is_unusual_changes_nothing_for_what_is_usual_around_it(odd):
    usual = b"data: 1\n\ndata: 2\n\n"
    alone = data(usual, odd, usual)
    assert data(usual + odd + usual) == alone
    assert [told[-1] for told in (alone[0], alone[1], alone[-2], alone[-1])] == ["1", "2", "1", "2"]


def test_json_lines_are_cut_at_line_ends_and_the_last_needs_none():
    decoder = NDJSONDecoder()
    assert decoder.feed(b'{"a":1}\r\n\n{"b"') == ['{"a":1}']
    assert decoder.feed(b":2}") == []
    assert decoder.finish() == ['{"b":2}']
    assert decoder.finish() == []


def test_a_json_line_longer_than_the_limit_is_refused():
    with pytest.raises(MalformedResponseError, match="longer than 10 bytes"):
        NDJSONDecoder(10).feed(b"x" * 11)
