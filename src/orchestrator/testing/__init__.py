"""For tests, demos and benchmarks: a loop whose clock jumps, simulated providers with faults, a recorder of events."""

from __future__ import annotations

from orchestrator.testing.loop import DeadlockError, VirtualTimeLoop
from orchestrator.testing.recorder import Recorder
from orchestrator.testing.servers import RecordedRequest, SimulatedProvider

__all__ = ["DeadlockError", "RecordedRequest", "Recorder", "SimulatedProvider", "VirtualTimeLoop"]
