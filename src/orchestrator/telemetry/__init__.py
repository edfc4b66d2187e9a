"""Listeners for a router's events: OpenTelemetry spans and metrics, log records. Importing this loads neither."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.lazy import lazy

if TYPE_CHECKING:
    from orchestrator.telemetry.logs import LoggingListener
    from orchestrator.telemetry.otel import OpenTelemetryListener
else:
    __getattr__, __dir__ = lazy(__name__, {
        "LoggingListener": "orchestrator.telemetry.logs",
        "OpenTelemetryListener": "orchestrator.telemetry.otel",
    })

__all__ = ["LoggingListener", "OpenTelemetryListener"]
