"""Listeners for a router's events: OpenTelemetry spans and metrics, log records. Importing this loads neither."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.telemetry.logs import LoggingListener
    from orchestrator.telemetry.otel import OpenTelemetryListener

__all__ = ["LoggingListener", "OpenTelemetryListener"]

_HOMES = {"LoggingListener": "logs", "OpenTelemetryListener": "otel"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
