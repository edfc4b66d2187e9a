"""Spans and metrics for a router, by the GenAI semantic conventions; needs only opentelemetry-api."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from opentelemetry import metrics, trace
from opentelemetry.context import Context, attach, get_current
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider, set_span_in_context

from orchestrator.core.events import (
    AttemptEnded,
    AttemptOpened,
    AttemptStarted,
    BreakerChanged,
    Event,
    FailedOver,
    Hedged,
    ProviderAdded,
    ProviderPaused,
    ProviderRemoved,
    Recovering,
    RequestEnded,
    RequestStarted,
    RetryScheduled,
    Waiting,
)
from orchestrator.telemetry import semconv
from orchestrator.telemetry.attributes import Attributes, answered, asked, attempted, decisive, failed
from orchestrator.telemetry.content import input_messages, output_messages
from orchestrator.telemetry.instruments import Instruments
from orchestrator.telemetry.redact import describe

__all__ = ["OpenTelemetryListener"]


class OpenTelemetryListener:
    """One span per request, one child span per attempt, and metrics; give each router a listener of its own.

    Tracer and meter come from the given providers, else from the global ones, also when those are set later. The
    request's span is a GenAI operation and carries the tokens of the answer, once; an attempt's span is not one, so a
    backend that sums tokens over all GenAI spans counts right. Prompts and answers are recorded only with
    ``capture_content``; keys never.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        capture_content: bool = False,
    ) -> None:
        ours = _version()
        self._tracer = trace.get_tracer(semconv.SCOPE, ours, tracer_provider, semconv.SCHEMA_URL)
        self._metrics = Instruments(metrics.get_meter(semconv.SCOPE, ours, meter_provider, semconv.SCHEMA_URL))
        self._capture_content = capture_content
        self._open: dict[int, _OpenRequest] = {}
        self._handlers: dict[type[Event], Callable[..., None]] = {
            RequestStarted: self._request_started,
            AttemptStarted: self._attempt_started,
            AttemptOpened: self._attempt_opened,
            AttemptEnded: self._attempt_ended,
            RetryScheduled: self._retry_scheduled,
            FailedOver: self._failed_over,
            Hedged: self._hedged,
            Waiting: self._waiting,
            Recovering: self._recovering,
            RequestEnded: self._request_ended,
            BreakerChanged: self._metrics.breaker_changed,
            ProviderPaused: self._metrics.provider_paused,
            ProviderAdded: self._metrics.provider_added,
            ProviderRemoved: self._metrics.provider_removed,
        }

    def __call__(self, event: Event) -> None:
        """Take the next event of the router."""
        self._handlers[type(event)](event)

    def _request_started(self, event: RequestStarted) -> None:
        span = self._tracer.start_span(semconv.OPERATION_CHAT, kind=SpanKind.CLIENT, attributes=asked(event))
        if self._capture_content and span.is_recording():
            span.set_attribute(semconv.GEN_AI_INPUT_MESSAGES, input_messages(event.asked))
        self._open[event.request] = _OpenRequest(event.at, span, set_span_in_context(span))

    def _attempt_started(self, event: AttemptStarted) -> None:
        request = self._open.get(event.request)
        if request is None:
            return
        span = self._tracer.start_span(f"attempt {event.provider}", request.context, attributes=attempted(event))
        request.attempts[event.number] = attempt = _OpenAttempt(span, request.context, event.model)
        attempt.opening.enter()

    def _attempt_opened(self, event: AttemptOpened) -> None:
        request = self._open.get(event.request)
        if request is None or event.number not in request.attempts:
            return
        attempt = request.attempts[event.number]
        attempt.opening.leave()
        if not request.recovering:  # its reader had the first piece long ago
            self._metrics.stream_opened(event.at - request.at, event.provider, attempt.model)

    def _attempt_ended(self, event: AttemptEnded) -> None:
        request = self._open.get(event.request)
        attempt = request.attempts.pop(event.attempt.number, None) if request is not None else None
        if attempt is None:
            return
        self._metrics.attempt_ended(event)
        if attempt.span.is_recording():
            attempt.span.set_attributes(failed(event))
            if event.attempt.time_to_first_token is not None:
                first = event.attempt.time_to_first_token
                attempt.span.set_attribute(semconv.ORCHESTRATOR_ATTEMPT_TIME_TO_FIRST_TOKEN, first)
            error = event.attempt.error
            if error is not None:
                if error.status_code:
                    attempt.span.set_attribute(semconv.HTTP_RESPONSE_STATUS_CODE, error.status_code)
                attempt.span.set_status(StatusCode.ERROR, describe(error, text=self._capture_content))
        attempt.end()

    def _retry_scheduled(self, event: RetryScheduled) -> None:
        request = self._open.get(event.request)
        if request is not None:
            self._metrics.retry_scheduled(event)
            request.note("orchestrator.retry", event.provider, event.delay)

    def _failed_over(self, event: FailedOver) -> None:
        request = self._open.get(event.request)
        if request is not None:
            self._metrics.failed_over(event)
            request.note("orchestrator.failover", event.provider, None)

    def _hedged(self, event: Hedged) -> None:
        request = self._open.get(event.request)
        if request is not None:
            self._metrics.hedged(event)
            request.note("orchestrator.hedge", event.provider, event.delay)

    def _waiting(self, event: Waiting) -> None:
        request = self._open.get(event.request)
        if request is not None:
            request.note("orchestrator.wait", None, event.delay)

    def _recovering(self, event: Recovering) -> None:
        request = self._open.get(event.request)
        if request is not None:
            request.recovering = True
            request.note("orchestrator.recovery", event.provider, None)

    def _request_ended(self, event: RequestEnded) -> None:
        request = self._open.pop(event.request, None)
        if request is None:
            return
        for attempt in request.attempts.values():  # an event may have been lost; nothing may outlive its request
            attempt.end()
        self._metrics.request_ended(event)
        span = request.span
        if span.is_recording():
            span.set_attributes(answered(event))
            last = decisive(event)
            if last is not None and last.model:
                span.update_name(f"{semconv.OPERATION_CHAT} {last.model}")
            if self._capture_content and event.completion is not None:
                span.set_attribute(semconv.GEN_AI_OUTPUT_MESSAGES, output_messages(event.completion))
            if event.outcome == "error" and event.error is not None:
                # No exception event: its message and traceback may quote the prompt.
                span.set_attribute(semconv.ERROR_TYPE, type(event.error).__name__)
                span.set_status(StatusCode.ERROR, describe(event.error, text=self._capture_content))
        span.end()


class _OpenRequest:
    __slots__ = ("at", "attempts", "context", "recovering", "span")

    def __init__(self, at: float, span: Span, context: Context) -> None:
        self.at = at
        self.span = span
        self.context = context  # the caller's, with the request's span in it
        self.recovering = False
        self.attempts: dict[int, _OpenAttempt] = {}

    def note(self, name: str, provider: str | None, delay: float | None) -> None:
        if not self.span.is_recording():
            return
        attributes: Attributes = {}
        if provider is not None:
            attributes[semconv.ORCHESTRATOR_PROVIDER_NAME] = provider
        if delay is not None:
            attributes[semconv.ORCHESTRATOR_DELAY] = delay
        self.span.add_event(name, attributes)


class _OpenAttempt:
    __slots__ = ("model", "opening", "span")

    def __init__(self, span: Span, parent: Context, model: str | None) -> None:
        self.span = span
        self.opening = _Opening(set_span_in_context(span, parent))
        self.model = model

    def end(self) -> None:
        self.opening.leave()
        self.span.end()


class _Opening(Context):
    """Makes an attempt's span current while the provider is called, so that spans of its HTTP client nest under it.

    A router enters and leaves it within one await, in the caller's own context. What a stream does later is out of its
    hands: a provider that holds a span of its own current across a ``yield`` puts back whatever was current before,
    that is us, when the request is long over. So leaving does not only restore what was current: it turns this object
    itself into the context the caller had, for whoever still holds it. No token is used, so none can be detached in
    the wrong task.
    """

    def __init__(self, content: Context) -> None:
        super().__init__(content)
        self.before = content
        self.left = False

    def enter(self) -> None:
        before = get_current()
        while isinstance(before, _Opening) and before.left:  # put back by such a provider; a chain would grow for ever
            before = before.before
        self.before = before
        attach(self)

    def leave(self) -> None:
        # A Context refuses to be changed by those who only propagate it; its maker may.
        dict.clear(self)
        dict.update(self, self.before)
        self.left = True
        if get_current() is self:
            attach(self.before)


def _version() -> str:
    try:
        return version("resilient-orchestrator")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return ""
