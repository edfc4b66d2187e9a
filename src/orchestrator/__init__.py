"""Answers a prompt as long as any configured LLM provider can: ``await Router(...).route(prompt)``."""

from typing import TYPE_CHECKING

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
from orchestrator.core.lazy import lazy
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

if TYPE_CHECKING:
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

    __version__: str
else:
    __getattr__, __dir__ = lazy(__name__, {
        "BreakerPolicy": "orchestrator.core.config",
        "GenerationParams": "orchestrator.core.config",
        "HedgePolicy": "orchestrator.core.config",
        "LimitPolicy": "orchestrator.core.config",
        "ProviderConfig": "orchestrator.core.config",
        "RecoveryPolicy": "orchestrator.core.config",
        "RetryPolicy": "orchestrator.core.config",
        "Timeouts": "orchestrator.core.config",
        "__version__": "orchestrator._version",
    })

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
