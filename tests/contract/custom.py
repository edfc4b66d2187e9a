"""The contract for providers that need no service: known answers, failures by class, silence."""

from __future__ import annotations

from orchestrator.core.config import ProviderConfig
from orchestrator.core.errors import (
    AuthenticationError,
    InvalidRequestError,
    OverloadedError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from orchestrator.testing.contract import ProviderContract

KINDS = {
    400: InvalidRequestError, 401: AuthenticationError, 429: RateLimitError, 500: ServerError, 503: OverloadedError,
}


def error_of(status):
    return KINDS.get(status, ProviderError)("refused", status_code=status)


def config(name="mine"):
    return ProviderConfig(name=name, api_key="the-key-of-mine")


class KnownAnswers(ProviderContract):
    def expected(self, prompt):
        return f"You said: {prompt}"
