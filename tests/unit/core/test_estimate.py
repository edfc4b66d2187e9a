"""Tokens guessed before the call."""

from __future__ import annotations

import pytest

from orchestrator import GenerationParams
from orchestrator.core.estimate import PER_IMAGE, completion_tokens, prompt_tokens
from orchestrator.core.types import ImagePart, Message, Request, ResponseFormat, TextPart, Tool, ToolCall


@pytest.mark.parametrize(("text", "characters"), [
    ("Why is the sky blue? " * 100, 4.0), ("Почему небо голубое? " * 100, 2.2), ("天空为什么是蓝色的" * 100, 1.33),
])
def test_a_token_is_about_so_many_characters(text, characters):
    assert len(text) / prompt_tokens(Request(text)) == pytest.approx(characters, rel=0.1)


def test_text_that_is_no_unicode_is_counted_all_the_same():
    assert prompt_tokens(Request("\ud800" * 400)) == 304


def test_all_that_is_sent_counts():
    plain = Request(messages=[Message("system", "s" * 400), Message("user", "u" * 400)])
    assert prompt_tokens(plain) == 208
    image = Message("user", (TextPart("u" * 400), ImagePart("data:image/png;base64," + "A" * 9999)))
    assert prompt_tokens(Request(messages=[image])) == 104 + PER_IMAGE
    call = Message("assistant", tool_calls=(ToolCall("1", "find", "a" * 396),))
    assert prompt_tokens(Request(messages=[call])) == 104
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    with_tool = Request("u" * 400, tools=[Tool("weather", "d" * 400, schema)])
    assert 210 < prompt_tokens(with_tool) < 250
    with_format = Request("u" * 400, response_format=ResponseFormat(schema))
    assert 110 < prompt_tokens(with_format) < 150
    assert prompt_tokens(Request("u" * 400, response_format=ResponseFormat())) == 104


def test_the_answer_is_as_long_as_allowed_or_as_usual():
    assert completion_tokens(Request("x", GenerationParams(max_tokens=50)), 300.0) == 50
    assert completion_tokens(Request("x"), 299.6) == 300
    assert completion_tokens(Request("x", GenerationParams(temperature=0))) == 256
