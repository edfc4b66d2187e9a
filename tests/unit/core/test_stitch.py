"""What a continuation repeats is taken off, in linear time, and no piece is held back longer than it must be."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.core.stitch import Overlap, Remainder

LONGEST = 12


def cut(text, sizes):
    """The text in pieces of these sizes, and the rest of it."""
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


def overlap(before, after, shortest):
    """How much of ``after`` is a repetition, by definition."""
    if len(before) >= shortest and after.startswith(before):
        return len(before)
    lengths = range(min(len(before), len(after), LONGEST), shortest - 1, -1)
    return next((length for length in lengths if before.endswith(after[:length])), 0)


def may_be_one(before, after, shortest):
    """Whether ``after`` may turn out to begin with a longer repetition than it has."""
    lengths = {*range(shortest, min(len(before), LONGEST) + 1), *[len(before)] * (len(before) >= shortest)}
    return any(len(after) < length and before[len(before) - length:].startswith(after) for length in lengths)


class Read(str):
    """Counts how often it is looked into."""

    __slots__ = ()
    times = 0

    def __getitem__(self, key):
        Read.times += 1
        return Read(super().__getitem__(key))


TEXT = st.text("ab ", max_size=30)


@example("aabaaaba", "aabaaa", [1, 1, 1, 1, 1], 1)  # a border of a border
@settings(max_examples=1000)
@given(TEXT, TEXT, st.lists(st.integers(0, 5)), st.integers(1, 5))
def test_the_longest_repetition_is_taken_off_and_each_piece_is_given_as_soon_as_it_can_be(
    before, after, sizes, shortest
):
    stitch = Overlap(before, shortest=shortest, longest=LONGEST)
    got = read = ""
    for piece in cut(after, sizes):
        got += stitch.feed(piece)
        read += piece
        if not may_be_one(before, read, shortest):
            assert got == read[overlap(before, read, shortest):]
        else:
            assert got == ""
    assert got + stitch.rest() == after[overlap(before, after, shortest):]


@pytest.mark.parametrize(("before", "after", "new"), [
    ("The sky is blue because", "is blue because of", " of"),
    ("The sky is blue", "The sky is blue because", " because"),  # it began anew
    ("The sky is blue", "The sky", "The sky"),  # cannot be told from an answer that goes on so
    ("ha ha ha ", "ha ha ha ", ""),  # neither can this
    ("the mat", "mat and", "mat and"),  # shorter than a word that may be meant
    ("", "Hello", "Hello"),
])
def test_what_is_a_repetition(before, after, new):
    stitch = Overlap(before, shortest=7, longest=20)
    assert stitch.feed(after) + stitch.rest() == new


def test_a_piece_that_can_be_no_repetition_is_not_held_back():
    stitch = Overlap("The sky is blue because", shortest=4, longest=LONGEST)
    assert stitch.feed("x") == "x"
    assert stitch.feed(" because") == " because"


@pytest.mark.parametrize(("before", "after"), [
    ("a" * 2000, "a" * 1999 + "b"), ("a" * 1999 + "b", "a" * 2000), ("ab" * 1000, "ba" * 1000),
    ("a" * 1000 + "b" + "a" * 999, "a" * 999 + "c"), (("a" * 40 + "b") * 50, "a" * 41 + "c"),
])
def test_hostile_texts_are_read_in_linear_time(before, after):
    Read.times = 0
    stitch = Overlap(Read(before), shortest=8, longest=len(before))
    for character in after:
        stitch.feed(character)
    stitch.rest()
    assert 8 < Read.times <= 4 * (len(before) + len(after))


@given(TEXT, TEXT, st.lists(st.integers(0, 5)))
def test_of_an_answer_begun_anew_only_the_rest_is_new(before, after, sizes):
    stitch = Remainder(before)
    got = []
    for piece in cut(after, sizes):
        got.append(stitch.feed(piece))
        if got[-1] is None:
            assert not after.startswith(before)
            assert not before.startswith(after)
            return
    assert stitch.whole == after.startswith(before)
    assert "".join(got) == after[len(before):]
