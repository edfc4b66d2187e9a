"""The provider contract of OpenAI, in memory and over real HTTP."""

from __future__ import annotations

import pytest

from contract.simulated import SimulatedContract


class TestOpenAIInMemory(SimulatedContract):
    vendor = "openai"


@pytest.mark.real_time
class TestOpenAIOverHttp(SimulatedContract):
    vendor = "openai"
