"""Simulated providers: real HTTP on loopback, or in memory, in the formats of OpenAI, GigaChat and YandexGPT."""

from __future__ import annotations

from orchestrator.testing._exchange import RecordedRequest
from orchestrator.testing.servers._provider import SimulatedProvider, Vendor

__all__ = ["RecordedRequest", "SimulatedProvider", "Vendor"]
