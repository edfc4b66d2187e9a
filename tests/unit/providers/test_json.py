"""JSON from a provider is bounded in depth and in number of values."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.providers import WireLimits, _json
from orchestrator.providers._json import UnreadableError, read_json


@pytest.fixture(scope="module", autouse=True, params=["json", "msgspec"])
def _decoder(request):
    """Everything here holds with the extra, and without it."""
    quick = None if request.param == "json" else pytest.importorskip("orchestrator.providers._pieces").json_value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_json, "_quick", quick)
        yield


BOTH = pytest.mark.parametrize("form", [str, str.encode], ids=["text", "bytes"])


def nested(depth, left="[", right="]", inner=""):
    return left * depth + inner + right * depth


@BOTH
@pytest.mark.parametrize(("left", "right", "inner"), [("[", "]", ""), ('{"a":', "}", "1"), ("[1,[2],", "]", "3")])
def test_the_depth_that_is_allowed_is_exact(form, left, right, inner):
    assert read_json(form(nested(99, left, right, inner))) == json.loads(nested(99, left, right, inner))
    for depth in (101, 900, 100_000):
        with pytest.raises(UnreadableError, match="is nested deeper than 100 levels") as caught:
            read_json(form(nested(depth, left, right, inner)))
        assert caught.value.__context__ is None  # a JSONDecodeError would keep the text


@BOTH
def test_brackets_beside_each_other_or_in_a_text_are_no_depth(form):
    flat = [[[n]] for n in range(1000)] + ["[{" * 1000, {"a": "[" * 200}]
    assert read_json(form(json.dumps(flat))) == flat


@BOTH
def test_so_deep_a_value_can_be_shown_and_compared(form):
    limits = WireLimits(depth=500)
    one, other = read_json(form(nested(500)), limits), read_json(form(nested(500)), limits)
    assert one == other
    assert repr(one) == nested(500)
    with pytest.raises(ValueError, match="depth"):
        WireLimits(depth=501)


@BOTH
@pytest.mark.parametrize("text", [f"[{'[],' * 99}[]]", f"[{'1,' * 150}1]", f"[{'{},' * 99}1]"])
def test_more_values_than_allowed_are_refused_before_they_are_made(form, text):
    with pytest.raises(UnreadableError, match="holds more than 100 JSON values"):
        read_json(form(text), WireLimits(values=100))
    assert len(read_json(form(text))) in {100, 151}


@BOTH
@pytest.mark.parametrize("text", [
    "", " ", "{", '{"a":', "nope", "1 2", "[1]]", '"\0"', "1" * 5000, "\ufeff\ufeff{}", "'a'",
])
def test_what_is_no_json_is_named_and_not_shown(form, text):
    with pytest.raises(UnreadableError, match=r"^is not JSON$") as caught:
        read_json(form(text))
    assert caught.value.__context__ is None


@BOTH
def test_odd_numbers_and_fields_given_twice_are_read(form):
    assert read_json(form('{"a": 1, "a": [2]}')) == {"a": [2]}
    assert read_json(form("[1e999, -1e999, 1e-999, -0]")) == [math.inf, -math.inf, 0, 0]
    assert math.isnan(read_json(form("NaN")))


@pytest.mark.parametrize("charset", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_body_tells_its_charset_itself(charset):
    assert read_json('{"a": "жизнь"}'.encode(charset)) == {"a": "жизнь"}


def test_a_body_in_a_charset_that_cannot_be_told_is_no_json():
    with pytest.raises(UnreadableError, match="is not JSON") as caught:
        read_json('{"a": "жизнь"}'.encode("cp1251"))
    assert caught.value.__context__ is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.sampled_from(["", " ", "\n\t "]), st.booleans())
def test_it_reads_what_the_standard_library_reads(value, blanks, ascii_only):
    text = blanks + json.dumps(value, ensure_ascii=ascii_only) + blanks
    assert read_json(text) == value
    assert read_json(text.encode("utf-8", "surrogatepass")) == value


ODD = st.sampled_from([
    *(bytes([n]) for n in b'[]{},:"\\019.eE+- \n\t\r\0\x7f\xff\xc3\xa9/xu'), b"\xed\xa0\x80", b"\\ud83d", b"\\udc00",
    b"null", b"true", b"NaN", b"Infinity", b"1e400", b"-0", b"0.1e-7", b"9" * 30, b"\xef\xbb\xbf",
])


@settings(max_examples=300, deadline=None)
@given(VALUES, st.booleans(), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), ODD), max_size=4))
def test_a_json_text_with_odd_bytes_in_it_is_what_the_standard_library_says(value, ascii_only, changes):
    data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    for place, length, odd in changes:
        at = place % (len(data) + 1)
        data = data[:at] + odd + data[at + length :]

    def outcome(read):
        try:
            return repr(read(data))  # where 1, 1.0 and True differ, 0.0 and -0.0, and the order of fields
        except ValueError:
            return "refused"

    assert outcome(read_json) == outcome(json.loads)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('[]{}",:\\u123d8 \n-.eE tfn'), max_size=30))
def test_it_refuses_what_the_standard_library_refuses(text):
    def outcome(read):
        try:
            return repr(read(text))
        except ValueError:
            return "refused"

    assert outcome(read_json) == outcome(json.loads)
