"""The provider contract of GigaChat, in memory and over real HTTP."""

from __future__ import annotations

import pytest

from contract.simulated import SimulatedContract
from wire import FAST


class TestGigaChatInMemory(SimulatedContract):
    vendor = "gigachat"


@pytest.mark.real_time
class TestGigaChatOverHttpx(SimulatedContract):
    vendor = "gigachat"
    engine = "httpx"


@FAST
@pytest.mark.real_time
class TestGigaChatOverTheFastEngine(SimulatedContract):
    vendor = "gigachat"
    engine = "fast"
