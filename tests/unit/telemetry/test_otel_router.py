"""The same listener behind a real router: what a user's traces look like."""

from __future__ import annotations

import asyncio
import gc
from contextlib import aclosing

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator import BaseProvider, ProviderConfig, RetryPolicy, Router
from orchestrator.core.errors import OverloadedError, ServerError, StreamInterruptedError
from orchestrator.core.types import Completion, Finished, TextDelta, Usage
from orchestrator.telemetry import LoggingListener, OpenTelemetryListener


class Traces:
    """The spans and metrics of one test."""

    def __init__(self):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("app")
        self.listener = OpenTelemetryListener(
            tracer_provider=self.provider, meter_provider=MeterProvider([self.reader])
        )

    def named(self, name):
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span

    def tree(self):
        """``{name: parent's name}``."""
        spans = {span.context.span_id: span for span in self.exporter.get_finished_spans()}
        return {s.name: spans[s.parent.span_id].name if s.parent else None for s in spans.values()}

    def points(self, name):
        data = self.reader.get_metrics_data()
        metrics = [m for r in data.resource_metrics for scope in r.scope_metrics for m in scope.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@pytest.fixture
def traces():
    return Traces()


class Scripted(BaseProvider):
    """Opens a span of its own around each call, as an instrumented HTTP client would; fails as told."""

    def __init__(self, name, traces, *failures, delay=0.0, breaks=False):
        super().__init__(ProviderConfig(name=name, model=f"{name}-model"))
        self.traces = traces
        self.failures = list(failures)
        self.delay = delay
        self.breaks = breaks

    async def _call(self):
        with self.traces.tracer.start_as_current_span(f"POST {self.name}"):
            await asyncio.sleep(self.delay)
            if self.failures:
                raise self.failures.pop(0)

    async def complete(self, request):
        await self._call()
        return Completion("hello", usage=Usage(3, 5))

    async def open_stream(self, request):
        await self._call()
        yield TextDelta("hel")
        await asyncio.sleep(self.delay)
        if self.breaks:
            raise ServerError("gone")
        yield TextDelta("lo")
        yield Finished(Completion("", usage=Usage(3, 5)))


async def test_a_plain_call_nests_caller_request_attempt_and_http(traces):
    async with Router(providers=[Scripted("a", traces)], listeners=[traces.listener]) as router:
        with traces.tracer.start_as_current_span("handler") as handler:
            assert await router.route("hi") == "hello"
            assert trace.get_current_span() is handler
    assert traces.tree() == {
        "handler": None, "chat a-model": "handler", "attempt a": "chat a-model", "POST a": "attempt a",
    }
    assert traces.one("chat a-model").attributes["gen_ai.usage.output_tokens"] == 5


async def test_a_retry_and_a_failover_are_attempts_of_one_request_with_tokens_counted_once(traces):
    first = Scripted("a", traces, OverloadedError(), OverloadedError())
    second = Scripted("b", traces)
    router = Router(
        "first-available", [first, second], listeners=[traces.listener], retry=RetryPolicy(max_retries=1), seed=1
    )
    async with router:
        await router.route("hi")
    attempts = sorted(
        (span.attributes["orchestrator.attempt.number"], span.name, span.attributes["orchestrator.outcome"])
        for span in traces.exporter.get_finished_spans() if span.name.startswith("attempt")
    )
    assert attempts == [(1, "attempt a", "error"), (2, "attempt a", "error"), (3, "attempt b", "answer")]
    request = traces.one("chat b-model")
    assert [event.name for event in request.events] == ["orchestrator.retry", "orchestrator.failover"]
    assert traces.tree()["POST b"] == "attempt b"
    assert sorted(point.sum for point in traces.points("gen_ai.client.token.usage")) == [3, 5]


async def test_a_stream_nests_its_http_call_and_leaves_the_reader_its_own_span(traces):
    async with Router(providers=[Scripted("a", traces)], listeners=[traces.listener]) as router:
        with traces.tracer.start_as_current_span("handler") as handler:
            async for _ in router.route_stream("hi"):
                assert trace.get_current_span() is handler
            assert trace.get_current_span() is handler
    assert traces.tree() == {
        "handler": None, "chat a-model": "handler", "attempt a": "chat a-model", "POST a": "attempt a",
    }
    assert [point.count for point in traces.points("gen_ai.client.operation.time_to_first_chunk")] == [1]


async def test_a_stream_read_by_several_tasks_disturbs_none_of_them(traces, caplog):
    async with Router(providers=[Scripted("a", traces, delay=1.0)], listeners=[traces.listener]) as router:
        before = otel_context.get_current()
        stream = router.stream("hi")
        while not isinstance(await asyncio.create_task(anext(stream)), Finished):
            assert otel_context.get_current() is before
        await asyncio.create_task(stream.aclose())
    assert otel_context.get_current() is before
    assert traces.one("chat a-model").attributes["orchestrator.outcome"] == "answer"
    assert caplog.records == []


async def test_a_broken_stream_ends_both_spans_as_errors(traces):
    async with Router(providers=[Scripted("a", traces, breaks=True)], listeners=[traces.listener]) as router:
        with pytest.raises(StreamInterruptedError):
            async for _ in router.route_stream("hi"):
                pass
    assert traces.one("chat a-model").attributes["error.type"] == "StreamInterruptedError"
    assert traces.one("attempt a").attributes["error.type"] == "ServerError"


async def test_a_reader_who_leaves_ends_the_spans_as_cancelled(traces):
    async with Router(providers=[Scripted("a", traces)], listeners=[traces.listener]) as router:
        before = otel_context.get_current()
        async with aclosing(router.stream("hi")) as stream:
            await anext(stream)
        assert otel_context.get_current() is before
    assert traces.one("chat a-model").attributes["orchestrator.outcome"] == "cancelled"
    assert traces.one("attempt a").attributes["orchestrator.outcome"] == "cancelled"
    assert traces.listener._open == {}


async def test_a_stream_that_is_forgotten_ends_its_spans_too(traces, caplog):
    async with Router(providers=[Scripted("a", traces)], listeners=[traces.listener]) as router:
        before = otel_context.get_current()
        stream = router.stream("hi")
        await anext(stream)
        del stream
        gc.collect()
        await asyncio.sleep(1)
        assert otel_context.get_current() is before
    assert traces.one("chat a-model").attributes["orchestrator.outcome"] == "cancelled"
    assert traces.listener._open == {}
    assert caplog.records == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancelled_call_ends_its_spans_and_gives_the_task_its_context_back(traces, streamed):
    seen = []

    async def call():
        before = otel_context.get_current()
        try:
            await (anext(router.stream("hi")) if streamed else router.route("hi"))
        finally:
            seen.append(otel_context.get_current() is before)

    async with Router(providers=[Scripted("a", traces, delay=60)], listeners=[traces.listener]) as router:
        task = asyncio.create_task(call())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert seen == [True]
    assert traces.one("chat a-model").attributes["orchestrator.outcome"] == "cancelled"
    assert traces.listener._open == {}


async def test_many_requests_at_once_keep_their_own_attempts(traces):
    async with Router(providers=[Scripted("a", traces, delay=1.0)], listeners=[traces.listener]) as router:
        await asyncio.gather(*(router.route("hi") for _ in range(20)))
    requests = {span.context.span_id for span in traces.named("chat a-model")}
    attempts = traces.named("attempt a")
    assert {span.parent.span_id for span in attempts} == requests
    assert {span.parent.span_id for span in traces.named("POST a")} == {span.context.span_id for span in attempts}
    assert len(requests) == 20


class HoldsASpan(BaseProvider):
    """A provider whose author keeps a span current across ``yield``."""

    def __init__(self, traces):
        super().__init__(ProviderConfig(name="held"))
        self.traces = traces

    async def generate_stream(self, prompt, params=None):
        with self.traces.tracer.start_as_current_span("held"):
            yield "a"
            yield "b"


async def test_a_provider_that_holds_a_span_across_pieces_does_not_leave_the_attempt_current(traces):
    async with Router(providers=[HoldsASpan(traces)], listeners=[traces.listener]) as router:
        with traces.tracer.start_as_current_span("handler") as handler:
            for _ in range(3):
                assert "".join([piece async for piece in router.route_stream("hi")]) == "ab"
                assert trace.get_current_span() is handler
        assert not trace.get_current_span().get_span_context().is_valid


class Inner(BaseProvider):
    """A router as a provider of another one."""

    def __init__(self, router):
        super().__init__(ProviderConfig(name="inner"))
        self.router = router

    async def generate(self, prompt, params=None):
        return await self.router.route(prompt)

    async def generate_stream(self, prompt, params=None):
        async for piece in self.router.route_stream(prompt):
            yield piece


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_router_within_a_router_nests(traces, streamed):
    listener = OpenTelemetryListener(tracer_provider=traces.provider)
    inside = Router(providers=[Scripted("a", traces)], listeners=[listener])
    async with inside, Router(providers=[Inner(inside)], listeners=[traces.listener]) as router:
        before = otel_context.get_current()
        if streamed:
            assert "".join([piece async for piece in router.route_stream("hi")]) == "hello"
        else:
            assert await router.route("hi") == "hello"
        assert otel_context.get_current() is before
    assert traces.tree() == {
        "chat": None, "attempt inner": "chat", "chat a-model": "attempt inner", "attempt a": "chat a-model",
        "POST a": "attempt a",
    }


async def test_spans_and_log_records_of_one_request_stand_side_by_side(traces, caplog):
    caplog.set_level("INFO", logger="orchestrator.telemetry")
    listeners = [traces.listener, LoggingListener()]
    async with Router(providers=[Scripted("a", traces)], listeners=listeners) as router:
        await router.route("hi")
    assert [record.llm_event for record in caplog.records] == ["provider_added", "request_ended", "provider_removed"]
    assert len(traces.named("chat a-model")) == 1
