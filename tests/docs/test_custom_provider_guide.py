"""A provider written for the predecessor of this library works unchanged, at its old place in the package too."""

from __future__ import annotations

import sys
from types import ModuleType

import httpx
import pytest
import respx

from orchestrator import Router
from orchestrator.errors import AuthenticationError, InvalidRequestError, ProviderError, RateLimitError
from orchestrator.providers import ProviderConfig

SOURCE = '''
"""Your provider."""

from typing import Any

import httpx

from .base import (
    AuthenticationError,
    BaseProvider,
    GenerationParams,
    InvalidRequestError,
    ProviderConfig,
    ProviderError,
    RateLimitError,
    TimeoutError,
)


class YourProvider(BaseProvider):
    DEFAULT_BASE_URL: str = "https://api.example.com/v1"
    DEFAULT_MODEL: str = "your-model"

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        if not self.config.base_url:
            self.config.base_url = self.DEFAULT_BASE_URL
        self._client = httpx.AsyncClient(timeout=self.config.timeout, verify=self.config.verify_ssl)

    async def generate(self, prompt: str, params: GenerationParams | None = None) -> str:
        url = f"{self.config.base_url}/completions"
        headers = {"Authorization": f"Bearer {self.config.api_key}", "Content-Type": "application/json"}
        payload: dict[str, Any] = {"prompt": prompt, "model": self.config.model or self.DEFAULT_MODEL}
        if params:
            payload["temperature"] = params.temperature
            payload["max_tokens"] = params.max_tokens

        async def make_request() -> str:
            response = await self._client.post(url, json=payload, headers=headers)
            if response.status_code == 401:
                raise AuthenticationError("Invalid API key")
            elif response.status_code == 429:
                raise RateLimitError("Rate limit exceeded")
            elif response.status_code == 400:
                raise InvalidRequestError("Invalid request parameters")
            elif response.status_code != 200:
                raise ProviderError(f"API error: {response.status_code}")
            data = response.json()
            return data["text"]

        return await self._retry_with_backoff(make_request)

    async def health_check(self) -> bool:
        try:
            url = f"{self.config.base_url}/health"
            headers = {"Authorization": f"Bearer {self.config.api_key}"}
            response = await self._client.get(url, headers=headers, timeout=5.0)
            return response.status_code == 200
        except Exception as e:
            self.logger.warning(f"Health check failed: {e}")
            return False

    async def __aenter__(self):
        return self

    async def __aexit__(self, exc_type, exc_val, exc_tb):
        await self._client.aclose()
'''
URL = "https://api.example.com/v1/completions"


@pytest.fixture
def provider_class(monkeypatch):
    module = ModuleType("orchestrator.providers.your_provider")
    module.__package__ = "orchestrator.providers"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(SOURCE, "your_provider.py", "exec"), module.__dict__)
    return module.YourProvider


@respx.mock
async def test_it_answers_through_a_router(provider_class):
    sent = respx.post(URL).respond(json={"text": "Hello back"})
    router = Router(strategy="round-robin")
    config = ProviderConfig(name="your-provider", api_key="your_api_key", model="your-model")
    router.add_provider(provider_class(config))
    assert await router.route("Hello, world!") == "Hello back"
    assert sent.calls.last.request.headers["authorization"] == "Bearer your_api_key"
    await router.aclose()


@respx.mock
@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AuthenticationError), (429, RateLimitError), (400, InvalidRequestError), (500, ProviderError)],
)
async def test_its_errors_come_out_as_they_are(provider_class, status, error):
    respx.post(URL).respond(status, json={})
    async with provider_class(ProviderConfig(name="test", api_key="k", max_retries=0)) as provider:
        with pytest.raises(error):
            await provider.generate("Hello")


@respx.mock
async def test_alone_it_retries_by_itself_and_what_it_did_not_foresee_is_wrapped_in_a_router(provider_class):
    sent = respx.post(URL)
    sent.side_effect = [httpx.ConnectError("refused"), httpx.Response(200, json={"text": "second time"})]
    async with provider_class(ProviderConfig(name="test", api_key="k", max_retries=1)) as provider:
        assert await provider.generate("Hello") == "second time"
    sent.side_effect = None
    sent.respond(json={"no text": 1})
    async with Router(providers=[provider_class(ProviderConfig(name="test", api_key="k"))]) as router:
        with pytest.raises(ProviderError) as caught:
            await router.route("Hello")
    assert isinstance(caught.value.__cause__, KeyError)


@respx.mock
async def test_its_health_check_answers_yes_or_no(provider_class):
    health = respx.get("https://api.example.com/v1/health")
    async with provider_class(ProviderConfig(name="test", api_key="k")) as provider:
        health.respond(200)
        assert await provider.health_check() is True
        health.side_effect = httpx.ConnectError("refused")
        assert await provider.health_check() is False
