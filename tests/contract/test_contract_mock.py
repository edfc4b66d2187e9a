"""The provider contract of MockProvider."""

from __future__ import annotations

from contract.custom import config, error_of
from orchestrator.core.errors import MalformedResponseError
from orchestrator.providers.mock import Answer, Fail, Hang, MockProvider
from orchestrator.testing.contract import ProviderContract


class TestMock(ProviderContract):
    def provider(self, *script):
        return MockProvider(config(), script=script or None)

    def failing_provider(self, status):
        return self.provider(Fail(error_of(status)))

    def garbage_provider(self):
        return self.provider(Fail(MalformedResponseError))

    def hanging_provider(self):
        return self.provider(Hang())

    def slow_provider(self):
        return self.provider(Answer("one two three", gap=100))

    def expected(self, prompt):
        return f"Mock response to: {prompt}"
