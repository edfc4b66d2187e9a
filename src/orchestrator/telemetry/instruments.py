"""The metrics of a router; ``docs/telemetry.md`` has them as a table."""

from __future__ import annotations

from opentelemetry.metrics import Meter

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.events import (
    AttemptEnded,
    BreakerChanged,
    FailedOver,
    Hedged,
    ProviderAdded,
    ProviderPaused,
    ProviderRemoved,
    RequestEnded,
    RetryScheduled,
)
from orchestrator.telemetry import semconv
from orchestrator.telemetry.attributes import Attributes, ended, failed, operation, usage_of

__all__ = ["Instruments"]


class Instruments:
    """Takes events and first-chunk times; instruments of one name are shared by all listeners of a meter provider."""

    def __init__(self, meter: Meter) -> None:
        self._duration = meter.create_histogram(
            semconv.GEN_AI_CLIENT_OPERATION_DURATION, "s", "Duration of a request, all its attempts included.",
            explicit_bucket_boundaries_advisory=semconv.DURATION_BUCKETS,
        )
        self._first_chunk = meter.create_histogram(
            semconv.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK, "s", "Time from the call to the first piece.",
            explicit_bucket_boundaries_advisory=semconv.DURATION_BUCKETS,
        )
        self._tokens = meter.create_histogram(
            semconv.GEN_AI_CLIENT_TOKEN_USAGE, "{token}", "Tokens of a request.",
            explicit_bucket_boundaries_advisory=semconv.TOKEN_BUCKETS,
        )
        self._paused = meter.create_histogram(
            semconv.ORCHESTRATOR_PROVIDER_PAUSED, "s", "Length of the pauses a provider asked for.",
            explicit_bucket_boundaries_advisory=semconv.DURATION_BUCKETS,
        )
        self._attempts = meter.create_counter(semconv.ORCHESTRATOR_ATTEMPTS, "{attempt}", "Calls upstream.")
        self._retries = meter.create_counter(
            semconv.ORCHESTRATOR_RETRIES, "{retry}", "Times the same provider was asked again."
        )
        self._failovers = meter.create_counter(
            semconv.ORCHESTRATOR_FAILOVERS, "{failover}", "Times a provider was given up for a request."
        )
        self._hedges = meter.create_counter(
            semconv.ORCHESTRATOR_HEDGES, "{hedge}", "Times a provider was asked because another one was late."
        )
        # Not an observable gauge: the callback of a second router's listener would be dropped by the SDK.
        self._breakers = meter.create_up_down_counter(
            semconv.ORCHESTRATOR_BREAKER_STATE, "{breaker}", "Breakers in a state, by provider: 1 or 0."
        )
        self._states: dict[str, str] = {}

    def request_ended(self, event: RequestEnded) -> None:
        """Duration and tokens, once per request."""
        attributes = ended(event)
        usage = usage_of(event)
        if usage is not None:
            self._tokens.record(usage.prompt_tokens, attributes | {semconv.GEN_AI_TOKEN_TYPE: semconv.TOKEN_TYPE_INPUT})
            self._tokens.record(
                usage.completion_tokens, attributes | {semconv.GEN_AI_TOKEN_TYPE: semconv.TOKEN_TYPE_OUTPUT}
            )
        attributes[semconv.ORCHESTRATOR_OUTCOME] = event.outcome
        if event.outcome == "error":
            attributes[semconv.ERROR_TYPE] = type(event.error).__name__
        self._duration.record(event.duration, attributes)

    def stream_opened(self, seconds: float, provider: str, model: str | None) -> None:
        """The first piece came ``seconds`` after the call."""
        self._first_chunk.record(seconds, operation(provider, model))

    def attempt_ended(self, event: AttemptEnded) -> None:
        """One more attempt."""
        self._attempts.add(1, failed(event) | {semconv.ORCHESTRATOR_PROVIDER_NAME: event.attempt.provider})

    def retry_scheduled(self, event: RetryScheduled) -> None:
        """One more retry in place."""
        self._retries.add(1, _because(event.provider, event.error))

    def failed_over(self, event: FailedOver) -> None:
        """One more failover."""
        self._failovers.add(1, _because(event.provider, event.error))

    def hedged(self, event: Hedged) -> None:
        """One more hedge."""
        self._hedges.add(1, {semconv.ORCHESTRATOR_PROVIDER_NAME: event.provider})

    def provider_paused(self, event: ProviderPaused) -> None:
        """One more pause."""
        self._paused.record(event.delay, {semconv.ORCHESTRATOR_PROVIDER_NAME: event.provider})

    def provider_added(self, event: ProviderAdded) -> None:
        """A new breaker is closed."""
        self._move(event.provider, "closed")

    def provider_removed(self, event: ProviderRemoved) -> None:
        """A breaker less."""
        self._move(event.provider, None)

    def breaker_changed(self, event: BreakerChanged) -> None:
        """Move the one from state to state; the last call of a provider that has left may still want to."""
        if event.provider in self._states:
            self._move(event.provider, event.new)

    def _move(self, provider: str, new: str | None) -> None:
        old = self._states.pop(provider, None)
        if old is not None:
            self._breakers.add(-1, _state(provider, old))
        if new is not None:
            self._states[provider] = new
            self._breakers.add(1, _state(provider, new))


def _because(provider: str, error: OrchestratorError) -> Attributes:
    return {semconv.ORCHESTRATOR_PROVIDER_NAME: provider, semconv.ERROR_TYPE: type(error).__name__}


def _state(provider: str, state: str) -> Attributes:
    return {semconv.ORCHESTRATOR_PROVIDER_NAME: provider, semconv.ORCHESTRATOR_BREAKER_STATE: state}
