"""One record per request and per event worth a line; its fields can be read by machines."""

from __future__ import annotations

import asyncio
import logging

import pytest

from orchestrator.core.errors import ConnectionFailedError, InvalidRequestError, RateLimitError, ServerError
from orchestrator.core.events import (
    AttemptEnded,
    AttemptOpened,
    AttemptStarted,
    BreakerChanged,
    FailedOver,
    ProviderAdded,
    ProviderPaused,
    ProviderRemoved,
    Recovering,
    RequestEnded,
    RequestStarted,
    RetryScheduled,
    Waiting,
)
from orchestrator.core.types import Attempt, Completion, Request, Usage
from orchestrator.telemetry import LoggingListener

SECRET = "sk-abcdefghijklmnop0123456789"
PROMPT = "What is the secret of the sea?"


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="orchestrator.telemetry")
    listener = LoggingListener()

    def emit(*events):
        caplog.clear()
        for event in events:
            listener(event)
        return caplog.records

    return emit


def fields(record):
    return {name: value for name, value in vars(record).items() if name.startswith("llm_")}


def test_a_whole_request_is_one_record(log):
    attempt = Attempt("giga", "g-1", 1, 0.0)
    answer = Completion("deep", model="g-1-pro", provider="giga", usage=Usage(12, 34), time_to_first_token=0.25)
    (record,) = log(
        RequestStarted(0.0, 7, "random", True, Request(PROMPT)),
        AttemptStarted(0.0, 7, 1, "giga", "g-1"),
        AttemptOpened(0.25, 7, 1, "giga", 0.25),
        AttemptEnded(1.5, 7, "answer", attempt, answer),
        RequestEnded(1.5, 7, "answer", 1.5, (attempt,), answer),
    )
    assert record.levelno == logging.INFO
    assert record.getMessage() == "request 7 ended in answer after 1.500 s, attempts: 1, provider: giga"
    assert fields(record) == {
        "llm_event": "request_ended", "llm_request": 7, "llm_outcome": "answer", "llm_provider": "giga",
        "llm_model": "g-1-pro", "llm_duration": 1.5, "llm_time_to_first_token": 0.25, "llm_attempts": 1,
        "llm_input_tokens": 12, "llm_output_tokens": 34, "llm_error_type": None,
    }


def test_an_answer_of_unknown_cost_says_so(log):
    attempt = Attempt("a", None, 1, 0.0)
    (record,) = log(RequestEnded(1.0, 1, "answer", 1.0, (attempt,), Completion("x")))
    assert record.llm_input_tokens is None
    assert record.llm_model is None


def test_a_failed_request_is_a_warning_with_the_reason(log):
    error = ServerError("the prompt was: " + PROMPT, provider="a", status_code=500)
    (record,) = log(RequestEnded(2.0, 3, "error", 2.0, (Attempt("a", "m", 1, 0.0, error=error),), None, error))
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "request 3 ended in error after 2.000 s, attempts: 1, provider: a: ServerError (HTTP 500)"
    )
    assert record.llm_error_type == "ServerError"
    assert record.llm_model == "m"


def test_a_request_that_reached_nobody_names_no_provider(log):
    (record,) = log(RequestEnded(2.0, 3, "error", 2.0, (), None, ConnectionFailedError("refused")))
    assert record.getMessage().endswith("attempts: 0, provider: none: ConnectionFailedError: refused")
    assert record.llm_provider is None
    assert record.llm_model is None


def test_a_cancelled_request_is_no_warning(log):
    (record,) = log(RequestEnded(2.0, 3, "cancelled", 2.0, (), None, asyncio.CancelledError()))
    assert record.levelno == logging.INFO
    assert record.llm_error_type is None


@pytest.mark.parametrize(
    ("event", "level", "message", "expected"),
    [
        (
            RetryScheduled(0.0, 1, "a", 0.25, ServerError(status_code=502)), logging.INFO,
            "request 1: a is asked again in 0.250 s after ServerError (HTTP 502)",
            {"llm_event": "retry_scheduled", "llm_request": 1, "llm_provider": "a", "llm_delay": 0.25,
             "llm_error_type": "ServerError"},
        ),
        (
            FailedOver(0.0, 1, "a", RateLimitError(status_code=429)), logging.WARNING,
            "request 1: a is given up after RateLimitError (HTTP 429)",
            {"llm_event": "failed_over", "llm_request": 1, "llm_provider": "a", "llm_error_type": "RateLimitError"},
        ),
        (
            Recovering(0.0, 1, "a", "continue", 16, ServerError(status_code=502)), logging.WARNING,
            "request 1: the stream of a broke after 16 characters (ServerError (HTTP 502)), recovery: continue",
            {"llm_event": "recovering", "llm_request": 1, "llm_provider": "a", "llm_mode": "continue",
             "llm_received": 16, "llm_error_type": "ServerError"},
        ),
        (
            Waiting(0.0, 1, 3.0), logging.WARNING, "request 1 waits up to 3.000 s for a provider to come back",
            {"llm_event": "waiting", "llm_request": 1, "llm_delay": 3.0},
        ),
        (
            BreakerChanged(0.0, "a", "closed", "open", "5 failures in a row", 5.0), logging.WARNING,
            "breaker of a: closed -> open (5 failures in a row)",
            {"llm_event": "breaker_changed", "llm_provider": "a", "llm_breaker_old": "closed",
             "llm_breaker_new": "open", "llm_reason": "5 failures in a row", "llm_retry_after": 5.0},
        ),
        (
            BreakerChanged(0.0, "a", "half-open", "ramp", "probes passed"), logging.INFO,
            "breaker of a: half-open -> ramp (probes passed)",
            {"llm_event": "breaker_changed", "llm_provider": "a", "llm_breaker_old": "half-open",
             "llm_breaker_new": "ramp", "llm_reason": "probes passed", "llm_retry_after": None},
        ),
        (
            ProviderPaused(0.0, "a", 12.0), logging.WARNING, "a asked for a pause of 12.000 s",
            {"llm_event": "provider_paused", "llm_provider": "a", "llm_delay": 12.0},
        ),
        (ProviderAdded("a"), logging.INFO, "a joined", {"llm_event": "provider_added", "llm_provider": "a"}),
        (ProviderRemoved("a"), logging.INFO, "a left", {"llm_event": "provider_removed", "llm_provider": "a"}),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "__slots__") else "",
)
def test_each_event_worth_a_line_has_its_own(log, event, level, message, expected):
    (record,) = log(event)
    assert record.levelno == level
    assert record.getMessage() == message
    assert fields(record) == expected


def test_a_record_goes_to_the_logger_that_was_given(caplog):
    caplog.set_level(logging.INFO, logger="mine")
    LoggingListener(logging.getLogger("mine"))(ProviderAdded("a"))
    assert [record.name for record in caplog.records] == ["mine"]


def test_a_silent_logger_costs_no_words(caplog):
    class Shy:
        def __str__(self):
            raise AssertionError("nobody asked")

    caplog.set_level(logging.ERROR, logger="orchestrator.telemetry")
    listener = LoggingListener()
    listener(RequestEnded(1.0, 1, "answer", 1.0, (), Completion("x")))
    listener(RequestEnded(1.0, 1, "error", 1.0, (), None, ConnectionFailedError(Shy())))
    assert caplog.records == []


def test_neither_prompt_nor_answer_nor_key_is_ever_written(log):
    refused = InvalidRequestError(f"{PROMPT} with {SECRET}", status_code=400, code=SECRET)
    broken = ConnectionFailedError(f"proxy https://me:{SECRET}@proxy refused")
    attempts = (Attempt("a", "m", 1, 0.0, error=broken), Attempt("a", "m", 2, 0.0, error=refused))
    records = log(
        RequestStarted(0.0, 1, "random", False, Request(PROMPT)),
        RetryScheduled(0.0, 1, "a", 0.1, broken),
        FailedOver(0.0, 1, "a", refused),
        RequestEnded(1.0, 1, "error", 1.0, attempts, None, refused),
        RequestEnded(1.0, 2, "answer", 1.0, attempts, Completion("the sea keeps it")),
    )
    formatter = logging.Formatter("%(message)s")
    for record in records:
        written = formatter.format(record) + repr(fields(record))
        for private in (PROMPT, SECRET, "the sea keeps it"):
            assert private not in written
