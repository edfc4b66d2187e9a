"""Halves of surrogate pairs are joined or replaced, and never reach an answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.surrogates import Halves, whole

HIGH, LOW = "\ud83d", "\ude00"
UNITS = st.lists(st.sampled_from(["a", "ж", "😀", HIGH, LOW, "\udbff", "\udc00", "\ufffd", "\n"]), max_size=12)


@pytest.mark.parametrize(("text", "expected"), [
    ("", ""), ("plain", "plain"), ("жизнь 😀", "жизнь 😀"), (HIGH + LOW, "😀"), (f"a{HIGH}", "a\ufffd"),
    (f"{LOW}a", "\ufffda"), (f"{LOW}{HIGH}", "\ufffd\ufffd"), (f"{HIGH}{HIGH}{LOW}", "\ufffd😀"),
    (f"{HIGH}b", "\ufffdb"),
])
def test_halves_that_belong_together_are_joined_and_the_others_replaced(text, expected):
    assert whole(text) == expected


def test_a_text_without_halves_is_the_same_object():
    for text in ("abc", "жизнь 😀 \n"):
        assert whole(text) is text


@settings(max_examples=300, deadline=None)
@given(UNITS)
def test_however_a_text_is_cut_its_pieces_make_the_same_text(units):
    halves = Halves()
    pieces = [halves.join(unit) for unit in units]
    pieces.append(halves.rest())
    assert "".join(pieces) == whole("".join(units))
    assert "".join(pieces).encode().decode() == "".join(pieces)
    assert halves.rest() == ""


@settings(max_examples=200, deadline=None)
@given(UNITS)
def test_it_is_what_a_decoder_of_utf_16_makes_of_the_whole(units):
    text = "".join(units)
    assert whole(text) == text.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")
    assert whole(json.loads(json.dumps(text))) == whole(text)
