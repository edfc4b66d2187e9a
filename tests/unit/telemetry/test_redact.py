"""No key leaves the process, whatever text it stands in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.errors import (
    AllProvidersFailedError,
    AuthenticationError,
    ConnectionFailedError,
    InvalidRequestError,
    RateLimitError,
    TimeoutError,
)
from orchestrator.telemetry.redact import describe, redact

TOKEN = "Zm9vYmFyOnNlY3JldDEyMzQ1Njc4"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer ***"),
        (f"authorization: basic {TOKEN}", "authorization: basic ***"),
        (f"Authorization: Api-Key {TOKEN}", "Authorization: Api-Key ***"),
        (f"'Authorization': '{TOKEN}'", "'Authorization': '***'"),
        (f'{{"api_key": "{TOKEN}", "model": "m"}}', '{"api_key": "***", "model": "m"}'),
        (f"x-api-key={TOKEN}&stream=true", "x-api-key=***&stream=true"),
        (f"GIGACHAT_CREDENTIALS={TOKEN}", "GIGACHAT_CREDENTIALS=***"),
        (f"client_secret: {TOKEN}", "client_secret: ***"),
        ("password = hunter22", "password = ***"),
        (f'"access_token":"{TOKEN}"', '"access_token":"***"'),
        ("https://user:pa55@proxy.local:3128/x", "https://***@proxy.local:3128/x"),
        ("Incorrect API key provided: abcdef123456.", "Incorrect API key provided: ***"),
        ("key sk-proj-abcdefghijkl0123456789 refused", "key *** refused"),
        ("sent gsk_abcdefghijkl0123456789", "sent ***"),
        ("sent AIzaabcdefghijklmnopqrstuvwxyz", "sent ***"),
        ("sent AQVNabcdefghijklmnopqrstuvwxyz", "sent ***"),
        ("sent t1.9euelZqabc.Zm9vYmFyZm9vYmFy", "sent ***"),
        ("sent eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "sent ***"),
    ],
)
def test_keys_tokens_and_passwords_are_masked(text, safe):
    assert redact(text) == safe


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a basic explanation of how bearers carried water",
        "the key to success: patience",
        "no answer within 20 s (http://localhost:8080/v1/chat/completions)",
        "token count 12345 is above the limit",
        "task-management, risk-averse, disk-usage",
        "write to user@example.com",
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert redact(text) == text


letters = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=24, max_size=48)
around = st.text(max_size=20)  # shorter than a key


@settings(max_examples=150, deadline=None)
@given(before=around, key=letters, after=around, form=st.sampled_from(
    ["Bearer {}", "api_key={}", '"api_key": "{}"', "Authorization: Api-Key {}", "sk-{}", "https://me:{}@host/"]
))
def test_a_key_never_survives_wherever_it_stands(before, key, after, form):
    text = f"{before} {form.format(key)} {after}"
    masked = redact(text)
    assert key not in masked
    assert redact(masked) == masked


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_any_text_can_be_masked_twice(text):
    assert redact(redact(text)) == redact(text)


def test_a_foreign_exception_is_described_by_its_class_alone():
    assert describe(ValueError("the prompt was: hello")) == "ValueError"


def test_an_error_is_described_by_its_fields_not_by_the_providers_words():
    error = InvalidRequestError("'hello' is no valid content", status_code=400, code="bad_content", request_id="r-1")
    assert describe(error) == "InvalidRequestError (HTTP 400, bad_content, request r-1)"


def test_a_providers_words_can_be_asked_for_and_are_masked():
    error = AuthenticationError(f"Incorrect API key provided:\n  {TOKEN}")
    assert describe(error, text=True) == "AuthenticationError: Incorrect API key provided: ***"


def test_our_own_words_and_the_transports_are_kept():
    assert describe(ConnectionFailedError("certificate verify failed")) == (
        "ConnectionFailedError: certificate verify failed"
    )
    assert describe(TimeoutError("no answer within 20 s", phase="first_token", retry_after=3)) == (
        "TimeoutError (first_token limit, retry after 3 s): no answer within 20 s"
    )


def test_a_group_is_described_without_the_words_of_its_members():
    group = AllProvidersFailedError("2 attempts failed", [RateLimitError("hello"), AuthenticationError("hello")])
    assert describe(group) == "AllProvidersFailedError: 2 attempts failed"


def test_a_long_text_is_cut():
    assert len(describe(ConnectionFailedError("x" * 10_000))) < 400
    assert len(describe(RateLimitError(code="x" * 10_000))) < 400
