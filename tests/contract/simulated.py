"""Runs the contract against a provider of the library and the simulated server that speaks its format."""

from __future__ import annotations

import pytest

from orchestrator.testing import SimulatedProvider
from orchestrator.testing.contract import ProviderContract
from orchestrator.testing.faults import MALFORMED_JSON, Hang, Status


class SimulatedContract(ProviderContract):
    """In memory on the virtual clock; over real HTTP where the loop is real."""

    vendor = "openai"
    engine: str | None = None
    server: SimulatedProvider

    @pytest.fixture(autouse=True)
    async def _server(self, request):
        self.server = SimulatedProvider(self.vendor, name="alpha", answer=lambda prompt: f"You said: {prompt}. Да.")
        if request.node.get_closest_marker("real_time"):
            await self.server.__aenter__()
        yield
        await self.server.aclose()

    def provider(self):
        return self.server.provider(engine=self.engine)

    def failing_provider(self, status):
        self.server.behave(failure_rate=1, failure=Status(status))
        self.server.script([Status(status)] * 10, on="models")
        return self.provider()

    def garbage_provider(self):
        self.server.behave(failure_rate=1, failure=MALFORMED_JSON)
        return self.provider()

    def hanging_provider(self):
        self.server.behave(failure_rate=1, failure=Hang())
        return self.provider()

    def slow_provider(self):
        self.server.behave(tokens_per_second=0.01)
        return self.provider()

    def provider_with_client(self, client):
        if self.server.port is None:
            client._transport = self.server.transport()
        return type(self.provider())(self.server.config(), http_client=client)

    def expected(self, prompt):
        return f"You said: {prompt}. Да."

    def connections(self):
        return self.server.connections

    def sent(self):
        return [request.body.decode() for request in self.server.requests if "oauth" not in request.path]
