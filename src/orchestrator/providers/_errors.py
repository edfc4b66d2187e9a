"""The one place where a provider's failure, in whatever form, becomes one of our errors."""

from __future__ import annotations

from orchestrator.core.errors import OrchestratorError, ProviderError

__all__ = ["wrap_foreign"]


def wrap_foreign(exc: Exception, *, provider: str, model: str | None = None) -> OrchestratorError:
    """Our own errors as they are (with the provider's name filled in), anything else wrapped, kept as ``__cause__``."""
    if isinstance(exc, OrchestratorError):
        exc.provider = exc.provider or provider
        exc.model = exc.model or model
        return exc
    error = ProviderError(f"{type(exc).__name__} in the provider", provider=provider, model=model)
    error.__cause__ = exc
    return error
