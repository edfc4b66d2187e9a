"""Spans and metrics, seen through the real SDK."""

from __future__ import annotations

import asyncio
import contextvars
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from orchestrator.core.config import GenerationParams
from orchestrator.core.errors import (
    AllProvidersFailedError,
    InvalidRequestError,
    OverloadedError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
)
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
from orchestrator.core.types import (
    Attempt,
    Completion,
    ImagePart,
    Message,
    Request,
    ResponseFormat,
    TextPart,
    ToolCall,
    Usage,
)
from orchestrator.telemetry import OpenTelemetryListener, semconv

SECRET = "sk-abcdefghijklmnop0123456789"


@dataclass
class Sdk:
    """A listener with the real SDK behind it."""

    listener: OpenTelemetryListener
    tracers: TracerProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def emit(self, *events):
        for event in events:
            self.listener(event)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def points(self, name):
        data = self.reader.get_metrics_data()
        found = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        return [point for metric in found if metric.name == name for point in metric.data.data_points]

    def values(self, name):
        """``{attributes: value}``; a histogram's value is (count, sum)."""
        return {
            frozenset(p.attributes.items()): getattr(p, "value", None) if hasattr(p, "value") else (p.count, p.sum)
            for p in self.points(name)
        }


def make_sdk(**options) -> Sdk:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider(**({"sampler": options.pop("sampler")} if "sampler" in options else {}))
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    listener = OpenTelemetryListener(tracer_provider=tracers, meter_provider=meters, **options)
    return Sdk(listener, tracers, exporter, reader)


@pytest.fixture
def sdk():
    return make_sdk()


def started(request=1, *, stream=False, asked=None):
    return RequestStarted(0.0, request, "round-robin", stream, asked or Request("What is the secret of the sea?"))


def attempt(number=1, provider="a", model="m-1", **fields):
    return Attempt(provider, model, number, 0.0, **fields)


def attempt_started(record, request=1):
    return AttemptStarted(0.0, request, record.number, record.provider, record.model)


def attempt_ended(record, request=1, outcome=None):
    return AttemptEnded(1.0, request, outcome or ("error" if record.error else "answer"), record)


def ended(*attempts, request=1, completion=None, error=None, outcome=None):
    outcome = outcome or ("answer" if completion is not None else "error")
    return RequestEnded(2.0, request, outcome, 2.0, tuple(attempts), completion, error)


def success(request=1, *, provider="a", model="m-1", usage=None, stream=False):
    record = attempt(provider=provider, model=model)
    answer = Completion("the answer", model=model, provider=provider, usage=usage)
    opened = [AttemptOpened(0.5, request, 1, provider, 0.5)] if stream else []
    return [
        started(request, stream=stream), attempt_started(record, request), *opened,
        attempt_ended(record, request), ended(record, request=request, completion=answer),
    ]


def parent_of(span):
    return span.parent.span_id if span.parent else None


def test_a_request_is_a_genai_span_and_its_attempt_a_child_that_is_none(sdk):
    record = attempt(provider="mistral", model="mistral-large")
    answer = Completion(
        "hello", model="mistral-large-2501", provider="mistral", finish_reason="length",
        usage=Usage(12, 34, cached_tokens=5, reasoning_tokens=6), request_id="cmpl-1",
    )
    sdk.emit(started(), attempt_started(record), attempt_ended(record), ended(record, completion=answer))
    spans = sdk.spans()
    request, child = spans["chat mistral-large"], spans["attempt mistral"]
    assert request.kind is SpanKind.CLIENT
    assert request.status.status_code is StatusCode.UNSET
    assert dict(request.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "mistral-large",
        "gen_ai.response.model": "mistral-large-2501",
        "gen_ai.response.id": "cmpl-1",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 34,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 6,
        "orchestrator.strategy": "round-robin",
        "orchestrator.outcome": "answer",
        "orchestrator.attempt.count": 1,
        "orchestrator.provider.name": "mistral",
    }
    assert child.kind is SpanKind.INTERNAL
    assert parent_of(child) == request.context.span_id
    assert dict(child.attributes) == {
        "orchestrator.provider.name": "mistral",
        "orchestrator.attempt.number": 1,
        "orchestrator.attempt.model": "mistral-large",
        "orchestrator.outcome": "answer",
    }


def test_the_scope_names_the_library_and_the_conventions(sdk):
    sdk.emit(*success())
    scope = sdk.exporter.get_finished_spans()[0].instrumentation_scope
    assert scope.name == "orchestrator"
    assert scope.schema_url == semconv.SCHEMA_URL


def test_the_request_says_what_was_asked_for(sdk):
    params = GenerationParams(temperature=0.5, max_tokens=100, top_p=0.9, stop=("END",), seed=7)
    asked = Request("hi", params, response_format=ResponseFormat(), stream=True)
    record = attempt(time_to_first_token=0.5)
    answer = Completion("hello", time_to_first_token=0.75)
    sdk.emit(
        started(stream=True, asked=asked), attempt_started(record), AttemptOpened(0.75, 1, 1, "a", 0.5),
        attempt_ended(record), ended(record, completion=answer),
    )
    spans = sdk.spans()
    attributes = spans["chat m-1"].attributes
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.request.max_tokens"] == 100
    assert attributes["gen_ai.request.top_p"] == 0.9
    assert attributes["gen_ai.request.stop_sequences"] == ("END",)
    assert attributes["gen_ai.request.seed"] == 7
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["gen_ai.output.type"] == "json"
    assert attributes["gen_ai.response.time_to_first_chunk"] == 0.75
    assert "gen_ai.response.model" not in attributes
    assert spans["attempt a"].attributes["orchestrator.attempt.time_to_first_token"] == 0.5
    assert [point.sum for point in sdk.points("gen_ai.client.operation.time_to_first_chunk")] == [0.75]


def test_a_retry_is_two_attempts_one_note_and_tokens_counted_once(sdk):
    error = ServerError("boom", status_code=502)
    first, second = attempt(1, error=error), attempt(2, usage=Usage(10, 20))
    answer = Completion("hello", model="m-1", provider="a", usage=Usage(10, 20))
    sdk.emit(
        started(), attempt_started(first), attempt_ended(first), RetryScheduled(0.0, 1, "a", 0.25, error),
        attempt_started(second), attempt_ended(second), ended(first, second, completion=answer),
    )
    finished = sdk.exporter.get_finished_spans()
    failed, answered, request = finished
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "ServerError (HTTP 502)"
    assert failed.attributes["error.type"] == "ServerError"
    assert failed.attributes["http.response.status_code"] == 502
    assert failed.attributes["orchestrator.outcome"] == "error"
    assert answered.status.status_code is StatusCode.UNSET
    assert answered.attributes["orchestrator.attempt.number"] == 2
    assert request.status.status_code is StatusCode.UNSET
    assert request.attributes["orchestrator.attempt.count"] == 2
    assert [(e.name, dict(e.attributes)) for e in request.events] == [
        ("orchestrator.retry", {"orchestrator.provider.name": "a", "orchestrator.delay": 0.25})
    ]
    summed = sum(span.attributes.get("gen_ai.usage.output_tokens", 0) for span in finished)
    assert summed == 20
    assert sdk.values("orchestrator.retries") == {
        frozenset({("orchestrator.provider.name", "a"), ("error.type", "ServerError")}): 1
    }
    assert sdk.values("orchestrator.attempts") == {
        frozenset({("orchestrator.provider.name", "a"), ("orchestrator.outcome", "answer")}): 1,
        frozenset({
            ("orchestrator.provider.name", "a"), ("orchestrator.outcome", "error"), ("error.type", "ServerError"),
        }): 1,
    }


def test_a_failover_leaves_the_request_with_the_provider_that_answered(sdk):
    error = OverloadedError(status_code=503)
    first, second = attempt(1, "a", error=error), attempt(2, "b", "m-2")
    answer = Completion("hello", model="m-2", provider="b")
    sdk.emit(
        started(), attempt_started(first), attempt_ended(first), FailedOver(0.0, 1, "a", error),
        Waiting(0.0, 1, 3.0), attempt_started(second), attempt_ended(second), ended(first, second, completion=answer),
    )
    request = sdk.spans()["chat m-2"]
    assert request.attributes["gen_ai.provider.name"] == "b"
    assert [(e.name, dict(e.attributes)) for e in request.events] == [
        ("orchestrator.failover", {"orchestrator.provider.name": "a"}),
        ("orchestrator.wait", {"orchestrator.delay": 3.0}),
    ]
    assert sdk.values("orchestrator.failovers") == {
        frozenset({("orchestrator.provider.name", "a"), ("error.type", "OverloadedError")}): 1
    }


def test_a_failed_request_is_an_error_with_its_class_and_without_the_providers_words(sdk):
    error = InvalidRequestError(f"'What is the secret' is not allowed, {SECRET}", status_code=400, code="bad")
    record = attempt(error=error)
    sdk.emit(started(), attempt_started(record), attempt_ended(record), ended(record, error=error))
    for span in sdk.exporter.get_finished_spans():
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "InvalidRequestError (HTTP 400, bad)"
        assert span.attributes["error.type"] == "InvalidRequestError"
        assert span.events == ()


def test_a_request_that_reached_no_provider_still_has_a_span(sdk):
    error = AllProvidersFailedError("2 attempts failed", [RateLimitError(), ServerError()])
    sdk.emit(started(), ended(error=error))
    (span,) = sdk.exporter.get_finished_spans()
    assert span.name == "chat"
    assert "gen_ai.provider.name" not in span.attributes
    assert span.attributes["error.type"] == "AllProvidersFailedError"
    assert sdk.values("gen_ai.client.operation.duration") == {
        frozenset({
            ("gen_ai.operation.name", "chat"), ("orchestrator.outcome", "error"),
            ("error.type", "AllProvidersFailedError"),
        }): (1, 2.0)
    }


def test_a_broken_stream_counts_the_tokens_it_cost(sdk):
    error = StreamInterruptedError(partial="What", usage=Usage(5, 2))
    record = attempt(error=error)
    sdk.emit(
        started(stream=True), attempt_started(record), AttemptOpened(0.5, 1, 1, "a", 0.5), attempt_ended(record),
        ended(record, error=error),
    )
    request = sdk.spans()["chat m-1"]
    assert request.attributes["gen_ai.usage.input_tokens"] == 5
    assert request.status.status_code is StatusCode.ERROR
    assert sorted(point.sum for point in sdk.points("gen_ai.client.token.usage")) == [2, 5]


def test_a_cancelled_request_is_no_error(sdk):
    record = attempt(model=None)
    sdk.emit(
        started(), attempt_started(record), attempt_ended(record, outcome="cancelled"),
        ended(record, error=asyncio.CancelledError(), outcome="cancelled"),
    )
    spans = sdk.spans()
    for span in spans["chat"], spans["attempt a"]:
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in span.attributes
        assert span.attributes["orchestrator.outcome"] == "cancelled"


def test_two_interleaved_requests_keep_their_own_spans(sdk):
    one, two = success(1, provider="a"), success(2, provider="b", model="m-2")
    for pair in zip(one, two, strict=True):
        sdk.emit(*pair)
    spans = sdk.spans()
    assert parent_of(spans["attempt a"]) == spans["chat m-1"].context.span_id
    assert parent_of(spans["attempt b"]) == spans["chat m-2"].context.span_id
    assert spans["chat m-1"].context.trace_id != spans["chat m-2"].context.trace_id


def test_the_request_is_a_child_of_the_span_that_was_current_in_the_caller(sdk):
    with sdk.tracers.get_tracer("app").start_as_current_span("handler") as handler:
        sdk.emit(*success())
        assert trace.get_current_span() is handler
    assert parent_of(sdk.spans()["chat m-1"]) == handler.get_span_context().span_id


def test_metrics_of_a_streamed_answer(sdk):
    sdk.emit(*success(usage=Usage(100, 7), stream=True))
    operation = {
        ("gen_ai.operation.name", "chat"), ("gen_ai.provider.name", "a"), ("gen_ai.request.model", "m-1"),
    }
    answered = operation | {("gen_ai.response.model", "m-1")}
    assert sdk.values("gen_ai.client.operation.duration") == {
        frozenset(answered | {("orchestrator.outcome", "answer")}): (1, 2.0)
    }
    assert sdk.values("gen_ai.client.operation.time_to_first_chunk") == {frozenset(operation): (1, 0.5)}
    assert sdk.values("gen_ai.client.token.usage") == {
        frozenset(answered | {("gen_ai.token.type", "input")}): (1, 100),
        frozenset(answered | {("gen_ai.token.type", "output")}): (1, 7),
    }


def test_histograms_have_the_boundaries_of_the_conventions(sdk):
    sdk.emit(*success(usage=Usage(1, 1)))
    (duration,) = sdk.points("gen_ai.client.operation.duration")
    assert duration.explicit_bounds == pytest.approx(
        (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
    )
    tokens = sdk.points("gen_ai.client.token.usage")[0].explicit_bounds
    assert (tokens[0], tokens[1], tokens[-1]) == (1, 4, 67108864)


def test_an_answer_of_unknown_cost_counts_no_tokens(sdk):
    sdk.emit(*success())
    assert sdk.points("gen_ai.client.token.usage") == []
    assert "gen_ai.usage.input_tokens" not in sdk.spans()["chat m-1"].attributes


def breaker_states(sdk):
    return {
        (p.attributes["orchestrator.provider.name"], p.attributes["orchestrator.breaker.state"]): p.value
        for p in sdk.points("orchestrator.breaker.state")
    }


def test_a_breaker_is_counted_in_the_state_it_is_in(sdk):
    sdk.emit(ProviderAdded("a"), ProviderAdded("b"))
    assert breaker_states(sdk) == {("a", "closed"): 1, ("b", "closed"): 1}
    sdk.emit(BreakerChanged(0.0, "a", "closed", "open", "5 failures in a row", 5.0))
    assert breaker_states(sdk) == {("a", "closed"): 0, ("a", "open"): 1, ("b", "closed"): 1}
    sdk.emit(ProviderRemoved("a"), BreakerChanged(9.0, "a", "open", "half-open", "break over"))
    assert breaker_states(sdk) == {("a", "closed"): 0, ("a", "open"): 0, ("b", "closed"): 1}


def test_a_pause_is_recorded_with_its_length(sdk):
    sdk.emit(ProviderPaused(0.0, "a", 12.0), ProviderPaused(0.0, "a", 3.0))
    assert sdk.values("orchestrator.provider.paused") == {frozenset({("orchestrator.provider.name", "a")}): (2, 15.0)}


def test_listeners_of_two_routers_share_the_instruments_of_one_meter_provider():
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    tracers = TracerProvider()
    one, two = (OpenTelemetryListener(tracer_provider=tracers, meter_provider=meters) for _ in range(2))
    one(ProviderAdded("a"))
    two(ProviderAdded("b"))
    data = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    assert sum(p.value for m in data if m.name == "orchestrator.breaker.state" for p in m.data.data_points) == 2


# The current span


def test_the_attempt_is_current_while_a_plain_call_is_under_way(sdk):
    record = attempt()
    before = otel_context.get_current()
    sdk.emit(started(), attempt_started(record))
    assert trace.get_current_span().name == "attempt a"
    with sdk.tracers.get_tracer("httpx").start_as_current_span("POST"):
        pass
    sdk.emit(attempt_ended(record))
    assert otel_context.get_current() is before
    sdk.emit(ended(record, completion=Completion("x")))
    spans = sdk.spans()
    assert parent_of(spans["POST"]) == spans["attempt a"].context.span_id


def test_the_attempt_of_a_stream_is_current_only_until_it_is_opened(sdk):
    record = attempt()
    before = otel_context.get_current()
    sdk.emit(started(stream=True), attempt_started(record))
    assert otel_context.get_current() is not before
    sdk.emit(AttemptOpened(0.5, 1, 1, "a", 0.5))
    assert otel_context.get_current() is before
    sdk.emit(attempt_ended(record), ended(record, completion=Completion("x")))
    assert otel_context.get_current() is before


def test_a_stream_that_ends_in_another_context_disturbs_neither(sdk, caplog):
    record = attempt()
    elsewhere = contextvars.copy_context()
    before = otel_context.get_current()
    sdk.emit(started(stream=True), attempt_started(record))
    copied_while_open = contextvars.copy_context()
    elsewhere.run(sdk.emit, attempt_ended(record), ended(record, completion=Completion("x")))
    # The context of the caller cannot be reached from there; but what it holds is its old self again.
    assert trace.get_current_span() is trace.get_current_span(before)
    assert copied_while_open.run(trace.get_current_span) is trace.get_current_span(before)
    assert elsewhere.run(otel_context.get_current) is before
    assert caplog.records == []


def test_a_provider_that_holds_a_span_across_its_pieces_does_not_bring_the_attempt_back(sdk):
    tracer = sdk.tracers.get_tracer("provider")
    before = otel_context.get_current()
    with tracer.start_as_current_span("handler") as handler:
        for number in range(1, 4):
            record = attempt()
            sdk.emit(started(number, stream=True), attempt_started(record, number))
            leaking = tracer.start_as_current_span("held across a yield")
            leaking.__enter__()
            sdk.emit(AttemptOpened(0.5, number, 1, "a", 0.5), attempt_ended(record, number))
            sdk.emit(ended(record, request=number, completion=Completion("x")))
            leaking.__exit__(None, None, None)
            assert trace.get_current_span() is handler
            assert parent_of(sdk.exporter.get_finished_spans()[-1]) is not None
        depth, current = 0, otel_context.get_current()
        while hasattr(current, "before"):
            depth, current = depth + 1, current.before
        assert depth <= 1
    assert otel_context.get_current() is before


def test_two_listeners_of_one_router_leave_the_caller_its_span():
    one, two = make_sdk(), make_sdk()
    tracer = one.tracers.get_tracer("app")
    with tracer.start_as_current_span("handler") as handler:
        for event in success(stream=True):
            one.emit(event)
            two.emit(event)
        assert trace.get_current_span() is handler


# Bounds


def test_nothing_is_kept_of_a_request_that_ended(sdk):
    for number in range(1, 50):
        sdk.emit(*success(number))
    assert sdk.listener._open == {}


def test_an_attempt_whose_end_was_lost_ends_with_its_request(sdk):
    before = otel_context.get_current()
    record = attempt()
    sdk.emit(started(), attempt_started(record), ended(record, completion=Completion("x")))
    assert set(sdk.spans()) == {"chat m-1", "attempt a"}
    assert otel_context.get_current() is before
    assert sdk.listener._open == {}


def test_a_recovery_is_an_event_of_the_request_and_its_first_piece_came_long_ago(sdk):
    error = ServerError()
    first, second = attempt(1, "a", error=error), attempt(2, "b", "m-2")
    sdk.emit(
        started(), attempt_started(first), AttemptOpened(0.5, 1, 1, "a", 0.5), attempt_ended(first),
        Recovering(2.0, 1, "a", "restart", 16, error), attempt_started(second), AttemptOpened(3.0, 1, 2, "b", 1.0),
        attempt_ended(second), ended(first, second, completion=Completion("hello", model="m-2", provider="b")),
    )
    assert [(e.name, dict(e.attributes)) for e in sdk.spans()["chat m-2"].events] == [
        ("orchestrator.recovery", {"orchestrator.provider.name": "a"}),
    ]
    assert [point.count for point in sdk.points("gen_ai.client.operation.time_to_first_chunk")] == [1]


def test_events_of_unknown_requests_and_attempts_are_ignored(sdk):
    record = attempt()
    error = ServerError()
    sdk.emit(
        attempt_started(record, 9), AttemptOpened(0.0, 9, 1, "a", 0.1), attempt_ended(record, 9),
        RetryScheduled(0.0, 9, "a", 1.0, error), FailedOver(0.0, 9, "a", error), Waiting(0.0, 9, 1.0),
        Recovering(0.0, 9, "a", "restart", 0, error),
        ended(record, request=9, error=error), started(1), AttemptOpened(0.0, 1, 7, "a", 0.1),
        attempt_ended(attempt(7), 1),
    )
    assert sdk.exporter.get_finished_spans() == ()
    assert sdk.points("orchestrator.attempts") == []
    assert sdk.points("gen_ai.client.operation.duration") == []


def test_an_unsampled_request_still_counts():
    sdk = make_sdk(sampler=ALWAYS_OFF, capture_content=True)
    error = ServerError()
    first, second = attempt(1, error=error), attempt(2)
    sdk.emit(
        started(), attempt_started(first), attempt_ended(first), RetryScheduled(0.0, 1, "a", 0.1, error),
        attempt_started(second), attempt_ended(second), ended(first, second, completion=Completion("x")),
    )
    assert sdk.exporter.get_finished_spans() == ()
    assert sum(point.value for point in sdk.points("orchestrator.attempts")) == 2


def test_without_an_sdk_nothing_happens_and_nothing_fails():
    listener = OpenTelemetryListener()
    before = otel_context.get_current()
    for event in [ProviderAdded("a"), *success(stream=True), ProviderRemoved("a")]:
        listener(event)
    assert otel_context.get_current() is before


# Content


CONVERSATION = (
    Message("system", "Be brief."),
    Message("user", (TextPart("What is this?"), ImagePart("https://example.com/cat.png"),
                     ImagePart("data:image/png;base64,AAAA"))),
    Message("assistant", "", (ToolCall("c1", "look", '{"at": "cat"}'), ToolCall("c2", "look", "{broken"))),
    Message("tool", "a cat", tool_call_id="c1", name="look"),
)


def test_no_prompt_and_no_answer_is_recorded_unless_asked_for(sdk):
    record = attempt()
    answer = Completion("a secret answer", reasoning="a secret thought")
    sdk.emit(started(), attempt_started(record), attempt_ended(record), ended(record, completion=answer))
    for span in sdk.exporter.get_finished_spans():
        assert "secret" not in span.to_json()


def test_content_that_was_asked_for_has_the_form_of_the_conventions():
    sdk = make_sdk(capture_content=True)
    record = attempt()
    answer = Completion(
        "A cat.", finish_reason="tool_calls", reasoning="Whiskers.", tool_calls=(ToolCall("c3", "pet", "{}"),)
    )
    sdk.emit(
        started(asked=Request(messages=CONVERSATION)), attempt_started(record), attempt_ended(record),
        ended(record, completion=answer),
    )
    attributes = sdk.spans()["chat m-1"].attributes
    assert json.loads(attributes["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [
            {"type": "text", "content": "What is this?"},
            {"type": "uri", "modality": "image", "uri": "https://example.com/cat.png"},
            {"type": "blob", "modality": "image", "mime_type": "image/png", "content": ""},
        ]},
        {"role": "assistant", "parts": [
            {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"at": "cat"}},
            {"type": "tool_call", "id": "c2", "name": "look", "arguments": "{broken"},
        ]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "a cat"}]},
    ]
    assert json.loads(attributes["gen_ai.output.messages"]) == [{
        "role": "assistant",
        "finish_reason": "tool_call",
        "parts": [
            {"type": "reasoning", "content": "Whiskers."},
            {"type": "text", "content": "A cat."},
            {"type": "tool_call", "id": "c3", "name": "pet", "arguments": {}},
        ],
    }]


def test_a_tool_call_without_a_text_is_the_whole_output():
    sdk = make_sdk(capture_content=True)
    record = attempt()
    answer = Completion("", tool_calls=(ToolCall("c1", "pet", "{}"),))
    sdk.emit(started(), attempt_started(record), attempt_ended(record), ended(record, completion=answer))
    (message,) = json.loads(sdk.spans()["chat m-1"].attributes["gen_ai.output.messages"])
    assert [part["type"] for part in message["parts"]] == ["tool_call"]


def test_a_key_is_masked_even_in_content_that_was_asked_for():
    sdk = make_sdk(capture_content=True)
    error = InvalidRequestError(f"you sent {SECRET}")
    record = attempt(error=error)
    asked = Request(f"My key is {SECRET}, is that safe?")
    sdk.emit(started(asked=asked), attempt_started(record), attempt_ended(record), ended(record, error=error))
    spans = sdk.spans()
    assert spans["attempt a"].status.description == "InvalidRequestError: you sent ***"
    assert json.loads(spans["chat m-1"].attributes["gen_ai.input.messages"])[0]["parts"][0]["content"] == (
        "My key is ***, is that safe?"
    )
    for span in spans.values():
        assert SECRET not in span.to_json()


# Names and imports


def test_the_names_are_those_of_the_conventions():
    incubating = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
    from opentelemetry.semconv.attributes import error_attributes, http_attributes

    theirs = {}
    for module in (incubating, gen_ai_metrics, error_attributes, http_attributes):
        theirs |= {name: getattr(module, name) for name in vars(module) if name.isupper()}
    ours = {n: getattr(semconv, n) for n in semconv.__all__ if n.startswith(("GEN_AI_", "ERROR_", "HTTP_"))}
    assert len(ours) > 20
    assert {name: value for name, value in ours.items() if theirs.get(name) != value} == {}


def test_vendors_are_named_as_the_conventions_name_them():
    incubating = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    text = Path(incubating.__file__).read_text()
    known = text[text.index("class GenAiProviderNameValues"):text.index("class GenAiSystemValues")]
    assert [name for name in semconv.PROVIDER_NAMES.values() if f'"{name}"' not in known] == []


@pytest.mark.parametrize(
    "statement", ["import orchestrator.telemetry", "from orchestrator.telemetry import LoggingListener"]
)
def test_importing_the_package_loads_no_opentelemetry(statement):
    code = f"import sys; {statement}; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_package_knows_its_names_and_no_others():
    import orchestrator.telemetry as package

    assert package.LoggingListener.__name__ == "LoggingListener"
    assert package.OpenTelemetryListener.__name__ == "OpenTelemetryListener"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018
