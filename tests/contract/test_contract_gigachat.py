"""The provider contract of GigaChat, in memory and over real HTTP."""

from __future__ import annotations

import pytest

from contract.simulated import SimulatedContract


class TestGigaChatInMemory(SimulatedContract):
    vendor = "gigachat"


@pytest.mark.real_time
class TestGigaChatOverHttp(SimulatedContract):
    vendor = "gigachat"
