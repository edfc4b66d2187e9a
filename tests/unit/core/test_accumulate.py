"""Pieces become the whole answer; what is no answer is an error."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core import accumulate
from orchestrator.core.accumulate import Accumulator, check_completion
from orchestrator.core.errors import ContentFilteredError, MalformedResponseError
from orchestrator.core.types import (
    Completion,
    Finished,
    ReasoningDelta,
    Restarted,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)


def collect(*events):
    answer = Accumulator()
    for event in events:
        answer.add(event)
    return answer


END = Finished(Completion(""))


def test_texts_are_joined_in_order():
    answer = collect(TextDelta("Hel"), TextDelta("lo"))
    assert answer.text == "Hello"
    assert not answer.finished
    answer.add(Finished(Completion("", model="m", usage=Usage(1, 2), finish_reason="length")))
    assert answer.finished
    assert answer.completion("a") == Completion("Hello", model="m", usage=Usage(1, 2), finish_reason="length")


def test_reasoning_is_kept_apart():
    completion = collect(ReasoningDelta("Hm"), TextDelta("Yes"), ReasoningDelta("m"), END).completion("a")
    assert (completion.text, completion.reasoning) == ("Yes", "Hmm")


def test_fragments_of_tool_calls_are_put_together_by_their_index():
    completion = collect(
        ToolCallDelta(1, "c2", "feel", "{}"),
        ToolCallDelta(0, "c1", "look", '{"at": '),
        ToolCallDelta(0, arguments='"cat"'),
        ToolCallDelta(0, arguments="}"),
        END,
    ).completion("a")
    assert completion.tool_calls == (ToolCall("c1", "look", '{"at": "cat"}'), ToolCall("c2", "feel", "{}"))


def test_id_and_name_may_come_late():
    completion = collect(ToolCallDelta(0), ToolCallDelta(0, name="look"), ToolCallDelta(0, "c1"), END).completion("a")
    assert completion.tool_calls == (ToolCall("c1", "look", ""),)


def test_what_the_last_event_brings_itself_is_taken():
    whole = Completion("all of it", reasoning="because", tool_calls=(ToolCall("c9", "go", "{}"),))
    completion = collect(
        TextDelta("all"), ReasoningDelta("be"), ToolCallDelta(0, "c1", "look"), Finished(whole)
    ).completion("a")
    assert completion == whole


def test_an_end_used_twice_does_not_carry_one_answer_into_the_next():
    assert collect(TextDelta("one"), END).completion("a").text == "one"
    assert collect(TextDelta("two"), END).completion("a").text == "two"
    assert END.completion.text == ""


def test_a_stream_without_an_end_is_no_answer():
    with pytest.raises(MalformedResponseError, match="a: the stream ended without an end marker"):
        collect(TextDelta("Hel")).completion("a")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("text", "the stream yielded str, which is no stream event"),
        (None, "the stream yielded NoneType, which is no stream event"),
        (Completion("x"), "the stream yielded Completion, which is no stream event"),
        (TextDelta(None), "the stream yielded TextDelta whose text is NoneType"),
        (TextDelta(b"x"), "the stream yielded TextDelta whose text is bytes"),
        (ReasoningDelta(5), "the stream yielded ReasoningDelta whose text is int"),
        (ToolCallDelta(0, arguments={}), "the stream yielded ToolCallDelta whose arguments is dict"),
        (Finished("whole"), "the stream yielded Finished whose completion is str"),
        (Finished(None), "the stream yielded Finished whose completion is NoneType"),
    ],
)
def test_what_is_no_stream_event_is_refused(event, message):
    answer = collect(TextDelta("a"))
    with pytest.raises(MalformedResponseError) as caught:
        answer.add(event)
    assert caught.value.message == message
    assert answer.text == "a"


@pytest.mark.parametrize(("limit", "value", "events", "message"), [
    ("MAX_TEXT", 100, [TextDelta("x" * 50)] * 2, "the stream is longer than 100 characters, each event counted as 16"),
    ("MAX_TEXT", 100, [ReasoningDelta("x" * 50)] * 2, "the stream is longer than 100 characters"),
    ("MAX_TEXT", 100, [TextDelta("")] * 7, "the stream is longer than 100 characters"),
    ("MAX_TEXT", 100, [ToolCallDelta(0)] * 7, "the stream is longer than 100 characters"),
    ("MAX_CALLS", 3, [ToolCallDelta(n) for n in (10**9, -1, 0, 7)], "the stream has more than 3 tool calls"),
    ("MAX_ARGUMENTS", 9, [ToolCallDelta(0, arguments="xxxxx")] * 2, "tool calls of the stream are longer than 9 char"),
])
def test_a_limit_that_is_exceeded_is_named(monkeypatch, limit, value, events, message):
    monkeypatch.setattr(accumulate, limit, value)
    answer = collect(*events[:-1])
    with pytest.raises(MalformedResponseError, match=message) as caught:
        answer.add(events[-1])
    assert "xx" not in str(caught.value)


def test_no_stream_of_a_custom_provider_has_more_events_than_the_limit():
    answer, event = Accumulator(), TextDelta("")
    with pytest.raises(MalformedResponseError, match="the stream is longer than"):
        for _ in range(accumulate.MAX_EVENTS + 1):
            answer.add(event)


def test_a_hundred_thousand_fragments_of_one_call_take_no_time_that_grows_with_their_square():
    answer = Accumulator()
    for _ in range(100_000):
        answer.add(ToolCallDelta(0, arguments="x" * 100))
    copied = len(answer._calls[0].arguments)  # one list of the fragments, joined once
    answer.add(END)
    assert copied == 100_000
    assert answer.completion("a").tool_calls[0].arguments == "x" * 10_000_000


def pieces_of(*texts):
    answer, pieces = Accumulator(), []
    for text in texts:
        piece = TextDelta(text)
        answer.add(piece)
        pieces.append(piece.text)
    answer.add(Finished(Completion("")))
    assert answer.text == "".join(pieces) == answer.completion("a").text
    return pieces


@pytest.mark.parametrize(("texts", "pieces"), [
    (["a\ud83d", "\ude00b"], ["a", "😀b"]), (["\ud83d", "", "\ude00"], ["", "", "😀"]),
    (["a\ud83d", "b"], ["a", "\ufffdb"]), (["\ude00a"], ["\ufffda"]), (["ж\ud83dж"], ["ж\ufffdж"]),
    (["a\ud83d"], ["a"]), (["ж\n", "😀"], ["ж\n", "😀"]),
])
def test_an_emoji_cut_in_two_is_put_together_before_it_is_handed_out(texts, pieces):
    assert pieces_of(*texts) == pieces


def test_a_whole_answer_can_be_written_as_utf_8():
    call = ToolCall("\ud83d", "\ud83d\ude00", '{"a": "\ude00"}')
    completion = Completion("a\ud83d", reasoning="\ud83d\ude00", tool_calls=(call,))
    assert check_completion(completion, "a") is completion
    assert (completion.text, completion.reasoning) == ("a\ufffd", "😀")
    assert completion.tool_calls == (ToolCall("\ufffd", "😀", '{"a": "\ufffd"}'),)


maybe = st.sampled_from([None, "given"])
pieces = st.one_of(
    st.builds(TextDelta, st.text(min_size=1, max_size=5)),
    st.builds(ReasoningDelta, st.text(max_size=5)),
    st.builds(ToolCallDelta, st.integers(0, 2), maybe, maybe, st.text(max_size=5)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, max_size=20))
def test_nothing_is_lost_and_nothing_is_mixed(events):
    completion = collect(*events, END).completion("a")
    assert completion.text == "".join(e.text for e in events if isinstance(e, TextDelta))
    assert completion.reasoning == "".join(e.text for e in events if isinstance(e, ReasoningDelta))
    calls = [e for e in events if isinstance(e, ToolCallDelta)]
    indices = sorted({e.index for e in calls})
    assert [call.arguments for call in completion.tool_calls] == [
        "".join(e.arguments for e in calls if e.index == index) for index in indices
    ]


odd_text = st.sampled_from(["a", "", "ж\n", "😀", "\ud83d", "\ude00", "x" * 30, None, b"x", 5])
texts = st.builds(TextDelta, st.sampled_from(["a", "bc", "ж\n", "😀"]))
batches = st.lists(st.lists(texts, min_size=1, max_size=6) | st.lists(
    texts | st.builds(TextDelta, odd_text) | st.builds(ReasoningDelta, st.just("r"))
    | st.sampled_from([END, Restarted("p", "", MalformedResponseError("cut")), ToolCallDelta(0), None]),
    min_size=1, max_size=6,
), max_size=6)


def taken(answer, batch):
    """The texts of those events of a batch that were taken, one by one; and what was refused."""
    pieces = []
    try:
        for event in batch:
            answer.add(event)
            pieces.append(getattr(event, "text", None))
    except MalformedResponseError as error:
        return pieces, str(error)
    return pieces, None


@settings(max_examples=300, deadline=None)
@given(batches, st.sampled_from([40, 120, 10**6]))
def test_texts_taken_at_once_are_those_taken_one_by_one(batches, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accumulate, "MAX_TEXT", most)
        one, other = Accumulator(), Accumulator()
        for batch in batches:
            pieces, error = taken(one, deepcopy(batch))
            batch = deepcopy(batch)
            if other.add_texts(batch):
                assert ([event.text for event in batch], None) == (pieces, error)
            else:
                assert taken(other, batch) == (pieces, error)
            assert (one.text, one._room, one.finished) == (other.text, other._room, other.finished)
            if error:
                return


@pytest.mark.parametrize("events", [
    [TextDelta("a")] * 3, [TextDelta("a"), TextDelta("ж\n"), TextDelta("😀")], [TextDelta("a" * n) for n in (26, 26, 0)]
])
def test_usual_texts_are_taken_at_once(events, monkeypatch):
    monkeypatch.setattr(accumulate, "MAX_TEXT", 100)
    assert Accumulator().add_texts(events)


@pytest.mark.parametrize("odd", [
    ReasoningDelta("a"), END, ToolCallDelta(0), TextDelta("\ud83d"), TextDelta(None), TextDelta("a" * 51), None,
])
def test_of_a_batch_with_anything_else_in_it_none_is_taken_at_once(odd, monkeypatch):
    monkeypatch.setattr(accumulate, "MAX_TEXT", 100)
    answer = Accumulator()
    assert not answer.add_texts([TextDelta("a"), TextDelta("b"), odd])
    assert (answer.text, answer._room) == ("", 100)


def test_a_short_batch_is_quicker_one_by_one():
    assert not Accumulator().add_texts([TextDelta("a")] * 2)


def test_after_half_a_pair_each_text_is_looked_at():
    answer = collect(TextDelta("a\ud83d"))
    assert not answer.add_texts([TextDelta("b")] * 3)
    assert pieces_of("a\ud83d", "b") == ["a", "\ufffdb"]


# Is it an answer?


@pytest.mark.parametrize(
    "completion",
    [
        Completion("Hi"),
        Completion("", tool_calls=(ToolCall("c1", "look", "{}"),)),
        Completion("", finish_reason="length"),
        Completion("cut", finish_reason="length"),
    ],
)
def test_an_answer_passes_as_it_is(completion):
    assert check_completion(completion, "a") is completion


COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [0, 1, True, 2**53 - 1])
def test_a_usage_of_whole_numbers_passes(field, value):
    answer = Completion("Hi", usage=Usage(3, 5, 2, 1))
    setattr(answer.usage, field, value)
    assert check_completion(answer, "a") is answer


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [-1, -(2**70), 2**53, 2**70, 1.0, "1", None, {1}])
def test_a_usage_of_anything_else_is_refused(field, value):
    answer = Completion("Hi", usage=Usage(3, 5, 2, 1))
    setattr(answer.usage, field, value)
    with pytest.raises(MalformedResponseError, match="no Usage of whole numbers"):
        check_completion(answer, "a")


@pytest.mark.parametrize("finish_reason", ["stop", "tool_calls"])
def test_an_empty_answer_is_none(finish_reason):
    with pytest.raises(MalformedResponseError, match="a: the provider returned an empty answer") as caught:
        check_completion(Completion("", model="m", finish_reason=finish_reason), "a")
    assert (caught.value.provider, caught.value.model) == ("a", "m")


@pytest.mark.parametrize("text", ["", "half of it"])
def test_a_filtered_answer_is_none(text):
    with pytest.raises(ContentFilteredError, match="content filter stopped the answer") as caught:
        check_completion(Completion(text, model="m", finish_reason="content_filter"), "a")
    assert (caught.value.provider, caught.value.model) == ("a", "m")


@pytest.mark.parametrize(
    ("value", "kind"), [(None, "NoneType"), ("Hi", "str"), ({"text": "Hi"}, "dict"), (Completion(None), "NoneType"),
                        (Completion(5), "int")],
)
def test_what_is_no_completion_is_named_by_its_kind(value, kind):
    with pytest.raises(MalformedResponseError) as caught:
        check_completion(value, "a")
    assert caught.value.message == f"the provider returned {kind}, not a text"
    assert caught.value.provider == "a"
