"""YandexGPT (Yandex AI Studio) through its native API, with an API key or an IAM token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator.core.errors import AuthenticationError
from orchestrator.core.types import Completion, Request
from orchestrator.providers import _yandex_wire as wire
from orchestrator.providers._address import address_of, secrets_of, warn_if_open
from orchestrator.providers._conversation import Source
from orchestrator.providers._native import Decoder, NativeProvider
from orchestrator.providers._oauth import Token, TokenHolder
from orchestrator.providers._secret import Secret, SecretHeaders

if TYPE_CHECKING:
    import httpx

    from orchestrator.core.config import ProviderConfig, WireLimits

__all__ = ["YandexGPTProvider"]

BASE_URL = "https://llm.api.cloud.yandex.net/foundationModels/v1"
MODEL = "yandexgpt-lite"
IAM_LIFE = 3600.0  # seconds; it lives up to 12 h, and Yandex asks to renew it every hour


class YandexGPTProvider(NativeProvider):
    """YandexGPT's native completion API.

    Of ``config``: ``folder_id`` is required; ``api_key`` is an API key, or an IAM token if it begins with ``t1.``;
    ``model`` is a name (``yandexgpt-lite``), a name with its branch (``yandexgpt/rc``) or a whole ``gpt://`` address.
    ``iam_token``, in place of ``api_key``, is an async function that returns an IAM token: asked once for all calls,
    again every hour, and once when the token is refused.
    """

    streams_usage = True
    supports: ClassVar[frozenset[str]] = wire.SUPPORTS

    def __init__(
        self,
        config: ProviderConfig,
        *,
        http_client: httpx.AsyncClient | None = None,
        iam_token: Callable[[], Awaitable[str]] | None = None,
        limits: WireLimits | None = None,
    ) -> None:
        self._iam_token = iam_token
        super().__init__(config, http_client=http_client, limits=limits)

    def _configure(self) -> None:
        config = self.config
        if not config.folder_id:
            raise ValueError(f"folder_id of {config.name!r} is not set: YandexGPT needs the folder of the key")
        if bool(config.api_key) == (self._iam_token is not None):
            raise ValueError(f"{config.name!r} needs either api_key or iam_token")
        # The list of models belongs to another API at the same host.
        address = address_of(config, "base_url", config.base_url or BASE_URL)
        warn_if_open(config, address.url, client=self._client)
        self._secrets = secrets_of(config, address)
        base = address.url.removesuffix("/foundationModels/v1")
        self._url = f"{base}/foundationModels/v1/completion"
        self._health_url = f"{base}/v1/models"
        self._model = config.model or MODEL
        self._uri = wire.model_uri(config.folder_id, self._model)
        self._headers = SecretHeaders({
            "content-type": "application/json", "x-folder-id": config.folder_id, "openai-project": config.folder_id,
        })
        if address.authorization:
            self._headers["authorization"] = address.authorization
        if config.api_key:
            key = Secret(config.api_key.strip())
            self._headers.setdefault("authorization", f"Bearer {key}" if key.startswith("t1.") else f"Api-Key {key}")
        elif self._tokens is None:
            self._tokens = TokenHolder(self._fetch_token, provider=config.name)

    def _refused_field(self, request: Request) -> str | None:
        return wire.refused_field(request)

    def _encode(self, request: Request, *, stream: bool) -> dict[str, Any]:
        return wire.encode(request, uri=self._uri, stream=stream, extra=self.config.extra_body)

    def _decode(self, payload: object, source: Source) -> Completion:
        return wire.decode(payload, source)

    def _decoder(self, source: Source) -> Decoder:
        return wire.StreamDecoder(source)

    async def _fetch_token(self) -> Token:
        token = await self._iam_token() if self._iam_token is not None else None
        if not isinstance(token, str) or not token:
            raise AuthenticationError("iam_token returned no token", provider=self.name)
        return Token(token, IAM_LIFE)
