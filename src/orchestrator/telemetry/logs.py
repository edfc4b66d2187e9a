"""One log record per request and per event worth a line, through the standard library's logging."""

from __future__ import annotations

import logging
from collections.abc import Callable

from orchestrator.core.events import (
    BreakerChanged,
    Event,
    FailedOver,
    Hedged,
    ProviderAdded,
    ProviderPaused,
    ProviderRemoved,
    Recovering,
    RequestEnded,
    RetryScheduled,
    Waiting,
)
from orchestrator.telemetry.attributes import decisive
from orchestrator.telemetry.redact import describe

__all__ = ["LoggingListener"]

_SHUT = {"open", "isolated"}


class LoggingListener:
    """Writes to ``logger``, by default ``orchestrator.telemetry``.

    INFO: an answer, a cancelled request, a retry, a hedge, a breaker that recovers, a provider that joins or leaves.
    WARNING: a request that failed, a failover, a wait for providers, a breaker that opens, a pause. The fields of a
    record are attributes that start with ``llm_``, for formatters that write JSON. No prompt, no answer, no key.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("orchestrator.telemetry")
        self._handlers: dict[type[Event], Callable[..., None]] = {
            RequestEnded: self._request_ended,
            RetryScheduled: self._retry_scheduled,
            FailedOver: self._failed_over,
            Hedged: self._hedged,
            Waiting: self._waiting,
            Recovering: self._recovering,
            BreakerChanged: self._breaker_changed,
            ProviderPaused: self._provider_paused,
            ProviderAdded: self._provider_added,
            ProviderRemoved: self._provider_removed,
        }

    def __call__(self, event: Event) -> None:
        """Take the next event of the router."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _request_ended(self, event: RequestEnded) -> None:
        level = logging.WARNING if event.outcome == "error" else logging.INFO
        if not self._logger.isEnabledFor(level):
            return
        last = decisive(event)
        provider = last.provider if last is not None else None
        completion = event.completion
        usage = completion.usage if completion is not None else None
        fields = {
            "llm_event": "request_ended",
            "llm_request": event.request,
            "llm_outcome": event.outcome,
            "llm_provider": provider,
            "llm_model": completion.model if completion is not None else last.model if last is not None else None,
            "llm_duration": event.duration,
            "llm_time_to_first_token": completion.time_to_first_token if completion is not None else None,
            "llm_attempts": len(event.attempts),
            "llm_input_tokens": usage.prompt_tokens if usage is not None else None,
            "llm_output_tokens": usage.completion_tokens if usage is not None else None,
            "llm_error_type": type(event.error).__name__ if event.outcome == "error" else None,
        }
        reason = f": {describe(event.error)}" if event.outcome == "error" and event.error is not None else ""
        self._logger.log(
            level, "request %d ended in %s after %.3f s, attempts: %d, provider: %s%s",
            event.request, event.outcome, event.duration, len(event.attempts), provider or "none", reason, extra=fields,
        )

    def _retry_scheduled(self, event: RetryScheduled) -> None:
        self._logger.info(
            "request %d: %s is asked again in %.3f s after %s",
            event.request, event.provider, event.delay, _Described(event.error),
            extra={
                "llm_event": "retry_scheduled", "llm_request": event.request, "llm_provider": event.provider,
                "llm_delay": event.delay, "llm_error_type": type(event.error).__name__,
            },
        )

    def _failed_over(self, event: FailedOver) -> None:
        self._logger.warning(
            "request %d: %s is given up after %s",
            event.request, event.provider, _Described(event.error),
            extra={
                "llm_event": "failed_over", "llm_request": event.request, "llm_provider": event.provider,
                "llm_error_type": type(event.error).__name__,
            },
        )

    def _hedged(self, event: Hedged) -> None:
        self._logger.info(
            "request %d: no answer after %.3f s, %s is asked too", event.request, event.delay, event.provider,
            extra={
                "llm_event": "hedged", "llm_request": event.request, "llm_provider": event.provider,
                "llm_delay": event.delay,
            },
        )

    def _waiting(self, event: Waiting) -> None:
        self._logger.warning(
            "request %d waits up to %.3f s for a provider to come back", event.request, event.delay,
            extra={"llm_event": "waiting", "llm_request": event.request, "llm_delay": event.delay},
        )

    def _recovering(self, event: Recovering) -> None:
        self._logger.warning(
            "request %d: the stream of %s broke after %d characters (%s), recovery: %s",
            event.request, event.provider, event.received, _Described(event.error), event.mode,
            extra={
                "llm_event": "recovering", "llm_request": event.request, "llm_provider": event.provider,
                "llm_mode": event.mode, "llm_received": event.received, "llm_error_type": type(event.error).__name__,
            },
        )

    def _breaker_changed(self, event: BreakerChanged) -> None:
        self._logger.log(
            logging.WARNING if event.new in _SHUT else logging.INFO, "breaker of %s: %s -> %s (%s)",
            event.provider, event.old, event.new, event.reason,
            extra={
                "llm_event": "breaker_changed", "llm_provider": event.provider, "llm_breaker_old": event.old,
                "llm_breaker_new": event.new, "llm_reason": event.reason, "llm_retry_after": event.retry_after,
            },
        )

    def _provider_paused(self, event: ProviderPaused) -> None:
        self._logger.warning(
            "%s asked for a pause of %.3f s", event.provider, event.delay,
            extra={"llm_event": "provider_paused", "llm_provider": event.provider, "llm_delay": event.delay},
        )

    def _provider_added(self, event: ProviderAdded) -> None:
        self._logger.info(
            "%s joined", event.provider, extra={"llm_event": "provider_added", "llm_provider": event.provider}
        )

    def _provider_removed(self, event: ProviderRemoved) -> None:
        self._logger.info(
            "%s left", event.provider, extra={"llm_event": "provider_removed", "llm_provider": event.provider}
        )


class _Described:
    """Says what an error is only when a handler writes the line."""

    __slots__ = ("_error",)

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __str__(self) -> str:
        return describe(self._error)
