"""Answers a prompt as long as any configured LLM provider can: ``await Router(...).route(prompt)``."""

from orchestrator.core.config import (
    BreakerPolicy,
    GenerationParams,
    HedgePolicy,
    LimitPolicy,
    ProviderConfig,
    RecoveryPolicy,
    RetryPolicy,
    Timeouts,
)
from orchestrator.core.errors import (
    AllProvidersFailedError,
    AuthenticationError,
    CapacityError,
    CircuitOpenError,
    ConnectionFailedError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ModelNotFoundError,
    NoProvidersError,
    OrchestratorError,
    OverloadedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    RouterClosedError,
    ServerError,
    StreamInterruptedError,
    TimeoutError,
)
from orchestrator.core.limits import Quota, RateLimits
from orchestrator.core.snapshot import ProviderSnapshot
from orchestrator.core.types import (
    Attempt,
    Completion,
    Finished,
    ImagePart,
    Message,
    ReasoningDelta,
    Request,
    ResponseFormat,
    Restarted,
    StreamEvent,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from orchestrator.providers.base import BaseProvider
from orchestrator.router import Router
from orchestrator.strategies.base import RoutingStrategy

__all__ = [
    "AllProvidersFailedError",
    "Attempt",
    "AuthenticationError",
    "BaseProvider",
    "BreakerPolicy",
    "CapacityError",
    "CircuitOpenError",
    "Completion",
    "ConnectionFailedError",
    "ContentFilteredError",
    "ContextWindowExceededError",
    "Finished",
    "GenerationParams",
    "HedgePolicy",
    "ImagePart",
    "InvalidRequestError",
    "LimitPolicy",
    "MalformedResponseError",
    "Message",
    "ModelNotFoundError",
    "NoProvidersError",
    "OrchestratorError",
    "OverloadedError",
    "ProviderConfig",
    "ProviderError",
    "ProviderSnapshot",
    "Quota",
    "QuotaExceededError",
    "RateLimitError",
    "RateLimits",
    "ReasoningDelta",
    "RecoveryPolicy",
    "Request",
    "ResponseFormat",
    "Restarted",
    "RetryPolicy",
    "Router",
    "RouterClosedError",
    "RoutingStrategy",
    "ServerError",
    "StreamEvent",
    "StreamInterruptedError",
    "TextDelta",
    "TextPart",
    "TimeoutError",
    "Timeouts",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "Usage",
]


def __getattr__(name: str) -> str:
    if name == "__version__":  # looked up when asked for: reading metadata is a fifth of the import time
        from importlib.metadata import version

        return version("resilient-orchestrator")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
