"""Providers by name; each module is loaded when its class is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.core.lazy import lazy
from orchestrator.providers.base import BaseProvider

if TYPE_CHECKING:
    from orchestrator.core.config import GenerationParams, ProviderConfig, WireLimits
    from orchestrator.providers.function import FunctionProvider
    from orchestrator.providers.gigachat import GigaChatProvider
    from orchestrator.providers.mock import MockProvider
    from orchestrator.providers.openai_compatible import OpenAICompatibleProvider
    from orchestrator.providers.yandexgpt import YandexGPTProvider
else:
    __getattr__, __dir__ = lazy(__name__, {
        "FunctionProvider": "orchestrator.providers.function",
        "GenerationParams": "orchestrator.core.config",
        "GigaChatProvider": "orchestrator.providers.gigachat",
        "MockProvider": "orchestrator.providers.mock",
        "OpenAICompatibleProvider": "orchestrator.providers.openai_compatible",
        "ProviderConfig": "orchestrator.core.config",
        "WireLimits": "orchestrator.core.config",
        "YandexGPTProvider": "orchestrator.providers.yandexgpt",
    })

__all__ = [
    "BaseProvider",
    "FunctionProvider",
    "GenerationParams",
    "GigaChatProvider",
    "MockProvider",
    "OpenAICompatibleProvider",
    "ProviderConfig",
    "WireLimits",
    "YandexGPTProvider",
]
