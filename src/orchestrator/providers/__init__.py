"""Providers by name; each module, and httpx with it, is loaded when its class is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from orchestrator.providers.base import BaseProvider, GenerationParams, ProviderConfig

if TYPE_CHECKING:
    from orchestrator.providers._limits import WireLimits
    from orchestrator.providers.function import FunctionProvider
    from orchestrator.providers.gigachat import GigaChatProvider
    from orchestrator.providers.mock import MockProvider
    from orchestrator.providers.openai_compatible import OpenAICompatibleProvider
    from orchestrator.providers.yandexgpt import YandexGPTProvider

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

_MODULES = {
    "FunctionProvider": "function",
    "GigaChatProvider": "gigachat",
    "MockProvider": "mock",
    "OpenAICompatibleProvider": "openai_compatible",
    "WireLimits": "_limits",
    "YandexGPTProvider": "yandexgpt",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
