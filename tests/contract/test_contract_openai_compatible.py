"""The provider contract of OpenAI and the services that speak its dialect, in memory and over real HTTP."""

from __future__ import annotations

import httpx
import pytest

from contract.simulated import SimulatedContract
from orchestrator.providers.openai_compatible import OpenAICompatibleProvider
from wire import FAST


class TestOpenAIInMemory(SimulatedContract):
    vendor = "openai"


@pytest.mark.real_time
class TestOpenAIOverHttpx(SimulatedContract):
    vendor = "openai"
    engine = "httpx"


@FAST
@pytest.mark.real_time
class TestOpenAIOverTheFastEngine(SimulatedContract):
    vendor = "openai"
    engine = "fast"


class VendorContract(SimulatedContract):
    """A vendor's dialect, as the plain server understands it."""

    dialect: str

    def provider(self):
        client = httpx.AsyncClient(transport=self.server.transport())
        return OpenAICompatibleProvider(self.server.config(), http_client=client, vendor=self.dialect)


class TestOpenAIItself(VendorContract):
    dialect = "openai"


class TestMistral(VendorContract):
    dialect = "mistral"


class TestLMStudio(VendorContract):
    dialect = "lmstudio"
